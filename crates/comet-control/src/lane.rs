//! The way from the control thread to one shard: the shard's inbox, and in front of it the messages
//! that found it full.
//!
//! A message waits behind those before it, so what is put in first arrives first, and putting it in
//! never waits. The shard is woken only by [`Lane::notify`], once for all that was put in. It is the caller
//! who waits, for the reports; when it gives up, its message is skipped.

use std::collections::VecDeque;
use std::mem;

use comet_core::{CallId, Message};
use comet_mesh::{Returned, Sender};

/// Messages that may wait before those of ended calls are swept out. At most [`CALLS_MAX`] belong to
/// calls that still run, so a sweep frees at least half and costs nothing in the mean.
///
/// [`CALLS_MAX`]: crate::calls::CALLS_MAX
const WAITING_MAX: usize = 2 * crate::calls::CALLS_MAX;

/// The shard took its inbox down: it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

struct Waiting {
    /// `None`: no call can end this, it goes out whatever happens.
    call: Option<CallId>,
    message: Message,
}

pub(crate) struct Lane {
    inbox: Sender<Message>,
    /// Something is in the inbox that the shard may sleep over.
    is_silent: bool,
    waiting: VecDeque<Waiting>,
}

impl Lane {
    pub(crate) fn new(inbox: Sender<Message>) -> Self {
        Self { inbox, is_silent: false, waiting: VecDeque::new() }
    }

    /// Puts `message` into the inbox, or behind those that wait for it. `runs` says whether a call
    /// still wants its message delivered.
    pub(crate) fn send(
        &mut self,
        call: Option<CallId>,
        message: Message,
        runs: impl Fn(CallId) -> bool,
    ) -> Result<(), Gone> {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.retain(|waiting| waiting.call.is_none_or(&runs));
        }
        let message = if self.waiting.is_empty() {
            match self.inbox.post(message) {
                Ok(()) => {
                    self.is_silent = true;
                    return Ok(());
                }
                Err(Returned::Full(message)) => message,
                Err(Returned::Closed(_)) => return Err(Gone),
            }
        } else {
            message
        };
        self.waiting.push_back(Waiting { call, message });
        Ok(())
    }

    /// Moves what waits into the inbox, as far as there is room. If the shard is gone, the calls whose
    /// messages waited come back.
    pub(crate) fn flush(&mut self, runs: impl Fn(CallId) -> bool) -> Result<(), Vec<CallId>> {
        while let Some(Waiting { call, message }) = self.waiting.pop_front() {
            if !call.is_none_or(&runs) {
                continue;
            }
            match self.inbox.post(message) {
                Ok(()) => self.is_silent = true,
                Err(Returned::Full(message)) => {
                    self.waiting.push_front(Waiting { call, message });
                    break;
                }
                Err(Returned::Closed(_)) => {
                    let rest = self.waiting.drain(..).filter_map(|waiting| waiting.call);
                    return Err(call.into_iter().chain(rest).collect());
                }
            }
        }
        Ok(())
    }

    /// Wakes the shard if it sleeps over what was put in.
    pub(crate) fn notify(&mut self) {
        if mem::take(&mut self.is_silent) {
            self.inbox.notify();
        }
    }

    /// So many messages wait that only those of calls, which are bounded themselves, may join them.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    pub(crate) fn is_backed_up(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The calls whose messages wait here.
    pub(crate) fn calls(&self) -> impl Iterator<Item = CallId> {
        self.waiting.iter().filter_map(|waiting| waiting.call)
    }

    /// Messages on their way to the shard, in its inbox and in front of it.
    pub(crate) fn depth(&self) -> usize {
        self.inbox.depth() + self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use comet_mesh::{EventFd, Inbox, inbox};

    use super::*;

    fn lane(capacity: usize) -> (Lane, Inbox<Message>) {
        let waker = Arc::new(EventFd::new().unwrap());
        let (sender, inbox) = inbox(capacity, waker);
        (Lane::new(sender), inbox)
    }

    fn send(lane: &mut Lane, call: u64) -> Result<(), Gone> {
        lane.send(Some(CallId(call)), Message::Rooms { call: CallId(call) }, |_| true)
    }

    fn received(inbox: &Inbox<Message>) -> Vec<u64> {
        let messages = std::iter::from_fn(|| inbox.try_recv());
        messages
            .map(|message| match message {
                Message::Rooms { call } => call.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn messages_wait_in_order_and_those_of_ended_calls_are_skipped() {
        let (mut lane, inbox) = lane(2);
        for call in 1..=6 {
            send(&mut lane, call).unwrap();
        }
        assert_eq!((lane.depth(), lane.calls().next()), (6, Some(CallId(3))));
        assert_eq!(received(&inbox), [1, 2]);
        lane.flush(|call| call != CallId(4)).unwrap();
        send(&mut lane, 7).unwrap();
        assert_eq!(received(&inbox), [3, 5]);
        lane.flush(|_| true).unwrap();
        assert_eq!(received(&inbox), [6, 7]);
        assert!(!lane.is_backed_up());
    }

    #[test]
    fn what_no_call_can_end_goes_out() {
        let (mut lane, inbox) = lane(1);
        send(&mut lane, 1).unwrap();
        lane.send(None, Message::Drain { over_ms: 0, retry_after_ms: 0 }, |_| false).unwrap();
        assert_eq!(received(&inbox), [1]);
        lane.flush(|_| false).unwrap();
        assert!(matches!(inbox.try_recv(), Some(Message::Drain { .. })));
    }

    #[test]
    fn what_no_call_can_end_finds_the_lane_full() {
        let (mut lane, _inbox) = lane(1);
        for _ in 0..=WAITING_MAX {
            assert!(!lane.is_full());
            lane.send(None, Message::RemoteRoomCounts { rooms: Vec::new() }, |_| true).unwrap();
        }
        assert!(lane.is_full());
    }

    #[test]
    fn a_shard_that_ended_gives_the_waiting_calls_back() {
        let (mut lane, inbox) = lane(1);
        for call in 1..=3 {
            send(&mut lane, call).unwrap();
        }
        drop(inbox);
        assert_eq!(lane.flush(|_| true), Err(vec![CallId(2), CallId(3)]));
        assert!(!lane.is_backed_up());
        assert_eq!(send(&mut lane, 4), Err(Gone));
    }

    #[test]
    fn ended_calls_do_not_pile_up_before_a_stuck_shard() {
        let (mut lane, _inbox) = lane(1);
        for call in 0..3 * WAITING_MAX as u64 {
            // Only the last call still runs.
            let message = Message::Rooms { call: CallId(call) };
            lane.send(Some(CallId(call)), message, |other| other.0 == call).unwrap();
            assert!(lane.depth() <= WAITING_MAX + 1);
        }
    }
}
