//! Pushes by frames that a core has begun: control publishes them to other hosts, and reports their results to the core.

use std::sync::Arc;

use comet_core::{CallId, CallerTarget, Message, OtherHostsTally, Push, Report, ShardId, Tally};
use comet_hub::cluster::{
    ClusterCallId, Command, Engine, EngineCounts, Event, Part, Publication, QuestionReply, ReplyTo,
    Target,
};
use comet_proto::{Encoded, Frame};
use tokio::sync::mpsc;

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with_engine};

/// An engine whose commands the test carries out.
struct ByHand(mpsc::UnboundedSender<Command>);

impl Engine for ByHand {
    fn submit(&self, command: Command) -> Result<(), Command> {
        self.0.send(command).map_err(|refused| refused.0)
    }

    fn answer(&self, _: ReplyTo, _: Part) -> bool {
        true
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }
}

struct Host {
    fake: Fake,
    commands: mpsc::UnboundedReceiver<Command>,
    notices: mpsc::Sender<Event>,
    _pushes: mpsc::Sender<Event>,
}

impl Host {
    /// The host knows the host b.
    async fn start() -> Self {
        let (engine, mut commands) = mpsc::unbounded_channel();
        let (notices, heard) = mpsc::channel(8);
        notices.send(Event::Connected).await.unwrap();
        let announced = Event::Announced { host: "b".into(), reads_stream: false };
        notices.send(announced).await.unwrap();
        let engine = Arc::new(ByHand(engine));
        let (pushes, of_others) = mpsc::channel(1);
        let events = [of_others, heard];
        let fake = start_with_engine((engine, events), options(PATIENT), &[ROOMY, ROOMY]);
        // Wait until control has handled both notices.
        while !matches!(commands.recv().await.unwrap(), Command::Announce { .. }) {}
        Self { fake, commands, notices, _pushes: pushes }
    }

    /// A core has begun a push.
    fn call(&self, call: u64, target: CallerTarget) {
        let frame = Frame { version: 1, operation: 1_000, sequence: 7, body: b"hi" };
        let push = Push::new(5, Encoded::frame(&frame));
        self.fake.report(Report::Called { call: CallId(call), shard: ShardId(1), target, push });
    }

    async fn published(&mut self) -> (Publication, ClusterCallId) {
        loop {
            if let Command::Publish { publication, call } = self.commands.recv().await.unwrap() {
                return (publication, call.expect("the host that is known has to answer"));
            }
        }
    }

    /// The report to the core about the call.
    async fn told(&self, call: u64) -> OtherHostsTally {
        match self.fake.shards[1].next().await {
            Message::OtherHostsTallied { call: of, tally } if of == CallId(call) => *tally,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_push_begun_by_a_core_is_published_and_its_results_reported_back() {
    let mut host = Host::start().await;
    let targets = [
        (CallerTarget::Key("k".into()), Target::Keys(["k".into()].into()), 1),
        (CallerTarget::User(7), Target::Users([7].into()), 0),
        (CallerTarget::Room("r".into()), Target::Room("r".into()), 0),
        (CallerTarget::All, Target::All, 0),
    ];
    for (number, (target, published, absent)) in (1..).zip(targets) {
        host.call(number, target);
        let (publication, call) = host.published().await;
        let expected = Publication {
            target: published,
            accepts: 5,
            operation: 1_000,
            version: 1,
            sequence: 7,
            collapse_id: Box::default(),
            body: b"hi".to_vec(),
            paced: None,
        };
        assert_eq!(publication, expected);
        let tally = Tally { matched: number, queued: number, absent, ..Tally::default() };
        let (question_reply, hosts) = (QuestionReply::default(), Vec::new());
        let part = Part { host: "b".into(), tally, hosts, may_miss_hosts: false, question_reply };
        host.notices.send(Event::Answered { call, part }).await.unwrap();
        let OtherHostsTally { tally: told, held, unanswered: _, bytes } = host.told(number).await;
        // The other host reports its absent names; the rest of the one name of the push is held there.
        assert_eq!((told, held), (Tally { absent: 0, ..tally }, 1 - absent as u32));
        assert_eq!(bytes, 18, "of the header and the body");
    }
}

#[tokio::test]
async fn without_a_connection_to_other_hosts_a_core_gets_its_report_at_once() {
    let mut host = Host::start().await;
    host.call(1, CallerTarget::All);
    host.published().await;
    // The core is also told about the call under way.
    host.notices.send(Event::Disconnected).await.unwrap();
    let told = host.told(1).await;
    assert_eq!((told.tally, told.held), (Tally::default(), 0));
    assert!(told.unanswered > 0);
    host.call(2, CallerTarget::Key("k".into()));
    let told = host.told(2).await;
    assert_eq!((told.tally, told.held, told.unanswered), (Tally::default(), 0, 1));
}
