//! The driver of one core: a loop of plainly named steps around the shard.
//!
//! The loop and its state are here. The steps are methods in the files below, one file for each
//! thing the driver talks to: sockets that receive, sockets that send, inboxes, and the sleep of
//! the core.

mod accept_rate;
mod callers;
mod exchange;
mod freeze;
mod receive;
mod send;
mod sleep;
mod survey;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use accept_rate::{AcceptRateLimiter, Armed};
use callers::Callers;
use comet_core::{Budget, ConnId, Message, Millis, Report, Shard, ShardId, Slot};
use comet_logic::Authenticator;
use comet_mesh::{EventFd, Inbox, Pulse, Sender};
use freeze::Outcome;

use crate::buffers::Buffers;
use crate::close_log::CloseLog;
use crate::commands::CommandQueue;
use crate::ring::{Completion, Operation, Ring};
use crate::settings::{CoreSettings, Listener, MeshEndpoints};
use crate::sockets::{AckProgress, Sockets};
use crate::tls::TransmitBudget;

/// How long a turn may continue with work that the next turn can resume. A piece of work in progress is finished first:
/// a token, a handshake, a slice of pushes, or the sends of one system call.
const TURN_TIME: Duration = Duration::from_millis(5);

/// The part of [`TURN_TIME`] that completions may take, so that pushes get their share.
const COMPLETIONS_TIME: Duration = Duration::from_millis(2);

/// After a turn of this length all completions that the kernel has deferred are posted. The system call at the end of a turn
/// posts 20 of them at most (io_uring since Linux 6.13), so clients would wait for many such turns.
const LONG_TURN: Duration = Duration::from_micros(100);

/// Completions between two readings of the clock; a reading takes some 30 ns. The costliest completions take more than
/// 100 us each: a buffer full of compressed messages, or of TLS key updates.
const COMPLETIONS_A_LOOK: usize = 8;

pub(crate) struct Driver<A> {
    // Fields are dropped in this order. The ring must be closed first: while it is open, the kernel writes into the
    // receive buffers (those of callers included) and reads the shard's frames.
    ring: Ring,
    buffers: Buffers,
    shard: Shard,
    callers: Callers,
    authenticator: A,
    sockets: Sockets,
    tls_budget: TransmitBudget,
    listeners: Vec<Listener>,
    /// The accepts of each listener that are in flight.
    armed_accepts: Vec<Armed>,
    /// No accept is resubmitted before this time. Without the pause, a process that is out of descriptors would fail
    /// and log in every turn.
    rearm_accepts_at: Instant,
    accept_limiter: AcceptRateLimiter,
    /// Sockets whose multishot receive ended because no receive buffer was free, or in a freeze.
    to_receive: Vec<Slot>,
    /// Connections whose TLS handshake has input to process.
    pending_handshakes: VecDeque<ConnId>,
    /// The completions of a turn; a field only to reuse its allocation.
    completions: Vec<Completion>,
    inbox: Inbox<Message>,
    wakeup: Arc<EventFd>,
    pulse: PulseGuard,
    /// A poll of `wakeup` is in flight.
    is_wakeup_polled: bool,
    peers: Vec<Sender<Message>>,
    control: Sender<Report>,
    /// The last turn could not submit all sends. No pushes are taken until they are submitted.
    has_sends_left: bool,
    /// The last turn took pushes. This turn continues with the crowds instead, if there are any.
    is_crowd_next: bool,
    has_shut_listeners: bool,
    /// A peer's inbox was full, or accepts wait for their retry time. The next sleep is short.
    must_retry: bool,
    spin: Duration,
    epoch: Instant,
    now: Millis,
    turn_end: Instant,
    /// The last turn took longer than [`LONG_TURN`].
    was_long: bool,
    close_log: CloseLog,
    stop: Arc<AtomicBool>,
    commands: CommandQueue,
    /// The core is frozen, so nothing is submitted: see [`freeze`].
    is_frozen: bool,
    /// An upgrade has begun: no more clients are accepted.
    has_stopped_accepts: bool,
    /// Connections whose ciphertext waits for the thaw.
    ciphertext_waits: Vec<Slot>,
}

impl<A: Authenticator> Driver<A> {
    pub(crate) fn new(
        settings: CoreSettings,
        endpoints: MeshEndpoints,
        authenticator: A,
        stop: Arc<AtomicBool>,
        commands: CommandQueue,
    ) -> io::Result<Self> {
        let buffers = Buffers::new(settings.recv_buffers, settings.recv_buffer_size);
        let ring = Ring::new(settings.ring_entries, &buffers)?;
        if !settings.busy_poll.is_zero()
            && let Err(error) = ring.busy_poll(settings.busy_poll)
            // The other cores would log the same.
            && settings.shard.shard == ShardId(0)
        {
            log::warn!("server.busy_poll: the kernel does not poll network cards here: {error}");
        }
        let is_frozen = settings.is_frozen;
        let now = Millis(settings.epoch.elapsed().as_millis() as u64);
        endpoints.pulse.beat(now.0);
        Ok(Self {
            shard: Shard::new(&settings.shard, now),
            authenticator,
            ring,
            buffers,
            sockets: Sockets::default(),
            tls_budget: TransmitBudget::default(),
            armed_accepts: vec![Armed::NONE; settings.listeners.len()],
            listeners: settings.listeners,
            rearm_accepts_at: settings.epoch,
            accept_limiter: AcceptRateLimiter::new(settings.epoch),
            callers: Callers::new(settings.caller_listeners, settings.epoch),
            to_receive: Vec::new(),
            pending_handshakes: VecDeque::new(),
            completions: Vec::new(),
            inbox: endpoints.inbox,
            wakeup: endpoints.wakeup,
            pulse: PulseGuard(endpoints.pulse),
            is_wakeup_polled: false,
            peers: endpoints.peers,
            control: endpoints.control,
            has_sends_left: false,
            is_crowd_next: false,
            has_shut_listeners: false,
            must_retry: false,
            spin: settings.spin,
            epoch: settings.epoch,
            now,
            turn_end: settings.epoch,
            was_long: false,
            close_log: CloseLog::default(),
            stop,
            commands,
            is_frozen,
            has_stopped_accepts: is_frozen,
            ciphertext_waits: Vec::new(),
        })
    }

    /// Runs turns until the core is stopped. The order of the steps is part of the design; see "The
    /// driver's turn" in docs/ARCHITECTURE.md.
    pub(crate) async fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if self.serve_commands() == Outcome::Released {
                break;
            }
            let begin = Instant::now();
            self.turn_end = begin + TURN_TIME;
            self.update_time(begin);
            self.handle_completions(begin);
            self.rearm_receives();
            self.postpone_overdue();
            self.shard.handle_deadlines(&mut Budget::slice());
            self.shard.handle_listings(&mut Budget::slice(), &mut self.sockets);
            self.continue_handshakes();
            self.handle_messages();
            self.authenticate();
            self.handle_crowds();
            self.submit_sends();
            self.serve_callers();
            self.log_closed();
            self.shut_sockets();
            self.shut_listeners();
            self.send_messages();
            self.rearm_accepts();
            self.rearm_caller_accepts();
            self.send_reports();
            let is_busy = self.submit_if_busy();
            let elapsed = begin.elapsed();
            self.was_long = elapsed > LONG_TURN;
            self.shard.handle_turn(u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX));
            if !is_busy {
                self.sleep();
            }
            // Lets other tasks of this executor run, once glommio's preempt timer has expired.
            glommio::yield_if_needed().await;
        }
        self.finish_callers();
    }

    fn update_time(&mut self, now: Instant) {
        self.now = Millis((now - self.epoch).as_millis() as u64);
        self.pulse.0.beat(self.now.0);
        self.shard.handle_time(self.now);
        if self.shard.has_expired() {
            // Input that arrived during a coalesced wait is handled before the deadlines.
            self.ring.submit();
        }
    }

    /// Handles completions, until their part of the turn's time has passed or the bound of a turn is reached. The rest
    /// stays in the ring.
    fn handle_completions(&mut self, begin: Instant) {
        let mut completions = std::mem::take(&mut self.completions);
        let mut most = self.ring.completions_a_turn();
        while most > 0 {
            self.ring.take(&mut completions, most.min(COMPLETIONS_A_LOOK));
            if completions.is_empty() && !(self.was_long && self.ring.post_deferred()) {
                break;
            }
            most -= completions.len();
            for completion in completions.drain(..) {
                self.handle_completion(completion);
            }
            if begin.elapsed() > COMPLETIONS_TIME {
                break;
            }
        }
        self.completions = completions;
        self.buffers.publish();
    }

    fn handle_completion(&mut self, completion: Completion) {
        match completion.operation {
            Operation::Recv(slot) => self.handle_received(slot, completion),
            Operation::Send(slot) => self.handle_sent(slot, completion.result),
            Operation::Accept(listener) => self.handle_accepted(listener, completion),
            // The eventfd need not be read: each write to it completes the poll again.
            Operation::Wakeup => self.is_wakeup_polled = completion.more,
            // The accept itself completes with ECANCELED.
            Operation::Cancel => {}
            Operation::AcceptCaller(listener) => self.handle_caller_accepted(listener, completion),
            Operation::RecvCaller(slot) => self.handle_caller_received(slot, completion.result),
            Operation::SendCaller(slot) => self.handle_caller_sent(slot, completion.result),
        }
    }

    /// Completions of one turn may not be all that has arrived. No deadline closes a connection while the kernel or the
    /// driver has unread input of its peer, or while the peer acknowledges what was sent to it.
    fn postpone_overdue(&mut self) {
        let Self { shard, ring, sockets, .. } = self;
        let write_timeout = Duration::from_millis(shard.limits().write_ms.into());
        let mut advanced = Vec::new();
        shard.postpone_overdue(|conn| {
            let socket = sockets.at(conn.slot);
            // Before all else: the completion queue of a busy core may never be empty.
            let progress = socket.ack_progress(write_timeout);
            if progress == AckProgress::Advanced {
                advanced.push(conn);
            }
            // The completion of this connection's input may be among those that the turn did not take.
            progress != AckProgress::None || ring.has_completions() || socket.has_backlog()
        });
        for conn in advanced {
            shard.handle_send_progress(conn);
        }
    }

    fn log_closed(&mut self) {
        while let Some(event) = self.shard.poll_closed() {
            self.close_log.log(&event, &self.sockets, self.now);
        }
    }

    /// Whether the turn has time left for more of the work that can be resumed in the next turn.
    fn has_time(&self) -> bool {
        Instant::now() < self.turn_end
    }

    /// The time from now until `at`; zero if it has passed.
    fn time_until(&self, at: Millis) -> Duration {
        Duration::from_millis(at.0).saturating_sub(self.epoch.elapsed())
    }
}

/// A sign of life that ends with the driver.
struct PulseGuard(Arc<Pulse>);

impl Drop for PulseGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}
