//! The receivers of live traces: a bounded queue for each stream. A caller that reads slowly is told how many events it
//! missed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use comet_core::{TraceEvent, TraceId, TraceKind};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Most events that wait for the caller of a trace.
const QUEUE: usize = 1_024;

/// Most events in one message of a stream.
const EVENTS_MAX: usize = 256;

/// The callers of live traces.
#[derive(Default)]
pub(crate) struct Watchers {
    state: Mutex<State>,
    /// The number of events reported as missing to callers.
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
    /// Events lost since the queue was full, until the caller is told.
    missed: Arc<AtomicU64>,
}

/// The end of a queue that a stream takes events from.
pub(crate) struct Queue {
    events: Receiver<Arc<TraceEvent>>,
    missed: Arc<AtomicU64>,
}

fn queue() -> (Watcher, Queue) {
    let (queue, events) = channel(QUEUE);
    let missed = Arc::new(AtomicU64::new(0));
    (Watcher { queue, missed: Arc::clone(&missed) }, Queue { events, missed })
}

impl Watchers {
    /// Adds a watcher, with the number of its trace.
    pub(crate) fn add(&self) -> (TraceId, Queue) {
        let (watcher, queue) = queue();
        let mut state = self.lock();
        state.last += 1;
        let id = TraceId(state.last);
        state.watchers.insert(id, watcher);
        (id, queue)
    }

    /// Stops queueing for `id`; queued events can still be read. `false`: it was removed before.
    pub(crate) fn remove(&self, id: TraceId) -> bool {
        self.lock().watchers.remove(&id).is_some()
    }

    /// Passes an event to the watchers it concerns.
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

    /// The number of watchers, and the number of events reported as missing.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.lock().watchers.len(), self.missed.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

impl Watcher {
    /// Queues an event, which stands for `events`. `false`: there is no space. Then nothing is queued until the caller
    /// has read the queue, so that it learns where events are missing.
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
    /// The next events, and how many are missing after them; at least one of the two is not zero. `None`: there are no
    /// more.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(Vec<Arc<TraceEvent>>, u64)>> {
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
        // All earlier queued events are read.
        let missed = if events.len() < EVENTS_MAX { self.missed.swap(0, Relaxed) } else { 0 };
        match (events.is_empty() && missed == 0, is_over) {
            (false, _) => Poll::Ready(Some((events, missed))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use comet_core::{ConnId, Generation, Millis, ShardId, Slot};

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

    /// The whole content of a queue: numbers of events, and of those missing after each.
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

        // Events that a shard missed concern all watchers, and are reported in their place.
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
