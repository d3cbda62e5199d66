//! The end of a turn: the next turn follows at once if there is work, otherwise the core sleeps.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use comet_core::Millis;
use comet_logic::Authenticator;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Driver;

/// Longest sleep while a message waits for space in a full inbox, or an accept for its retry.
const RETRY: Duration = Duration::from_millis(1);

impl<A: Authenticator> Driver<A> {
    /// Submits what is queued if the next turn follows at once, and returns whether it does. Sends
    /// mostly complete while they are submitted.
    pub(super) fn submit_if_busy(&mut self) -> bool {
        let has_work = self.has_sends_left
            || self.shard.has_work()
            || self.shard.has_pushes()
            || self.shard.has_requests()
            || self.shard.has_crowds()
            || self.shard.has_listings()
            || self.shard.has_auths()
            || self.shard.has_closes()
            || !self.pending_handshakes.is_empty()
            || self.inbox.depth() > 0;
        if has_work {
            self.ring.submit();
            return true;
        }
        if self.ring.is_laden() {
            self.ring.submit();
        }
        let has_completed = self.ring.has_completions();
        if has_completed {
            self.ring.flush();
        }
        has_completed
    }

    /// Submits what is queued and sleeps until something completes, a message comes, or a deadline
    /// expires.
    pub(super) fn sleep(&mut self) {
        if !self.is_wakeup_polled {
            self.ring.poll_wakeup(self.wakeup.as_raw_fd());
            self.is_wakeup_polled = true;
        }
        let coalesce_until = self.shard.poll_coalesced_wait().filter(|_| !self.must_retry);
        if coalesce_until.is_some() {
            // Clears an earlier notification, which would end the coalesced wait at once. Its message is in the inbox
            // already, and `arm_wakeup` below looks there.
            self.wakeup.clear();
        }
        if self.has_work_while_spinning() || !self.inbox.arm_wakeup() {
            return self.ring.submit();
        }
        if !self.stop.load(Ordering::Acquire) && !self.commands.is_waiting() {
            let deadline = self.shard.poll_timeout();
            match coalesce_until {
                Some(until) => self.coalesced_wait(until, deadline),
                None => {
                    let due = deadline.map(|deadline| self.time_until(deadline));
                    let retry = std::mem::take(&mut self.must_retry).then_some(RETRY);
                    self.ring.submit_and_wait([due, retry].into_iter().flatten().min());
                }
            }
        }
        self.inbox.disarm_wakeup();
    }

    /// Submits what is queued and sleeps until a message, a connection or a request of a caller comes, or until the
    /// earlier of `until` and `deadline`. The sleep is outside the ring, so completions are queued in the kernel
    /// without waking this thread.
    fn coalesced_wait(&mut self, until: Millis, deadline: Option<Millis>) {
        self.ring.flush();
        if self.ring.has_completions() {
            return; // These completed during the turn.
        }
        let awaited = self.listeners.iter().map(|listener| listener.socket.as_fd());
        let awaited = awaited.chain(self.callers.awaited()).chain([self.wakeup.as_fd()]);
        let mut awaited: Vec<_> =
            awaited.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = self.time_until(deadline.map_or(until, |deadline| deadline.min(until)));
        let timeout = Timespec::try_from(timeout).expect("a deadline fits into a timespec");
        let is_notified = poll(&mut awaited, Some(&timeout)) != Ok(0);
        // If a deadline before `until` ended the wait, the input that has arrived is not taken yet.
        if is_notified || self.time_until(until).is_zero() {
            self.ring.submit();
        }
    }

    fn has_work_while_spinning(&mut self) -> bool {
        if self.spin.is_zero() {
            return false;
        }
        self.ring.submit();
        let begin = Instant::now();
        while begin.elapsed() < self.spin {
            if !self.ring.is_quiet() || self.inbox.depth() > 0 {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}
