//! The body of the reply to operation 7. In protocol 2 it says what the client may rely on.

use comet_proto::{AuthReply, NotRenewed};

use crate::ids::Slot;

use super::Shard;

impl Shard {
    /// The body of the reply to a token, the first one or another; empty in protocol 1.
    pub(super) fn auth_reply(&self, slot: Slot, not_renewed: Option<NotRenewed>) -> Vec<u8> {
        if !self.conns[slot].is_protocol_2 {
            return Vec::new();
        }
        let body = AuthReply {
            not_renewed,
            heartbeat_ms: self.heartbeat_ms(slot),
            expires_in_ms: self.token_expires_in(slot),
        };
        body.encode().to_vec()
    }
}
