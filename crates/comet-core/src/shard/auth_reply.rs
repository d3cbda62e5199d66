//! The reply to operation 7. In protocol 2 its body says what the client may rely on.

use comet_proto::{AuthReply, NotRenewed};

use crate::ids::Slot;
use crate::state::AwaitedReply;

use super::Shard;

impl Shard {
    /// The connection in `slot` is authenticated and where its token put it.
    pub(super) fn answer_auth(&mut self, slot: Slot, reply: AwaitedReply) {
        if self.conns[slot].is_protocol_2 {
            self.answer_token(slot, reply, None);
        } else {
            self.answer(slot, reply, b"");
        }
    }

    /// The reply of protocol 2 to a token, the first one or another.
    pub(super) fn answer_token(
        &mut self,
        slot: Slot,
        reply: AwaitedReply,
        not_renewed: Option<NotRenewed>,
    ) {
        let body = AuthReply {
            not_renewed,
            heartbeat_ms: self.heartbeat_ms(slot),
            expires_in_ms: self.token_expires_in(slot),
        };
        self.answer(slot, reply, &body.encode());
    }
}
