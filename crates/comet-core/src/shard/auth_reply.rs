//! The reply to operation 7. In protocol 2 its body says what the client may rely on.

use comet_proto::AuthReply;

use crate::ids::Slot;
use crate::state::{AwaitedReply, ConnState};

use super::Shard;

impl Shard {
    /// The connection in `slot` is authenticated and where its token put it.
    pub(super) fn answer_auth(&mut self, slot: Slot, reply: AwaitedReply) {
        if !self.conns[slot].is_protocol_2 {
            return self.answer(slot, reply, b"");
        }
        self.conns[slot].state = ConnState::Live;
        self.reply_auth(slot, reply);
        self.resume(slot);
    }

    fn reply_auth(&mut self, slot: Slot, reply: AwaitedReply) {
        let body = AuthReply {
            heartbeat_ms: self.heartbeat_ms(slot),
            expires_in_ms: self.token_expires_in(slot),
        };
        self.reply(slot, reply, &body.encode());
    }
}
