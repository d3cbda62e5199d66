//! Stopping a listener from another thread.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Stops the [`Listener`](crate::Listener) that made it, from any thread. All clones stop the same one.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_stopped: bool,
    /// The socket of the present connection. Shutting it ends a read that waits.
    socket: Option<TcpStream>,
}

impl Stopper {
    /// Closes the connection and ends the iteration of the listener: its next event is `None`, and a call that
    /// waits for one returns. An attempt to connect is not cut short; it takes
    /// [`Options::timeout`](crate::Options::timeout) at most, and the resolver's time.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.has_stopped = true;
        if let Some(socket) = state.socket.take() {
            // It fails only if the connection has ended, which is what is wanted.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.0.stopped.notify_all();
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.lock().has_stopped
    }

    /// Waits for `delay` or until it is stopped.
    pub(crate) fn sleep(&self, delay: Duration) {
        let waited =
            self.0.stopped.wait_timeout_while(self.lock(), delay, |state| !state.has_stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on a stop shuts `socket`; at once if there was one.
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
