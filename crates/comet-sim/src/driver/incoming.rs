//! Input from other shards, from control and from push callers.

use comet_core::{Message, MessageBudget, MessageClass};

use crate::activity;
use crate::drain::Drain;
use crate::env::Env;
use crate::push_callers::CallerListener;
use crate::trace::trace;

use super::{Driver, budget};

impl Driver {
    /// Takes messages of one class: some or all. A push waits until the one before it is over.
    pub(super) fn take_messages(
        &mut self,
        env: &mut Env,
        class: MessageClass,
    ) -> Result<(), String> {
        for _ in 0..env.rng.pick(&[1, 4, 1000]) {
            self.go_on_with_pushes(env)?;
            if class == MessageClass::Push && !self.shard.takes_pushes() {
                break;
            }
            let taken = env.mesh.take(&mut env.rng, env.now, self.shard.id(), class);
            let Some(message) = taken else { break };
            trace!(env, "{:?} <- {}", self.shard.id(), brief(&message));
            if activity::is_active_message(&message) {
                env.note_activity();
            }
            self.message_at = env.now;
            if let Message::Identified { conn, answer } = &message {
                self.note_expiry(env, *conn, answer);
            }
            let order = match message {
                Message::Drain { over_ms, .. } => Some((None, over_ms)),
                Message::MoveOff { most, over_ms, .. } if !self.shard.is_draining() => {
                    Some((most, over_ms))
                }
                _ => None,
            };
            if let Some((most, over_ms)) = order.filter(|_| !self.is_frozen) {
                let (since, connections) = (env.now, most.unwrap_or(self.slots.len() as u64));
                let (over_ms, is_all) = (over_ms.into(), most.is_none());
                self.drain = Some(Drain { since, over_ms, connections, is_all, notices: 0 });
            }
            self.listings.note(&message);
            self.shard.handle_message(message);
        }
        Ok(())
    }

    /// Takes requests of push callers: some or all.
    pub(super) fn take_requests(&mut self, env: &mut Env) -> Result<(), String> {
        for _ in 0..env.rng.pick(&[1, 4, 1000]) {
            self.go_on_with_pushes(env)?;
            if !CallerListener::take_request(&mut self.shard) {
                break;
            }
            env.note_activity();
        }
        Ok(())
    }

    /// Continues pushes, or leaves them for later.
    fn go_on_with_pushes(&mut self, env: &mut Env) -> Result<(), String> {
        let mut budget_of_pushes = MessageBudget::new(self.shard.limits());
        if env.rng.percent(80) && self.shard.end_due_window(&mut budget_of_pushes) {
            env.note_activity();
        }
        while self.shard.has_pushes() && env.rng.percent(80) {
            env.note_activity();
            self.shard.handle_pushes(&mut budget(env), |_| None);
        }
        if self.shard.has_crowds() && env.rng.percent(50) {
            env.note_activity();
            if let Some(slice) = self.shard.handle_crowds() {
                self.crowds.note(slice, self.shard.limits())?;
            }
        }
        Ok(())
    }
}

/// A message for a line of the trace, without the bytes of a push.
fn brief(message: &Message) -> String {
    let text = format!("{message:?}");
    match text.split_once(", push: ") {
        Some((head, _)) => format!("{head}, .. }}"),
        None => text,
    }
}
