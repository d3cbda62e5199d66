//! The client of [NATS](https://nats.io) by which hosts push for each other: an [`Engine`](comet_hub::cluster::Engine).
//!
//! [`start`] makes the engine, its events and the future that runs both. Two tasks do the work. One, the writer, takes
//! tasks and may wait for the client; the other reads the subscriptions and never waits. Messages for which there is no
//! space are dropped and counted.
//!
//! Subjects and headers are in `docs/NATS.md`.

mod engine;
mod handover;
mod handover_notice;
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
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use comet_hub::cluster::{Event, StreamEvent, StreamPosition};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::unconstrained;

pub use engine::Nats;
pub use options::{Auth, BadOptions, Options, StreamOptions};
pub use stream::STREAM_BYTES_MAX;

use reader::Reader;
use stream::StreamReader;
use writer::Writer;

/// Most tasks of the writer that wait for the client.
const WRITER_TASKS_MAX: usize = 16_384;
/// Places among them reserved for the announcements of this host.
const WRITER_TASKS_RESERVED: usize = 8;
/// Most bytes of their bodies.
const WRITER_TASKS_BYTES_MAX: usize = 64 << 20;
/// Most pushes and orders that wait for their reader.
const PUSHES_MAX: usize = 65_536;
/// Most other events that wait for it, in a queue of their own.
const NOTICES_MAX: usize = 65_536;
/// Most bytes of all waiting events. An event is accepted as long as fewer wait, so one message may exceed this.
const EVENTS_BYTES_MAX: usize = 64 << 20;
/// Bytes that events other than pushes and orders may take beyond that.
const NOTICES_BYTES_MAX: usize = 16 << 20;
/// Most bytes that wait in both directions, and once more those held in an upgrade.
pub const WAITING_BYTES_MAX: usize =
    WRITER_TASKS_BYTES_MAX + 2 * EVENTS_BYTES_MAX + NOTICES_BYTES_MAX;
/// Most messages that the client takes before it has sent them. It is small because only the queue here is bounded by
/// bytes.
pub const CLIENT_MESSAGES_MAX: usize = 256;
/// Memory of a subscription to a room (ADR 15).
pub const ROOM_SUBSCRIPTION: usize = 5 << 10;
/// Pushes of the stream that may wait beside those that the client has requested. They may be large.
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

/// The state that all tasks share.
#[derive(Default, Debug)]
struct Shared {
    counts: Counts,
    /// `None`: hosts share no history.
    stream: Option<StreamReading>,
    is_connected: AtomicBool,
    /// Changes with each connection.
    connections: watch::Sender<u64>,
    /// Bytes of waiting tasks of the writer.
    waiting_bytes: AtomicUsize,
    /// Bytes of waiting events.
    events_bytes: AtomicUsize,
    /// Whether another process of this host forwards held messages once it hears that this one is subscribed.
    takes_over: AtomicBool,
    /// The position up to which that process has read the stream.
    resumed: Mutex<Option<StreamPosition>>,
    /// Whether the messages held by that process have not arrived yet.
    awaits_former: AtomicBool,
    /// Another process of this host takes over. This is no task, because there may be no space among those.
    is_withdrawn: Notify,
    /// Pushes and orders are held.
    is_held: AtomicBool,
    /// Number of pushes and orders that were given to control.
    passed_on: AtomicU64,
}

impl Shared {
    fn resumed(&self) -> MutexGuard<'_, Option<StreamPosition>> {
        self.resumed.lock().expect("nothing panics between lock and unlock")
    }
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// The events of an engine. Events in one queue do not wait for those in another.
#[derive(Debug)]
pub struct Events {
    /// Pushes and orders of other hosts: [`Event::is_push`].
    pub pushes: mpsc::Receiver<Event>,
    /// All others.
    pub notices: mpsc::Receiver<Event>,
    /// The events of the shared stream. The reader waits until they are taken.
    pub stream: mpsc::Receiver<StreamEvent>,
}

/// The senders of the events.
#[derive(Clone, Debug)]
struct Queues {
    pushes: mpsc::Sender<Event>,
    notices: mpsc::Sender<Event>,
}

/// Makes the engine, its events, and the future that does its work within a runtime of tokio, until the engine is told
/// to leave. The future connects and reconnects by itself. Without a server it waits for one.
///
/// # Errors
/// If the options cannot be used.
pub fn start(
    options: Options,
) -> Result<(Nats, Events, impl Future<Output = ()> + Send + 'static), BadOptions> {
    let (tasks, waiting_tasks) = mpsc::channel(WRITER_TASKS_MAX + WRITER_TASKS_RESERVED);
    let (pushes, waiting_pushes) = mpsc::channel(PUSHES_MAX);
    let (notices, waiting_notices) = mpsc::channel(NOTICES_MAX);
    let queues = Queues { pushes, notices };
    let (read, stream) = mpsc::channel(STREAM_MAX);
    let events = Events { pushes: waiting_pushes, notices: waiting_notices, stream };
    let reading = options.stream.as_ref().map(|_| StreamReading::default());
    let shared = Arc::new(Shared { stream: reading, ..Shared::default() });
    let (steps, new_steps) = mpsc::unbounded_channel();
    let engine = Nats::new(tasks, steps.clone(), Arc::clone(&shared));
    let Options { prefix, host, .. } = &options;
    let (sessions, stream) = (options.sessions, options.stream.clone());
    let subjects = Arc::new(subject::Subjects::new(prefix, Arc::clone(host)));
    let (states, state_changes) = mpsc::unbounded_channel();
    let connect = options.connect(states)?;
    let run = async move {
        let client = match connect.await {
            Ok(client) => client,
            // The client retries by itself. The only error left is an invalid server name.
            Err(error) => return log::error!("nats.servers: {error}"),
        };
        let (subscriptions, new_subscriptions) = mpsc::channel(WRITER_TASKS_MAX);
        let reader = Reader::new(Arc::clone(&subjects), Arc::clone(&shared), queues.clone());
        let stream = stream.map(|options| {
            StreamReader::new(client.clone(), Arc::clone(&subjects), Arc::clone(&shared), options)
        });
        let ways = (subscriptions, queues.notices, steps);
        let writer = Writer::new(client, subjects, shared, ways);
        let pushing = async {
            tokio::join!(
                writer.run(waiting_tasks, sessions),
                // Unconstrained, so that it takes all events before the client reads on, and few wait in the client.
                unconstrained(reader.run(new_subscriptions, state_changes, new_steps))
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
