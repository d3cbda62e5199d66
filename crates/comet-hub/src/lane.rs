//! The way from the control thread to one shard: the shard's inbox, and in front of it the messages that found it full.
//!
//! A message waits behind earlier ones of its class, so messages arrive in the order in which they were put in, and
//! putting one in never waits. Pushes are put into the inbox up to a window; beyond it the callers take turns. Only
//! [`Lane::notify`] wakes the shard, once for all messages. The caller waits for the reports; when it gives up, its
//! message is skipped.

use std::collections::VecDeque;
use std::mem;

use comet_core::{CallId, Canary, Message, MessageClass, ShardId};

use crate::calls::CALLS_MAX;
use crate::inboxes::{Inboxes, PostError};
use crate::queues::{CallerId, CallerQueues, Waiting, cost};

/// Most waiting messages before those of ended calls are removed. At most [`CALLS_MAX`] belong to running calls, so a
/// sweep frees at least half, and its amortized cost is constant.
pub(crate) const WAITING_MAX: usize = 2 * CALLS_MAX;

/// The shard has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

/// Most work in the inbox before further pushes wait here, in the units of [`cost`]. Callers take turns here and not in
/// the inbox, so one caller may have to wait for this much work of another. It keeps a shard busy for several turns.
const WINDOW: usize = 2_048;

pub(crate) struct Lane {
    shard: ShardId,
    /// The inbox has messages of which the shard was not notified.
    must_notify: bool,
    /// Messages other than pushes. Waiting pushes do not hold them back.
    directory: VecDeque<Waiting>,
    /// The number of waiting messages at which those of ended calls are removed: twice the number left last time. So
    /// the amortized cost of a sweep is constant, even if most messages belong to no call.
    sweep_at: usize,
    pushes: CallerQueues,
    /// Costs of the pushes that the shard has not reported yet. `load` is their sum.
    unreported: VecDeque<usize>,
    load: usize,
}

impl Lane {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            must_notify: false,
            directory: VecDeque::new(),
            sweep_at: WAITING_MAX,
            pushes: CallerQueues::default(),
            unreported: VecDeque::new(),
            load: 0,
        }
    }

    /// Puts `message` into the inbox, or behind the waiting ones of its class and of `caller`. `runs` says whether a
    /// call still wants its message delivered.
    pub(crate) fn send(
        &mut self,
        inboxes: &mut impl Inboxes,
        (call, caller): (Option<CallId>, CallerId),
        message: Message,
        runs: impl Fn(CallId) -> bool,
    ) -> Result<(), Gone> {
        let class = message.class();
        let waits = match class {
            MessageClass::Directory => !self.directory.is_empty(),
            MessageClass::Push => !self.pushes.is_empty() || !self.has_window(cost(&message)),
        };
        let message = if waits && !Canary::OvertakenLane.is_released() {
            message
        } else {
            match self.post(inboxes, message) {
                Ok(()) => return Ok(()),
                Err(PostError::Full(message)) => message,
                Err(PostError::Closed) => return Err(Gone),
            }
        };
        let waiting = Waiting { call, message };
        let keeps = |waiting: &Waiting| waiting.call.is_none_or(&runs);
        match class {
            MessageClass::Directory => {
                if self.directory.len() >= self.sweep_at {
                    self.directory.retain(keeps);
                    self.sweep_at = WAITING_MAX.max(2 * self.directory.len());
                }
                self.directory.push_back(waiting);
            }
            MessageClass::Push => {
                if self.pushes.len() >= WAITING_MAX {
                    self.pushes.retain(keeps);
                }
                self.pushes.push(caller, waiting);
            }
        }
        Ok(())
    }

    /// Moves waiting messages into the inbox, as far as there is space. If the shard is gone, returns the calls whose
    /// messages waited.
    pub(crate) fn flush(
        &mut self,
        inboxes: &mut impl Inboxes,
        runs: impl Fn(CallId) -> bool,
    ) -> Result<(), Vec<CallId>> {
        while let Some(Waiting { call, message }) = self.directory.pop_front() {
            if !call.is_none_or(&runs) {
                continue;
            }
            match self.post(inboxes, message) {
                Ok(()) => {}
                Err(PostError::Full(message)) => {
                    self.directory.push_front(Waiting { call, message });
                    break;
                }
                Err(PostError::Closed) => return Err(self.abandon(call)),
            }
        }
        if self.directory.is_empty() {
            self.sweep_at = WAITING_MAX;
        }
        while let Some((caller, Waiting { call, message }, cost)) = self.pushes.pop() {
            if !call.is_none_or(&runs) {
                continue;
            }
            let posted = match self.has_window(cost) {
                true => self.post(inboxes, message),
                false => Err(PostError::Full(message)),
            };
            match posted {
                Ok(()) => {}
                Err(PostError::Full(message)) => {
                    self.pushes.put_back((caller, Waiting { call, message }, cost));
                    break;
                }
                Err(PostError::Closed) => return Err(self.abandon(call)),
            }
        }
        Ok(())
    }

    /// Notes that the shard has reported a push, which frees its part of the window.
    pub(crate) fn release(&mut self) {
        self.load -= self.unreported.pop_front().unwrap_or(0);
    }

    /// A message that exceeds the window by itself is admitted when the window is empty.
    fn has_window(&self, cost: usize) -> bool {
        self.load == 0 || self.load + cost <= WINDOW
    }

    fn post(&mut self, inboxes: &mut impl Inboxes, message: Message) -> Result<(), PostError> {
        let cost = match message.class() {
            MessageClass::Directory => None,
            MessageClass::Push => Some(cost(&message)),
        };
        inboxes.post(self.shard, message)?;
        self.must_notify = true;
        if let Some(cost) = cost {
            self.unreported.push_back(cost);
            self.load += cost;
        }
        Ok(())
    }

    /// Drops all waiting messages. Returns their calls, and `call`.
    fn abandon(&mut self, call: Option<CallId>) -> Vec<CallId> {
        let waiting = self.directory.drain(..).chain(self.pushes.drain());
        call.into_iter().chain(waiting.filter_map(|waiting| waiting.call)).collect()
    }

    /// Wakes the shard if it sleeps and has unnoticed messages.
    pub(crate) fn notify(&mut self, inboxes: &mut impl Inboxes) {
        if mem::take(&mut self.must_notify) {
            inboxes.notify(self.shard);
        }
    }

    /// Whether so many messages wait that only those of calls may join them; the number of calls is bounded.
    pub(crate) fn is_full(&self) -> bool {
        self.directory.len() >= WAITING_MAX
    }

    /// The calls whose messages wait here.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallId> {
        self.directory.iter().chain(self.pushes.iter()).filter_map(|waiting| waiting.call)
    }

    /// Messages that wait in front of the inbox.
    pub(crate) fn waiting(&self) -> usize {
        self.directory.len() + self.pushes.len()
    }
}

#[cfg(test)]
mod tests {
    use comet_core::Push;
    use comet_proto::Encoded;

    use super::*;
    use crate::fake::FakeInboxes;

    const SHARD: ShardId = ShardId(0);

    fn lane(capacity: usize) -> (Lane, FakeInboxes) {
        (Lane::new(SHARD), FakeInboxes::new(1, capacity))
    }

    fn send(lane: &mut Lane, inboxes: &mut FakeInboxes, call: u64) -> Result<(), Gone> {
        let message = Message::Rooms { call: CallId(call) };
        lane.send(inboxes, (Some(CallId(call)), CallerId(0)), message, |_| true)
    }

    #[test]
    fn messages_wait_in_order_and_those_of_ended_calls_are_skipped() {
        let (mut lane, mut inboxes) = lane(2);
        for call in 1..=6 {
            send(&mut lane, &mut inboxes, call).unwrap();
        }
        assert_eq!((lane.waiting(), lane.calls().next()), (4, Some(CallId(3))));
        assert_eq!(inboxes.take_calls(SHARD), [1, 2]);
        lane.flush(&mut inboxes, |call| call != CallId(4)).unwrap();
        send(&mut lane, &mut inboxes, 7).unwrap();
        assert_eq!(inboxes.take_calls(SHARD), [3, 5]);
        lane.flush(&mut inboxes, |_| true).unwrap();
        assert_eq!(inboxes.take_calls(SHARD), [6, 7]);
        assert_eq!(lane.waiting(), 0);
    }

    #[test]
    fn a_full_lane_is_not_scanned_for_each_message() {
        let (mut lane, mut inboxes) = lane(0);
        let looks = std::cell::Cell::new(0);
        let runs = |_| {
            looks.set(looks.get() + 1);
            true
        };
        for call in (1..=WAITING_MAX as u64).map(CallId) {
            let message = Message::Rooms { call };
            lane.send(&mut inboxes, (Some(call), CallerId(0)), message, runs).unwrap();
        }
        for _ in 0..1_000 {
            let message = Message::CancelBroadcast { call: CallId(0) };
            lane.send(&mut inboxes, (None, CallerId(0)), message, runs).unwrap();
        }
        assert_eq!((lane.waiting(), looks.get()), (WAITING_MAX + 1_000, WAITING_MAX));
    }

    #[test]
    fn pushes_that_wait_hold_back_nothing_else() {
        let (mut lane, mut inboxes) = lane(1);
        let push = |call| {
            let frame = Encoded::verbatim(b"x");
            let push = Push::new(5, frame);
            Message::PushRoom { call: CallId(call), room: "r".into(), push }
        };
        for call in 1..=3 {
            lane.send(&mut inboxes, (Some(CallId(call)), CallerId(0)), push(call), |_| true)
                .unwrap();
        }
        send(&mut lane, &mut inboxes, 4).unwrap();
        assert_eq!(lane.waiting(), 2);
        assert!(matches!(inboxes.take(SHARD), Some(Message::PushRoom { .. })));
        assert!(matches!(inboxes.take(SHARD), Some(Message::Rooms { .. })));
    }

    /// The other caller has more to push than the shard takes.
    #[test]
    fn a_push_waits_behind_one_window_of_another_caller_at_most() {
        let (mut lane, mut inboxes) = lane(4_096);
        let push = |call, keys| {
            let push = Push::new(5, Encoded::verbatim(b"x"));
            Message::PushKeys { call: CallId(call), keys: vec!["k".into(); keys], push }
        };
        for call in 1..=256 {
            let greedy = (Some(CallId(call)), CallerId(1));
            lane.send(&mut inboxes, greedy, push(call, 10_000), |_| true).unwrap();
        }
        let modest = (Some(CallId(257)), CallerId(2));
        lane.send(&mut inboxes, modest, push(257, 1), |_| true).unwrap();
        let mut before = 0;
        loop {
            match inboxes.take(SHARD) {
                Some(Message::PushKeys { call: CallId(257), .. }) => break,
                Some(_) => before += 1,
                None => panic!("nothing is posted"),
            }
            lane.release();
            lane.flush(&mut inboxes, |_| true).unwrap();
        }
        assert!(before <= 3, "{before} pushes of the other caller came first");
    }

    #[test]
    fn the_shard_is_woken_once_for_all_that_was_put_in() {
        let (mut lane, mut inboxes) = lane(2);
        lane.notify(&mut inboxes);
        assert_eq!(inboxes.notified(SHARD), 0);
        send(&mut lane, &mut inboxes, 1).unwrap();
        send(&mut lane, &mut inboxes, 2).unwrap();
        send(&mut lane, &mut inboxes, 3).unwrap();
        lane.notify(&mut inboxes);
        lane.notify(&mut inboxes);
        assert_eq!(inboxes.notified(SHARD), 1);
        inboxes.take_calls(SHARD);
        lane.flush(&mut inboxes, |_| true).unwrap();
        lane.notify(&mut inboxes);
        assert_eq!(inboxes.notified(SHARD), 2);
    }

    #[test]
    fn messages_without_a_call_are_always_delivered() {
        let (mut lane, mut inboxes) = lane(1);
        send(&mut lane, &mut inboxes, 1).unwrap();
        let drain = Message::Drain { over_ms: 0, retry_after_ms: 0 };
        lane.send(&mut inboxes, (None, CallerId(0)), drain, |_| false).unwrap();
        assert_eq!(inboxes.take_calls(SHARD), [1]);
        lane.flush(&mut inboxes, |_| false).unwrap();
        assert!(matches!(inboxes.take(SHARD), Some(Message::Drain { .. })));
    }

    #[test]
    fn messages_without_a_call_fill_the_lane() {
        let (mut lane, mut inboxes) = lane(1);
        for _ in 0..=WAITING_MAX {
            assert!(!lane.is_full());
            let message = Message::RemoteRoomCounts { rooms: Vec::new() };
            lane.send(&mut inboxes, (None, CallerId(0)), message, |_| true).unwrap();
        }
        assert!(lane.is_full());
    }

    #[test]
    fn a_shard_that_ended_gives_the_waiting_calls_back() {
        let (mut lane, mut inboxes) = lane(1);
        for call in 1..=3 {
            send(&mut lane, &mut inboxes, call).unwrap();
        }
        inboxes.close(SHARD);
        assert_eq!(lane.flush(&mut inboxes, |_| true), Err(vec![CallId(2), CallId(3)]));
        assert_eq!(lane.waiting(), 0);
        assert_eq!(send(&mut lane, &mut inboxes, 4), Err(Gone));
    }

    #[test]
    fn ended_calls_do_not_pile_up_before_a_stuck_shard() {
        let (mut lane, mut inboxes) = lane(1);
        for call in 0..3 * WAITING_MAX as u64 {
            // Only the last call is still running.
            let message = Message::Rooms { call: CallId(call) };
            lane.send(&mut inboxes, (Some(CallId(call)), CallerId(0)), message, |other| {
                other.0 == call
            })
            .unwrap();
            assert!(lane.waiting() <= WAITING_MAX);
        }
    }
}
