//! The ring: the few operations the driver needs, with their safety argued in one place.
#![allow(unsafe_code, reason = "an io_uring operation outlives the call that submits it")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use comet_core::Slot;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::buffers::Buffers;

/// What a completion belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Operation {
    Wake = 0,
    Accept = 1,
    Recv = 2,
    Send = 3,
}

/// One completion, with what it needs of the queue entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) operation: Operation,
    /// A connection's slot, or a listener's index.
    pub(crate) index: u32,
    /// A count or a descriptor, or an error number.
    pub(crate) result: Result<u32, i32>,
    /// The provided buffer a receive filled.
    pub(crate) buffer: Option<u16>,
    /// The operation goes on; otherwise it must be submitted again to get more.
    pub(crate) more: bool,
}

/// Completions taken in one turn at most, so that no turn is long. There are no more than sends that may be
/// queued either: each may be a request, and the replies have to leave in the same turn, or the shard
/// falls behind for as long as clients ask.
const COMPLETIONS_A_TURN: usize = 4096;

pub(crate) struct Ring {
    ring: IoUring,
    sends_a_turn: usize,
}

/// The one group of provided buffers.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// Submission queues one turn may fill. A queue is one system call, and what it submits should be in
/// the core's own cache until it has completed: the kernel keeps some 256 bytes for each send until all
/// of the call are done. A turn is longer than that, since each costs the same once more.
const SUBMISSIONS_A_TURN: usize = 4;
/// Entries of the completion queue for each of the submission queue: the sends of a turn complete beside
/// whatever arrives meanwhile. What does not fit waits in the kernel, at a price, and is not lost.
const COMPLETIONS_A_SEND: u32 = 16;
/// The kernel makes no longer completion queue (`IORING_MAX_CQ_ENTRIES`).
const COMPLETIONS_MAX: u32 = 64 << 10;

fn completions(entries: u32) -> u32 {
    entries.saturating_mul(COMPLETIONS_A_SEND).min(COMPLETIONS_MAX)
}

/// Bytes of a ring with so many entries, which newer kernels count as locked memory: a submission is
/// 64 bytes and its place in the queue 4, a completion 16.
pub(crate) fn ring_bytes(entries: u32) -> u64 {
    u64::from(entries) * (64 + 4) + u64::from(completions(entries)) * 16
}

/// The flags of every ring here. Kernel 6.1 is the first to know all of them.
pub(crate) fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        // Says when deferred completions wait, so that a busy turn need not ask.
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions(entries))
        .setup_clamp()
        .build(entries)
}

impl Ring {
    /// A ring for the calling thread, which alone may use it.
    pub(crate) fn new(entries: u32, buffers: &Buffers) -> io::Result<Self> {
        let mut ring = build(entries)?;
        let (address, count) = buffers.ring();
        // SAFETY: the driver keeps `buffers` alive longer than the ring (its fields are dropped in
        // the order it names them), and the kernel forgets the group when the ring is closed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0)?;
        };
        let sends_a_turn = ring.submission().capacity() * SUBMISSIONS_A_TURN;
        Ok(Self { ring, sends_a_turn })
    }

    /// Sends one turn may queue; each time the queue is full the kernel is handed it.
    pub(crate) fn sends_a_turn(&self) -> usize {
        self.sends_a_turn
    }

    /// A completion each time somebody raises the eventfd.
    pub(crate) fn poll_wake(&mut self, eventfd: RawFd) {
        let entry = opcode::PollAdd::new(Fd(eventfd), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Operation::Wake, 0);
    }

    /// A completion for each connection that arrives at `listener`.
    pub(crate) fn accept(&mut self, listener: RawFd, index: u32) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(flags).build();
        self.push(entry, Operation::Accept, index);
    }

    /// A completion with a provided buffer each time bytes arrive.
    pub(crate) fn recv(&mut self, socket: RawFd, slot: Slot) {
        let entry = opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP).build();
        self.push(entry, Operation::Recv, slot.0);
    }

    /// Sends from `bytes`, whose address and content their owner keeps until the completion has been
    /// handed back to it: the shard ([`comet_core::Transmit::bytes`]) or the connection's TLS session.
    pub(crate) fn send(&mut self, socket: RawFd, slot: Slot, bytes: (*const u8, usize)) {
        let (address, length) = bytes;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let entry =
            opcode::Send::new(Fd(socket), address, length).flags(libc::MSG_NOSIGNAL).build();
        self.push(entry, Operation::Send, slot.0);
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation, index: u32) {
        let entry = entry.user_data(u64::from(operation as u8) << 32 | u64::from(index));
        // SAFETY: accept, recv and poll take no memory of ours (recv writes to the provided buffers,
        // which live as long as the ring); send reads bytes that stay put until its completion, which
        // is the contract of `Transmit` and of `TlsSession::transmit`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
    }

    /// Operations the kernel has not been handed yet.
    pub(crate) fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Hands the kernel what was queued, if anything was.
    pub(crate) fn flush(&mut self) {
        if !self.ring.submission().is_empty() {
            self.submit();
        }
    }

    /// Hands the kernel what was queued, and lets it post what it has; never waits.
    pub(crate) fn submit(&mut self) {
        let mut submission = self.ring.submission();
        if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
            return;
        }
        submission.sync();
        drop(submission);
        check(self.ring.submit());
    }

    /// Hands the kernel what was queued and sleeps until something completes or `timeout` is over.
    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Duration>) {
        let result = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        check(result);
    }

    /// The kernel has posted completions that were not taken.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Nothing has completed.
    pub(crate) fn is_quiet(&mut self) -> bool {
        !self.has_completions() && !self.ring.submission().taskrun()
    }

    /// Moves a bounded batch of completions to the end of `batch`.
    pub(crate) fn take(&mut self, batch: &mut Vec<Completion>) {
        let most = COMPLETIONS_A_TURN.min(self.sends_a_turn);
        batch.extend(self.ring.completion().take(most).map(|entry| {
            let (flags, result) = (entry.flags(), entry.result());
            Completion {
                operation: match (entry.user_data() >> 32) as u8 {
                    0 => Operation::Wake,
                    1 => Operation::Accept,
                    2 => Operation::Recv,
                    _ => Operation::Send,
                },
                index: entry.user_data() as u32,
                result: u32::try_from(result).map_err(|_| -result),
                buffer: cqueue::buffer_select(flags),
                more: cqueue::more(flags),
            }
        }));
    }
}

/// The connection an accept's completion hands over; to be called once with its result.
pub(crate) fn accepted(fd: u32) -> OwnedFd {
    // SAFETY: the descriptor is fresh and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor is an i32")) }
}

/// Waiting ends early for reasons that are no failure; anything else is a ring we cannot use.
fn check(result: io::Result<usize>) {
    if let Err(error) = result {
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
            _ => panic!("io_uring_enter: {error}"),
        }
    }
}
