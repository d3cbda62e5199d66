//! Notices between hosts: bounds on them, and the effect of lost ones.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use comet_core::{Message, Report};
use comet_hub::cluster::{
    Command, Engine, EngineCounts, Event, HostName, Part, Publication, ReplyTo, Target,
};
use tokio::sync::mpsc;

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with_engine};

const NOTICES: usize = 100_000;
/// Pushes have a turn before this many notices are handled.
const TAKEN_BEFORE: usize = 1_000;
const BODY: usize = 200;

/// An engine that reports the losses that the test sets.
struct Lossy {
    parts: mpsc::UnboundedSender<Part>,
    dropped: AtomicU64,
    dropped_notices: AtomicU64,
    /// Bytes of events in the order in which they were taken.
    taken: Mutex<Vec<usize>>,
}

impl Engine for Lossy {
    fn submit(&self, _: Command) -> Result<(), Command> {
        Ok(())
    }

    fn answer(&self, _: ReplyTo, part: Part) -> bool {
        self.parts.send(part).is_ok()
    }

    fn note_taken(&self, bytes: usize) {
        self.taken.lock().unwrap().push(bytes);
    }

    fn counts(&self) -> EngineCounts {
        EngineCounts {
            dropped: self.dropped.load(SeqCst),
            dropped_bytes: self.dropped.load(SeqCst),
            dropped_notices: self.dropped_notices.load(SeqCst),
            ..EngineCounts::default()
        }
    }
}

/// A host with a core, among others.
struct Host {
    fake: Fake,
    engine: Arc<Lossy>,
    parts: mpsc::UnboundedReceiver<Part>,
    pushes: mpsc::Sender<Event>,
    notices: mpsc::Sender<Event>,
}

impl Host {
    /// Notices and pushes may be there before it starts.
    fn start(notices: Vec<Event>, pushes: Vec<Event>) -> Self {
        let (parts, given) = mpsc::unbounded_channel();
        let engine = Arc::new(Lossy {
            parts,
            dropped: AtomicU64::new(0),
            dropped_notices: AtomicU64::new(0),
            taken: Mutex::default(),
        });
        let [(to_pushes, of_pushes), (to_notices, of_notices)] = [pushes, notices].map(|events| {
            let (sender, receiver) = mpsc::channel(events.len() + 8);
            events.into_iter().for_each(|event| sender.try_send(event).expect("it has room"));
            (sender, receiver)
        });
        let ways = (Arc::clone(&engine) as Arc<dyn Engine>, [of_pushes, of_notices]);
        let fake = start_with_engine(ways, options(PATIENT), &[ROOMY]);
        Self { fake, engine, parts: given, pushes: to_pushes, notices: to_notices }
    }

    /// The answer to a push of another host.
    async fn answer(&mut self) -> Part {
        self.pushes.send(push()).await.unwrap();
        loop {
            if let Message::PushRoom { call, .. } = self.fake.shards[0].next().await {
                self.fake.queued(call);
                return self.parts.recv().await.unwrap();
            }
        }
    }
}

fn push() -> Event {
    let publication = Publication {
        target: Target::Room("r".into()),
        accepts: 5,
        operation: 5,
        version: 1,
        sequence: 0,
        collapse_id: Box::default(),
        body: vec![b'x'; BODY],
        paced: None,
    };
    Event::Push { publication, reply: Some(ReplyTo("to b".into())) }
}

fn interest() -> Event {
    let (host, room) = (HostName::from("b"), "r".into());
    Event::Interest { host, room, has_members: true, asks: true }
}

/// As after a restart of NATS, when all hosts announce all their rooms to each other.
#[tokio::test]
async fn pushes_are_begun_while_notices_wait() {
    let mut notices = vec![Event::Connected];
    notices.extend((0..NOTICES).map(|_| interest()));
    let host = Host::start(notices, vec![push()]);
    while !matches!(host.fake.shards[0].next().await, Message::PushRoom { .. }) {}
    let taken = host.engine.taken.lock().unwrap();
    let before = taken.iter().position(|bytes| *bytes >= BODY).unwrap();
    assert!(before < TAKEN_BEFORE, "{before} notices were taken before the first push");
}

/// Otherwise an overloaded host would ask all others for their rooms, and would have even more to do.
#[tokio::test]
async fn a_dropped_push_does_not_invalidate_what_is_known_of_other_hosts() {
    let mut host = Host::start(vec![Event::Connected], Vec::new());
    host.fake.report(Report::RoomInterest { room: "r".into(), has_members: true });
    // Until the other hosts have had the time to announce their members.
    while host.answer().await.may_miss_hosts {}
    host.engine.dropped.store(4_465, SeqCst);
    assert!(!host.answer().await.may_miss_hosts, "a push tells nothing of rooms");
    host.engine.dropped_notices.store(1, SeqCst);
    assert!(host.answer().await.may_miss_hosts, "b may have told of its members");
    drop(host.notices);
}
