//! Replies to single clients. In a storm of connections most replies of a turn are the same bytes, which are then
//! encoded and stored once.

use comet_proto::{Encoded, Frame};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::outbox::Item;
use crate::state::{AwaitedReply, ConnState};
use crate::transport::Transport;

use super::Shard;

impl Shard {
    pub(super) fn reply(&mut self, slot: Slot, reply: AwaitedReply, body: &[u8]) {
        let AwaitedReply { version, operation, sequence } = reply;
        if self.conns[slot].transport == Transport::EventStream {
            return self.reply_by_event(slot, reply, body);
        }
        let frame = Frame { version, operation, sequence, body };
        if self.conns[slot].is_text {
            return self.reply_with(slot, Encoded::frame(&frame).to_text());
        }
        let reply = self.outboxes.take_reply(&frame);
        self.queue_reply(slot, &reply);
        self.outboxes.keep_reply(reply);
    }

    pub(super) fn reply_with(&mut self, slot: Slot, bytes: Encoded) {
        let reply = self.outboxes.bytes_reply(bytes);
        self.queue_reply(slot, &reply);
    }

    /// Queues a reply. Replies have a limit of their own, separate from that of pushes.
    fn queue_reply(&mut self, slot: Slot, reply: &Item) {
        let conn = &mut self.conns[slot];
        if matches!(conn.state, ConnState::Closed | ConnState::Lingering)
            || conn.has_peer_left
            || conn.transport.bytes(reply.frame()).is_empty()
        {
            return;
        }
        let limits = &self.context.limits;
        // The server may send one notice of a join, of a leave and of a gap for every room.
        let notices = if conn.knows_rooms() { 3 * u32::from(limits.rooms) } else { 0 };
        let most = u32::from(limits.cli_proto) + notices;
        let load = self.outboxes.append_reply(slot, conn, reply);
        if load.replies > most {
            self.close(slot, CloseReason::ReplyOverflow, "");
        }
    }
}
