//! Pushes: from a key, a user, a room or everybody to connections, and the tally of each.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::ids::{CallId, ConnId, LocalConnId, ShardId};
use crate::ledger::{CloseReason, DropReason, Tally};
use crate::limits::PACED_MAX;
use crate::message::{Message, Push, Report};

use super::Shard;
use super::delivery::{Delivered, Delivery, Filter};
use super::pacing::PacedBroadcast;

impl Shard {
    // ---- at the home ---------------------------------------------------------------------------

    /// Keys whose home is here: on to their owners.
    pub(super) fn push_keys(&mut self, call: CallId, keys: &[Box<str>], push: &Push) {
        let mut absent = 0;
        let mut owners = Vec::with_capacity(keys.len());
        for key in keys {
            match self.home.keys.owner(key) {
                Some(owner) => owners.push(owner),
                None => absent += 1,
            }
        }
        self.push_owners(call, owners, absent, push);
    }

    /// Users whose home is here: on to every session.
    pub(super) fn push_users(&mut self, call: CallId, users: &[i64], push: &Push) {
        let mut absent = 0;
        let mut owners = Vec::with_capacity(users.len());
        for &user in users {
            let sessions = self.home.users.of(user);
            absent += u64::from(sessions.is_empty());
            owners.extend(sessions.into_iter().map(|(_, conn)| conn));
        }
        self.push_owners(call, owners, absent, push);
    }

    fn push_owners(&mut self, call: CallId, owners: Vec<ConnId>, absent: u64, push: &Push) {
        let mut tally = Tally { absent, ..Tally::default() };
        self.counters.deliveries += tally;
        let mut partials = 0;
        let mut by_shard: Vec<(ShardId, Vec<LocalConnId>)> = Vec::new();
        for owner in owners {
            match by_shard.iter_mut().find(|(shard, _)| *shard == owner.shard) {
                Some((_, conns)) => conns.push(owner.local()),
                None => by_shard.push((owner.shard, vec![owner.local()])),
            }
        }
        for (shard, conns) in by_shard {
            if shard == self.context.shard {
                tally += self.deliver_conns(&conns, push);
                continue;
            }
            let count = conns.len() as u64;
            let push = push.clone();
            if self.send_push(shard, Message::DeliverConns { call, conns, push }) {
                partials += 1;
            } else {
                tally += self.drop_in_mesh(count);
            }
        }
        self.reports.push(Report::Tally { call, tally, partials });
    }

    /// A room whose home is here: its order is the order of these calls.
    pub(super) fn push_room(&mut self, call: CallId, room: &Arc<str>, push: &Push) {
        debug_assert_eq!(self.context.home_of_room(room), self.context.shard);
        let mut tally = Tally::default();
        let mut partials = 0;
        // A copy of a few entries: delivering here may close slow consumers, which changes the home.
        for (shard, members) in self.home.rooms.shards_of(room).to_vec() {
            if shard == self.context.shard {
                tally += self.deliver_room(room, push);
                continue;
            }
            let (room, push) = (Arc::clone(room), push.clone());
            if self.send_push(shard, Message::DeliverRoom { call, room, push }) {
                partials += 1;
            } else {
                tally += self.drop_in_mesh(u64::from(members));
            }
        }
        self.reports.push(Report::Tally { call, tally, partials });
    }

    fn send_push(&mut self, to: ShardId, message: Message) -> bool {
        self.messages.send_push(to, message, self.context.limits.mesh_backlog)
    }

    /// The queue towards a shard is full: counts the connections there that get nothing.
    fn drop_in_mesh(&mut self, connections: u64) -> Tally {
        let mut dropped = Tally::default();
        dropped.drop_as(DropReason::MeshFull, connections);
        self.counters.deliveries += dropped;
        dropped
    }

    // ---- at the owner --------------------------------------------------------------------------

    pub(super) fn broadcast(&mut self, call: CallId, push: Push, speed: Option<NonZeroU32>) {
        let Some(speed) = speed else {
            self.counters.pushes += 1;
            let slots = self.conns.slots();
            let tally = self.deliver(&push, Filter::On, |delivery| {
                for slot in slots {
                    delivery.offer_in_slot(slot);
                }
            });
            return self.reports.push(Report::Tally { call, tally, partials: 0 });
        };
        if self.pacing.broadcasts.len() >= PACED_MAX {
            return self.reports.push(Report::Busy { call });
        }
        let now = self.context.now;
        self.pacing.begin_broadcast(PacedBroadcast::new(call, push, speed.get(), now), now);
        self.counters.pushes += 1;
        self.reports.push(Report::Scheduled { call, connections: self.counters.live });
    }

    /// Moves every paced broadcast on by what its speed allows.
    pub(super) fn pace_broadcasts(&mut self) {
        for _ in 0..self.pacing.broadcasts.len() {
            let Some(mut broadcast) = self.pacing.broadcasts.pop_front() else {
                return;
            };
            broadcast.begin_step(self.context.now);
            let push = broadcast.push().clone();
            let end = self.conns.end();
            let tally = self.deliver(&push, Filter::On, |delivery| {
                while let Some(slot) = broadcast.next_slot(end) {
                    if delivery.offer_in_slot(slot) {
                        broadcast.spend();
                    }
                }
            });
            broadcast.tally += tally;
            if broadcast.is_under_way(end) {
                self.pacing.broadcasts.push_back(broadcast);
            } else {
                self.report_paced_end(broadcast.call(), broadcast.tally);
            }
        }
    }

    /// Ends the paced broadcast of `call`, if it is under way.
    pub(super) fn cancel_broadcast(&mut self, call: CallId) {
        let broadcasts = &mut self.pacing.broadcasts;
        let at = broadcasts.iter().position(|broadcast| broadcast.call() == call);
        let cancelled = at.and_then(|at| broadcasts.remove(at));
        let tally = cancelled.map_or(Tally::default(), |broadcast| broadcast.tally);
        self.report_paced_end(call, tally);
    }

    fn report_paced_end(&mut self, call: CallId, tally: Tally) {
        let shard = self.context.shard;
        self.reports.push(Report::PacedEnded { call, shard, tally });
    }

    /// Delivers to connections of this shard.
    pub(super) fn deliver_conns(&mut self, conns: &[LocalConnId], push: &Push) -> Tally {
        self.counters.pushes += 1;
        self.deliver(push, Filter::On, |delivery| {
            for &conn in conns {
                delivery.offer_to(conn);
            }
        })
    }

    /// Delivers to the members of `room` on this shard. If the last one has just left, there is no such room.
    pub(super) fn deliver_room(&mut self, room: &str, push: &Push) -> Tally {
        let filter = if self.context.limits.filter_rooms { Filter::On } else { Filter::Off };
        let Some(room) = self.rooms.find(room) else {
            return Tally::default();
        };
        self.counters.pushes += 1;
        let (conns, outboxes) = (&mut self.conns, &mut self.outboxes);
        let mut delivery = Delivery::new(conns, outboxes, &self.context.limits, push, filter);
        for &slot in &self.rooms[room].members {
            delivery.offer(slot);
        }
        let delivered = delivery.finish();
        self.count(delivered)
    }

    /// One push on this shard; `walk` offers it to connections.
    fn deliver(
        &mut self,
        push: &Push,
        filter: Filter,
        walk: impl FnOnce(&mut Delivery<'_>),
    ) -> Tally {
        let (conns, outboxes) = (&mut self.conns, &mut self.outboxes);
        let mut delivery = Delivery::new(conns, outboxes, &self.context.limits, push, filter);
        walk(&mut delivery);
        let delivered = delivery.finish();
        self.count(delivered)
    }

    /// Counts a push, and closes the connections that were too slow for it.
    fn count(&mut self, delivered: Delivered) -> Tally {
        let Delivered { tally, superseded, slow } = delivered;
        self.idle.note_activity(self.context.now);
        self.counters.deliveries += tally;
        self.counters.superseded += superseded;
        for slot in slow {
            self.close(slot, CloseReason::SlowConsumer, "");
        }
        tally
    }
}
