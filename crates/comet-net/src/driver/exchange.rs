//! The steps that exchange messages: with other shards, with control and with embedded logic.

use comet_core::limits::DIRECTORY_MESSAGES_PER_TURN;
use comet_core::{
    AuthRequest, Budget, CloseReason, ConnId, Denied, MessageBudget, MessageClass, ShardId,
};
use comet_logic::{Authenticator, Refusal};
use comet_mesh::TrySendError;

use super::Driver;

/// The shortest retry time for a client whose token cannot be checked yet, in milliseconds; the longest is twice that.
const RETRY_MS: u32 = 2_000;

impl<A: Authenticator> Driver<A> {
    pub(super) fn handle_messages(&mut self) {
        for _ in 0..DIRECTORY_MESSAGES_PER_TURN {
            let Some(message) = self.inbox.try_recv_priority() else { break };
            self.shard.handle_message(message);
        }
        if self.has_sends_left {
            return;
        }
        // A turn either takes pushes or goes on with a crowd, so that what it queues fits into an outbox.
        let is_for_crowd = self.is_crowd_next && self.shard.has_crowds();
        self.is_crowd_next = !is_for_crowd && self.take_pushes();
    }

    /// Continues with a crowd if the turn took no push. Clients whose tokens were just checked get their answers before
    /// the crowd's sends.
    pub(super) fn handle_crowds(&mut self) {
        if !self.has_sends_left && !self.is_crowd_next {
            self.shard.handle_crowds();
        }
    }

    /// Hands pushes to the shard. Returns `false` if there were none.
    fn take_pushes(&mut self) -> bool {
        let mut has_taken = false;
        let mut is_callers_turn = false;
        let mut messages = MessageBudget::new(self.shard.limits());
        let mut slice = Budget::slice();
        loop {
            if self.shard.has_pushes() {
                let Self { shard, sockets, .. } = self;
                shard.handle_pushes(&mut slice, |conn| Some(sockets.get(conn.slot)?.peer()?.ip()));
            } else if self.shard.end_due_window(&mut messages) {
                // These come before the inbox, which may never be empty: these pushes have already waited for their
                // time.
                has_taken = true;
            } else if messages.is_left()
                && self.shard.takes_pushes()
                && self.take_push(&mut messages, &mut is_callers_turn)
            {
                has_taken = true;
            } else {
                return has_taken;
            }
            if !slice.is_left() {
                if !self.has_time() {
                    return true;
                }
                slice = Budget::slice();
            }
        }
    }

    /// Hands over the next push, alternating between the inbox and this core's callers.
    fn take_push(&mut self, messages: &mut MessageBudget, is_callers_turn: &mut bool) -> bool {
        *is_callers_turn = !*is_callers_turn;
        if *is_callers_turn && self.shard.handle_request(messages) {
            return true;
        }
        if let Some(message) = self.inbox.try_recv() {
            messages.spend(&message);
            self.shard.handle_message(message);
            return true;
        }
        !*is_callers_turn && self.shard.handle_request(messages)
    }

    /// Has embedded logic check tokens. It answers at once.
    pub(super) fn authenticate(&mut self) {
        while let Some(AuthRequest { conn, token, cookie }) = self.shard.poll_auth() {
            let answer = self.authenticator.auth(&token, &cookie);
            let answer = answer.map_err(|refusal| denied(conn, &refusal));
            self.shard.handle_auth(conn, answer);
            if !self.has_time() {
                return;
            }
        }
    }

    /// Passes the shard's messages to the inboxes of the other shards. Returns whether there was one.
    pub(super) fn send_messages(&mut self) -> bool {
        let mut has_sent = false;
        for (peer, sender) in (0..).map(ShardId).zip(&self.peers) {
            let mut has_posted = false;
            for class in MessageClass::ALL {
                while let Some(message) = self.shard.poll_message(peer, class) {
                    let posted = match class {
                        MessageClass::Directory => sender.post_priority(message),
                        MessageClass::Push => sender.post(message),
                    };
                    if let Err(TrySendError::Full(message) | TrySendError::Closed(message)) = posted
                    {
                        self.shard.return_message(peer, message);
                        self.must_retry = true;
                        break;
                    }
                    has_posted = true;
                }
            }
            if has_posted {
                has_sent = true;
                sender.notify();
            }
        }
        has_sent
    }

    /// Passes the shard's reports to the inbox of control.
    pub(super) fn send_reports(&mut self) {
        let mut has_posted = false;
        while let Some(report) = self.shard.poll_report() {
            // On the same CPU the notified control thread would answer its caller first, and the
            // clients would get their pushes later. More operations would delay a caller that may
            // have its next push ready.
            if !has_posted && !self.ring.is_laden() {
                self.ring.flush();
            }
            if let Err(TrySendError::Full(report) | TrySendError::Closed(report)) =
                self.control.post(report)
            {
                self.shard.return_report(report);
                self.must_retry = true;
                break;
            }
            has_posted = true;
        }
        if has_posted {
            self.control.notify();
        }
    }
}

/// The answer to a refused client. One that may come back gets a retry time that depends on its slot, so that not all
/// come at once.
fn denied(conn: ConnId, refusal: &Refusal) -> Denied {
    let sentence = refusal.to_string();
    if !refusal.is_temporary() {
        return Denied::refused(sentence);
    }
    Denied {
        reason: CloseReason::LogicUnavailable,
        sentence: sentence.into(),
        retry_after_ms: Some(RETRY_MS + conn.slot.0 % RETRY_MS),
    }
}
