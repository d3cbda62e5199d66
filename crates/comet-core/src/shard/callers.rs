//! The push callers that are connected to a shard, and the pushes that they wait for.
//!
//! A caller takes its turn with each request, so one with many does not hold up the others. What it may not send
//! yet waits in its socket: no more is received for it.

mod answer;
mod caller;
mod request;

use std::collections::VecDeque;

use crate::callers::{CallerLimits, CallerOperation, CallerSlot, ToldElsewhere};
use crate::ids::{CallId, ShardId};
use crate::ledger::{CallerEnd, STATUS_CODES, Tally};
use crate::limits::{CALLED_BYTES_MAX, CALLED_MAX, CALLER_LINGER_MS, CALLERS_BYTES_MAX};
use crate::time::Millis;

pub(super) use answer::Failure;
pub(super) use caller::Next;

use answer::Answered;
use caller::Caller;

#[derive(Default)]
pub(super) struct Callers {
    slots: Vec<Place>,
    taken: usize,
    /// Callers that the driver may have something to do for.
    touched: VecDeque<CallerSlot>,
    /// Callers with input that may be looked at.
    ready: VecDeque<CallerSlot>,
    /// Bytes of requests that are coming in or not answered.
    bytes: usize,
    /// A caller waits for some of them to be answered.
    is_short_of_bytes: bool,
    /// Pushes that other hosts are told of, whether their calls are answered or not, and bytes of their frames.
    called: usize,
    called_bytes: usize,
    /// No request is read: [`Shard::hold_callers`](super::Shard::hold_callers).
    is_held: bool,
    /// The next deadline of a caller is not before this, in active time.
    due: Option<Millis>,
    pub(super) accepted: u64,
    /// Requests answered, by code.
    pub(super) answered: [u64; STATUS_CODES],
    /// Connections ended here, by reason.
    pub(super) ended: [u64; CallerEnd::COUNT],
}

#[derive(Default)]
struct Place {
    caller: Option<Caller>,
    /// Number of the next call. It goes on with the next caller in this slot, so a late tally finds no other's call.
    next_call: u32,
    is_touched: bool,
    is_ready: bool,
}

impl Callers {
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// Requests that are not answered.
    pub(super) fn calls(&self) -> usize {
        self.slots.iter().filter_map(|place| place.caller.as_ref()).map(Caller::calls).sum()
    }

    /// A new connection. `None`: all others have calls under way, and there are as many as there may be.
    pub(super) fn accept(&mut self, limits: &CallerLimits, now: Millis) -> Option<CallerSlot> {
        self.accepted += 1;
        if self.taken >= usize::from(limits.connections) && !self.evict(limits) {
            self.ended[CallerEnd::Evicted as usize] += 1;
            return None;
        }
        let free = self.slots.iter().position(|place| place.caller.is_none());
        let index = free.unwrap_or_else(|| {
            self.slots.push(Place::default());
            self.slots.len() - 1
        });
        let slot = CallerSlot(u16::try_from(index).ok()?);
        let place = &mut self.slots[index];
        place.caller = Some(Caller::new(place.next_call, now));
        self.taken += 1;
        self.touch(slot);
        self.note_due(slot, limits);
        Some(slot)
    }

    /// Has the caller leave that is idle for the longest time, those that never made a request first. Until its socket is
    /// closed there is one more than there may be.
    fn evict(&mut self, limits: &CallerLimits) -> bool {
        // Sockets that are being closed take as many places again.
        let has_space = self.taken < 2 * usize::from(limits.connections);
        // A request that is not looked at yet is one.
        let is_unread = |slot: CallerSlot| self.slots[slot.index()].is_ready;
        let idle = self.places().filter(|(slot, _)| !is_unread(*slot));
        let idle = idle.filter_map(|(slot, caller)| Some((caller.idle_since()?, slot)));
        let idlest = idle.min().filter(|_| has_space);
        idlest.map(|(_, slot)| self.end(slot, CallerEnd::Evicted)).is_some()
    }

    fn places(&self) -> impl Iterator<Item = (CallerSlot, &Caller)> {
        let places = (0..).map(CallerSlot).zip(&self.slots);
        places.filter_map(|(slot, place)| Some((slot, place.caller.as_ref()?)))
    }

    fn slots(&self) -> Vec<CallerSlot> {
        self.places().map(|(slot, _)| slot).collect()
    }

    fn at(&mut self, slot: CallerSlot) -> &mut Caller {
        self.slots[slot.index()].caller.as_mut().expect("a caller until the driver frees its slot")
    }

    fn touch(&mut self, slot: CallerSlot) {
        let place = &mut self.slots[slot.index()];
        if !std::mem::replace(&mut place.is_touched, true) {
            self.touched.push_back(slot);
        }
    }

    fn make_ready(&mut self, slot: CallerSlot) {
        let place = &mut self.slots[slot.index()];
        if place.caller.as_ref().is_some_and(Caller::may_be_read)
            && !std::mem::replace(&mut place.is_ready, true)
        {
            self.ready.push_back(slot);
        }
    }

    /// Something of the caller may have a deadline from now on.
    fn note_due(&mut self, slot: CallerSlot, limits: &CallerLimits) {
        let due = self.slots[slot.index()].caller.as_ref().and_then(|one| one.next_due(limits));
        self.due = [self.due, due].into_iter().flatten().min();
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due
    }

    /// Ends what is too late at `now`.
    pub(super) fn expire(&mut self, limits: &CallerLimits, now: Millis) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        for slot in self.slots() {
            let caller = self.at(slot);
            match caller.expire(limits, now) {
                Some(reason) => self.end(slot, reason),
                None => self.advance(slot),
            }
        }
        self.due = self.places().filter_map(|(_, caller)| caller.next_due(limits)).min();
    }

    /// Answers what is answered by now, and has the driver look at the caller.
    fn advance(&mut self, slot: CallerSlot) {
        let answered = &mut self.answered;
        let place = &mut self.slots[slot.index()];
        let Some(caller) = &mut place.caller else { return };
        let freed = caller.answer(|status| answered[status as usize] += 1);
        self.free_bytes(freed);
        self.make_ready(slot);
        self.touch(slot);
    }

    /// As [`Callers::advance`], for one that has nothing more to read.
    fn close_if_done(&mut self, slot: CallerSlot) {
        let nothing = self.at(slot).answer(|_| {});
        debug_assert_eq!(nothing, 0, "what is done is answered");
        self.drop_input(slot);
        self.touch(slot);
    }

    /// What a caller sent that is not read any more takes no place.
    fn drop_input(&mut self, slot: CallerSlot) {
        let freed = self.at(slot).drop_input();
        self.free_bytes(freed);
    }

    /// Ends the caller with the oldest incomplete request where such requests take all the bytes that there may be.
    fn make_room(&mut self, limits: &CallerLimits) {
        let is_stuck = !self.has_bytes(limits)
            && self.ready.is_empty()
            && self.places().all(|(_, caller)| caller.calls() == 0);
        let incomplete = self.places().filter(|_| is_stuck);
        let incomplete =
            incomplete.filter_map(|(slot, caller)| Some((caller.incomplete_since()?, slot)));
        if let Some((_, oldest)) = incomplete.min() {
            self.end(oldest, CallerEnd::Evicted);
        }
    }

    fn has_bytes(&self, limits: &CallerLimits) -> bool {
        self.bytes < CALLERS_BYTES_MAX + limits.frame_max
    }

    fn free_bytes(&mut self, freed: usize) {
        self.bytes -= freed;
        if freed > 0 && std::mem::take(&mut self.is_short_of_bytes) {
            self.slots().into_iter().for_each(|slot| self.touch(slot));
        }
    }

    fn end(&mut self, slot: CallerSlot, reason: CallerEnd) {
        if self.at(slot).end(Some(reason)) {
            self.ended[reason as usize] += 1;
        }
        self.drop_input(slot);
        self.advance(slot);
    }

    // ---- the driver ----------------------------------------------------------------------------

    /// The next operation.
    pub(super) fn poll(
        &mut self,
        limits: &CallerLimits,
        now: Millis,
    ) -> Option<(CallerSlot, CallerOperation<'_>)> {
        let has_bytes = self.has_bytes(limits);
        self.is_short_of_bytes |= !has_bytes;
        // Found before it is asked, because what it lends would end the search.
        let slot = loop {
            let slot = *self.touched.front()?;
            let place = &mut self.slots[slot.index()];
            if place.caller.as_ref().is_some_and(|caller| caller.has_operation(has_bytes)) {
                break slot;
            }
            place.is_touched = false;
            self.touched.pop_front();
        };
        // A send, or a linger, begins now at the earliest.
        let due = now.after(CALLER_LINGER_MS);
        self.due = Some(self.due.map_or(due, |at| at.min(due)));
        let operation = self.at(slot).next_operation(has_bytes, now);
        Some((slot, operation.expect("it was just looked for")))
    }

    pub(super) fn received(&mut self, slot: CallerSlot, bytes: &[u8], now: Millis) {
        let kept = self.at(slot).receive(bytes, now);
        self.bytes += kept;
        self.make_ready(slot);
        self.touch(slot);
    }

    /// The caller sends no more.
    pub(super) fn end_input(&mut self, slot: CallerSlot) {
        self.at(slot).receive_end();
        self.make_ready(slot);
        self.touch(slot);
    }

    pub(super) fn sent(&mut self, slot: CallerSlot, bytes: usize, now: Millis) {
        self.at(slot).sent(bytes, now);
        self.advance(slot);
    }

    /// The socket has failed.
    pub(super) fn fail_socket(&mut self, slot: CallerSlot) {
        self.at(slot).end(None);
        self.drop_input(slot);
        self.advance(slot);
    }

    /// Frees the slot. Calls whose caller has left are counted, too.
    pub(super) fn gone(&mut self, slot: CallerSlot) {
        let place = &mut self.slots[slot.index()];
        let caller = place.caller.take().expect("a caller is gone once");
        place.next_call = caller.next_call();
        let (unanswered, bytes) = caller.left();
        self.answered[Failure::CANCELLED as usize] += unanswered;
        self.taken -= 1;
        self.free_bytes(bytes);
    }

    // ---- requests ------------------------------------------------------------------------------

    pub(super) fn has_requests(&self) -> bool {
        let is_full = self.called >= CALLED_MAX || self.called_bytes >= CALLED_BYTES_MAX;
        !self.ready.is_empty() && !is_full && !self.is_held
    }

    /// Reads no more requests, or reads them again. Those under way are answered in any case.
    pub(super) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// The next request of the caller whose turn it is.
    pub(super) fn next(
        &mut self,
        (limits, refuses_pushes): (&CallerLimits, bool),
        now: Millis,
        shard: ShardId,
    ) -> Option<Next> {
        if !self.has_requests() {
            return None;
        }
        while let Some(slot) = self.ready.pop_front() {
            let place = &mut self.slots[slot.index()];
            place.is_ready = false;
            // It may have been ended since, with requests that nobody looks at any more.
            let Some(caller) = place.caller.as_mut().filter(|caller| caller.may_be_read()) else {
                continue;
            };
            let number = caller.next_call();
            let call = CallId::of_caller(shard, slot, number);
            let read = caller.read(limits, refuses_pushes, now, call);
            self.note_due(slot, limits);
            match read {
                Ok(Some(next)) => {
                    self.advance(slot);
                    return Some(next);
                }
                // The driver may go on receiving, or has to close.
                Ok(None) => {
                    self.close_if_done(slot);
                    self.make_room(limits);
                }
                Err(reason) => self.end(slot, reason),
            }
        }
        None
    }

    /// A shard tells what became of a push: see [`Message::Tallied`](crate::Message).
    pub(super) fn add(&mut self, call: CallId, tally: Tally, partials: u32) {
        self.change(call, |answered| answered.add(tally, partials));
    }

    /// A part of a push is over: see [`Message::PartiallyTallied`](crate::Message).
    pub(super) fn add_partial(&mut self, call: CallId, tally: Tally, settles: u32) {
        self.change(call, |answered| answered.add_partial(tally, settles));
    }

    /// Other hosts get the push, too. Its frame has so many bytes.
    pub(super) fn expect_elsewhere(&mut self, call: CallId, bytes: usize) {
        self.called += 1;
        self.called_bytes += bytes;
        self.change(call, Answered::expect_elsewhere);
    }

    /// What became of the push on other hosts.
    pub(super) fn add_elsewhere(&mut self, call: CallId, told: &ToldElsewhere) {
        self.called -= 1;
        self.called_bytes -= told.bytes;
        self.change(call, |answered| answered.add_elsewhere(told));
    }

    /// Waits for other hosts no longer.
    pub(super) fn give_up_hosts(&mut self) {
        for slot in self.slots() {
            self.at(slot).give_up_hosts();
            self.advance(slot);
        }
    }

    /// A message of the call was not sent.
    pub(super) fn fail(&mut self, call: CallId, failure: Failure) {
        self.change(call, |answered| answered.fail(failure));
    }

    /// So many shards are asked.
    pub(super) fn expect(&mut self, call: CallId, reports: u32) {
        self.change(call, |answered| answered.expect(reports));
    }

    /// Nobody is asked: the call names none who could have a connection.
    pub(super) fn absent(&mut self, call: CallId) {
        self.change(call, Answered::absent);
    }

    fn change(&mut self, call: CallId, change: impl FnOnce(&mut Answered)) {
        let (slot, number) = call.at_caller();
        let place = self.slots.get_mut(slot.index());
        let caller = place.and_then(|place| place.caller.as_mut());
        // The caller may have left, or been answered that it took too long.
        if let Some(answered) = caller.and_then(|caller| caller.call(number)) {
            change(answered);
            self.advance(slot);
        }
    }

    /// Ends the callers whose tokens do not open any more.
    pub(super) fn check_tokens(&mut self, limits: &CallerLimits) {
        for slot in self.slots() {
            if self.at(slot).has_lost_token(limits) {
                self.end(slot, CallerEnd::NoToken);
            }
        }
    }

    /// Answers every request that has come: the server ends. Returns what is left to be sent, by caller.
    pub(super) fn finish(
        &mut self,
        limits: &CallerLimits,
        now: Millis,
    ) -> impl Iterator<Item = (CallerSlot, [&[u8]; 2])> {
        for slot in self.slots() {
            self.at(slot).finish(limits, now);
            self.advance(slot);
        }
        self.places().filter_map(|(slot, caller)| Some((slot, caller.unsent()?)))
    }
}
