//! Pushes: from a key, user, room or everybody to outboxes, and the tally of it.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::ids::{CallId, ConnId, LocalConnId, ShardId, Slot, home_of_room};
use crate::ledger::{CloseReason, DropReason, Tally};
use crate::limits::{PACED_MAX, SlowConsumer};
use crate::message::{Message, Push, Report};
use crate::outbox::{Alike, Item};
use crate::time::Millis;

use super::Shard;

/// A broadcast on its way through the slab.
pub(super) struct Paced {
    push: Push,
    next: Slot,
    connections_per_second: u32,
    /// Thousandths of a connection that may be visited now.
    credit: u64,
    since: Millis,
}

/// Whether the push's operation must be among those a connection accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    Off,
    On,
}

impl Shard {
    /// Keys whose home is here: on to their owners.
    pub(super) fn push_keys(&mut self, call: CallId, keys: &[Box<str>], push: &Push) {
        let mut absent = 0;
        let mut owners = Vec::with_capacity(keys.len());
        for key in keys {
            match self.home.owner(key) {
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
            let sessions = self.home.sessions(user);
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
            let conn = owner.local();
            match by_shard.iter_mut().find(|(shard, _)| *shard == owner.shard) {
                Some((_, conns)) => conns.push(conn),
                None => by_shard.push((owner.shard, vec![conn])),
            }
        }
        for (shard, conns) in by_shard {
            if shard == self.id {
                tally += self.deliver_conns(&conns, push);
                continue;
            }
            let count = conns.len() as u64;
            let push = push.clone();
            if self.route_push(shard, Message::DeliverConns { call, conns, push }) {
                partials += 1;
            } else {
                self.drop_in_mesh(&mut tally, count);
            }
        }
        self.reports.push_back(Report::Tally { call, tally, partials });
    }

    /// A room whose home is here: its order is the order of these calls.
    pub(super) fn push_room(&mut self, call: CallId, room: &Arc<str>, push: &Push) {
        debug_assert_eq!(home_of_room(room, self.shards), self.id);
        let mut tally = Tally::default();
        let mut partials = 0;
        // A copy of a few entries: delivering here changes the shard.
        for (shard, members) in self.home.shards_of(room).to_vec() {
            if shard == self.id {
                tally += self.deliver_room(room, push);
                continue;
            }
            let (room, push) = (Arc::clone(room), push.clone());
            if self.route_push(shard, Message::DeliverRoom { call, room, push }) {
                partials += 1;
            } else {
                self.drop_in_mesh(&mut tally, u64::from(members));
            }
        }
        self.reports.push_back(Report::Tally { call, tally, partials });
    }

    fn drop_in_mesh(&mut self, tally: &mut Tally, connections: u64) {
        let mut dropped = Tally::default();
        dropped.drop_as(DropReason::MeshFull, connections);
        self.counters.deliveries += dropped;
        *tally += dropped;
    }

    pub(super) fn broadcast(&mut self, call: CallId, push: Push, speed: Option<NonZeroU32>) {
        let Some(speed) = speed else {
            self.counters.pushes += 1;
            let slots = self.conns.indices();
            let tally = self.deliver(&push, Filter::On, |shard, delivery| {
                for slot in slots {
                    if shard.conns.is_taken(slot) && shard.conns[slot].takes_pushes().is_ok() {
                        delivery.offer(shard, slot);
                    }
                }
            });
            return self.reports.push_back(Report::Tally { call, tally, partials: 0 });
        };
        if self.paced.len() >= PACED_MAX {
            return self.reports.push_back(Report::Busy { call });
        }
        if self.paced.is_empty() {
            self.next_pace = self.now;
        }
        self.paced.push_back(Paced {
            push,
            next: Slot(0),
            connections_per_second: speed.get(),
            // The first connection is visited at once.
            credit: 1000,
            since: self.now,
        });
        self.counters.pushes += 1;
        self.reports.push_back(Report::Scheduled { call, connections: self.counters.live });
    }

    /// Moves every paced broadcast on by what its speed allows.
    pub(super) fn pace(&mut self) {
        for _ in 0..self.paced.len() {
            let Some(mut paced) = self.paced.pop_front() else {
                return;
            };
            let elapsed = self.now.0 - paced.since.0;
            paced.since = self.now;
            // A core that slept does not make up for more than a second at once.
            paced.credit += elapsed.min(1000) * u64::from(paced.connections_per_second);
            let push = paced.push.clone();
            let end = self.conns.end();
            self.deliver(&push, Filter::On, |shard, delivery| {
                while paced.credit >= 1000 && paced.next < end {
                    let slot = paced.next;
                    paced.next = slot.next();
                    if shard.conns.is_taken(slot) && shard.conns[slot].takes_pushes().is_ok() {
                        paced.credit -= 1000;
                        delivery.offer(shard, slot);
                    }
                }
            });
            if paced.next < end {
                self.paced.push_back(paced);
            }
        }
    }

    /// Connections of this shard.
    pub(super) fn deliver_conns(&mut self, conns: &[LocalConnId], push: &Push) -> Tally {
        self.counters.pushes += 1;
        self.deliver(push, Filter::On, |shard, delivery| {
            for &LocalConnId { slot, generation } in conns {
                let entry = shard.conns.at(slot, generation);
                match entry.map_or(Err(DropReason::Closing), |entry| entry.takes_pushes()) {
                    Ok(()) => delivery.offer(shard, slot),
                    Err(reason) => delivery.tally.drop_as(reason, 1),
                }
            }
        })
    }

    /// The members of `room` on this shard; nobody, if the last one has just left.
    pub(super) fn deliver_room(&mut self, room: &str, push: &Push) -> Tally {
        let filter = if self.limits.filter_rooms { Filter::On } else { Filter::Off };
        let Some(index) = self.rooms.find(room) else {
            return Tally::default();
        };
        self.counters.pushes += 1;
        self.deliver(push, filter, |shard, delivery| {
            let members = std::mem::take(&mut shard.rooms[index].members);
            for &slot in &members {
                delivery.offer(shard, slot);
            }
            shard.rooms[index].members = members;
        })
    }

    /// One push on this shard: `visit` offers it to connections; counted, and slow ones closed after.
    fn deliver(
        &mut self,
        push: &Push,
        filter: Filter,
        visit: impl FnOnce(&mut Self, &mut Delivery),
    ) -> Tally {
        let mut delivery = Delivery {
            item: self.chains.item(push.frame.clone(), true),
            operation: push.operation,
            filter,
            bytes: [push.frame.for_tcp().len() as u32, push.frame.for_websocket().len() as u32],
            alike: [Alike::NONE; 2],
            queued: [0, 0],
            tally: Tally::default(),
            slow: Vec::new(),
        };
        visit(self, &mut delivery);
        delivery.count(self);
        let Delivery { queued, bytes, mut tally, slow, .. } = delivery;
        for (queued, bytes) in queued.into_iter().zip(bytes) {
            tally.matched += queued;
            tally.queued += queued;
            self.bytes_queued += queued * u64::from(bytes);
        }
        self.idle.note_activity(self.now);
        self.counters.deliveries += tally;
        for slot in slow {
            self.close(slot, CloseReason::SlowConsumer, "");
        }
        tally
    }
}

struct Delivery {
    item: Item,
    operation: i32,
    filter: Filter,
    /// Of the frame, on each transport.
    bytes: [u32; 2],
    /// What the last outbox was like, on each transport.
    alike: [Alike; 2],
    /// Outboxes that took it, by transport.
    queued: [u64; 2],
    /// What became of the rest.
    tally: Tally,
    /// To be closed when the walk is over.
    slow: Vec<Slot>,
}

impl Delivery {
    /// Puts the push into the outbox of a connection that takes pushes, or counts why not.
    #[inline]
    fn offer(&mut self, shard: &mut Shard, slot: Slot) {
        let entry = &mut shard.conns[slot];
        debug_assert!(entry.takes_pushes().is_ok());
        if self.filter == Filter::On && !entry.accepts.contains(self.operation) {
            return self.tally.drop_as(DropReason::Filtered, 1);
        }
        let transport = entry.transport as usize;
        // Members of a room mostly have the same frames pending: what a look at the chains said of the
        // one before holds for this one.
        if !self.alike[transport].append(&mut entry.outbox) && !self.append(shard, slot) {
            return self.tally.drop_as(DropReason::OutboxFull, 1);
        }
        self.queued[transport] += 1;
        let entry = &mut shard.conns[slot];
        if !entry.is_ready && !entry.outbox.is_sending() {
            entry.is_ready = true;
            shard.ready.push_back(slot);
        }
    }

    /// `false`: the outbox is full.
    fn append(&mut self, shard: &mut Shard, slot: Slot) -> bool {
        self.count(shard);
        let entry = &mut shard.conns[slot];
        let load = shard.chains.load(&entry.outbox, entry.transport);
        let bytes = self.bytes[entry.transport as usize];
        let is_full = load.pushes >= u32::from(shard.limits.svr_proto)
            || load.bytes.saturating_add(bytes) > shard.limits.outbox_bytes;
        if is_full && !self.make_room(shard, slot) {
            return false;
        }
        let entry = &mut shard.conns[slot];
        let alike = &mut self.alike[entry.transport as usize];
        if is_full {
            // Room was made in this one alone.
            *alike = Alike::NONE;
            shard.chains.append(&mut entry.outbox, &self.item);
        } else {
            shard.chains.append_as(alike, &mut entry.outbox, &self.item);
        }
        true
    }

    /// Settles the chains' reference counts: before anything but a look is done with them.
    fn count(&mut self, shard: &mut Shard) {
        for alike in &mut self.alike {
            shard.chains.count(alike);
        }
    }

    #[cold]
    fn make_room(&mut self, shard: &mut Shard, slot: Slot) -> bool {
        match shard.limits.slow_consumer {
            SlowConsumer::DropNewest => false,
            SlowConsumer::Close => {
                self.slow.push(slot);
                false
            }
            SlowConsumer::DropOldest => {
                let entry = &mut shard.conns[slot];
                let bytes = self.bytes[entry.transport as usize];
                // It would not fit even then.
                if bytes > shard.limits.outbox_bytes {
                    return false;
                }
                // By count one is enough; by bytes it may take several. What is on its way cannot be
                // taken back: where that alone fills the outbox, the newest waits beside it.
                let mut load = shard.chains.load(&entry.outbox, entry.transport);
                while load.pushes >= u32::from(shard.limits.svr_proto)
                    || load.bytes.saturating_add(bytes) > shard.limits.outbox_bytes
                {
                    let (outbox, transport) = (&mut entry.outbox, entry.transport);
                    let Some(dropped) = shard.chains.drop_oldest(outbox, transport) else { break };
                    shard.counters.superseded += 1;
                    shard.bytes_given_up += dropped as u64;
                    load = shard.chains.load(&entry.outbox, entry.transport);
                }
                true
            }
        }
    }
}
