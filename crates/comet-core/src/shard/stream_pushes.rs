//! Pushes of the stream that hosts share.

use std::sync::Arc;

use crate::history::StreamState;
use crate::ids::CallId;
use crate::ledger::Tally;
use crate::limits::Limits;
use crate::message::{Push, Report};
use crate::room::RoomId;

use super::Shard;
use super::push_task::TallyKind;

impl Shard {
    /// At the home: stores a push of the stream, and pushes it to the members that have not had it.
    pub(super) fn push_from_stream(
        &mut self,
        call: CallId,
        room: Arc<str>,
        mut push: Push,
        age_ms: u64,
    ) {
        let Limits { history_memory, .. } = *self.context.limits;
        let (histories, now) = (&mut self.home.histories, self.context.now);
        let (is_live, offset) = (histories.is_live(&room, push.offset), push.offset);
        let place = match self.context.limits.history_rule(&room) {
            Some(rule) => {
                let at = (offset, age_ms);
                histories.add_from_stream(&room, rule, &push.frame, at, now, history_memory)
            }
            None => {
                histories.pass_over(&room, offset);
                None
            }
        };
        // If no rule covers the room here, the push has no position on this host.
        (push.offset, push.number) = place.map_or((0, 0), |place| (place.offset, place.number));
        if is_live {
            self.push_to_members(call, room, push, TallyKind::Tally { partials: 0 });
        } else {
            self.report_nothing(call);
        }
    }

    /// At the home: notes a push of the stream that this host refuses.
    pub(super) fn refuse_from_stream(&mut self, call: CallId, room: &Arc<str>, offset: u64) {
        let Limits { history_memory, .. } = *self.context.limits;
        match self.context.limits.history_rule(room) {
            Some(_) => self.home.histories.refuse_from_stream(room, offset, history_memory),
            None => self.home.histories.pass_over(room, offset),
        }
        self.report_nothing(call);
    }

    /// At a home: notes how far the stream is read. Members of rooms that were entered before the stream was read, or
    /// during another stream, may have missed pushes of it. They are told when the shard learns the positions of their
    /// rooms.
    pub(super) fn set_stream(&mut self, call: CallId, state: StreamState, is_settled: bool) {
        self.home.histories.set_stream(state);
        if is_settled {
            let rooms: Vec<RoomId> = self.rooms.iter().map(|(id, _)| id).collect();
            // Asked even if an answer is on its way: that home may have answered before it was told about the stream.
            for id in rooms {
                if self.lacks_position_in_stream(id) {
                    self.ask_position(id);
                }
            }
        }
        self.report_nothing(call);
    }

    fn report_nothing(&mut self, call: CallId) {
        let (shard, tally) = (self.context.shard, Tally::default());
        self.reports.push(Report::Tally { call, shard, tally, partials: 0 });
    }

    /// Asks for the position of a room that was entered before the stream was read, or during another stream.
    pub(super) fn ask_position_in_stream(&mut self, id: RoomId) {
        if self.rooms[id].is_open() && self.lacks_position_in_stream(id) {
            self.ask_position(id);
        }
    }

    fn lacks_position_in_stream(&self, id: RoomId) -> bool {
        let Some(stream) = self.home.histories.stream() else { return false };
        let room = &self.rooms[id];
        let is_known = room.watermark.is_some_and(|it| it.position.epoch == stream.epoch);
        stream.epoch != 0 && !is_known && self.context.limits.history_rule(&room.name).is_some()
    }
}
