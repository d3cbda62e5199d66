//! The way from the control thread to one shard: the shard's inbox, and in front of it the messages
//! that found it full.
//!
//! A message waits behind those before it, so what is put in first arrives first, and putting it in
//! never waits. The shard is woken only by [`Lane::notify`], once for all that was put in. The caller is
//! what waits, for the reports; when it gives up, its message is skipped.

use std::collections::VecDeque;
use std::mem;

use comet_core::{CallId, Canary, Message, ShardId};

use crate::calls::CALLS_MAX;
use crate::inboxes::{Inboxes, Refused};

/// Messages that may wait before those of ended calls are swept out. At most [`CALLS_MAX`] belong to
/// calls that still run, so a sweep frees at least half and costs nothing in the mean.
pub(crate) const WAITING_MAX: usize = 2 * CALLS_MAX;

/// The shard has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

struct Waiting {
    /// `None`: the message belongs to no call and is never skipped.
    call: Option<CallId>,
    message: Message,
}

pub(crate) struct Lane {
    shard: ShardId,
    /// Something is in the inbox that the shard may sleep over.
    must_notify: bool,
    waiting: VecDeque<Waiting>,
}

impl Lane {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, must_notify: false, waiting: VecDeque::new() }
    }

    /// Puts `message` into the inbox, or behind those that wait for it. `runs` says whether a call
    /// still wants its message delivered.
    pub(crate) fn send(
        &mut self,
        inboxes: &mut impl Inboxes,
        call: Option<CallId>,
        message: Message,
        runs: impl Fn(CallId) -> bool,
    ) -> Result<(), Gone> {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.retain(|waiting| waiting.call.is_none_or(&runs));
        }
        let message = if self.waiting.is_empty() || Canary::OvertakenLane.is_released() {
            match inboxes.post(self.shard, message) {
                Ok(()) => {
                    self.must_notify = true;
                    return Ok(());
                }
                Err(Refused::Full(message)) => message,
                Err(Refused::Closed) => return Err(Gone),
            }
        } else {
            message
        };
        self.waiting.push_back(Waiting { call, message });
        Ok(())
    }

    /// Moves what waits into the inbox, as far as there is room. If the shard is gone, the calls whose
    /// messages waited come back.
    pub(crate) fn flush(
        &mut self,
        inboxes: &mut impl Inboxes,
        runs: impl Fn(CallId) -> bool,
    ) -> Result<(), Vec<CallId>> {
        while let Some(Waiting { call, message }) = self.waiting.pop_front() {
            if !call.is_none_or(&runs) {
                continue;
            }
            match inboxes.post(self.shard, message) {
                Ok(()) => self.must_notify = true,
                Err(Refused::Full(message)) => {
                    self.waiting.push_front(Waiting { call, message });
                    break;
                }
                Err(Refused::Closed) => {
                    let rest = self.waiting.drain(..).filter_map(|waiting| waiting.call);
                    return Err(call.into_iter().chain(rest).collect());
                }
            }
        }
        Ok(())
    }

    /// Wakes the shard if it sleeps over what was put in.
    pub(crate) fn notify(&mut self, inboxes: &mut impl Inboxes) {
        if mem::take(&mut self.must_notify) {
            inboxes.notify(self.shard);
        }
    }

    /// So many messages wait that only those of calls, which are bounded themselves, may join them.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// The calls whose messages wait here.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallId> {
        self.waiting.iter().filter_map(|waiting| waiting.call)
    }

    /// Messages that wait in front of the inbox.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeInboxes;

    const SHARD: ShardId = ShardId(0);

    fn lane(capacity: usize) -> (Lane, FakeInboxes) {
        (Lane::new(SHARD), FakeInboxes::new(1, capacity))
    }

    fn send(lane: &mut Lane, inboxes: &mut FakeInboxes, call: u64) -> Result<(), Gone> {
        let message = Message::Rooms { call: CallId(call) };
        lane.send(inboxes, Some(CallId(call)), message, |_| true)
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
    fn what_no_call_can_end_goes_out() {
        let (mut lane, mut inboxes) = lane(1);
        send(&mut lane, &mut inboxes, 1).unwrap();
        let drain = Message::Drain { over_ms: 0, retry_after_ms: 0 };
        lane.send(&mut inboxes, None, drain, |_| false).unwrap();
        assert_eq!(inboxes.take_calls(SHARD), [1]);
        lane.flush(&mut inboxes, |_| false).unwrap();
        assert!(matches!(inboxes.take(SHARD), Some(Message::Drain { .. })));
    }

    #[test]
    fn what_no_call_can_end_finds_the_lane_full() {
        let (mut lane, mut inboxes) = lane(1);
        for _ in 0..=WAITING_MAX {
            assert!(!lane.is_full());
            let message = Message::RemoteRoomCounts { rooms: Vec::new() };
            lane.send(&mut inboxes, None, message, |_| true).unwrap();
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
            // Only the last call still runs.
            let message = Message::Rooms { call: CallId(call) };
            lane.send(&mut inboxes, Some(CallId(call)), message, |other| other.0 == call).unwrap();
            assert!(lane.waiting() <= WAITING_MAX);
        }
    }
}
