//! The stream of pushes that hosts share, between an engine and shards that the test simulates.

use std::sync::Arc;

use comet_control::{ClusterHandOver, Options, StreamPosition};
use comet_core::{CallId, Message, Report, ShardId, StreamState, Tally};
use comet_hub::cluster::{
    ClusterCallId, Command, Engine, EngineCounts, Part, Publication, ReplyTarget, ReplyTo,
    StoredPush, StreamCounts, StreamEvent, Target,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with_stream};

/// Pushes of the stream that may be under way on the cores, and their bytes.
const UNDER_WAY: u64 = 512;
const BYTES: usize = 64 << 20;

/// The output of the control thread to other hosts.
enum Told {
    Command(Command),
    Part(ReplyTo, Part),
}

struct Recorder(mpsc::UnboundedSender<Told>);

impl Engine for Recorder {
    fn submit(&self, command: Command) -> Result<(), Command> {
        // Fails only when the test is over.
        let _ = self.0.send(Told::Command(command));
        Ok(())
    }

    fn answer(&self, to: ReplyTo, part: Part) -> bool {
        self.0.send(Told::Part(to, part)).is_ok()
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts::default()
    }

    fn stream_counts(&self) -> Option<StreamCounts> {
        Some(StreamCounts::default())
    }
}

struct Rig {
    fake: Fake,
    events: mpsc::Sender<StreamEvent>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Rig {
    fn start(options: Options) -> Self {
        let (recorder, told) = mpsc::unbounded_channel();
        let engine = Arc::new(Recorder(recorder));
        let (fake, events) = start_with_stream(engine, options, &[ROOMY]);
        Self { fake, events, told }
    }

    /// The host has read the stream up to this position.
    async fn read(&self, offset: u64) {
        self.events.send(StreamEvent::State(position(offset))).await.unwrap();
        for expected in [false, true] {
            let Message::Stream { call, state, is_settled } = self.next().await else {
                panic!("homes are told")
            };
            assert_eq!((state, is_settled), (position(offset).state, expected));
            self.report(call);
        }
    }

    async fn push(&self, offset: u64, bytes: usize) {
        self.events.send(StreamEvent::Push(stored(offset, bytes))).await.unwrap();
    }

    /// The next message about the stream.
    async fn next(&self) -> Message {
        let next = async {
            loop {
                let message = self.fake.shards[0].next().await;
                if !matches!(message, Message::Configure { .. }) {
                    return message;
                }
            }
        };
        timeout(PATIENT, next).await.expect("a message comes")
    }

    /// The next push that a shard gets, with its offset.
    async fn next_push(&self) -> (CallId, u64) {
        let Message::PushFromStream { call, push, .. } = self.next().await else {
            panic!("it is a push of the stream")
        };
        (call, push.offset)
    }

    fn report(&self, call: CallId) {
        let (shard, tally) = (ShardId(0), Tally::default());
        self.fake.report(Report::Tally { call, shard, tally, partials: 0 });
    }

    async fn until_told<T>(&mut self, look: impl Fn(Told) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = look(self.told.recv().await.expect("the engine is there")) {
                    return found;
                }
            }
        };
        timeout(PATIENT, found).await.expect("others are told")
    }

    /// Waits until the host announces that it reads the stream, or that it does not.
    async fn until_announced(&mut self, reads_stream: bool) {
        self.until_told(|told| match told {
            Told::Command(Command::Announce { reads_stream: it }) if it == reads_stream => Some(()),
            _ => None,
        })
        .await;
    }
}

fn position(offset: u64) -> StreamPosition {
    let state = StreamState { epoch: 7, floor: 0, seen: offset, is_read: true };
    StreamPosition { state, cut: 0, seen_unix_ms: offset }
}

fn stored(offset: u64, bytes: usize) -> StoredPush {
    let publication = Publication {
        target: Target::Room("r".into()),
        accepts: 0,
        operation: 5,
        version: 0,
        sequence: 0,
        collapse_id: Box::default(),
        body: vec![b'x'; bytes],
        paced: None,
    };
    let reply_target = Some(ReplyTarget::To(ReplyTo(offset.to_string().into())));
    StoredPush { publication, offset, stored_unix_ms: offset, reply_target }
}

#[tokio::test]
async fn a_push_of_the_stream_begins_and_is_answered() {
    let mut rig = Rig::start(options(PATIENT));
    rig.read(10).await;
    rig.until_announced(true).await;
    rig.push(11, 1).await;
    let (call, offset) = rig.next_push().await;
    assert_eq!(offset, 11);
    rig.report(call);
    let answered = |told| match told {
        Told::Part(ReplyTo(to), part) => Some((to, part.host)),
        Told::Command(_) => None,
    };
    assert_eq!(rig.until_told(answered).await, ("11".into(), "a".into()));
}

/// Frames from other hosts may be longer.
#[tokio::test]
async fn a_push_of_the_stream_that_is_refused_is_reported_to_home_and_caller() {
    let mut rig = Rig::start(options(PATIENT));
    rig.read(10).await;
    rig.push(11, 300).await;
    let Message::RefuseFromStream { call, room, offset } = rig.next().await else {
        panic!("the home is told")
    };
    assert_eq!((&*room, offset), ("r", 11));
    rig.report(call);
    let refused = |told| match told {
        Told::Command(Command::Refuse { to: ReplyTo(to) }) => Some(to),
        _ => None,
    };
    assert_eq!(&*rig.until_told(refused).await, "11");
    // A call of this host, which does not wait for its end.
    let reply_target = Some(ReplyTarget::Here(ClusterCallId(1)));
    let push = StoredPush { reply_target, ..stored(12, 300) };
    rig.events.send(StreamEvent::Push(push)).await.unwrap();
    let Message::RefuseFromStream { call, .. } = rig.next().await else { panic!("as before") };
    rig.report(call);
    rig.push(13, 1).await;
    assert_eq!(rig.next_push().await.1, 13);
    assert_eq!(rig.fake.control.hosts().unwrap().stream, Some(position(13)));
}

#[tokio::test]
async fn pushes_of_the_stream_under_way_on_the_cores_are_bounded() {
    let rig = Rig::start(Options { frame_max: BYTES, ..options(PATIENT) });
    rig.read(10).await;
    // The channel holds one more, and the last of these finds room when that is taken.
    let (events, pushes) = (rig.events.clone(), UNDER_WAY + 2);
    let sending = tokio::spawn(async move {
        for number in 1..=pushes {
            events.send(StreamEvent::Push(stored(10 + number, 1))).await.unwrap();
        }
    });
    let mut calls = Vec::new();
    for number in 1..=UNDER_WAY {
        let (call, offset) = rig.next_push().await;
        assert_eq!(offset, 10 + number);
        calls.push(call);
    }
    // The control thread answers this after its work for the stream.
    rig.fake.page("/healthz").await;
    assert!(rig.fake.shards[0].is_empty(), "no more than {UNDER_WAY}");
    for call in calls {
        rig.report(call);
    }
    for number in UNDER_WAY + 1..=pushes {
        let (call, offset) = rig.next_push().await;
        assert_eq!(offset, 10 + number);
        rig.report(call);
    }
    sending.await.unwrap();
    // One push that takes all the bytes.
    rig.push(1_000, BYTES).await;
    rig.push(1_001, 1).await;
    let (call, offset) = rig.next_push().await;
    assert_eq!(offset, 1_000);
    rig.fake.page("/healthz").await;
    assert!(rig.fake.shards[0].is_empty(), "it waits for the bytes");
    rig.report(call);
    assert_eq!(rig.next_push().await.1, 1_001);
}

/// Other hosts do not wait for one that handles pushes of the stream much later.
#[tokio::test]
async fn a_host_that_is_behind_in_the_stream_reports_it() {
    let mut rig = Rig::start(Options { memory: 1, ..options(PATIENT) });
    let is_full =
        |message| matches!(message, Message::Configure { limits } if limits.refuses_pushes);
    while !is_full(rig.fake.shards[0].next().await) {}
    rig.read(10).await;
    rig.until_announced(true).await;
    rig.push(11, 1).await;
    rig.until_announced(false).await;
    assert!(rig.fake.shards[0].is_empty());
    assert_eq!(rig.fake.control.hosts().unwrap().stream, Some(position(10)), "it is not lost");
}

#[tokio::test]
async fn the_stream_is_held_between_two_pushes() {
    let rig = Rig::start(options(PATIENT));
    rig.read(10).await;
    rig.push(11, 1).await;
    rig.report(rig.next_push().await.0);
    rig.fake.control.hold_hosts();
    while rig.fake.control.pushes_of_hosts() != Some(0) {
        tokio::task::yield_now().await;
    }
    rig.push(12, 1).await;
    rig.fake.page("/healthz").await;
    assert!(rig.fake.shards[0].is_empty());
    assert_eq!(rig.fake.control.hosts().unwrap().stream, Some(position(11)));
    // The upgrade fails.
    rig.fake.control.end_upgrade();
    assert_eq!(rig.next_push().await.1, 12);
}

/// NATS is away all the time, so the process in between reads nothing.
#[tokio::test]
async fn the_place_in_the_stream_outlives_two_upgrades() {
    let rig = Rig::start(options(PATIENT));
    let handed = ClusterHandOver { stream: Some(position(10)), ..ClusterHandOver::default() };
    rig.fake.control.take_over_hosts(handed, []);
    assert_eq!(rig.fake.control.hosts().unwrap().stream, Some(position(10)));
}
