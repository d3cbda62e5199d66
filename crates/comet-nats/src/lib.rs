//! The client of [NATS](https://nats.io) by which hosts push for each other: an [`Engine`](comet_hub::cluster::Engine).
//!
//! [`start`] makes the engine, the events of it and the future that carries both. Two tasks do the work. One takes
//! orders and may wait for the client; the other reads the subscriptions and waits for nobody. What finds no room
//! is dropped and counted.
//!
//! Subjects and headers are in `docs/NATS.md`.

mod engine;
mod handover;
mod headers;
mod keys;
mod options;
mod order;
mod part;
mod question;
mod reader;
mod receipt;
mod stream;
mod subject;
mod word;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use comet_hub::cluster::{Event, StreamEvent, StreamPlace};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::unconstrained;

pub use engine::Nats;
pub use options::{Auth, BadOptions, Options, StreamOptions};
pub use stream::STREAM_BYTES_MAX;

use reader::Reader;
use stream::StreamReader;
use writer::Writer;

/// Orders that may wait for the client.
const ORDERS_MAX: usize = 16_384;
/// Room among them that is left to the announcements of this host.
const ORDERS_RESERVED: usize = 8;
/// Bytes of their bodies.
const ORDERS_BYTES_MAX: usize = 64 << 20;
/// Pushes and orders that may wait for their reader.
const PUSHES_MAX: usize = 65_536;
/// Other events that may wait for it, each of a queue of their own.
const NOTICES_MAX: usize = 65_536;
/// Bytes of all events that wait. One finds room as long as fewer wait, so there may be one message more.
const EVENTS_BYTES_MAX: usize = 64 << 20;
/// What others than pushes and orders may take beside that.
const NOTICES_BYTES_MAX: usize = 16 << 20;
/// Bytes that wait at most, in both directions, and once more what is held in an upgrade.
pub const WAITING_BYTES_MAX: usize = ORDERS_BYTES_MAX + 2 * EVENTS_BYTES_MAX + NOTICES_BYTES_MAX;
/// Messages that its client takes before it has sent them: the queue here is the one that is bounded by bytes.
pub const CLIENT_MESSAGES_MAX: usize = 256;
/// Bytes that a subscription to a room takes (ADR 15).
pub const ROOM_SUBSCRIPTION: usize = 5 << 10;
/// Pushes of the stream that may wait beside those that the client has asked for. They may be large.
const STREAM_MAX: usize = 1;

/// See [`EngineCounts`](comet_hub::cluster::EngineCounts).
#[derive(Default, Debug)]
struct Counts {
    dropped: AtomicU64,
    dropped_notices: AtomicU64,
    dropped_bytes: AtomicU64,
    dropped_early: AtomicU64,
    invalid: AtomicU64,
    untold: AtomicU64,
    disconnects: AtomicU64,
}

/// See [`StreamCounts`](comet_hub::cluster::StreamCounts).
#[derive(Default, Debug)]
struct StreamReading {
    read: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicU64,
    is_read: AtomicBool,
}

/// State that all tasks look at.
#[derive(Default, Debug)]
struct Shared {
    counts: Counts,
    /// `None`: hosts share no history.
    stream: Option<StreamReading>,
    is_connected: AtomicBool,
    /// Changes with each connection.
    connections: watch::Sender<u64>,
    /// Of orders that wait.
    waiting_bytes: AtomicUsize,
    /// Of events that wait.
    events_bytes: AtomicUsize,
    /// Another process of this host forwards what it holds, once it hears that this one is subscribed.
    takes_over: AtomicBool,
    /// It has read the stream up to there.
    resumed: Mutex<Option<StreamPlace>>,
    /// What that process held has not come.
    awaits_former: AtomicBool,
    /// Another process of this host goes on. No order, as it may find no room among those.
    is_withdrawn: Notify,
    /// Pushes and orders are held.
    is_held: AtomicBool,
    /// Pushes and orders that were given to control.
    passed_on: AtomicU64,
}

impl Shared {
    fn resumed(&self) -> MutexGuard<'_, Option<StreamPlace>> {
        self.resumed.lock().expect("nothing panics between lock and unlock")
    }
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// What an engine has to tell. Nothing waits for anything in the other queue.
#[derive(Debug)]
pub struct Events {
    /// Pushes and orders of other hosts: [`Event::is_push`].
    pub pushes: mpsc::Receiver<Event>,
    /// All others.
    pub notices: mpsc::Receiver<Event>,
    /// What the stream has that hosts share. The reader waits for whoever takes it.
    pub stream: mpsc::Receiver<StreamEvent>,
}

/// Ways to the reader of the events.
#[derive(Clone, Debug)]
struct Queues {
    pushes: mpsc::Sender<Event>,
    notices: mpsc::Sender<Event>,
}

/// The engine, what it has to tell, and the future that does its work within a runtime of tokio, until it
/// is told to leave. It connects,
/// and connects again, without being told. Without a server it waits for one.
///
/// # Errors
/// If the options cannot be used.
pub fn start(
    options: Options,
) -> Result<(Nats, Events, impl Future<Output = ()> + Send + 'static), BadOptions> {
    let (orders, waiting_orders) = mpsc::channel(ORDERS_MAX + ORDERS_RESERVED);
    let (pushes, waiting_pushes) = mpsc::channel(PUSHES_MAX);
    let (notices, waiting_notices) = mpsc::channel(NOTICES_MAX);
    let queues = Queues { pushes, notices };
    let (read, stream) = mpsc::channel(STREAM_MAX);
    let events = Events { pushes: waiting_pushes, notices: waiting_notices, stream };
    let reading = options.stream.as_ref().map(|_| StreamReading::default());
    let shared = Arc::new(Shared { stream: reading, ..Shared::default() });
    let (turns, new_turns) = mpsc::unbounded_channel();
    let engine = Nats::new(orders, turns.clone(), Arc::clone(&shared));
    let Options { prefix, host, .. } = &options;
    let (sessions, stream) = (options.sessions, options.stream.clone());
    let subjects = Arc::new(subject::Subjects::new(prefix, Arc::clone(host)));
    let (states, state_changes) = mpsc::unbounded_channel();
    let connect = options.connect(states)?;
    let run = async move {
        let client = match connect.await {
            Ok(client) => client,
            // It retries by itself; what is left is a server name that is none.
            Err(error) => return log::error!("nats.servers: {error}"),
        };
        let (subscriptions, new_subscriptions) = mpsc::channel(ORDERS_MAX);
        let reader = Reader::new(Arc::clone(&subjects), Arc::clone(&shared), queues.clone());
        let stream = stream.map(|options| {
            StreamReader::new(client.clone(), Arc::clone(&subjects), Arc::clone(&shared), options)
        });
        let ways = (subscriptions, queues.notices, turns);
        let writer = Writer::new(client, subjects, shared, ways);
        let pushing = async {
            tokio::join!(
                writer.run(waiting_orders, sessions),
                // It takes what has come before the client reads on, so nothing waits in the client for long.
                unconstrained(reader.run(new_subscriptions, state_changes, new_turns))
            )
        };
        let reading = async {
            match stream {
                Some(stream) => stream.run(read).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = pushing => {}
            never = reading => match never {},
        }
    };
    Ok((engine, events, run))
}
