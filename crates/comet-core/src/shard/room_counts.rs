//! Room counts: how many members a room has on all shards and hosts.
//!
//! Each shard reports its members to the room's home, and the home reports to each shard how many there are elsewhere.
//! Both send changed counts every [`ROOM_COUNT_MS`].

use std::sync::Arc;

use crate::budget::{self, Budget};
use crate::home::{Home, KeyRetention};
use crate::ids::{ShardId, Slot};
use crate::limits::ROOM_COUNT_MS;
use crate::message::{Message, Report};

use super::Shard;

impl Shard {
    /// The number of members of the room that `slot` is in, on all shards and hosts; 0 without a room.
    pub(super) fn online(&self, slot: Slot) -> u32 {
        self.conns[slot].room.room().map_or(0, |id| {
            let room = &self.rooms[id];
            room.elsewhere.saturating_add(room.members.len() as u32)
        })
    }

    /// `shard` has its first member in the room. Returns the number of members elsewhere.
    pub(super) fn home_join(&mut self, room: &Arc<str>, shard: ShardId) -> u32 {
        self.report_interest(room, |home| home.rooms.join(room, shard))
    }

    /// `shard` has `members` members in the room.
    pub(super) fn home_set_members(&mut self, room: &Arc<str>, shard: ShardId, members: u32) {
        self.report_interest(room, |home| home.rooms.set_members(room, shard, members));
    }

    /// Applies `change`. If reports are wanted, reports a room that thereby got its first member on this host or lost
    /// its last.
    fn report_interest<T>(&mut self, room: &Arc<str>, change: impl FnOnce(&mut Home) -> T) -> T {
        let Self { home, context, reports, .. } = self;
        if !context.has_other_hosts {
            return change(home);
        }
        let had_members = home.rooms.has_members(room);
        let result = change(home);
        let has_members = home.rooms.has_members(room);
        if has_members != had_members {
            reports.push(Report::RoomInterest { room: Arc::clone(room), has_members });
        }
        result
    }

    pub(super) fn set_elsewhere(&mut self, room: &str, elsewhere: u32) {
        if let Some(id) = self.rooms.find(room) {
            self.rooms[id].elsewhere = elsewhere;
        }
    }

    /// Begins a step if one is due: counts that have changed by then are sent, and expired retained entries are
    /// forgotten.
    pub(super) fn begin_count_step(&mut self) {
        let now = self.context.now;
        if now < self.next_room_counts {
            return;
        }
        self.next_room_counts = now.after(ROOM_COUNT_MS);
        self.counts_left = [self.rooms.changed(), self.home.rooms.changed()];
        self.has_retained_due = true;
    }

    /// Sends counts that have changed.
    pub(super) fn send_room_counts(&mut self, budget: &mut Budget) {
        // While counts wait for a peer, none are added. Later counts replace them, so the queue does not grow.
        if !self.has_counts_to_send() {
            return;
        }
        let shard = self.context.shard;
        while self.counts_left[0] > 0 && budget.is_left() {
            self.counts_left[0] -= 1;
            budget.spend(budget::ENTRY);
            let Some(changed) = self.rooms.pop_changed() else { break };
            if let Some((room, members)) = changed {
                let home = self.context.home_of_room(&room);
                self.messages.send(home, Message::RoomMembers { shard, room, members });
            }
        }
        while self.counts_left[1] > 0 && budget.is_left() {
            self.counts_left[1] -= 1;
            budget.spend(budget::ENTRY);
            let Self { home, messages, .. } = self;
            let Some(shards) = home.rooms.pop_changed(|shard, room, elsewhere| {
                messages.send(shard, Message::RoomOnline { room, elsewhere });
            }) else {
                break;
            };
            budget.spend(shards * budget::ENTRY);
        }
    }

    /// Whether counts of the present step are left and may be sent.
    pub(super) fn has_counts_to_send(&self) -> bool {
        self.counts_left != [0, 0] && !self.messages.has_room_counts()
    }

    /// Continues lists of rooms, and the update of member counts on other hosts.
    pub(super) fn walk_rooms(&mut self, budget: &mut Budget) {
        while let Some((call, rooms)) = self.home.rooms.go_on(budget) {
            self.reports.push(Report::Rooms { call, rooms });
        }
    }

    /// How long disconnected keys are retained. Control may learn of them only after [`Shard::reports_waited_at`].
    pub(super) fn key_retention(&self) -> KeyRetention {
        KeyRetention { since: self.reports_waited_at, millis: self.context.key_retention_ms() }
    }

    /// Forgets session numbers and disconnected keys that have been retained for long enough.
    pub(super) fn expire_retained(&mut self, budget: &mut Budget) {
        if self.has_retained_due {
            let (user_ms, keys) = (self.context.user_retention_ms(), self.key_retention());
            self.home.expire_retained(self.context.clock.active(), user_ms, keys, budget);
            self.has_retained_due = !budget.is_left();
        }
    }
}
