//! Ids of events: they name the positions of the rooms of an event stream. And the events that a stream missed.
//!
//! An event is encoded once for all streams, and these are in different rooms. So the id is not part of the event.
//! Instead a block without an event goes behind the frames of one send, and names the positions of all rooms of that
//! stream. A client that reads only a part of the send keeps the former id, and gets some pushes twice.
//! send keeps the id before, and gets some pushes twice.

use std::sync::Arc;

use comet_proto::event_id::id_block;
use comet_proto::{Encoded, Frame, Position, RoomPush, VERSION, op};

use crate::conn::Conn;
use crate::ids::{LocalConnId, Slot};
use crate::message::Recovery;
use crate::room::Membership;
use crate::state::ConnState;
use crate::transport::Transport;

use super::Shard;
use super::push_forms::EncodedForms;

impl Shard {
    /// Appends an id to the outbox of an event stream, before it is sent.
    pub(super) fn append_event_id(&mut self, slot: Slot) {
        let conn = &self.conns[slot];
        // If the stream is about to enter further rooms, an id without them would lose the client's positions there.
        let enters_rooms = conn.input.as_ref().is_some_and(|input| !input.bytes.is_empty());
        if !matches!(conn.state, ConnState::Live) || enters_rooms || conn.outbox.is_empty() {
            return;
        }
        let first = Some(conn.room).filter(|membership| membership.room().is_some());
        let rooms = first.into_iter().chain(self.further_rooms.of(slot).iter().copied());
        let positions = rooms.filter_map(|membership| self.position_of(slot, membership));
        if let Some(block) = id_block(positions) {
            let item = self.outboxes.bytes_reply(Encoded::verbatim(&block));
            self.outboxes.append_to_send(&mut self.conns[slot], &item);
        }
    }

    /// The position up to which a member has all pushes of its room. With a gap that is the position before the gap, so
    /// that the client gets the lost pushes when it comes back.
    fn position_of(&self, slot: Slot, membership: Membership) -> Option<(&str, Position)> {
        let room = &self.rooms[membership.id()];
        let mut position = room.watermark_of(membership)?;
        if let Some(lost) = self.gaps.first_needed(slot, membership.id()) {
            position.offset = position.offset.min(lost - 1);
        }
        Some((&room.name, position))
    }

    /// Encodes the missed pushes for an event stream as events, because the home has encoded them for other clients. If
    /// that would be too long, nothing is recovered.
    pub(super) fn missed_event(
        &mut self,
        conn: Option<LocalConnId>,
        room: &Arc<str>,
        recovery: &mut Option<Box<Recovery>>,
    ) -> EncodedForms {
        let Some(conn) = conn else { return EncodedForms::default() };
        let is_stream = |conn: &mut Conn| conn.transport == Transport::EventStream;
        let Some(Recovery { recovered, chunk, .. }) = recovery.as_deref_mut() else {
            return EncodedForms::default();
        };
        let Some(missed) = chunk.as_ref().filter(|_| self.conns.get(conn).is_some_and(is_stream))
        else {
            return EncodedForms::default();
        };
        if missed.for_tcp().len() > self.context.limits.text_push_max {
            (*recovered, *chunk) = (None, None);
            return EncodedForms::default();
        }
        let (frame, _) = comet_proto::decode(missed.for_tcp(), usize::MAX)
            .ok()
            .flatten()
            .expect("a recovery is a whole frame");
        let push = RoomPush::decode(frame.body).expect("a recovery is a push to a room");
        let run = Frame { version: VERSION, operation: op::RAW, sequence: 0, body: push.body };
        EncodedForms::event(Encoded::frame(&run).to_event(Some(room), push.offset))
    }
}
