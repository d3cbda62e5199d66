//! The push callers that are connected to a shard, and the pushes that they wait for.
//!
//! Callers take turns by request, so a caller with many requests does not hold up the others. While a caller may not
//! send more, nothing is received for it, and its bytes wait in its socket.

mod answer;
mod caller;
mod request;

use std::collections::VecDeque;

use crate::callers::{CallerLimits, CallerOperation, CallerSlot, OtherHostsTally};
use crate::ids::{CallId, ShardId};
use crate::ledger::{CallerEnd, STATUS_CODES, Tally};
use crate::limits::{CALLED_BYTES_MAX, CALLED_MAX, CALLER_LINGER_MS, CALLERS_BYTES_MAX};
use crate::time::Millis;

pub(super) use answer::Failure;
pub(super) use caller::NextRequest;

use answer::CallState;
use caller::Caller;

#[derive(Default)]
pub(super) struct Callers {
    slots: Vec<SlotEntry>,
    taken: usize,
    /// Callers for which the driver may have an operation to do.
    touched: VecDeque<CallerSlot>,
    /// Callers with unread input.
    ready: VecDeque<CallerSlot>,
    /// Bytes of requests that are incomplete or not answered yet.
    bytes: usize,
    /// A caller waits until such bytes are freed.
    is_short_of_bytes: bool,
    /// The number of pushes that other hosts are told about, answered or not, and the bytes of their frames.
    called: usize,
    called_bytes: usize,
    /// No requests are read: see [`Shard::hold_callers`](super::Shard::hold_callers).
    is_held: bool,
    /// No deadline of a caller is earlier than this, in active time.
    due: Option<Millis>,
    pub(super) accepted: u64,
    /// Requests answered, by code.
    pub(super) answered: [u64; STATUS_CODES],
    /// Connections ended here, by reason.
    pub(super) ended: [u64; CallerEnd::COUNT],
}

#[derive(Default)]
struct SlotEntry {
    caller: Option<Caller>,
    /// The number of the next call. The next caller in this slot continues the numbers, so a late tally finds no call
    /// of another caller.
    next_call: u32,
    is_touched: bool,
    is_ready: bool,
}

impl Callers {
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// The number of requests that are not answered.
    pub(super) fn calls(&self) -> usize {
        self.slots.iter().filter_map(|entry| entry.caller.as_ref()).map(Caller::calls).sum()
    }

    /// Takes a new connection. `None`: there are as many as allowed, and none of them is idle.
    pub(super) fn accept(&mut self, limits: &CallerLimits, now: Millis) -> Option<CallerSlot> {
        self.accepted += 1;
        if self.taken >= usize::from(limits.connections) && !self.evict(limits) {
            self.ended[CallerEnd::Evicted as usize] += 1;
            return None;
        }
        let free = self.slots.iter().position(|entry| entry.caller.is_none());
        let index = free.unwrap_or_else(|| {
            self.slots.push(SlotEntry::default());
            self.slots.len() - 1
        });
        let slot = CallerSlot(u16::try_from(index).ok()?);
        let entry = &mut self.slots[index];
        entry.caller = Some(Caller::new(entry.next_call, now));
        self.taken += 1;
        self.touch(slot);
        self.note_due(slot, limits);
        Some(slot)
    }

    /// Ends the caller that has been idle for the longest time, and first those that never made a request. Until its
    /// socket is closed there is one caller more than the limit.
    fn evict(&mut self, limits: &CallerLimits) -> bool {
        // Up to the same number again may be closing.
        let has_space = self.taken < 2 * usize::from(limits.connections);
        // Unread input counts as a request.
        let is_unread = |slot: CallerSlot| self.slots[slot.index()].is_ready;
        let idle = self.entries().filter(|(slot, _)| !is_unread(*slot));
        let idle = idle.filter_map(|(slot, caller)| Some((caller.idle_since()?, slot)));
        let idlest = idle.min().filter(|_| has_space);
        idlest.map(|(_, slot)| self.end(slot, CallerEnd::Evicted)).is_some()
    }

    fn entries(&self) -> impl Iterator<Item = (CallerSlot, &Caller)> {
        let entries = (0..).map(CallerSlot).zip(&self.slots);
        entries.filter_map(|(slot, entry)| Some((slot, entry.caller.as_ref()?)))
    }

    fn slots(&self) -> Vec<CallerSlot> {
        self.entries().map(|(slot, _)| slot).collect()
    }

    fn at(&mut self, slot: CallerSlot) -> &mut Caller {
        self.slots[slot.index()].caller.as_mut().expect("a caller until the driver frees its slot")
    }

    fn touch(&mut self, slot: CallerSlot) {
        let entry = &mut self.slots[slot.index()];
        if !std::mem::replace(&mut entry.is_touched, true) {
            self.touched.push_back(slot);
        }
    }

    fn make_ready(&mut self, slot: CallerSlot) {
        let entry = &mut self.slots[slot.index()];
        if entry.caller.as_ref().is_some_and(Caller::may_be_read)
            && !std::mem::replace(&mut entry.is_ready, true)
        {
            self.ready.push_back(slot);
        }
    }

    /// A deadline of the caller may have been armed.
    fn note_due(&mut self, slot: CallerSlot, limits: &CallerLimits) {
        let due = self.slots[slot.index()].caller.as_ref().and_then(|one| one.next_due(limits));
        self.due = [self.due, due].into_iter().flatten().min();
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due
    }

    /// Handles the deadlines of callers that have passed at `now`.
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
        self.due = self.entries().filter_map(|(_, caller)| caller.next_due(limits)).min();
    }

    /// Sends the replies that are due, and marks the caller for the driver.
    fn advance(&mut self, slot: CallerSlot) {
        let answered = &mut self.answered;
        let entry = &mut self.slots[slot.index()];
        let Some(caller) = &mut entry.caller else { return };
        let freed = caller.answer(|status| answered[status as usize] += 1);
        self.free_bytes(freed);
        self.make_ready(slot);
        self.touch(slot);
    }

    /// As [`Callers::advance`], for a caller whose input has been read.
    fn close_if_done(&mut self, slot: CallerSlot) {
        let nothing = self.at(slot).answer(|_| {});
        debug_assert_eq!(nothing, 0, "what is done is answered");
        self.drop_input(slot);
        self.touch(slot);
    }

    /// Frees the input of a caller if it is not read any more.
    fn drop_input(&mut self, slot: CallerSlot) {
        let freed = self.at(slot).drop_input();
        self.free_bytes(freed);
    }

    /// Ends the caller with the oldest incomplete request if incomplete requests take all the bytes allowed.
    fn reclaim_bytes(&mut self, limits: &CallerLimits) {
        let is_stuck = !self.has_bytes(limits)
            && self.ready.is_empty()
            && self.entries().all(|(_, caller)| caller.calls() == 0);
        let incomplete = self.entries().filter(|_| is_stuck);
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

    /// The next operation for the driver.
    pub(super) fn poll(
        &mut self,
        limits: &CallerLimits,
        now: Millis,
    ) -> Option<(CallerSlot, CallerOperation<'_>)> {
        let has_bytes = self.has_bytes(limits);
        self.is_short_of_bytes |= !has_bytes;
        // The slot is found in a loop of its own, because the operation borrows from `self`.
        let slot = loop {
            let slot = *self.touched.front()?;
            let entry = &mut self.slots[slot.index()];
            if entry.caller.as_ref().is_some_and(|caller| caller.has_operation(has_bytes)) {
                break slot;
            }
            entry.is_touched = false;
            self.touched.pop_front();
        };
        // A send or a linger can begin at this moment; none of their timeouts is shorter.
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

    /// The caller has shut its write side.
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

    /// Frees the slot. Calls that were not answered are counted as cancelled.
    pub(super) fn gone(&mut self, slot: CallerSlot) {
        let entry = &mut self.slots[slot.index()];
        let caller = entry.caller.take().expect("a caller is gone once");
        entry.next_call = caller.next_call();
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

    /// Stops or resumes the reading of requests. Those under way are answered in any case.
    pub(super) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// The next request of the caller whose turn it is.
    pub(super) fn next(
        &mut self,
        (limits, refuses_pushes): (&CallerLimits, bool),
        now: Millis,
        shard: ShardId,
    ) -> Option<NextRequest> {
        if !self.has_requests() {
            return None;
        }
        while let Some(slot) = self.ready.pop_front() {
            let entry = &mut self.slots[slot.index()];
            entry.is_ready = false;
            // The caller may have been ended since, with requests that stay unread.
            let Some(caller) = entry.caller.as_mut().filter(|caller| caller.may_be_read()) else {
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
                // The driver may receive more, or has to close the socket.
                Ok(None) => {
                    self.close_if_done(slot);
                    self.reclaim_bytes(limits);
                }
                Err(reason) => self.end(slot, reason),
            }
        }
        None
    }

    /// The answer of a shard to a push: see [`Message::Tallied`](crate::Message).
    pub(super) fn add(&mut self, call: CallId, tally: Tally, partials: u32) {
        self.change(call, |state| state.add(tally, partials));
    }

    /// A partial tally of a push: see [`Message::PartiallyTallied`](crate::Message).
    pub(super) fn add_partial(&mut self, call: CallId, tally: Tally, settles: u32) {
        self.change(call, |state| state.add_partial(tally, settles));
    }

    /// Other hosts get the push, too. `bytes` is the length of its frame.
    pub(super) fn expect_elsewhere(&mut self, call: CallId, bytes: usize) {
        self.called += 1;
        self.called_bytes += bytes;
        self.change(call, CallState::expect_elsewhere);
    }

    /// What became of the push on other hosts.
    pub(super) fn add_elsewhere(&mut self, call: CallId, others: &OtherHostsTally) {
        self.called -= 1;
        self.called_bytes -= others.bytes;
        self.change(call, |state| state.add_elsewhere(others));
    }

    /// Stops waiting for other hosts.
    pub(super) fn give_up_hosts(&mut self) {
        for slot in self.slots() {
            self.at(slot).give_up_hosts();
            self.advance(slot);
        }
    }

    /// A message of the call was not sent.
    pub(super) fn fail(&mut self, call: CallId, failure: Failure) {
        self.change(call, |state| state.fail(failure));
    }

    /// `reports` shards are asked about the call.
    pub(super) fn expect(&mut self, call: CallId, reports: u32) {
        self.change(call, |state| state.expect(reports));
    }

    /// No shard is asked: no connection can have the key or user of the call.
    pub(super) fn absent(&mut self, call: CallId) {
        self.change(call, CallState::absent);
    }

    fn change(&mut self, call: CallId, change: impl FnOnce(&mut CallState)) {
        let (slot, number) = call.at_caller();
        let entry = self.slots.get_mut(slot.index());
        let caller = entry.and_then(|entry| entry.caller.as_mut());
        // The caller may have left, or the call may have timed out.
        if let Some(state) = caller.and_then(|caller| caller.call(number)) {
            change(state);
            self.advance(slot);
        }
    }

    /// Ends the callers whose tokens are not valid any more.
    pub(super) fn check_tokens(&mut self, limits: &CallerLimits) {
        for slot in self.slots() {
            if self.at(slot).has_lost_token(limits) {
                self.end(slot, CallerEnd::NoToken);
            }
        }
    }

    /// Answers all requests, because the server ends. Returns the bytes that are still to be sent, by caller.
    pub(super) fn finish(
        &mut self,
        limits: &CallerLimits,
        now: Millis,
    ) -> impl Iterator<Item = (CallerSlot, [&[u8]; 2])> {
        for slot in self.slots() {
            self.at(slot).finish(limits, now);
            self.advance(slot);
        }
        self.entries().filter_map(|(slot, caller)| Some((slot, caller.unsent()?)))
    }
}
