//! Gap markers tell clients which pushes they have lost, in rooms with a history. Clients of protocol 2 get them, event
//! streams, and clients of the text form that asked for them.
//!
//! A marker goes with the next send, in front of the first push of the room behind the gap, or at the end if there is
//! none. The place of a lost push was behind the bytes that are being sent. So the marker comes before every push of
//! the room with a higher offset, and behind the reply that tells the room's handle.

use crate::canary::Canary;
use crate::gaps::LostRange;
use crate::ids::Slot;
use crate::room::RoomId;

use super::Shard;

impl Shard {
    /// A connection does not get some pushes of a room. If it has left the room since, the pushes waited in front of
    /// the reply to that.
    pub(super) fn note_lost(&mut self, slot: Slot, lost: LostRange) {
        if !self.conns[slot].is_open() || Canary::UntoldGap.is_released() {
            return;
        }
        // A connection that catches up is no member yet, but gets further pushes of the room.
        let room = RoomId::of_handle(lost.room);
        // In another generation the last member here has left; the handle belongs to another room or to none.
        let present = self.rooms.generation(room);
        let generation = lost.generation.unwrap_or(present);
        let lost = LostRange { generation: Some(generation), ..lost };
        let is_left =
            generation != present || !self.is_in(slot, room) && !self.recoveries.has(slot, room);
        self.gaps.note(slot, lost, is_left);
        let conn = &mut self.conns[slot];
        if !conn.outbox.is_sending() {
            self.outboxes.mark_ready(slot, conn);
        }
    }

    /// Members of a room on this shard, from index `from` up to but not including `to`, do not get the pushes in
    /// `lost`: the mesh or a window has dropped them.
    pub(super) fn note_hole(&mut self, id: RoomId, from: usize, to: usize, lost: LostRange) {
        for at in from..to {
            let slot = self.rooms[id].members[at];
            if self.conns[slot].hears_gaps() {
                self.note_lost(slot, lost);
            }
        }
    }
}
