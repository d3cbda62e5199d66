//! Pushes to crowds. A crowd has more connections on this shard than a turn sends to: members of a room, the
//! connections of listed keys or users, or all connections.
//!
//! A crowd is offered its pushes in slices of [`Limits::crowd_slice`] connections and [`Limits::crowd_bytes`], and
//! crowds take turns. So a push to few clients, a reply or another crowd waits for the sends of one slice, not for
//! those of the whole crowd. Pushes that arrive during the walk over a crowd become its next batch, and each slice is
//! offered a whole batch. So a connection gets as many pushes in one send as it would without slices.

use std::collections::VecDeque;
use std::sync::Arc;

use comet_proto::{Position, count_frames};

use crate::budget::{Budget, MessageBudget};
use crate::gaps::LostRange;
use crate::ids::{LocalConnId, Slot};
use crate::ledger::Tally;
use crate::limits::{CROWD_UNITS, CROWDS_MAX, Limits};
use crate::message::{Order, Push};
use crate::room::{Room, RoomId, Watermark};

use super::Shard;
use super::conn_lists::ConnLists;
use super::delivery::{Delivery, DeliveryMode};
use super::push_task::{Crowd, Progress, TallyKind};

/// What one call of [`Shard::handle_crowds`] has offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrowdSlice {
    /// The number of connections.
    pub connections: usize,
    /// The number of pushes that each of them was offered.
    pub pushes: usize,
    /// The bytes of these pushes as binary frames.
    pub bytes: usize,
    /// The pushes were to keys or users.
    pub is_listed: bool,
}

/// The pushes of one crowd. The order of a room, and that of broadcasts, is the order of arrival.
struct CrowdPushes {
    crowd: Crowd,
    /// The pushes under way, all equally far. One kick, or any number of other pushes.
    batch: Vec<Progress>,
    waiting: VecDeque<Progress>,
    /// How much more may wait. In all it is what a turn takes, so that a batch fits into an outbox and into one send.
    space: MessageBudget,
}

/// All crowds with pushes under way. The first one has the next turn.
#[derive(Default)]
pub(super) struct Crowds {
    crowds: VecDeque<CrowdPushes>,
}

impl Crowds {
    pub(super) fn is_empty(&self) -> bool {
        self.crowds.is_empty()
    }

    /// Whether there is space for any push, no matter which crowd it is to.
    fn has_space(&self) -> bool {
        self.crowds.len() < CROWDS_MAX && self.crowds.iter().all(CrowdPushes::has_space)
    }

    /// Whether a push to `crowd` has to wait behind pushes under way.
    fn must_precede(&mut self, crowd: &Crowd) -> bool {
        self.find(crowd).is_some_and(|under_way| match (&mut under_way.crowd, crowd) {
            (Crowd::Conns(conns), Crowd::Conns(others)) => conns.must_precede(others),
            _ => true,
        })
    }

    /// Queues a push until the turn of its crowd.
    fn add(&mut self, crowd: Crowd, progress: Progress, limits: &Limits) {
        if let Some(under_way) = self.find(&crowd) {
            return under_way.add(crowd, progress);
        }
        // The first batch begins with the crowd's turn, so that it contains all pushes that arrive together.
        let mut pushes = CrowdPushes {
            crowd,
            batch: Vec::new(),
            waiting: VecDeque::new(),
            space: MessageBudget::new(limits),
        };
        pushes.wait(progress);
        self.crowds.push_back(pushes);
    }

    fn find(&mut self, crowd: &Crowd) -> Option<&mut CrowdPushes> {
        self.crowds.iter_mut().find(|other| match (&other.crowd, crowd) {
            (Crowd::Room(one), Crowd::Room(other)) => one == other,
            (Crowd::All(_), Crowd::All(_)) | (Crowd::Conns(_), Crowd::Conns(_)) => true,
            _ => false,
        })
    }
}

impl CrowdPushes {
    fn has_space(&self) -> bool {
        let listed = if let Crowd::Conns(conns) = &self.crowd { conns.len() } else { 0 };
        self.space.is_left() && listed < CROWD_UNITS
    }

    fn add(&mut self, crowd: Crowd, progress: Progress) {
        if let (Crowd::Conns(conns), Crowd::Conns(others)) = (&mut self.crowd, crowd) {
            conns.append(others);
        }
        self.wait(progress);
    }

    fn wait(&mut self, progress: Progress) {
        spend_space(&mut self.space, &progress);
        self.waiting.push_back(progress);
    }

    /// Forms a batch of waiting pushes. A kick has a batch of its own, because it changes the set of members. So has
    /// each push to listed connections. Entries of connections form batches of one slice each.
    fn begin_batch(&mut self, limits: &Limits) {
        debug_assert!(self.batch.is_empty());
        let is_entry = |one: &Progress| one.recovery_point.is_some();
        let most = if self.waiting.front().is_some_and(is_entry) { limits.crowd_slice } else { 0 };
        // Each entry has a frame for one connection only.
        let mut longest = 0;
        while self.batch.len() < most
            && let Some(entry) = self.waiting.pop_front_if(|next| {
                longest = longest.max(next.push.frame.for_websocket().len());
                let is_first = self.batch.is_empty();
                is_entry(next)
                    && (is_first || (self.batch.len() + 1) * longest <= limits.crowd_bytes)
            })
        {
            self.batch.push(entry);
        }
        if self.batch.is_empty() {
            self.add_pushes_to_batch();
        }
        self.space = MessageBudget::new(limits);
        self.waiting.iter().for_each(|waiting| spend_space(&mut self.space, waiting));
    }

    fn add_pushes_to_batch(&mut self) {
        let is_listed = matches!(self.crowd, Crowd::Conns(_));
        let is_alone =
            |one: &Progress| is_listed || one.push.is_kick() || one.recovery_point.is_some();
        self.batch.extend(self.waiting.pop_front());
        while self.batch.first().is_some_and(|first| !is_alone(first))
            && let Some(next) = self.waiting.pop_front_if(|next| !is_alone(next))
        {
            self.batch.push(next);
        }
    }

    /// Ends the batch. The next one begins with its own first connection.
    fn end_batch(&mut self) {
        match &mut self.crowd {
            Crowd::Room(_) => {}
            Crowd::All(next) => *next = Slot(0),
            Crowd::Conns(conns) => conns.begin_next(),
        }
    }
}

/// The frame of an entry is for one connection, and has memory of its own, so it takes no space here.
fn spend_space(space: &mut MessageBudget, waiting: &Progress) {
    if waiting.recovery_point.is_none() {
        space.spend_bytes(waiting.push.frame.for_websocket().len());
    }
}

/// The bytes of `batch` in binary frames that one connection gets.
fn bytes_of(batch: &[Progress]) -> usize {
    let lengths = batch.iter().map(|progress| progress.push.frame.for_websocket().len());
    let are_entries = batch.first().is_some_and(|first| first.recovery_point.is_some());
    if are_entries { lengths.max().unwrap_or(0) } else { lengths.sum() }
}

/// The number of offers to each connection of a slice: pushes, or rooms to enter or leave.
fn offers_of(batch: &[Progress]) -> usize {
    batch.iter().map(|progress| progress.push.offers()).sum()
}

/// `most` connections, or fewer if a turn would send too much to them. Each gets `pushes` pushes of `bytes` bytes in
/// all. This bounds the time of a turn.
pub(super) fn fewer(most: usize, pushes: usize, bytes: usize, limits: &Limits) -> usize {
    let (by_work, by_bytes) = (CROWD_UNITS / pushes.max(1), limits.crowd_bytes / bytes.max(1));
    most.min(by_work).min(by_bytes).max(1)
}

/// The pushes before this one that were not offered to members of a room with this `watermark`.
fn hole_before(
    progress: &Progress,
    watermark: Option<Watermark>,
    room: RoomId,
) -> Option<LostRange> {
    let Push { frame, offset, number, .. } = &progress.push;
    let Watermark { position, number: before } = watermark?;
    // Numbers are consecutive except for lost pushes. In another epoch they begin anew.
    let missing = number.checked_sub(before)?.checked_sub(1)?;
    if missing == 0 {
        return None;
    }
    let pushes = count_frames(frame.for_tcp()).unwrap_or(1) as u64;
    let missing = (missing + 1).checked_sub(pushes)?;
    let is_outdated = missing <= progress.outdated;
    let lost = LostRange::between(room.handle(), position.offset, offset - pushes, missing)?;
    Some(LostRange { is_outdated, ..lost })
}

impl Shard {
    /// Continues one crowd by one slice. `None`: there is no crowd.
    pub fn handle_crowds(&mut self) -> Option<CrowdSlice> {
        let mut pushes = self.crowds.crowds.pop_front()?;
        if pushes.batch.is_empty() {
            pushes.begin_batch(&self.context.limits);
        }
        let (count, bytes) = (pushes.batch.len(), bytes_of(&pushes.batch));
        let is_listed = matches!(pushes.crowd, Crowd::Conns(_));
        let limits = &self.context.limits;
        let most = fewer(limits.crowd_slice, offers_of(&pushes.batch), bytes, limits);
        let (crowd, batch) = (&mut pushes.crowd, &mut pushes.batch);
        let (connections, is_over) = self.deliver_slice(crowd, batch, most, &mut Budget::slice());
        if is_over {
            pushes.batch.drain(..).for_each(|progress| self.report(progress));
            pushes.end_batch();
        }
        if !(pushes.batch.is_empty() && pushes.waiting.is_empty()) {
            self.crowds.crowds.push_back(pushes);
        }
        self.dispatch_local();
        Some(CrowdSlice { connections, pushes: count, bytes, is_listed })
    }

    /// Whether pushes to a crowd are under way. [`Shard::handle_crowds`] then has more to do, in a turn that follows at
    /// once.
    #[must_use]
    pub fn has_crowds(&self) -> bool {
        !self.crowds.is_empty()
    }

    /// Whether the driver may hand over a push: only pushes to crowds are under way, and the crowds have space for one
    /// more.
    #[must_use]
    pub fn takes_pushes(&self) -> bool {
        self.pushes.is_empty() && self.crowds.has_space()
    }

    /// Offers a push at once if it is to a few connections. Otherwise it waits for the turn of its crowd.
    pub(super) fn deliver_to(
        &mut self,
        mut crowd: Crowd,
        mut progress: Progress,
        budget: &mut Budget,
    ) {
        if self.has_to_wait(&crowd, &progress) {
            return self.crowds.add(crowd, progress, &self.context.limits);
        }
        let batch = std::slice::from_mut(&mut progress);
        let (_, is_over) = self.deliver_slice(&mut crowd, batch, usize::MAX, budget);
        debug_assert!(is_over, "it is one slice");
        self.report(progress);
    }

    /// As [`Shard::deliver_to`], for connections that their home on this shard has found. If they wait for their turn,
    /// they get a partial tally of their own, as those of another shard do.
    pub(super) fn deliver_here(
        &mut self,
        conns: Vec<LocalConnId>,
        progress: &mut Progress,
        budget: &mut Budget,
    ) {
        let mut crowd = Crowd::Conns(ConnLists::new(conns));
        if !self.has_to_wait(&crowd, progress) {
            self.deliver_slice(&mut crowd, std::slice::from_mut(progress), usize::MAX, budget);
            return;
        }
        progress.tally_kind.expect(1);
        let tally_kind = match progress.tally_kind {
            TallyKind::None => TallyKind::None,
            _ => TallyKind::PartialTally { settles: 1 },
        };
        let (call, push, tally) = (progress.call, progress.push.clone(), Tally::default());
        let items = self.direct_items(&push);
        let is_counted = std::mem::replace(&mut progress.is_counted, true);
        let progress = Progress {
            call,
            push,
            items,
            tally,
            tally_kind,
            is_counted,
            order: None,
            recovery_point: None,
            outdated: 0,
        };
        self.crowds.add(crowd, progress, &self.context.limits);
    }

    /// Whether a push is to more connections than one turn sends to, or to connections that have to get an earlier push
    /// first.
    fn has_to_wait(&mut self, crowd: &Crowd, progress: &Progress) -> bool {
        let size = match crowd {
            // An entry is one connection.
            Crowd::Room(_) if progress.recovery_point.is_some() => 0,
            Crowd::Room(room) => {
                self.rooms.find(room).map_or(0, |room| self.rooms[room].members.len())
            }
            Crowd::All(_) => self.conns.end().0 as usize,
            Crowd::Conns(conns) => conns.len(),
        };
        let limits = &self.context.limits;
        let batch = std::slice::from_ref(progress);
        size > fewer(limits.crowd_above, offers_of(batch), bytes_of(batch), limits)
            || self.crowds.must_precede(crowd)
    }

    /// Offers `batch` to the next connections of `crowd`, up to `most`. Returns how many those were, and whether they
    /// were the last.
    fn deliver_slice(
        &mut self,
        crowd: &mut Crowd,
        batch: &mut [Progress],
        most: usize,
        budget: &mut Budget,
    ) -> (usize, bool) {
        // Connections are closed after the whole batch was offered, so that each of its pushes is offered to the same
        // connections.
        let mut to_close = Vec::new();
        let offered = match crowd {
            Crowd::Room(name) => self.offer_to_members(name, batch, most, budget, &mut to_close),
            Crowd::All(next) => self.offer_to_all(next, batch, most, budget, &mut to_close),
            Crowd::Conns(conns) => self.offer_to_listed(conns, batch, most, budget, &mut to_close),
        };
        let kick = batch.first().and_then(|first| first.push.as_kick());
        self.close_offered(kick, to_close, budget);
        offered
    }

    /// If the last member has just left, the room does not exist.
    fn offer_to_members(
        &mut self,
        name: &str,
        batch: &mut [Progress],
        most: usize,
        budget: &mut Budget,
        to_close: &mut Vec<Slot>,
    ) -> (usize, bool) {
        if batch.first().is_some_and(|first| first.recovery_point.is_some()) {
            for progress in &mut *batch {
                let point = progress
                    .recovery_point
                    .take()
                    .expect("connections enter in a batch of their own");
                to_close.append(&mut self.enter_with_history(name, point, progress, budget));
            }
            return (batch.len(), true);
        }
        let Some(id) = self.rooms.find(name) else { return (0, true) };
        let is_begun = batch.first().is_some_and(|first| first.is_counted);
        if is_begun && self.rooms[id].under_way.is_none() {
            // All members of the earlier slices have left. This is a later room of the same name.
            return (0, true);
        }
        let Room { members, offered, watermark, .. } = &self.rooms[id];
        let from = *offered as usize;
        let to = members.len().min(from.saturating_add(most));
        let mut watermark = *watermark;
        let mut last = 0;
        for progress in batch {
            if progress.push.offset > 0 {
                last = progress.push.offset;
                if let Some(lost) = hole_before(progress, watermark, id) {
                    self.note_hole(id, from, to, lost);
                }
                let epoch = watermark.map_or(0, |watermark| watermark.position.epoch);
                let position = Position { epoch, offset: last };
                watermark = Some(Watermark { position, number: progress.push.number });
            }
            let Self { context, conns, outboxes, rooms, top_rooms, .. } = self;
            let limits = &context.limits;
            let mode =
                if limits.filter_rooms { DeliveryMode::OfferFiltered } else { DeliveryMode::Offer };
            let (push, items) = (&progress.push, &mut progress.items);
            let mut delivery = Delivery::new(conns, outboxes, limits, push, items, mode)
                .in_room((id.handle(), rooms.generation(id)), &rooms[id].name);
            rooms[id].members[from..to].iter().for_each(|&slot| delivery.offer(slot));
            let delivered = delivery.finish();
            budget.spend(to - from);
            let name = || (Arc::clone(&rooms[id].name), context.now);
            top_rooms.note(delivered.tally.queued, name);
            to_close.append(&mut self.count_slice(delivered, progress, budget));
        }
        let room = &mut self.rooms[id];
        let is_over = to == room.members.len();
        room.offered = if is_over { 0 } else { to as u32 };
        room.under_way = (!is_over).then_some(last);
        if is_over {
            room.watermark = watermark;
        }
        (to - from, is_over)
    }

    fn offer_to_all(
        &mut self,
        next: &mut Slot,
        batch: &mut [Progress],
        most: usize,
        budget: &mut Budget,
        to_close: &mut Vec<Slot>,
    ) -> (usize, bool) {
        let end = self.conns.end();
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let slots = next.0..end.0.min(next.0.saturating_add(most));
        *next = Slot(slots.end);
        for progress in batch {
            let (conns, outboxes) = (&mut self.conns, &mut self.outboxes);
            let (push, items) = (&progress.push, &mut progress.items);
            let limits = &self.context.limits;
            let mut delivery =
                Delivery::new(conns, outboxes, limits, push, items, DeliveryMode::OfferFiltered);
            slots.clone().map(Slot).for_each(|slot| _ = delivery.offer_in_slot(slot));
            let delivered = delivery.finish();
            budget.spend(slots.len());
            to_close.append(&mut self.count_slice(delivered, progress, budget));
        }
        (slots.len(), *next >= end)
    }

    fn offer_to_listed(
        &mut self,
        conns: &mut ConnLists,
        batch: &mut [Progress],
        most: usize,
        budget: &mut Budget,
        to_close: &mut Vec<Slot>,
    ) -> (usize, bool) {
        let list = conns.first();
        let to = list.len().min(conns.next.saturating_add(most));
        for progress in batch {
            match progress.push.order.clone().as_deref() {
                Some(Order::Rooms(order)) => {
                    self.change_rooms(order, &list[conns.next..to], progress, budget);
                    continue;
                }
                Some(Order::Leave(key)) => {
                    for &conn in &list[conns.next..to] {
                        self.leave_session(conn, Arc::clone(key));
                    }
                    continue;
                }
                Some(Order::Kick(_)) | None => {}
            }
            let Self { context, conns: all, outboxes, departures, .. } = self;
            let (push, items) = (&progress.push, &mut progress.items);
            let limits = &context.limits;
            let mut delivery =
                Delivery::new(all, outboxes, limits, push, items, DeliveryMode::OfferFiltered)
                    .for_sessions(departures);
            list[conns.next..to].iter().for_each(|&conn| delivery.offer_to(conn));
            let delivered = delivery.finish();
            budget.spend(to - conns.next);
            to_close.append(&mut self.count_slice(delivered, progress, budget));
        }
        let (connections, is_over) = (to - conns.next, to == list.len());
        conns.next = to;
        (connections, is_over)
    }
}
