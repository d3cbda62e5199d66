//! The ring: all operations of the driver, with the reasons for their safety in one place.
#![allow(unsafe_code, reason = "an io_uring operation outlives the call that submits it")]

mod freeze;
mod operation;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use comet_core::{CallerSlot, Slot};
use io_uring::types::{Fd, Napi, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use crate::buffers::Buffers;
use crate::ids::{BufferId, ListenerIndex};
pub(crate) use operation::{Completion, Operation};

/// Most completions taken in one turn, so that no turn is long. The number of sends that may be queued is a bound as
/// well: each completion may be a request whose reply has to leave in the same turn. Otherwise the shard falls behind
/// for as long as clients send requests.
const COMPLETIONS_A_TURN: usize = 4096;

/// Most bytes of sends submitted by one system call, except that one send may exceed it. The kernel copies them within
/// the call. At some GB a second that takes about a millisecond, in which the thread does nothing else.
const BYTES_A_SUBMISSION: usize = 2 << 20;

pub(crate) struct Ring {
    ring: IoUring,
    /// The ring's index in the thread's table of registered rings, if the kernel registered it.
    registered: Option<u32>,
    sends_a_turn: usize,
    /// Bytes of the queued sends.
    queued_bytes: usize,
    /// Operations queued or in flight, without receives of clients and the poll of the wake-up.
    effects: usize,
    /// The kernel has the ring of receive buffers.
    has_buffers: bool,
    /// How often the queue was submitted without a wait.
    submissions: u64,
    /// The headers of the queued sends of slices.
    #[allow(clippy::vec_box, reason = "the queued sends have their addresses")]
    messages: Vec<Box<MessageOfSlices>>,
}

/// The message header of a send of slices. The kernel reads it while it submits the send, not later
/// (`IORING_FEAT_SUBMIT_STABLE`, which every kernel with provided buffers has).
struct MessageOfSlices {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
}

/// The only group of provided buffers.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// How often one turn may fill the submission queue. Each time costs one system call. The sends of one call should stay
/// in the core's own cache until they have completed: the kernel keeps some 256 bytes for each send until all sends of
/// the call are done. One turn makes several calls because its other steps would cost the same again in another turn.
const SUBMISSIONS_A_TURN: usize = 4;
/// Entries of the completion queue for each entry of the submission queue. They hold the completions of a turn's sends
/// and of the input that arrives meanwhile. Completions that do not fit are kept by the kernel at some cost; none is
/// lost.
const COMPLETIONS_A_SEND: u32 = 16;
/// The longest completion queue of the kernel (`IORING_MAX_CQ_ENTRIES`).
const COMPLETIONS_MAX: u32 = 64 << 10;

/// Most sends that the call which begins a sleep may submit: the kernel needs some 100 µs for them.
const SENDS_A_SLEEP: usize = 64;
const BYTES_A_SLEEP: usize = 256 << 10;

fn completions(entries: u32) -> u32 {
    entries.saturating_mul(COMPLETIONS_A_SEND).min(COMPLETIONS_MAX)
}

/// Bytes of a ring with `entries`, which newer kernels count as locked memory. A submission has 64
/// bytes and its index in the queue 4; a completion has 16.
pub(crate) fn ring_bytes(entries: u32) -> u64 {
    u64::from(entries) * (64 + 4) + u64::from(completions(entries)) * 16
}

/// The system calls of io_uring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Setup,
    Register,
    Enter,
}

/// Does once, with a small ring, what every core does: makes the ring, registers buffers, and enters the kernel with an
/// operation.
///
/// # Errors
/// The call that failed, and how.
pub(crate) fn rehearse() -> Result<(), (Call, io::Error)> {
    let buffers = Buffers::new(2, 64);
    let ring = build(8).map_err(|error| (Call::Setup, error))?;
    let mut operations = io_uring::Probe::new();
    let registered = ring.submitter().register_probe(&mut operations);
    let ring = registered.and_then(|()| Ring::with(ring, &buffers));
    let mut ring = ring.map_err(|error| (Call::Register, error))?;
    let needed = [
        opcode::AcceptMulti::CODE,
        opcode::RecvMulti::CODE,
        opcode::Send::CODE,
        opcode::PollAdd::CODE,
    ];
    if !needed.into_iter().all(|operation| operations.is_supported(operation)) {
        return Err((Call::Enter, io::ErrorKind::Unsupported.into()));
    }
    // The poll of an eventfd with a nonzero count completes at once.
    let eventfd = eventfd(1, EventfdFlags::CLOEXEC).map_err(|error| (Call::Enter, error.into()))?;
    ring.poll_wakeup(eventfd.as_raw_fd());
    ring.ring.submit_and_wait(1).map_err(|error| (Call::Enter, error))?;
    Ok(())
}

/// Makes a ring with the flags that every ring here has. Kernel 6.1 is the first with all of them.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        // This flag shows whether deferred completions wait, so a busy turn need not enter the kernel to find out.
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions(entries))
        .setup_clamp();
    // Entries are submitted in their order, so no array of indices is needed. Kernel 6.6 is the first that can leave it
    // out; older kernels do not know the flag.
    match builder.clone().setup_no_sqarray().build(entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(entries),
        result => result,
    }
}

/// Registers the ring with the calling thread. Then an enter needs no look-up in the descriptor table that all threads
/// share. `None`: the thread has registered the most rings allowed (16), or the kernel cannot register rings.
fn register(ring: &IoUring) -> Option<u32> {
    const ANY: u32 = u32::MAX;
    let mut update = RingUpdate { offset: ANY, reserved: 0, data: ring.as_raw_fd() as u64 };
    let registered = update_ring(ring, IORING_REGISTER_RING_FDS, &mut update);
    registered.then_some(update.offset)
}

fn update_ring(ring: &IoUring, operation: u32, update: &mut RingUpdate) -> bool {
    let call = libc::SYS_io_uring_register;
    // SAFETY: the kernel reads and writes `update`, which has the expected layout, within the call.
    1 == unsafe { libc::syscall(call, ring.as_raw_fd(), operation, &raw mut *update, 1) }
}

// As in <linux/io_uring.h>. The io-uring crate keeps the index in a borrow of the ring, so it is not used here.
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Ring {
    /// A ring that only the calling thread may use.
    pub(crate) fn new(entries: u32, buffers: &Buffers) -> io::Result<Self> {
        Self::with(build(entries)?, buffers)
    }

    fn with(mut ring: IoUring, buffers: &Buffers) -> io::Result<Self> {
        register_buffers(&ring, buffers)?;
        let sends_a_turn = ring.submission().capacity() * SUBMISSIONS_A_TURN;
        let registered = register(&ring);
        Ok(Self {
            ring,
            registered,
            sends_a_turn,
            queued_bytes: 0,
            effects: 0,
            has_buffers: true,
            submissions: 0,
            messages: Vec::new(),
        })
    }

    /// Makes each wait poll the network cards of the ring's sockets for up to `time` before it sleeps. Sockets on other
    /// devices are not affected.
    ///
    /// # Errors
    /// If the kernel is older than 6.9, or was built without the feature.
    pub(crate) fn busy_poll(&self, time: Duration) -> io::Result<()> {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut napi = Napi::new().set_busy_poll_timeout(micros).set_prefer_busy_poll(true);
        self.ring.submitter().register_napi(&mut napi)
    }

    /// Most sends that one turn queues. A full queue is submitted at once.
    pub(crate) fn sends_a_turn(&self) -> usize {
        self.sends_a_turn
    }

    /// Polls the eventfd: one completion for each write to it.
    pub(crate) fn poll_wakeup(&mut self, eventfd: RawFd) {
        let entry = opcode::PollAdd::new(Fd(eventfd), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Operation::Wakeup);
    }

    /// Accepts from `listener`: one completion for each connection.
    pub(crate) fn accept_all(&mut self, listener: RawFd, index: ListenerIndex) {
        self.push(accept_all(listener), Operation::Accept(index));
    }

    /// Accepts one connection from `listener`.
    pub(crate) fn accept_one(&mut self, listener: RawFd, index: ListenerIndex) {
        let nowhere = std::ptr::null_mut();
        let entry = opcode::Accept::new(Fd(listener), nowhere, nowhere.cast()).flags(ACCEPT_FLAGS);
        self.push(entry.build(), Operation::Accept(index));
    }

    /// As [`Ring::accept_all`] for a listener of push callers.
    pub(crate) fn accept_caller(&mut self, listener: RawFd, index: ListenerIndex) {
        self.push(accept_all(listener), Operation::AcceptCaller(index));
    }

    /// Receives from `socket`: one completion with a provided buffer each time bytes arrive.
    pub(crate) fn recv(&mut self, socket: RawFd, slot: Slot) {
        let entry = opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP).build();
        self.push(entry, Operation::Recv(slot));
    }

    /// Receives once from the socket of a push caller into `buffer`. Its owner neither moves nor reads it until it is
    /// notified of the completion.
    pub(crate) fn recv_caller(&mut self, socket: RawFd, slot: CallerSlot, buffer: *mut [u8]) {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(Fd(socket), buffer.cast(), length).build();
        self.push(entry, Operation::RecvCaller(slot));
    }

    /// As [`Ring::send`], for replies to a push caller.
    pub(crate) fn send_caller(&mut self, socket: RawFd, slot: CallerSlot, bytes: *const [u8]) {
        self.push(send(socket, bytes), Operation::SendCaller(slot));
        self.count_bytes(bytes.len());
    }

    /// Sends `bytes`. Their owner keeps address and content unchanged until it is notified of the
    /// completion. The owner is the shard ([`comet_core::Transmit::bytes`]) or the connection's TLS
    /// session.
    pub(crate) fn send(&mut self, socket: RawFd, slot: Slot, bytes: *const [u8]) {
        self.push(send(socket, bytes), Operation::Send(slot));
        self.count_bytes(bytes.len());
    }

    /// Counts a queued send of this many bytes.
    fn count_bytes(&mut self, bytes: usize) {
        self.queued_bytes += bytes;
        if self.queued_bytes >= BYTES_A_SUBMISSION {
            self.submit();
        }
    }

    /// As [`Ring::send`], for bytes in several places.
    pub(crate) fn send_slices<'a>(
        &mut self,
        socket: RawFd,
        slot: Slot,
        slices: impl Iterator<Item = &'a [u8]>,
    ) {
        let slice = |slice: &[u8]| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        };
        let slices: Vec<libc::iovec> = slices.map(slice).collect();
        let bytes = slices.iter().map(|slice| slice.iov_len).sum();
        // SAFETY: every field of `msghdr` may be zero.
        let header = unsafe { std::mem::zeroed() };
        let mut message = Box::new(MessageOfSlices { header, slices });
        message.header.msg_iov = message.slices.as_mut_ptr();
        message.header.msg_iovlen = message.slices.len() as _;
        let entry = opcode::SendMsg::new(Fd(socket), &raw const message.header)
            .flags(libc::MSG_NOSIGNAL as u32)
            .build();
        self.push(entry, Operation::Send(slot));
        self.messages.push(message);
        self.count_bytes(bytes);
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation) {
        let entry = entry.user_data(operation.to_user_data());
        // SAFETY: accept and poll are given no memory of ours. recv writes to the provided buffers, or to the buffer of
        // a caller's socket; both outlive the ring. send reads bytes that stay unchanged until its completion; that is
        // the contract of `Transmit`, of `CallerOperation::Send` and of `TlsSession::poll_transmit`. The header of a
        // send of slices is kept in `messages` until the kernel has taken the entry.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit();
        }
        self.effects += usize::from(operation.has_effect());
    }

    /// How often the queue was submitted. Each submission takes as long as the kernel sends what was queued.
    pub(crate) fn submissions(&self) -> u64 {
        self.submissions
    }

    /// Whether the kernel needs longer for the queued sends than for the call itself. Then they are submitted as a part
    /// of the turn, not of the sleep.
    pub(crate) fn is_laden(&mut self) -> bool {
        self.queued() > SENDS_A_SLEEP || self.queued_bytes > BYTES_A_SLEEP
    }

    /// Operations that are queued and not submitted yet.
    pub(crate) fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Submits what is queued. Makes no system call if nothing is.
    pub(crate) fn flush(&mut self) {
        if !self.ring.submission().is_empty() {
            self.submit();
        }
    }

    /// Submits what is queued, and lets the kernel post deferred completions. Never waits.
    pub(crate) fn submit(&mut self) {
        let submission = self.ring.submission();
        if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
            return;
        }
        drop(submission);
        self.submissions += 1;
        self.enter(0, None);
    }

    /// Lets the kernel post completions that it has deferred. Returns whether there were any.
    pub(crate) fn post_deferred(&mut self) -> bool {
        let submission = self.ring.submission();
        let has_deferred = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if has_deferred {
            self.submit();
        }
        has_deferred
    }

    /// One system call: submits what is queued, lets the kernel post deferred completions, and waits for `want` of
    /// them, for at most `timeout`.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) {
        let mut submission = self.ring.submission();
        submission.sync();
        let queued = submission.len() as u32;
        let posts = want > 0 || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        let timeout = timeout.map(Timespec::from);
        let arguments = timeout.as_ref().map(|timeout| SubmitArgs::new().timespec(timeout));
        let mut flags = EnterFlags::empty();
        flags.set(EnterFlags::GETEVENTS, posts);
        flags.set(EnterFlags::EXT_ARG, arguments.is_some());
        flags.set(EnterFlags::REGISTERED_RING, self.registered.is_some());
        let ring = self.registered.unwrap_or(self.ring.as_raw_fd() as u32);
        // SAFETY: `arguments` and the timeout live until the call returns. The memory that the entries point to is
        // covered in `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring,
                queued,
                want,
                flags.bits(),
                arguments.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                size_of::<SubmitArgs>(),
            )
        };
        if result < 0 {
            check(&io::Error::last_os_error());
        }
        self.queued_bytes = 0;
        self.drop_messages();
    }

    /// Drops the headers of the sends of slices once the kernel has taken all entries.
    fn drop_messages(&mut self) {
        if !self.messages.is_empty() && self.ring.submission().is_empty() {
            self.messages.clear();
        }
    }

    /// Submits what is queued, and sleeps until something completes or `timeout` has passed.
    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Duration>) {
        self.enter(1, timeout);
    }

    /// Whether the completion queue has entries.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether nothing has completed: no entry is posted and none is deferred.
    pub(crate) fn is_quiet(&mut self) -> bool {
        !self.has_completions() && !self.ring.submission().taskrun()
    }

    /// Most completions that one turn takes.
    pub(crate) fn completions_a_turn(&self) -> usize {
        COMPLETIONS_A_TURN.min(self.sends_a_turn)
    }

    /// Moves `most` completions to the end of `batch`, or all if there are fewer.
    pub(crate) fn take(&mut self, batch: &mut Vec<Completion>, most: usize) {
        let effects = &mut self.effects;
        batch.extend(self.ring.completion().take(most).map(|entry| {
            let (flags, result) = (entry.flags(), entry.result());
            let operation = Operation::from_user_data(entry.user_data());
            *effects -= usize::from(operation.has_effect() && !cqueue::more(flags));
            Completion {
                operation,
                result: u32::try_from(result).map_err(|_| -result),
                buffer: cqueue::buffer_select(flags).map(BufferId),
                more: cqueue::more(flags),
            }
        }));
    }
}

impl Drop for Ring {
    /// The registration holds a reference to the ring. Without the removal the ring would stay open.
    fn drop(&mut self) {
        if let Some(offset) = self.registered {
            let mut update = RingUpdate { offset, reserved: 0, data: 0 };
            let is_closed = update_ring(&self.ring, IORING_UNREGISTER_RING_FDS, &mut update);
            debug_assert!(is_closed, "the thread that made the ring drops it");
        }
    }
}

fn register_buffers(ring: &IoUring, buffers: &Buffers) -> io::Result<()> {
    let (address, count) = buffers.ring();
    // SAFETY: the driver keeps `buffers` alive longer than the ring (fields are dropped in the
    // order of their declaration), and the kernel forgets the group when the ring is closed.
    unsafe { ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) }
}

/// The flags of accepted sockets.
const ACCEPT_FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

fn accept_all(listener: RawFd) -> squeue::Entry {
    opcode::AcceptMulti::new(Fd(listener)).flags(ACCEPT_FLAGS).build()
}

fn send(socket: RawFd, bytes: *const [u8]) -> squeue::Entry {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    opcode::Send::new(Fd(socket), bytes.cast(), length).flags(libc::MSG_NOSIGNAL).build()
}

/// The socket of an accept's completion. Call it once per result; the caller then owns the descriptor.
pub(crate) fn accepted(fd: u32) -> OwnedFd {
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor is an i32")) }
}

/// Some error numbers only say that a wait ended early. After any other error the ring cannot be used.
fn check(error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
        _ => panic!("io_uring_enter: {error}"),
    }
}

#[cfg(test)]
mod tests;
