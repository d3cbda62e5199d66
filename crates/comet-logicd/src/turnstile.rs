//! The queue in which calls to a comet wait for their turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use comet_hub::CallerId;
use comet_hub::fanout::{Target, TurnId, Turns};
use tokio::sync::oneshot;

/// The turns of the calls to one comet, and the waiting calls.
#[derive(Default)]
pub(crate) struct Turnstile(Mutex<State>);

#[derive(Default)]
struct State {
    turns: Turns,
    waiting: BTreeMap<TurnId, oneshot::Sender<()>>,
}

/// A call that waits for its turn, or has it. Dropping it ends the turn.
pub(crate) struct Turn {
    turnstile: Arc<Turnstile>,
    id: TurnId,
    has_come: oneshot::Receiver<()>,
}

impl Turnstile {
    /// Queues a call of `caller` to `target`.
    pub(crate) fn line_up(self: &Arc<Self>, caller: CallerId, target: &Target) -> Turn {
        let (sender, has_come) = oneshot::channel();
        let mut state = self.state();
        let id = state.turns.ask(caller, target);
        state.waiting.insert(id, sender);
        state.let_in();
        Turn { turnstile: Arc::clone(self), id, has_come }
    }

    /// The lock is never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics between lock and unlock")
    }
}

impl State {
    fn let_in(&mut self) {
        while let Some(turn) = self.turns.poll_turn() {
            if let Some(waiting) = self.waiting.remove(&turn) {
                // Fails if the call is about to leave; it then ends its turn.
                let _ = waiting.send(());
            }
        }
    }
}

impl Turn {
    /// Waits for the turn to come.
    pub(crate) async fn come(&mut self) {
        let come = (&mut self.has_come).await;
        come.expect("a turn comes as long as somebody waits");
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turnstile.state();
        state.waiting.remove(&self.id);
        state.turns.end(self.id);
        state.let_in();
    }
}
