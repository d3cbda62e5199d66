//! Gap markers: clients are told which pushes they have lost of rooms that keep a history. Those of protocol 2 are, event streams, and
//! those of the text form that have asked for it.
//!
//! A marker goes with the next send, in front of the first push of the room behind the gap, or behind all if there is none. A push
//! that was lost had its place behind what is being sent. So the marker comes before every push of the room that has a higher
//! offset, and behind the reply that tells the room's handle.

use crate::canary::Canary;
use crate::gaps::Lost;
use crate::ids::Slot;
use crate::room::RoomId;

use super::Shard;

impl Shard {
    /// A connection does not get pushes of a room. If it has left the room meanwhile, they waited before the reply that says so.
    pub(super) fn note_lost(&mut self, slot: Slot, lost: Lost) {
        if !self.conns[slot].is_open() || Canary::UntoldGap.is_released() {
            return;
        }
        // One that catches up is no member, and gets more pushes of the room.
        let room = RoomId::of_handle(lost.room);
        // In another generation the last member here has left, and the handle is that of another room or of none.
        let present = self.rooms.generation(room);
        let generation = lost.generation.unwrap_or(present);
        let lost = Lost { generation: Some(generation), ..lost };
        let is_left =
            generation != present || !self.is_in(slot, room) && !self.recoveries.has(slot, room);
        self.gaps.note(slot, lost, is_left);
        let conn = &mut self.conns[slot];
        if !conn.outbox.is_sending() {
            self.outboxes.mark_ready(slot, conn);
        }
    }

    /// Members of a room on this shard, from the `from`-th one on and before the `to`-th, do not get what is missing before the
    /// push with the offset `next`: the mesh or a window has dropped it.
    pub(super) fn note_hole(&mut self, id: RoomId, from: usize, to: usize, lost: Lost) {
        for at in from..to {
            let slot = self.rooms[id].members[at];
            if self.conns[slot].hears_gaps() {
                self.note_lost(slot, lost);
            }
        }
    }
}
