//! Pushes to crowds: rooms with more members on this shard than a turn sends to, and all connections.
//!
//! A crowd is offered its pushes in slices of [`Limits::crowd_slice`] connections, and crowds take turns. So a push to
//! few clients, a reply or another crowd waits for the sends of one slice, not for those of the whole crowd. The
//! pushes that come while a crowd is walked are its next batch, and a slice is offered a whole batch. So a
//! connection gets as many pushes in one send as it would without slices.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::budget::{Budget, MessageBudget};
use crate::ids::Slot;
use crate::limits::{CROWD_UNITS, CROWDS_MAX, Limits};
use crate::room::Room;

use super::Shard;
use super::delivery::{Delivery, Walk};
use super::push_task::{Crowd, Progress};

/// The pushes of one crowd. The order of a room, and that of broadcasts, is the order in which they came.
struct CrowdPushes {
    crowd: Crowd,
    /// Under way, all of them equally far. One kick, or any number of other pushes.
    batch: Vec<Progress>,
    waiting: VecDeque<Progress>,
    /// What may still wait: as much as a turn takes, so that a batch fits into an outbox and into one send.
    space: MessageBudget,
}

/// All crowds with pushes under way, the one whose turn is next at the front.
#[derive(Default)]
pub(super) struct Crowds {
    crowds: VecDeque<CrowdPushes>,
}

impl Crowds {
    pub(super) fn is_empty(&self) -> bool {
        self.crowds.is_empty()
    }

    /// Whether any push may come, whomever it is to.
    fn has_space(&self) -> bool {
        self.crowds.len() < CROWDS_MAX && self.crowds.iter().all(|crowd| crowd.space.is_left())
    }

    fn find(&mut self, crowd: &Crowd) -> Option<&mut CrowdPushes> {
        self.crowds.iter_mut().find(|other| match (&other.crowd, crowd) {
            (Crowd::Room(one), Crowd::Room(other)) => one == other,
            (Crowd::All(_), Crowd::All(_)) => true,
            _ => false,
        })
    }
}

impl CrowdPushes {
    fn add(&mut self, progress: Progress) {
        self.space.spend_bytes(progress.push.frame.for_websocket().len());
        self.waiting.push_back(progress);
    }

    /// Makes a batch of the pushes that wait. A kick has one of its own, because it changes who there is.
    fn begin_batch(&mut self, limits: &Limits) {
        debug_assert!(self.batch.is_empty());
        if self.waiting.front().is_some_and(|first| first.push.kick.is_some()) {
            self.batch.extend(self.waiting.pop_front());
        }
        while self.batch.first().is_none_or(|first| first.push.kick.is_none())
            && let Some(next) = self.waiting.pop_front_if(|next| next.push.kick.is_none())
        {
            self.batch.push(next);
        }
        if let Crowd::All(next) = &mut self.crowd {
            *next = Slot(0);
        }
        self.space = MessageBudget::new(limits);
        for waiting in &self.waiting {
            self.space.spend_bytes(waiting.push.frame.for_websocket().len());
        }
    }
}

/// Connections that one slice offers `batch` to: [`Limits::crowd_slice`], fewer if the batch is long. A turn is bounded
/// so in time.
fn slice_of(batch: &[Progress], limits: &Limits) -> usize {
    limits.crowd_slice.min(CROWD_UNITS / batch.len().max(1)).max(1)
}

impl Shard {
    /// Goes on with one slice of one crowd.
    pub fn handle_crowds(&mut self) {
        let Some(mut pushes) = self.crowds.crowds.pop_front() else { return };
        if pushes.batch.is_empty() {
            pushes.begin_batch(&self.context.limits);
        }
        let is_over =
            self.deliver_slice(&mut pushes.crowd, &mut pushes.batch, &mut Budget::slice());
        if is_over {
            pushes.batch.drain(..).for_each(|progress| self.report(progress));
            pushes.begin_batch(&self.context.limits);
        }
        if !pushes.batch.is_empty() {
            self.crowds.crowds.push_back(pushes);
        }
        self.dispatch_local();
    }

    /// Whether pushes to a crowd are under way: [`Shard::handle_crowds`] has more to do, in a turn that follows at once.
    #[must_use]
    pub fn has_crowds(&self) -> bool {
        !self.crowds.is_empty()
    }

    /// Whether the driver may hand over a push. None is under way but those to crowds, and these have space for one more.
    #[must_use]
    pub fn takes_pushes(&self) -> bool {
        self.pushes.is_empty() && self.crowds.has_space()
    }

    /// Offers a push to a few connections at once, or has it wait for the turn of a crowd.
    pub(super) fn deliver_to(
        &mut self,
        mut crowd: Crowd,
        mut progress: Progress,
        budget: &mut Budget,
    ) {
        if let Some(pushes) = self.crowds.find(&crowd) {
            return pushes.add(progress);
        }
        let size = match &crowd {
            Crowd::Room(room) => {
                self.rooms.find(room).map_or(0, |room| self.rooms[room].members.len())
            }
            Crowd::All(_) => self.conns.end().0 as usize,
        };
        if size > self.context.limits.crowd_slice {
            // The first batch begins with the crowd's turn, so it has all pushes that come together.
            let space = MessageBudget::new(&self.context.limits);
            let (batch, waiting) = (Vec::new(), VecDeque::new());
            let mut pushes = CrowdPushes { crowd, batch, waiting, space };
            pushes.add(progress);
            return self.crowds.crowds.push_back(pushes);
        }
        let is_over = self.deliver_slice(&mut crowd, std::slice::from_mut(&mut progress), budget);
        debug_assert!(is_over, "it is one slice");
        self.report(progress);
    }

    /// Offers `batch` to the next connections of `crowd`. `true`: those were the last.
    fn deliver_slice(
        &mut self,
        crowd: &mut Crowd,
        batch: &mut [Progress],
        budget: &mut Budget,
    ) -> bool {
        // Closed when the whole batch was offered: each of its pushes is offered to the same connections.
        let mut to_close = Vec::new();
        let is_over = match crowd {
            Crowd::Room(name) => self.offer_to_members(name, batch, budget, &mut to_close),
            Crowd::All(next) => self.offer_to_all(next, batch, budget, &mut to_close),
        };
        let kick = batch.first().and_then(|first| first.push.kick.clone());
        self.close_offered(kick.as_deref(), to_close, budget);
        is_over
    }

    /// If the last member has just left, there is no such room.
    fn offer_to_members(
        &mut self,
        name: &str,
        batch: &mut [Progress],
        budget: &mut Budget,
        to_close: &mut Vec<Slot>,
    ) -> bool {
        let Some(id) = self.rooms.find(name) else { return true };
        let is_begun = batch.first().is_some_and(|first| first.is_counted);
        if is_begun && !self.rooms[id].is_amid_push {
            // All members of that time have left; this is the room of others.
            return true;
        }
        let Room { members, offered, .. } = &self.rooms[id];
        let from = *offered as usize;
        let to = members.len().min(from + slice_of(batch, &self.context.limits));
        for progress in batch {
            let Self { context, conns, outboxes, rooms, top_rooms, .. } = self;
            let limits = &context.limits;
            let walk = if limits.filter_rooms { Walk::OfferFiltered } else { Walk::Offer };
            let (push, items) = (&progress.push, &mut progress.items);
            let mut delivery =
                Delivery::new(conns, outboxes, limits, push, items, walk).in_room(id.handle());
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
        room.is_amid_push = !is_over;
        is_over
    }

    fn offer_to_all(
        &mut self,
        next: &mut Slot,
        batch: &mut [Progress],
        budget: &mut Budget,
        to_close: &mut Vec<Slot>,
    ) -> bool {
        let end = self.conns.end();
        let slice = slice_of(batch, &self.context.limits);
        let slice = u32::try_from(slice).unwrap_or(u32::MAX);
        let slots = next.0..end.0.min(next.0.saturating_add(slice));
        *next = Slot(slots.end);
        for progress in batch {
            let (conns, outboxes) = (&mut self.conns, &mut self.outboxes);
            let (push, items) = (&progress.push, &mut progress.items);
            let limits = &self.context.limits;
            let mut delivery =
                Delivery::new(conns, outboxes, limits, push, items, Walk::OfferFiltered);
            slots.clone().map(Slot).for_each(|slot| _ = delivery.offer_in_slot(slot));
            let delivered = delivery.finish();
            budget.spend(slots.len());
            to_close.append(&mut self.count_slice(delivered, progress, budget));
        }
        *next >= end
    }
}
