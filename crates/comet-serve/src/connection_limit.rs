//! The connections of one listener setting: a cap on their number, and the choice of a connection that leaves for a new
//! one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::responses::UnsentChunks;

/// A connection stays at least this long, so that it can send its request.
const STAY_MIN: Duration = Duration::from_millis(100);

/// Permits for connections.
pub(crate) struct ConnectionLimit {
    most: usize,
    state: Mutex<State>,
    /// Notified when a connection left, or a call of one ended.
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// The facts that decide whether a connection leaves.
struct Connection {
    /// Calls whose request is complete and which are not answered yet.
    calls: AtomicU32,
    /// The head of a request has arrived.
    has_begun: AtomicBool,
    /// A request of it was complete.
    has_called: AtomicBool,
    /// When its last call ended, or when it connected.
    idle_since: Mutex<Instant>,
    evicted: Notify,
    unsent: Arc<UnsentChunks>,
    /// The tokens that let its calls in, each once; `None`: a call that needed none. So there are at most as many as
    /// were in force.
    shown: Mutex<Vec<Option<Box<[u8]>>>>,
}

/// A permit of a connection, held until this is dropped.
pub(crate) struct ConnectionPermit {
    limit: Arc<ConnectionLimit>,
    id: u64,
    connection: Arc<Connection>,
}

/// A call under way: its connection stays until this is dropped.
pub(crate) struct CallGuard {
    limit: Arc<ConnectionLimit>,
    connection: Arc<Connection>,
}

impl ConnectionLimit {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default(), changed: Notify::new() })
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Connections now.
    pub(crate) fn taken(&self) -> usize {
        self.lock().connections.len()
    }

    /// Waits for a permit. If all are taken, a connection without a call under way has to leave: one that never made a
    /// call before one that did, then the one idle for the longest time.
    pub(crate) async fn enter(self: &Arc<Self>) -> ConnectionPermit {
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let room = self.lock().make_room(self.most, now);
            match room {
                Ok(()) => return self.take(now),
                // Waits for whichever comes first.
                Err(Some(at)) => drop(timeout(at - now, changed).await),
                Err(None) => changed.await,
            }
        }
    }

    fn take(self: &Arc<Self>, now: Instant) -> ConnectionPermit {
        let connection = Arc::new(Connection {
            calls: AtomicU32::new(0),
            has_begun: AtomicBool::new(false),
            has_called: AtomicBool::new(false),
            idle_since: Mutex::new(now),
            evicted: Notify::new(),
            unsent: Arc::default(),
            shown: Mutex::default(),
        });
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.connections.insert(id, Arc::clone(&connection));
        ConnectionPermit { limit: Arc::clone(self), id, connection }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }
}

impl State {
    /// Makes sure that fewer than `most` connections are left. The error is the time when one may leave, if one may at
    /// all.
    fn make_room(&mut self, most: usize, now: Instant) -> Result<(), Option<Instant>> {
        if self.connections.len() < most {
            return Ok(());
        }
        let idle = self.connections.iter().filter(|(_, one)| one.calls.load(Relaxed) == 0);
        let order = idle.map(|(id, one)| (one.has_called.load(Relaxed), one.idle_since(), *id));
        let (_, since, id) = order.min().ok_or(None)?;
        if now < since + STAY_MIN {
            return Err(Some(since + STAY_MIN));
        }
        let leaving = self.connections.remove(&id).expect("it was just found");
        leaving.evicted.notify_one();
        Ok(())
    }
}

impl Connection {
    fn idle_since(&self) -> Instant {
        *self.idle_since.lock().expect(NO_PANIC)
    }
}

impl ConnectionPermit {
    /// Notes the credential by which a call was let in. Returns whether it is new.
    pub(crate) fn note_shown(&self, shown: Option<&[u8]>) -> bool {
        let mut known = self.connection.shown.lock().expect(NO_PANIC);
        let is_new = !known.iter().any(|known| known.as_deref() == shown);
        if is_new {
            known.push(shown.map(Box::from));
        }
        is_new
    }

    /// All credentials noted so far.
    pub(crate) fn shown(&self) -> Vec<Option<Box<[u8]>>> {
        self.connection.shown.lock().expect(NO_PANIC).clone()
    }

    /// The head of a request has arrived.
    pub(crate) fn begin_request(&self) {
        self.connection.has_begun.store(true, Relaxed);
    }

    /// Whether the head of any request has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.connection.has_begun.load(Relaxed)
    }

    /// A request of this connection is complete.
    pub(crate) fn begin_call(&self) -> CallGuard {
        self.connection.calls.fetch_add(1, Relaxed);
        self.connection.has_called.store(true, Relaxed);
        let (limit, connection) = (Arc::clone(&self.limit), Arc::clone(&self.connection));
        CallGuard { limit, connection }
    }

    /// The chunks of answers that its caller has not taken.
    pub(crate) fn unsent(&self) -> &Arc<UnsentChunks> {
        &self.connection.unsent
    }

    /// How long it has had no call under way; `None`: a call is under way.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let is_idle = self.connection.calls.load(Relaxed) == 0;
        is_idle.then(|| self.connection.idle_since().elapsed())
    }

    /// Resolves when the connection has to leave.
    pub(crate) async fn evicted(&self) {
        self.connection.evicted.notified().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limit.lock().connections.remove(&self.id);
        self.limit.changed.notify_one();
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        *self.connection.idle_since.lock().expect(NO_PANIC) = Instant::now();
        if self.connection.calls.fetch_sub(1, Relaxed) == 1 {
            self.limit.changed.notify_one();
        }
    }
}

impl fmt::Debug for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionLimit({} of {})", self.taken(), self.most)
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::time::advance;

    use super::*;

    fn is_evicted(permit: &ConnectionPermit) -> bool {
        pin!(permit.evicted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_leave_before_the_idle() {
        let limit = ConnectionLimit::new(3);
        let idle = limit.enter().await;
        drop(idle.begin_call());
        advance(STAY_MIN).await;
        let silent = [limit.enter().await, limit.enter().await];
        let newest = limit.enter().await;
        assert!(is_evicted(&silent[0]));
        assert!(!is_evicted(&silent[1]) && !is_evicted(&idle));
        let calling = silent[1].begin_call();
        let call = newest.begin_call();
        let last = limit.enter().await;
        assert!(is_evicted(&idle));
        assert_eq!(limit.taken(), 3);
        drop((calling, call, silent, newest, idle, last));
        assert_eq!(limit.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_can_send_its_request() {
        let limit = ConnectionLimit::new(1);
        let begin = Instant::now();
        let first = limit.enter().await;
        let _second = limit.enter().await;
        assert!(is_evicted(&first));
        assert!(begin.elapsed() >= STAY_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_under_way_are_not_cut_off() {
        let limit = ConnectionLimit::new(1);
        let first = limit.enter().await;
        let call = first.begin_call();
        let mut next = pin!(limit.enter());
        let mut context = Context::from_waker(Waker::noop());
        advance(10 * STAY_MIN).await;
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(call);
        drop(first);
        next.await;
    }
}
