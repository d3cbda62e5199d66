//! Renewal: a client of protocol 2 sends a fresh token before the last one has expired, and stays.
//!
//! Its input is held until logic has answered, so a connection has one renewal under way at most, and each is
//! a frame of the client's rate.

use comet_proto::{Frame, NotRenewed, op};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::message::{Denied, Identity};
use crate::settings::Logic;
use crate::state::{AwaitedReply, ConnState};

use super::Shard;

impl Shard {
    pub(super) fn renew_token(&mut self, slot: Slot, frame: Frame<'_>) {
        let reply = AwaitedReply::to(&frame, op::AUTH_REPLY);
        self.conns[slot].state = ConnState::Renewing { reply };
        self.ask_about(slot, frame.body);
    }

    /// Logic's answer to a renewal. Room, accepted operations and heartbeat stay as they are.
    pub(super) fn renewed(
        &mut self,
        slot: Slot,
        reply: AwaitedReply,
        answer: Result<Identity, Denied>,
    ) {
        let not_renewed = match answer {
            Ok(identity) => self.take_renewal(slot, identity).err(),
            Err(Denied { reason: CloseReason::LogicUnavailable, .. }) => {
                Some(NotRenewed::Unavailable)
            }
            Err(_) => Some(NotRenewed::Refused),
        };
        match not_renewed {
            None => self.counters.tokens_renewed += 1,
            Some(_) => self.counters.tokens_not_renewed += 1,
        }
        let body = self.auth_reply(slot, not_renewed);
        self.answer(slot, reply, &body);
    }

    /// Takes the expiry of `identity`, if that is the identity of `slot`.
    fn take_renewal(&mut self, slot: Slot, identity: Identity) -> Result<(), NotRenewed> {
        let conn = &self.conns[slot];
        let is_same_user = identity.user == conn.user;
        let is_other_key = identity.key.as_ref().is_some_and(|key| *key != conn.key);
        // Remote logic makes a key where a token names none, and does not say which it did. The key of the
        // connection is what counts.
        let may_differ = matches!(self.context.logic, Logic::Remote { .. });
        let expires_in_ms = identity.expires_in_ms;
        if is_other_key {
            self.discard_identity(Ok(identity));
        } else {
            // A younger connection may have taken the key and ended meanwhile; its eviction of this one is under way.
            let key = conn.key.clone();
            self.report_orphaned_session(identity.user, key);
            if !is_same_user {
                // Logic now takes the key for another user's.
                self.renew_now(slot);
            }
        }
        if !is_same_user || (is_other_key && !may_differ) {
            return Err(NotRenewed::Refused);
        }
        self.set_token_expiry(slot, expires_in_ms);
        Ok(())
    }
}
