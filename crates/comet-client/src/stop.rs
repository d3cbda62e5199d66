//! Stopping a listener from another thread or task.
#![allow(clippy::disallowed_methods, reason = "a delay ends at a time of the clock")]

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Stops the [`Listener`](crate::Listener), blocking or not, that made it, from any thread or task. All clones stop the
/// same listener.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
    #[cfg(feature = "tokio")]
    notify: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    has_stopped: bool,
    /// The socket of the present connection. Shutting it down ends a waiting read.
    socket: Option<TcpStream>,
}

impl Stopper {
    /// Closes the connection and ends the iteration of the listener: its next event is `None`, and a call that waits
    /// for one returns. A connect under way is not interrupted; it takes at most
    /// [`Options::timeout`](crate::Options::timeout), plus the resolver's time.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.has_stopped = true;
        if let Some(socket) = state.socket.take() {
            // It fails only if the connection has already ended, which is the aim.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.0.stopped.notify_all();
        #[cfg(feature = "tokio")]
        self.0.notify.notify_waiters();
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.lock().has_stopped
    }

    /// Waits until `until` (`None`: for ever), or until it is stopped.
    pub(crate) fn block_until(&self, until: Option<Instant>) {
        let mut state = self.lock();
        while !state.has_stopped {
            let now = Instant::now();
            state = match until {
                None => self.0.stopped.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) if until <= now => return,
                Some(until) => {
                    let waited = self.0.stopped.wait_timeout(state, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Waits until it is stopped.
    #[cfg(feature = "tokio")]
    pub(crate) async fn stopped(&self) {
        let mut notified = std::pin::pin!(self.0.notify.notified());
        // After this no stop is missed.
        notified.as_mut().enable();
        if !self.has_stopped() {
            notified.await;
        }
    }

    /// Makes a stop shut `socket` down; does so at once if it was already stopped.
    pub(crate) fn watch(&self, socket: Option<TcpStream>) {
        let mut state = self.lock();
        if state.has_stopped
            && let Some(socket) = &socket
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
        state.socket = socket;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
