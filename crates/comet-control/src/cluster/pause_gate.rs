//! The gate that pushes of the stream pass on their way to the shards. A live upgrade closes it before the shards stop.

use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    /// One more push may pass.
    Closing,
    Closed,
}

/// One task passes the gate. Another thread closes it, and finds out when nothing passes any more.
pub(super) struct PauseGate(watch::Sender<State>);

impl PauseGate {
    pub(super) fn new() -> Self {
        Self(watch::channel(State::Open).0)
    }

    /// Begins to close the gate, and returns at once: see [`PauseGate::is_closed`].
    pub(super) fn close(&self) {
        self.change(State::Open, State::Closing);
    }

    pub(super) fn open(&self) {
        self.0.send_replace(State::Open);
    }

    /// Whether the task waits in [`PauseGate::pass`], and will continue only when the gate opens.
    pub(super) fn is_closed(&self) -> bool {
        *self.0.borrow() == State::Closed
    }

    /// Resolves when the gate is open.
    pub(super) async fn pass(&self) {
        let mut states = self.0.subscribe();
        while *states.borrow_and_update() != State::Open {
            self.change(State::Closing, State::Closed);
            // This fails only without a sender, and the sender is `self`.
            let _ = states.changed().await;
        }
    }

    /// Resolves when the gate is not open.
    pub(super) async fn closing(&self) {
        let mut states = self.0.subscribe();
        while *states.borrow_and_update() == State::Open {
            let _ = states.changed().await;
        }
    }

    fn change(&self, from: State, to: State) {
        self.0.send_if_modified(|state| {
            let is_there = *state == from;
            if is_there {
                *state = to;
            }
            is_there
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    fn is_over(future: Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_gate_is_closed_from_when_the_task_waits_until_it_opens() {
        let gate = PauseGate::new();
        assert!(is_over(pin!(gate.pass())));
        gate.close();
        assert!(!gate.is_closed(), "the task may be on its way through");
        assert!(is_over(pin!(gate.closing())));
        let mut passes = pin!(gate.pass());
        assert!(!is_over(passes.as_mut()));
        assert!(gate.is_closed());
        gate.close();
        assert!(gate.is_closed(), "it is already");
        gate.open();
        assert!(!gate.is_closed());
        assert!(is_over(passes.as_mut()));
        assert!(!is_over(pin!(gate.closing())));
    }

    /// An upgrade fails, and the next one begins before the task has noticed.
    #[test]
    fn a_gate_that_opens_and_closes_again_lets_nothing_pass_unseen() {
        let gate = PauseGate::new();
        gate.close();
        let mut passes = pin!(gate.pass());
        assert!(!is_over(passes.as_mut()));
        gate.open();
        gate.close();
        assert!(!gate.is_closed());
        assert!(!is_over(passes.as_mut()));
        assert!(gate.is_closed());
    }
}
