//! Paced broadcasts of several hosts, between an engine and shards that the test simulates.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use comet_core::{CallId, Counters, Message, Report, ShardId, Tally};
use comet_hub::cluster::{
    ClusterCallId, Command, Engine, EngineCounts, Event, Order, Pace, Part, Publication, Question,
    QuestionReply, ReplyTo, Target,
};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReply, BroadcastReq};
use comet_wire::goim::protocol::Proto;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with_engine};

/// The output of the control thread to other hosts.
#[derive(Debug)]
enum Said {
    Command(Command),
    Part(Part),
}

struct Recorder {
    said: mpsc::UnboundedSender<Said>,
    passed_on: Arc<AtomicU64>,
}

impl Engine for Recorder {
    fn submit(&self, command: Command) -> Result<(), Command> {
        // Fails only when the test is over.
        let _ = self.said.send(Said::Command(command));
        Ok(())
    }

    fn answer(&self, _: ReplyTo, part: Part) -> bool {
        self.said.send(Said::Part(part)).is_ok()
    }

    fn passed_on(&self) -> Option<u64> {
        Some(self.passed_on.load(SeqCst))
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }
}

/// A host with two shards that knows the host b.
struct Host {
    fake: Fake,
    said: mpsc::UnboundedReceiver<Said>,
    notices: mpsc::Sender<Event>,
    pushes: mpsc::Sender<Event>,
    passed_on: Arc<AtomicU64>,
}

impl Host {
    async fn start() -> Self {
        let (said, mut heard) = mpsc::unbounded_channel();
        let passed_on = Arc::default();
        let engine = Arc::new(Recorder { said, passed_on: Arc::clone(&passed_on) });
        let (notices, told) = mpsc::channel(8);
        notices.send(Event::Connected).await.unwrap();
        let announced = Event::Announced { host: "b".into(), reads_stream: false };
        notices.send(announced).await.unwrap();
        let (pushes, of_others) = mpsc::channel(8);
        let fake = start_with_engine((engine, [of_others, told]), options(PATIENT), &[ROOMY; 2]);
        // Wait until control has handled both notices.
        let is_announced = |said| matches!(said, Said::Command(Command::Announce { .. }));
        while !is_announced(heard.recv().await.unwrap()) {}
        Self { fake, said: heard, notices, pushes, passed_on }
    }

    /// The next output of the host, without its announcements.
    async fn said(&mut self) -> Said {
        loop {
            match self.said.recv().await.unwrap() {
                Said::Command(Command::Announce { .. }) => {}
                said => return said,
            }
        }
    }

    async fn broadcast(&self, speed: i32) -> JoinHandle<Result<BroadcastReply, Status>> {
        let mut client = CometClient::new(self.fake.channel().await);
        let proto = Some(Proto { ver: 1, op: 5, body: b"hi".to_vec().into(), ..Proto::default() });
        let request = BroadcastReq { proto_op: 5, proto, speed };
        tokio::spawn(async move { Ok(client.broadcast(request).await?.into_inner()) })
    }

    /// Another host publishes a broadcast, or a program does.
    async fn publish(&self, pace: Pace) {
        let publication = Publication {
            target: Target::All,
            accepts: 5,
            operation: 5,
            version: 1,
            sequence: 0,
            collapse_id: Box::default(),
            body: b"hi".to_vec(),
            paced: Some(Box::new(pace)),
        };
        self.passed_on.fetch_add(1, SeqCst);
        let reply = Some(ReplyTo("to b".into()));
        self.pushes.send(Event::Push { publication, reply }).await.unwrap();
    }

    async fn answer(&self, call: ClusterCallId, counts: Vec<u64>) {
        let (question_reply, hosts) = (QuestionReply { counts, page: None }, Vec::new());
        let tally = Tally::default();
        let part = Part { host: "b".into(), tally, hosts, may_miss_hosts: false, question_reply };
        self.notices.send(Event::Answered { call, part }).await.unwrap();
    }

    /// The question for connections of other hosts.
    async fn asked(&mut self) -> ClusterCallId {
        let Said::Command(Command::PublishOrder { order, call }) = self.said().await else {
            panic!("the others are asked first")
        };
        assert_eq!(order, Order::Tell(Question::Counts { rooms: Vec::new() }));
        call.unwrap()
    }

    async fn answer_snapshots(&self, live: [u64; 2]) {
        self.fake
            .answer_snapshots(&live.map(|live| Counters { live, ..Counters::default() }))
            .await;
    }

    /// The broadcast at both shards, and its speeds there.
    async fn begun(&self) -> (CallId, [u32; 2]) {
        let mut speeds = [0; 2];
        let mut begun = CallId(0);
        for (shard, share) in self.fake.shards.iter().zip(&mut speeds) {
            let Message::Broadcast { call, speed, .. } = shard.next().await else { panic!() };
            (begun, *share) = (call, speed.unwrap().get());
        }
        (begun, speeds)
    }

    fn schedule(&self, call: CallId, connections: [u64; 2]) {
        for (shard, connections) in (0..).map(ShardId).zip(connections) {
            self.fake.report(Report::Scheduled { call, shard, connections });
        }
    }

    /// One shard refuses the broadcast, and the other takes it.
    fn refuse(&self, call: CallId) {
        self.fake.report(Report::Scheduled { call, shard: ShardId(0), connections: 7 });
        self.fake.report(Report::Busy { call, shard: ShardId(1) });
    }

    async fn expect_cancelled(&self, call: CallId) {
        for shard in &self.fake.shards {
            let message = shard.next().await;
            assert!(
                matches!(message, Message::CancelBroadcast { call: ended } if ended == call),
                "{message:?}"
            );
        }
    }
}

fn pace(speed: u32, connections: u64, name: &str) -> Pace {
    let speed = NonZeroU32::new(speed).unwrap();
    Pace { speed, connections: Some(connections), name: Some(name.into()) }
}

#[tokio::test]
async fn a_broadcast_is_published_with_the_connections_of_all_once_it_is_scheduled() {
    let mut host = Host::start().await;
    let asked = host.broadcast(100).await;
    let question = host.asked().await;
    host.answer_snapshots([10, 20]).await;
    // The numbers of connections and of addresses.
    host.answer(question, vec![70, 5]).await;
    let (call, speeds) = host.begun().await;
    assert_eq!(speeds, [10, 20], "30 of 100");
    host.schedule(call, [10, 20]);
    let Said::Command(Command::Publish { publication, call }) = host.said().await else { panic!() };
    let paced = publication.paced.unwrap();
    assert_eq!((paced.speed.get(), paced.connections), (100, Some(100)));
    let moved = host.fake.control.paced().remove(0);
    let name = paced.name.unwrap();
    assert!(name.ends_with(&format!(".{}", moved.call.0)), "{name}");
    assert_eq!((moved.name, moved.speed), (Some(name), 30));
    host.answer(call.unwrap(), vec![70]).await;
    let ledger = asked.await.unwrap().unwrap().ledger.unwrap();
    assert_eq!((ledger.scheduled, &ledger.unanswered[..]), (100, &["*".to_owned()][..]));
}

#[tokio::test]
async fn a_broadcast_that_the_own_host_refuses_is_not_published() {
    let mut host = Host::start().await;
    let asked = host.broadcast(100).await;
    let question = host.asked().await;
    host.answer_snapshots([10, 20]).await;
    host.answer(question, vec![70, 5]).await;
    let (call, _) = host.begun().await;
    host.refuse(call);
    host.expect_cancelled(call).await;
    assert_eq!(asked.await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
    // The next broadcast is the first that is published.
    let _asked = host.broadcast(0).await;
    let Said::Command(Command::Publish { publication, .. }) = host.said().await else { panic!() };
    assert_eq!(publication.paced, None);
}

/// An upgrade waits until the broadcast has reached the shards: between their answers and the broadcast no call is under way.
#[tokio::test]
async fn a_part_may_come_to_the_shards_until_it_is_scheduled() {
    let mut host = Host::start().await;
    host.publish(pace(100, 300, "b.1.7")).await;
    host.fake.control.hold_hosts();
    let message = [host.fake.shards[0].next().await, host.fake.shards[1].next().await];
    while host.fake.control.pushes_of_hosts().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.fake.control.pushes_of_hosts(), Some(1));
    for (shard, message) in message.into_iter().enumerate() {
        let counters = Counters { live: 15, ..Counters::default() };
        host.fake.answer(shard, message, &counters, &[]);
    }
    let (call, speeds) = host.begun().await;
    assert_eq!(speeds, [5, 5], "30 of 300");
    assert_eq!(host.fake.control.pushes_of_hosts(), Some(1));
    host.schedule(call, [15, 15]);
    let Said::Part(part) = host.said().await else { panic!() };
    assert_eq!((part.question_reply.counts, part.tally), (vec![30], Tally::default()));
    assert_eq!(host.fake.control.pushes_of_hosts(), Some(0));
    let moved = host.fake.control.paced().remove(0);
    assert_eq!((moved.call, moved.speed, moved.name), (call, 10, Some("b.1.7".into())));
}

#[tokio::test]
async fn a_part_that_a_shard_refuses_is_cancelled_and_its_caller_informed() {
    let mut host = Host::start().await;
    host.publish(pace(100, 100, "b.1.7")).await;
    host.answer_snapshots([10, 20]).await;
    let (call, _) = host.begun().await;
    host.refuse(call);
    host.expect_cancelled(call).await;
    let said = host.said().await;
    assert!(matches!(said, Said::Command(Command::Refuse { .. })), "{said:?}");
}

/// An order may overtake the push, or come while the shards are asked.
#[tokio::test]
async fn a_part_that_was_cancelled_before_it_began_does_not_begin() {
    let mut host = Host::start().await;
    let order = Order::CancelBroadcast { name: "b.1.7".into() };
    host.publish(pace(100, 100, "b.1.7")).await;
    let message = [host.fake.shards[0].next().await, host.fake.shards[1].next().await];
    host.passed_on.fetch_add(1, SeqCst);
    host.pushes.send(Event::Ordered { order, reply: ReplyTo("to b".into()) }).await.unwrap();
    let Said::Part(part) = host.said().await else { panic!("it has none to end") };
    assert_eq!(part.tally, Tally::default());
    for (shard, message) in message.into_iter().enumerate() {
        host.fake.answer(shard, message, &Counters::default(), &[]);
    }
    let said = host.said().await;
    assert!(matches!(said, Said::Command(Command::Refuse { .. })), "{said:?}");
    assert!(host.fake.shards[0].is_empty() && host.fake.control.paced().is_empty());
}
