//! Live traces: streams of what happens to some connections. Shards learn of the subjects with their bounds, and put the
//! events among those of the trace log. Each stream has a bounded queue: a caller that reads slowly is told how many events
//! it missed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use comet_core::limits::{LIVE_TRACES_MAX, NAME_MAX};
use comet_core::{
    Limits, LiveTrace, Millis, Subject, TooManyTraces, TraceEvent, TraceId, TraceKind,
};
use comet_wire::comet::v1::trace_req::Subject as Asked;
use comet_wire::comet::v1::{self, TraceReply, TraceReq};
use tokio::select;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::Status;

use crate::hub::HubDriver;
use crate::pushes::network_of;

/// Seconds that a trace takes at most, and where its caller names none.
const SECONDS_MAX: u32 = 3_600;
const SECONDS: u32 = 60;

/// Events that wait for the caller of a trace.
const QUEUE: usize = 1_024;

/// Events in one message of a stream.
const EVENTS_MAX: usize = 256;

/// The callers of live traces.
#[derive(Default)]
pub(crate) struct Watchers {
    state: Mutex<State>,
    /// Events that they were told to be missing.
    missed: AtomicU64,
}

#[derive(Default)]
struct State {
    last: u64,
    watchers: BTreeMap<TraceId, Watcher>,
}

/// The end of a queue that events are put into.
struct Watcher {
    queue: Sender<Arc<TraceEvent>>,
    /// Events since the queue was full, until the caller learns of them.
    missed: Arc<AtomicU64>,
}

/// The end of a queue that a stream takes events from.
struct Queue {
    events: Receiver<Arc<TraceEvent>>,
    missed: Arc<AtomicU64>,
}

fn queue() -> (Watcher, Queue) {
    let (queue, events) = channel(QUEUE);
    let missed = Arc::new(AtomicU64::new(0));
    (Watcher { queue, missed: Arc::clone(&missed) }, Queue { events, missed })
}

impl Watchers {
    /// Passes an event on to those whom it concerns.
    pub(crate) fn tell(&self, event: &Arc<TraceEvent>) {
        let state = self.lock();
        match event.what {
            TraceKind::Missed { events } => {
                for watcher in state.watchers.values() {
                    watcher.tell(event, events);
                    self.missed.fetch_add(events, Relaxed);
                }
            }
            _ => {
                for watcher in event.traces.iter().filter_map(|id| state.watchers.get(id)) {
                    if !watcher.tell(event, 1) {
                        self.missed.fetch_add(1, Relaxed);
                    }
                }
            }
        }
    }

    /// How many there are, and how many events they were told to be missing.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.lock().watchers.len(), self.missed.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

impl Watcher {
    /// Queues an event, which stands for `events`. `false`: there is no space. Then nothing is queued until the caller has
    /// read what is there, so that it learns where events are missing.
    fn tell(&self, event: &Arc<TraceEvent>, events: u64) -> bool {
        let is_queued =
            self.missed.load(Relaxed) == 0 && self.queue.try_send(Arc::clone(event)).is_ok();
        if !is_queued {
            self.missed.fetch_add(events, Relaxed);
        }
        is_queued
    }
}

impl Queue {
    /// The next events, and how many are missing behind them; not none of both. `None`: there are no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Vec<Arc<TraceEvent>>, u64)>> {
        let mut events = Vec::new();
        let mut is_over = false;
        while events.len() < EVENTS_MAX {
            match self.events.poll_recv(cx) {
                Poll::Ready(Some(event)) => match event.what {
                    TraceKind::Missed { events: missed } => {
                        return Poll::Ready(Some((events, missed)));
                    }
                    _ => events.push(event),
                },
                Poll::Ready(None) => {
                    is_over = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        // All that was queued before is read.
        let missed = if events.len() < EVENTS_MAX { self.missed.swap(0, Relaxed) } else { 0 };
        match (events.is_empty() && missed == 0, is_over) {
            (false, _) => Poll::Ready(Some((events, missed))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

/// Begins a live trace, which ends with its time, once `stopped` is ready, or when the stream is dropped.
///
/// # Errors
/// If the order cannot be read, or too many are under way.
pub(crate) fn begin(
    hub: &Arc<HubDriver>,
    order: TraceReq,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<LiveTraceStream, Status> {
    let TraceReq { subject, seconds } = order;
    let subject = subject_of(subject)?;
    if seconds > SECONDS_MAX {
        let sentence = format!("a trace takes at most {SECONDS_MAX} seconds");
        return Err(Status::invalid_argument(sentence));
    }
    let time = Duration::from_secs(if seconds == 0 { SECONDS } else { seconds }.into());
    let mut state = hub.watchers.lock();
    let id = TraceId(state.last + 1);
    let traces = hub.limits().traces.with(LiveTrace { id, subject: subject.clone() });
    let traces = traces.map_err(|TooManyTraces| {
        Status::resource_exhausted(format!("{LIVE_TRACES_MAX} live traces are under way"))
    })?;
    let (watcher, queue) = queue();
    state.last = id.0;
    state.watchers.insert(id, watcher);
    drop(state);
    hub.configure(|limits| Limits { traces, ..limits });
    log::info!("{subject:?} is traced by a call for {time:?}");
    // A caller that reads nothing does not prolong it.
    let at_end = Arc::clone(hub);
    let timer = tokio::spawn(async move {
        select! {
            () = sleep(time) => {}
            () = stopped => {}
        }
        end(&at_end, id);
    });
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) - hub.now().0;
    let (hub, timer) = (Arc::clone(hub), timer.abort_handle());
    Ok(LiveTraceStream { hub, id, queue, timer, epoch_ms })
}

/// Ends a live trace, if it is under way. What its caller has not read is there for it.
fn end(hub: &HubDriver, id: TraceId) {
    if hub.watchers.lock().watchers.remove(&id).is_some() {
        hub.configure(|limits| Limits { traces: limits.traces.without(id), ..limits });
    }
}

fn subject_of(asked: Option<Asked>) -> Result<Subject, Status> {
    let named = |what, name: String| match name.len() {
        1..=NAME_MAX => Ok(name.into_boxed_str()),
        _ => Err(Status::invalid_argument(format!("a {what} has 1 to {NAME_MAX} bytes"))),
    };
    match asked {
        Some(Asked::Key(key)) => Ok(Subject::Key(named("key", key)?)),
        Some(Asked::User(user)) => Ok(Subject::User(user)),
        Some(Asked::RoomId(room)) => Ok(Subject::Room(named("room", room)?)),
        Some(Asked::Address(address)) => Ok(Subject::Network(network_of(&address)?)),
        None => Err(Status::invalid_argument("name a key, a user, a room or an address")),
    }
}

/// The events of a live trace.
pub(crate) struct LiveTraceStream {
    hub: Arc<HubDriver>,
    id: TraceId,
    queue: Queue,
    /// Ends the trace when its time is over.
    timer: AbortHandle,
    /// The zero of the shards' clock, milliseconds since 1970.
    epoch_ms: u64,
}

impl Stream for LiveTraceStream {
    type Item = Result<TraceReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.queue.poll(cx)).map(|(events, missed)| {
            let events = events.iter().map(|event| self.told(event)).collect();
            Ok(TraceReply { events, missed })
        });
        Poll::Ready(next)
    }
}

impl LiveTraceStream {
    /// `event` in the terms of the wire.
    fn told(&self, event: &TraceEvent) -> v1::TraceEvent {
        let TraceEvent { conn, user, key, what, at: Millis(at), .. } = event;
        let mut told = v1::TraceEvent {
            at_ms: self.epoch_ms + at,
            connection: format!("{}/{}.{}", conn.shard.0, conn.slot, conn.generation),
            key: key.to_string(),
            user: *user,
            ..v1::TraceEvent::default()
        };
        told.what = match what {
            TraceKind::Accepted { address } => {
                told.address = address.to_canonical().to_string();
                "accepted"
            }
            TraceKind::Authenticated { room } => {
                told.room_id = room.as_deref().unwrap_or_default().to_owned();
                "authenticated"
            }
            TraceKind::Joined { room } => {
                told.room_id = room.to_string();
                "joined"
            }
            TraceKind::Left { room } => {
                told.room_id = room.to_string();
                "left"
            }
            TraceKind::Read { operation, sequence, bytes } => {
                (told.operation, told.sequence, told.bytes) = (*operation, *sequence, *bytes);
                "read"
            }
            TraceKind::Wrote { operation, sequence, bytes } => {
                (told.operation, told.sequence, told.bytes) = (*operation, *sequence, *bytes);
                "wrote"
            }
            TraceKind::Queued { operation, bytes, superseded } => {
                (told.operation, told.bytes, told.superseded) = (*operation, *bytes, *superseded);
                "queued"
            }
            TraceKind::Dropped { operation, reason } => {
                (told.operation, told.reason) = (*operation, reason.label().to_owned());
                "dropped"
            }
            TraceKind::Closed { reason } => {
                reason.label().clone_into(&mut told.reason);
                "closed"
            }
            TraceKind::Missed { .. } => unreachable!("it is a number of the reply"),
        }
        .to_owned();
        told
    }
}

impl Drop for LiveTraceStream {
    fn drop(&mut self) {
        self.timer.abort();
        end(&self.hub, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use comet_core::{ConnId, Generation, ShardId, Slot};

    use super::*;

    fn event(what: TraceKind, traces: &[u64]) -> Arc<TraceEvent> {
        Arc::new(TraceEvent {
            conn: ConnId { shard: ShardId(0), slot: Slot(1), generation: Generation(2) },
            user: 7,
            key: "k".into(),
            what,
            at: Millis(3),
            is_logged: false,
            traces: traces.iter().map(|id| TraceId(*id)).collect(),
        })
    }

    fn read(sequence: i32, traces: &[u64]) -> Arc<TraceEvent> {
        event(TraceKind::Read { operation: 2, sequence, bytes: 16 }, traces)
    }

    /// Everything that a queue has: numbers of events, and of those that are missing behind them.
    fn all(queue: &mut Queue) -> Vec<(usize, u64)> {
        let mut all = Vec::new();
        while let Poll::Ready(Some((events, missed))) =
            queue.poll(&mut Context::from_waker(Waker::noop()))
        {
            all.push((events.len(), missed));
        }
        all
    }

    #[test]
    fn a_slow_caller_learns_where_events_are_missing() {
        let watchers = Watchers::default();
        let ((slow, mut slow_queue), (other, mut other_queue)) = (queue(), queue());
        watchers.lock().watchers = BTreeMap::from([(TraceId(1), slow), (TraceId(2), other)]);
        for sequence in 0..QUEUE as i32 + 5 {
            watchers.tell(&read(sequence, &[1]));
        }
        watchers.tell(&read(0, &[1, 2, 3]));
        assert_eq!(all(&mut other_queue), [(1, 0)]);
        let mut expected = vec![(EVENTS_MAX, 0); QUEUE / EVENTS_MAX];
        expected.push((0, 6));
        assert_eq!(all(&mut slow_queue), expected);
        assert_eq!(watchers.counts(), (2, 6));

        // What a shard missed concerns everybody, and comes where it belongs.
        watchers.tell(&read(0, &[1]));
        watchers.tell(&event(TraceKind::Missed { events: 9 }, &[2]));
        watchers.tell(&read(1, &[1]));
        assert_eq!(all(&mut slow_queue), [(1, 9), (1, 0)]);
        assert_eq!(all(&mut other_queue), [(0, 9)]);
        assert_eq!(watchers.counts(), (2, 24));

        watchers.lock().watchers.clear();
        let end = slow_queue.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(end, Poll::Ready(None)));
    }
}
