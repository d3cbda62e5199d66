//! Replies: what the shard says to one client. In a storm of connections most of a turn's replies are the
//! same bytes, which are then encoded and stored once.

use comet_proto::{Encoded, Frame};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::outbox::Item;
use crate::state::ConnState;

use super::Shard;

impl Shard {
    pub(super) fn reply(&mut self, slot: Slot, operation: i32, sequence: i32, body: &[u8]) {
        let frame = Frame { version: 1, operation, sequence, body };
        let reply = match self.replied.take() {
            Some(same) if same.0.is_frame(&frame) => same,
            _ => self.one_reply(Encoded::frame(&frame)),
        };
        self.queue_reply(slot, &reply);
        self.replied = Some(reply);
    }

    pub(super) fn reply_with(&mut self, slot: Slot, frame: Encoded) {
        let reply = self.one_reply(frame);
        self.queue_reply(slot, &reply);
    }

    fn one_reply(&mut self, frame: Encoded) -> (Encoded, Item) {
        (frame.clone(), self.chains.item(frame, false))
    }

    /// Queues a reply, which has room of its own beside the pushes.
    fn queue_reply(&mut self, slot: Slot, (frame, item): &(Encoded, Item)) {
        let entry = &mut self.conns[slot];
        if matches!(entry.state, ConnState::Closed | ConnState::Lingering)
            || entry.transport.bytes(frame).is_empty()
        {
            return;
        }
        self.bytes_queued += entry.transport.bytes(frame).len() as u64;
        self.chains.append(&mut entry.outbox, item);
        let replies = self.chains.load(&entry.outbox, entry.transport).replies;
        let is_sending = entry.outbox.is_sending();
        if !is_sending {
            self.mark_ready(slot);
        }
        if replies > u32::from(self.limits.cli_proto) {
            self.close(slot, CloseReason::ReplyOverflow, "");
        }
    }
}
