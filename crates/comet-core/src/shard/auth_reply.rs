//! The body of the reply to operation 7. In protocol 2 it states the terms of the session.

use comet_proto::{AuthReply, NotRenewed, op};

use crate::ids::Slot;
use crate::message::Message;
use crate::state::AwaitedReply;

use super::Shard;

impl Shard {
    /// Replies to the first token. The parked pushes of the session follow.
    pub(super) fn reply_to_token(&mut self, slot: Slot, reply: AwaitedReply) {
        debug_assert_eq!(reply.operation, op::AUTH_REPLY);
        let mut body = self.auth_reply(slot, None);
        let conn = &mut self.conns[slot];
        let kept = conn.input.as_mut().and_then(|input| input.kept.take());
        conn.shed_input();
        if let Some(kept) = kept
            && conn.is_protocol_2
        {
            let not_kept = AuthReply::decode(&body).expect("the shard encoded it");
            body = AuthReply { kept: Some(kept), ..not_kept }.encode();
        }
        self.reply(slot, reply, &body);
        if kept.is_some_and(|kept| kept.resumed.is_some()) && self.conns[slot].is_live() {
            let (conn, key) = (self.conns.id(slot), self.conns[slot].key.clone());
            let home = self.context.home_of_key(&key);
            self.messages.send(home, Message::Ready { conn, key });
        }
    }

    /// The body of the reply to the first or a later token; empty in protocol 1.
    pub(super) fn auth_reply(&self, slot: Slot, not_renewed: Option<NotRenewed>) -> Vec<u8> {
        if !self.conns[slot].is_protocol_2 {
            return Vec::new();
        }
        let body = AuthReply {
            not_renewed,
            heartbeat_ms: self.heartbeat_ms(slot),
            expires_in_ms: self.token_expires_in(slot),
            kept: None,
        };
        body.encode()
    }
}
