//! Tells the members of rooms who enters and leaves. The shard of a connection tells the room's home at once. The home
//! gathers the changes of a window and makes one push of them.

use std::sync::Arc;

use comet_proto::presence::RoomChanges;
use comet_proto::{Encoded, Frame, VERSION};

use crate::budget::{self, Budget};
use crate::canary::Canary;
use crate::ids::{CallId, Slot};
use crate::message::{Message, Push};
use crate::room::RoomId;

use super::Shard;
use super::push_task::TallyKind;

impl Shard {
    /// A connection has entered or left a room. Its home is told if a rule covers the room.
    #[inline]
    pub(super) fn note_presence(&mut self, slot: Slot, id: RoomId, is_join: bool) {
        if !self.context.limits.presence_rules.is_empty() {
            let key = self.conns[slot].key.clone();
            self.tell_home_of_presence(slot, id, key, is_join);
        }
    }

    /// The connection, whose key was `key`, is about to leave all its rooms.
    pub(super) fn note_end_of_presence(&mut self, slot: Slot, key: &str) {
        if self.context.limits.presence_rules.is_empty() || Canary::UntoldEnd.is_released() {
            return;
        }
        let further = self.further_rooms.of(slot).iter().map(|membership| membership.id());
        let rooms: Vec<_> = self.conns[slot].room.room().into_iter().chain(further).collect();
        for id in rooms {
            self.tell_home_of_presence(slot, id, key.into(), false);
        }
    }

    fn tell_home_of_presence(&mut self, slot: Slot, id: RoomId, key: Box<str>, is_join: bool) {
        let room = &self.rooms[id].name;
        // A connection without a key is closing, and the homes were told before.
        if !key.is_empty() && self.context.limits.presence_rule(room).is_some() {
            let (user, room) = (self.conns[slot].user, Arc::clone(room));
            let home = self.context.home_of_room(&room);
            self.messages.send(home, Message::Presence { room, user, key, is_join });
        }
    }

    /// At the home: adds a change to the window of the room.
    pub(super) fn gather_presence(
        &mut self,
        room: Arc<str>,
        member: (i64, Box<str>),
        is_join: bool,
    ) {
        if let Some(rule) = self.context.limits.presence_rule(&room) {
            self.home.presence.add(room, rule, member, is_join, self.context.now);
        }
    }

    /// Tells the members of rooms whose windows have ended.
    pub(super) fn tell_presence(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && let Some((room, changes)) = self.home.presence.pop_ended(self.context.now)
        {
            budget.spend(budget::ANSWER);
            self.push_presence(room, &changes);
        }
    }

    /// Ends all windows now.
    pub(super) fn end_presence_windows(&mut self) {
        while let Some((room, changes)) = self.home.presence.pop() {
            self.push_presence(room, &changes);
        }
    }

    fn push_presence(&mut self, room: Arc<str>, changes: &RoomChanges) {
        let Some(rule) = self.context.limits.presence_rule(&room) else { return };
        let (operation, members) = (rule.operation, self.home.rooms.members(&room));
        if changes.is_empty() || !self.home.rooms.has_members(&room) {
            return;
        }
        self.counters.presence_pushes += 1;
        self.counters.presence_changes +=
            u64::from(changes.joined.count) + u64::from(changes.left.count);
        let body = changes.body(&room, members);
        let frame = Frame { version: VERSION, operation, sequence: 0, body: &body };
        let push = Push::new(operation, Encoded::frame(&frame));
        self.push_room_for(CallId::NONE, room, push, TallyKind::None);
    }
}
