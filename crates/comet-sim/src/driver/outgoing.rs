//! Output of a shard to control, to other shards and to the log.

use comet_core::{CloseReason, MessageClass, ShardId};

use crate::activity;
use crate::deadlines;
use crate::env::Env;
use crate::trace::trace;

use super::Driver;

impl Driver {
    pub(super) fn pass_reports(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some(report) = self.shard.poll_report() {
            self.listings.check(&report)?;
            let is_active = activity::is_active_report(&report);
            if let Err(report) = env.control.offer(report) {
                self.shard.return_report(*report);
                self.must_retry = true;
                return Ok(());
            }
            if is_active {
                env.note_activity();
            }
        }
        Ok(())
    }

    pub(super) fn pass_messages(&mut self, env: &mut Env) {
        let me = self.shard.id();
        let peers = (0..env.plan.shards).map(ShardId);
        for (peer, class) in peers.flat_map(|peer| MessageClass::ALL.map(|class| (peer, class))) {
            while let Some(message) = self.shard.poll_message(peer, class) {
                let rng = (&mut env.rng, env.now);
                let is_active = activity::is_active_message(&message);
                if let Err(message) = env.mesh.send(rng, Some(me), peer, message) {
                    self.shard.return_message(peer, *message);
                    self.must_retry = true;
                    break;
                }
                if is_active {
                    env.note_activity();
                }
            }
        }
    }

    pub(super) fn poll_closed(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some(event) = self.shard.poll_closed() {
            trace!(env, "closed {event:?}");
            env.note_activity();
            let slot = event.conn.slot;
            let peer = *self.slots.get(&slot).ok_or("closed, and nobody there")?;
            if let Some(drain) = &mut self.drain
                && event.reason == CloseReason::Draining
            {
                drain.note_close(env.now)?;
            }
            deadlines::check_closed(env, peer, &event)?;
            env.peers[peer].closed = Some((event.reason, env.now));
        }
        Ok(())
    }
}
