//! The driver of one core: a short loop of plainly named steps.

mod receive;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use comet_core::{AuthRequest, ConnId, Denied, Message, Millis, Report, Shard, ShardId};
use comet_logic::Auther;
use comet_mesh::{EventFd, Inbox, Returned, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::buffers::Buffers;
use crate::close_log::Closings;
use crate::core::{CoreSettings, Listener, Ports};
use crate::ring::{Completion, Operation, Ring};
use crate::sockets::Sockets;

/// Messages taken from the inbox in one turn at most.
const MESSAGES_A_TURN: usize = 256;
/// Operations, sends mostly, that the kernel is handed before the control thread is woken, if no more are
/// left: woken on the same CPU, control would answer its caller first, and clients get their pushes later.
/// With more the caller would wait for too long, who may have the next push ready.
const SENDS_BEFORE_REPORTS: usize = 64;
/// How soon a peer whose inbox was full is tried again.
const RETRY: Duration = Duration::from_millis(1);
/// How soon an accept is tried again that found no descriptor or no memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Driver<A> {
    // The ring goes first: while it is open the kernel writes the buffers and reads the shard's frames.
    ring: Ring,
    buffers: Buffers,
    shard: Shard,
    auther: A,
    sockets: Sockets,
    listeners: Vec<Listener>,
    /// Listeners whose accept ended and must be submitted again.
    deaf: Vec<u32>,
    /// Not before this moment: a process out of descriptors would ask in vain, and loudly.
    hear_again_at: Instant,
    /// Connections whose receive ended for want of a buffer.
    starved: Vec<u32>,
    /// Connections whose TLS handshake can go on.
    handshakes: VecDeque<ConnId>,
    batch: Vec<Completion>,
    inbox: Inbox<Message>,
    bell: Arc<EventFd>,
    is_bell_armed: bool,
    peers: Vec<Sender<Message>>,
    control: Sender<Report>,
    /// Connections still have bytes to submit: they go before more pushes are taken.
    is_behind: bool,
    has_shut_listeners: bool,
    /// Somebody's inbox was full, or a listener is deaf: look again soon.
    retry: bool,
    spin: Duration,
    epoch: Instant,
    now: Millis,
    closings: Closings,
    stop: Arc<AtomicBool>,
}

impl<A: Auther> Driver<A> {
    pub(crate) fn new(
        settings: CoreSettings,
        ports: Ports,
        auther: A,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let buffers = Buffers::new(settings.recv_buffers, settings.recv_buffer_size);
        let mut ring = Ring::new(settings.ring_entries, &buffers)?;
        for (index, listener) in (0..).zip(&settings.listeners) {
            ring.accept(listener.socket.as_raw_fd(), index);
        }
        ring.submit();
        let now = Millis(settings.epoch.elapsed().as_millis() as u64);
        Ok(Self {
            shard: Shard::new(&settings.shard, now),
            auther,
            ring,
            buffers,
            sockets: Sockets::default(),
            listeners: settings.listeners,
            deaf: Vec::new(),
            hear_again_at: settings.epoch,
            starved: Vec::new(),
            handshakes: VecDeque::new(),
            batch: Vec::new(),
            inbox: ports.inbox,
            bell: ports.bell,
            is_bell_armed: false,
            peers: ports.peers,
            control: ports.control,
            is_behind: false,
            has_shut_listeners: false,
            retry: false,
            spin: settings.spin,
            epoch: settings.epoch,
            now,
            closings: Closings::default(),
            stop,
        })
    }

    pub(crate) async fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let begin = Instant::now();
            self.tell_time(begin);
            self.take_completions();
            self.shard.handle_deadlines();
            self.shake_hands();
            self.take_messages();
            self.ask_logic();
            self.submit_sends();
            self.log_closed();
            self.shut_sockets();
            self.pass_messages();
            self.hear_again();
            self.pass_reports();
            let goes_on = self.hand_over();
            let micros = u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.shard.handle_turn(micros);
            if !goes_on {
                self.wait();
            }
            // Other tasks of this executor, when glommio's preempt timer says that it is their turn.
            glommio::yield_if_needed().await;
        }
    }

    fn tell_time(&mut self, now: Instant) {
        self.now = Millis((now - self.epoch).as_millis() as u64);
        self.shard.handle_time(self.now);
        if self.shard.has_expired() {
            // What came during a nap first.
            self.ring.submit();
        }
    }

    fn take_messages(&mut self) {
        if self.is_behind {
            return;
        }
        // Half an outbox of messages and a quarter of its bytes, with the longest frame behind them: a burst
        // fills nobody's outbox before its bytes were offered once.
        let limits = self.shard.limits();
        let messages = usize::from(limits.svr_proto / 2).clamp(1, MESSAGES_A_TURN);
        let bytes_max = limits.outbox_bytes as usize / 4;
        let mut bytes = 0;
        for _ in 0..messages {
            let Some(message) = self.inbox.try_recv() else { return };
            bytes += message.push_bytes();
            self.shard.handle_message(message);
            if bytes > bytes_max {
                return;
            }
        }
    }

    fn take_completions(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.take(&mut batch);
        for completion in batch.drain(..) {
            match completion.operation {
                Operation::Recv => self.received(completion),
                Operation::Send => self.sent(completion),
                Operation::Accept => self.accepted(completion),
                // The eventfd need not be read: each raise completes the poll once more by itself.
                Operation::Wake => self.is_bell_armed = completion.more,
            }
        }
        self.batch = batch;
        self.buffers.publish();
        for slot in std::mem::take(&mut self.starved) {
            if let Some(socket) = self.sockets.get(slot).filter(|socket| !socket.is_receiving) {
                self.ring.recv(socket.raw(), slot);
                self.sockets.at(slot).is_receiving = true;
            }
        }
    }

    fn ask_logic(&mut self) {
        while let Some(AuthRequest { conn, token, cookie }) = self.shard.poll_auth() {
            let answer = self.auther.auth(&token, &cookie);
            let answer = answer.map_err(|refusal| Denied::refused(refusal.to_string()));
            self.shard.handle_auth(conn, answer);
        }
    }

    fn pass_messages(&mut self) {
        for (peer, sender) in (0..).map(ShardId).zip(&self.peers) {
            let mut has_posted = false;
            while let Some(message) = self.shard.poll_message(peer) {
                if let Err(Returned::Full(message) | Returned::Closed(message)) =
                    sender.post(message)
                {
                    self.shard.return_message(peer, message);
                    self.retry = true;
                    break;
                }
                has_posted = true;
            }
            if has_posted {
                sender.notify();
            }
        }
    }

    fn pass_reports(&mut self) {
        let mut has_reported = false;
        while let Some(report) = self.shard.poll_report() {
            if !has_reported && self.ring.queued() <= SENDS_BEFORE_REPORTS {
                self.ring.flush();
            }
            if let Err(Returned::Full(report) | Returned::Closed(report)) =
                self.control.post(report)
            {
                self.shard.return_report(report);
                self.retry = true;
                break;
            }
            has_reported = true;
        }
        if has_reported {
            self.control.notify();
        }
    }

    fn log_closed(&mut self) {
        while let Some(event) = self.shard.poll_closed() {
            self.closings.log(&event, &self.sockets, self.now);
        }
    }

    /// Submits again what ended by itself.
    fn hear_again(&mut self) {
        if self.deaf.is_empty() || self.shard.is_draining() {
            return;
        }
        if Instant::now() < self.hear_again_at {
            self.retry = true;
            return;
        }
        for index in std::mem::take(&mut self.deaf) {
            self.ring.accept(self.listeners[index as usize].socket.as_raw_fd(), index);
        }
    }

    /// Hands the kernel what was queued where the next turn comes at once, and says whether it does: sends
    /// mostly complete as they are submitted.
    fn hand_over(&mut self) -> bool {
        if self.is_behind || !self.handshakes.is_empty() || self.inbox.depth() > 0 {
            self.ring.submit();
            return true;
        }
        let has_completed = self.ring.has_completions();
        if has_completed {
            self.ring.flush();
        }
        has_completed
    }

    /// Submits, and sleeps until something completes, somebody calls, or a deadline is due.
    fn wait(&mut self) {
        if !self.is_bell_armed {
            self.ring.poll_wake(self.bell.as_raw_fd());
            self.is_bell_armed = true;
        }
        let nap = self.shard.poll_nap().filter(|_| !self.retry);
        if nap.is_some() {
            // What was raised before would end the nap at once. Its message is in the inbox by now, which
            // `arm_wakeup` looks into below.
            self.bell.clear();
        }
        if self.has_work_while_spinning() || !self.inbox.arm_wakeup() {
            return self.ring.submit();
        }
        if !self.stop.load(Ordering::Acquire) {
            let due = self.shard.poll_timeout();
            match nap {
                Some(until) => self.nap(until, due),
                None => {
                    let due = due.map(|due| self.time_to(due));
                    let retry = std::mem::take(&mut self.retry).then_some(RETRY);
                    self.ring.submit_and_wait([due, retry].into_iter().flatten().min());
                }
            }
        }
        self.inbox.disarm_wakeup();
    }

    fn time_to(&self, at: Millis) -> Duration {
        Duration::from_millis(at.0).saturating_sub(self.epoch.elapsed())
    }

    /// Submits, and sleeps until somebody calls or connects, a deadline is `due`, or `until`: what completes
    /// meanwhile stays with the kernel, which wakes nobody for it while nobody waits in the ring.
    fn nap(&mut self, until: Millis, due: Option<Millis>) {
        self.ring.flush();
        if self.ring.has_completions() {
            return; // They came while the turn worked.
        }
        let awaited = self.listeners.iter().map(|listener| listener.socket.as_fd());
        let awaited = awaited.chain([self.bell.as_fd()]);
        let mut awaited: Vec<_> =
            awaited.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = self.time_to(due.map_or(until, |due| due.min(until)));
        let timeout = Timespec::try_from(timeout).expect("deadlines are less than ages away");
        let is_called = poll(&mut awaited, Some(&timeout)) != Ok(0);
        // A deadline alone is no reason to take what has come before the nap is over.
        if is_called || self.time_to(until).is_zero() {
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
