//! Pushes: from a key, a user, a room or everybody to connections, and the tally of each. Work that does not fit into
//! one slice of a turn continues in the next.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::budget::{self, Budget};
use crate::canary::Canary;
use crate::ids::{CallId, ConnId, LocalConnId, ShardId, Slot};
use crate::ledger::{CloseReason, DropReason, Tally};
use crate::limits::{Limits, PACED_MAX, SLICE_UNITS};
use crate::message::{KeptKey, Kick, Message, Order, Push, Report};
use crate::parking::ParkedPush;

use super::Shard;
use super::crowds::fewer;
use super::delivery::{Delivered, Delivery, DeliveryMode};
use super::pacing::PacedBroadcast;
use super::push_forms::{EncodedForms, PushForms};
use super::push_task::{
    Crowd, Found, Names, Owners, Progress, PushTask, PushTimer, TallyKind, Target,
};

/// The most connections that one slice closes before it checks the budget.
const STRIDE: usize = 256;

impl Shard {
    /// Continues the pushes that were handed over, until the budget is spent. `address_of` gives the address of a
    /// client, which only the driver knows.
    pub fn handle_pushes(
        &mut self,
        budget: &mut Budget,
        address_of: impl Fn(ConnId) -> Option<IpAddr>,
    ) {
        while budget.is_left()
            && let Some(PushTask { target, mut progress }) = self.pushes.pop_front()
        {
            budget.spend(budget::LOOKUP);
            let mut target = match target {
                Target::Crowd(crowd) => {
                    self.deliver_to(crowd, progress, budget);
                    self.dispatch_local();
                    continue;
                }
                target => target,
            };
            let is_over = match &mut target {
                Target::Owners(names, owners) => {
                    self.find_owners(names, owners, &mut progress, budget)
                }
                Target::Network(network, next) => {
                    let is_meant = |conn| address_of(conn).is_some_and(|at| network.contains(at));
                    self.kick_all(next, is_meant, &mut progress, budget)
                }
                Target::Crowd(_) => unreachable!("looked at above"),
            };
            if is_over {
                self.report(progress);
            } else {
                self.pushes.push_front(PushTask { target, progress });
            }
            self.dispatch_local();
        }
    }

    /// Whether [`Shard::handle_pushes`] has to continue pushes, other than those to crowds.
    #[must_use]
    pub fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// Reports the result of the push here to the maker of the call: control, or the shard of the push caller.
    pub(super) fn report(&mut self, progress: Progress) {
        // Other shards settle everything that was announced for it.
        if matches!(progress.tally_kind, TallyKind::None | TallyKind::PartialTally { settles: 0 }) {
            return;
        }
        let Some(progress) = self.await_homes(progress) else { return };
        match progress.call.shard() {
            None => self.reports.push(progress.report(self.context.shard)),
            Some(shard) => self.messages.send(shard, progress.tallied()),
        }
    }

    /// Begins a push behind those under way.
    pub(super) fn begin_push(
        &mut self,
        call: CallId,
        push: Push,
        target: Target,
        tally_kind: TallyKind,
    ) {
        let items = match target {
            Target::Owners(..) | Target::Crowd(Crowd::Conns(_)) => self.direct_items(&push),
            _ => self.items(&push),
        };
        let tally = Tally::default();
        let progress = Progress {
            call,
            push,
            items,
            tally,
            tally_kind,
            is_counted: false,
            order: None,
            recovery_point: None,
            outdated: 0,
        };
        match target {
            Target::Crowd(crowd) => self.begin_to_crowd(crowd, progress),
            target => self.add_task(target, progress),
        }
    }

    pub(super) fn add_task(&mut self, target: Target, progress: Progress) {
        self.push_timer.pushes += 1;
        self.pushes.push_back(PushTask { target, progress });
    }

    /// A turn has ended, which took `micros`. The driver sleeps only when nothing is left to send, so the times of
    /// turns add up to the time of the pushes.
    pub(super) fn note_turn_of_pushes(&mut self, micros: u64) {
        let PushTimer { pushes, micros: so_far } = &mut self.push_timer;
        if *pushes == 0 {
            return;
        }
        *so_far += micros;
        if self.pushes.is_empty() && self.crowds.is_empty() && !self.outboxes.has_ready() {
            self.counters.push_times.record_many(*so_far, *pushes);
            self.push_timer = PushTimer::default();
        }
    }

    pub(super) fn items(&mut self, push: &Push) -> PushForms {
        PushForms::new(&mut self.outboxes.chains, &push.frame, &EncodedForms::default())
    }

    /// As [`Shard::items`], for a push to keys or users.
    pub(super) fn direct_items(&mut self, push: &Push) -> PushForms {
        let mut items = self.items(push);
        let may_park = self.context.limits.resume.is_on() || self.departures.was_on;
        if may_park && !push.is_order() {
            let Push { operation, ref frame, .. } = *push;
            items.set_direct(ParkedPush { operation, frame: frame.clone(), is_accepted: true });
        }
        items
    }

    // ---- at the home ---------------------------------------------------------------------------

    /// A push to keys or users whose home is here. It goes on to their connections.
    pub(super) fn push_names(&mut self, call: CallId, names: Names, push: Push) {
        let target = Target::Owners(names, Owners::default());
        self.begin_push(call, push, target, TallyKind::Tally { partials: 0 });
    }

    /// Returns `true` when every connection is found and passed on.
    fn find_owners(
        &mut self,
        names: &mut Names,
        owners: &mut Owners,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> bool {
        let mut found = Found::default();
        while budget.is_left() {
            budget.spend(budget::LOOKUP);
            if !names.find_next(&self.home, &mut found) {
                for (shard, conns) in owners.take_rest() {
                    self.pass_on(shard, conns, progress, budget);
                }
                for (home, keys) in owners.take_kept() {
                    self.pass_on_kept(home, keys, progress);
                }
                return true;
            }
            if let Some(key) = found.key.take() {
                if let Some(tally) = self.park_push(&key, &progress.push) {
                    self.add_to(progress, tally);
                    continue;
                }
                found.conns.extend(self.home.keys.owner(&key));
            }
            if found.conns.is_empty() && found.kept.is_empty() {
                self.add_to(progress, names.nobody());
            }
            for owner in found.conns.drain(..) {
                budget.spend(1);
                if let Some((shard, conns)) = owners.add(owner) {
                    self.pass_on(shard, conns, progress, budget);
                }
            }
            for key in found.kept.drain(..) {
                budget.spend(1);
                if let Some((home, keys)) = owners.add_kept(self.context.home_of_key(&key.key), key)
                {
                    self.pass_on_kept(home, keys, progress);
                }
            }
        }
        false
    }

    /// Adds to the tally of a push at its home.
    fn add_to(&mut self, progress: &mut Progress, tally: Tally) {
        progress.tally += tally;
        if !progress.push.is_order() {
            self.counters.deliveries += tally;
        }
    }

    /// Sends a push to a user to the home of some of the user's keys.
    fn pass_on_kept(&mut self, home: ShardId, keys: Vec<KeptKey>, progress: &mut Progress) {
        let (count, call) = (keys.len() as u32, progress.call);
        let message = Message::PushKept { call, keys, push: progress.push.clone() };
        if home == self.context.shard {
            self.messages.push_local(message);
            progress.tally_kind.expect(count);
        } else {
            self.send_push(home, message, (count.into(), count), progress);
        }
    }

    /// Sends a push to connections of `shard`, or offers it to them if they are here.
    fn pass_on(
        &mut self,
        shard: ShardId,
        conns: Vec<LocalConnId>,
        progress: &mut Progress,
        budget: &mut Budget,
    ) {
        if shard == self.context.shard {
            return self.deliver_here(conns, progress, budget);
        }
        let count = conns.len() as u64;
        let (call, push) = (progress.call, progress.push.clone());
        let is_question = matches!(push.order.as_deref(), Some(Order::Leave(_)));
        let message = Message::DeliverConns { call, conns, push };
        if is_question {
            // There are few such messages for each connection, and they must not be dropped.
            return self.messages.send(shard, message);
        }
        self.send_push(shard, message, (count, 1), progress);
    }

    /// A push to a room whose home is here. The order of these calls is the order of the room.
    pub(super) fn push_room(&mut self, call: CallId, room: Arc<str>, push: Push) {
        self.push_room_for(call, room, push, TallyKind::Tally { partials: 0 });
    }

    pub(super) fn push_room_for(
        &mut self,
        call: CallId,
        room: Arc<str>,
        mut push: Push,
        tally_kind: TallyKind,
    ) {
        debug_assert_eq!(self.context.home_of_room(&room), self.context.shard);
        let Limits { history_memory, .. } = *self.context.limits;
        if let Some(rule) = self.context.limits.history_rule(&room)
            && !push.is_order()
            && !self.context.limits.history_is_shared
        {
            let (histories, now) = (&mut self.home.histories, self.context.now);
            let place = histories.add(&room, rule, &push.frame, now, history_memory);
            (push.offset, push.number) = (place.offset, place.number);
        }
        self.push_to_members(call, room, push, tally_kind);
    }

    /// At the home: delivers a push whose place in the room's history is known.
    pub(super) fn push_to_members(
        &mut self,
        call: CallId,
        room: Arc<str>,
        push: Push,
        tally_kind: TallyKind,
    ) {
        let items = self.items(&push);
        let tally = Tally::default();
        let mut progress = Progress {
            call,
            push,
            items,
            tally,
            tally_kind,
            is_counted: false,
            order: None,
            recovery_point: None,
            outdated: 0,
        };
        let mut is_here = false;
        for (shard, members) in self.home.rooms.shards_of(&room).to_vec() {
            if shard == self.context.shard {
                is_here = true;
                continue;
            }
            let (room, push) = (Arc::clone(&room), progress.push.clone());
            let message = Message::DeliverRoom { call, room, push };
            self.send_push(shard, message, (members.into(), 1), &mut progress);
        }
        if is_here {
            self.begin_to_crowd(Crowd::Room(room), progress);
        } else {
            self.report(progress);
        }
    }

    /// Sends a push to another shard, which reports `tallies` partial tallies. If the queue to that shard is full, its
    /// connections get nothing.
    fn send_push(
        &mut self,
        to: ShardId,
        message: Message,
        (connections, tallies): (u64, u32),
        progress: &mut Progress,
    ) {
        if !self.messages.send_push(to, message, self.context.limits.mesh_backlog) {
            let mut dropped = Tally::default();
            dropped.drop_as(DropReason::MeshFull, connections);
            if !progress.push.is_order() {
                self.counters.deliveries += dropped;
            }
            progress.tally += dropped;
        } else if !Canary::MissingPartial.is_released() {
            progress.tally_kind.expect(tallies);
        }
    }

    // ---- at the owner --------------------------------------------------------------------------

    pub(super) fn broadcast(&mut self, call: CallId, push: Push, speed: Option<NonZeroU32>) {
        let Some(speed) = speed else {
            let tally_kind = TallyKind::Tally { partials: 0 };
            return self.begin_push(call, push, Target::Crowd(Crowd::All(Slot(0))), tally_kind);
        };
        let shard = self.context.shard;
        if self.pacing.is_cancelled(call) {
            // Its end has been reported already.
            return self.reports.push(Report::Scheduled { call, shard, connections: 0 });
        }
        if self.pacing.broadcasts.len() >= PACED_MAX {
            return self.reports.push(Report::Busy { call, shard });
        }
        let now = self.context.now;
        self.pacing.begin_broadcast(PacedBroadcast::new(call, push, speed.get(), now), now);
        self.counters.pushes += 1;
        let connections = self.counters.live;
        self.reports.push(Report::Scheduled { call, shard, connections });
    }

    /// Advances paced broadcasts as far as their speed allows. In a turn each visits no more connections than a slice
    /// of a crowd has.
    pub(super) fn pace_broadcasts(&mut self, budget: &mut Budget) {
        for _ in 0..self.pacing.broadcasts.len() {
            if !budget.is_left() {
                return;
            }
            let Some(mut broadcast) = self.pacing.broadcasts.pop_front() else { return };
            let (push, end) = (broadcast.push().clone(), self.conns.end());
            // The items are made anew for each step, because one that is kept for hours would outlive its serial
            // number.
            let mut items = PushForms::new(&mut self.outboxes.chains, &push.frame, &broadcast.made);
            let bytes = push.frame.for_websocket().len();
            let limits = &self.context.limits;
            let delivery_cost = SLICE_UNITS / fewer(limits.crowd_slice, 1, bytes, limits);
            let delivered =
                self.deliver(&push, &mut items, DeliveryMode::OfferFiltered, |delivery| {
                    while budget.is_left()
                        && !delivery.is_strained()
                        && let Some(slot) = broadcast.next_slot(end)
                    {
                        budget.spend(1);
                        if delivery.offer_in_slot(slot) {
                            budget.spend(delivery_cost);
                            broadcast.spend();
                        }
                    }
                });
            broadcast.made = items.made();
            let (tally, to_close) = self.count(&push, delivered, budget);
            broadcast.tally += tally;
            self.close_offered(None, to_close, budget);
            if broadcast.is_under_way(end) {
                self.pacing.broadcasts.push_back(broadcast);
            } else {
                self.report_paced_end(broadcast.call(), broadcast.tally);
            }
        }
    }

    /// Ends the paced broadcast of `call`, even one that has not arrived yet.
    pub(super) fn cancel_broadcast(&mut self, call: CallId) {
        let tally = self.pacing.cancel(call);
        self.report_paced_end(call, tally);
    }

    fn report_paced_end(&mut self, call: CallId, tally: Tally) {
        let shard = self.context.shard;
        self.reports.push(Report::PacedEnded { call, shard, tally });
    }

    /// Closes those of the next connections for which `is_meant` is true. Returns `true` after the last connection.
    fn kick_all(
        &mut self,
        next: &mut Slot,
        is_meant: impl Fn(ConnId) -> bool,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> bool {
        let end = self.conns.end();
        let mut to_close = Vec::new();
        while *next < end && budget.is_left() && to_close.len() < STRIDE {
            let slot = *next;
            *next = slot.next();
            budget.spend(budget::ADDRESS);
            let is_open = self.conns.in_slot(slot).is_some_and(|conn| conn.is_open());
            if is_open && is_meant(self.conns.id(slot)) {
                to_close.push(slot);
            }
        }
        let delivered = Delivered { to_close, ..Delivered::default() };
        let to_close = self.count_slice(delivered, progress, budget);
        self.close_offered(progress.push.as_kick(), to_close, budget);
        *next >= end
    }

    /// Delivers one slice of a push on this shard; `offer` offers it to connections.
    pub(super) fn deliver(
        &mut self,
        push: &Push,
        items: &mut PushForms,
        mode: DeliveryMode,
        offer: impl FnOnce(&mut Delivery<'_>),
    ) -> Delivered {
        let (conns, outboxes) = (&mut self.conns, &mut self.outboxes);
        let limits = &self.context.limits;
        let mut delivery = Delivery::new(conns, outboxes, limits, push, items, mode);
        offer(&mut delivery);
        delivery.finish()
    }

    /// Counts the results of one slice of a push, and returns the connections to close.
    pub(super) fn count_slice(
        &mut self,
        delivered: Delivered,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> Vec<Slot> {
        if !std::mem::replace(&mut progress.is_counted, true) && !progress.push.is_kick() {
            self.counters.pushes += 1;
        }
        let (tally, to_close) = self.count(&progress.push, delivered, budget);
        progress.tally += tally;
        to_close
    }

    /// Counts deliveries, and returns the connections to close. Kicked connections are not counted here, but by their
    /// close reason.
    pub(super) fn count(
        &mut self,
        push: &Push,
        delivered: Delivered,
        budget: &mut Budget,
    ) -> (Tally, Vec<Slot>) {
        let Delivered {
            mut tally,
            superseded,
            displaced,
            encoding,
            to_close,
            traced,
            lost,
            departed,
        } = delivered;
        tally += self.offer_departed(push, false, &departed);
        lost.into_iter().for_each(|(slot, lost)| self.note_lost(slot, lost));
        budget.spend(encoding);
        self.idle.note_activity(self.context.now);
        if push.is_kick() {
            tally.matched += to_close.len() as u64;
            tally.queued += to_close.len() as u64;
        } else {
            for (slot, offered) in traced {
                self.trace_offered(slot, push.operation, &offered);
            }
            self.counters.deliveries += tally;
            self.counters.superseded += superseded;
            self.counters.displaced += displaced;
        }
        (tally, to_close)
    }

    /// Closes the connections that were too slow for a push, or that were kicked.
    pub(super) fn close_offered(
        &mut self,
        kick: Option<&Kick>,
        to_close: Vec<Slot>,
        budget: &mut Budget,
    ) {
        budget.spend(to_close.len() * budget::CLOSE);
        for slot in to_close {
            match kick {
                Some(Kick { sentence, retry_after_ms }) => {
                    self.close_with_hint(slot, CloseReason::Kicked, sentence, *retry_after_ms);
                }
                None => self.close(slot, CloseReason::SlowConsumer, ""),
            }
        }
    }
}
