//! The bare loops. One uses io_uring: batches of sends, at most one in flight for each socket, on a ring set up in the
//! cheapest known way (`SINGLE_ISSUER | DEFER_TASKRUN`, Linux 6.1). The other is plain: one `send(2)` for each socket,
//! one socket after the other.
#![allow(unsafe_code)] // The ring reads the message from memory that only this module knows to be alive.

use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Sends submitted with one system call.
const BATCH: usize = 256;
/// The least number of completions that the ring holds; if it is full, the kernel must allocate.
const COMPLETIONS_MIN: usize = 16 << 10;
/// The most completions that the ring holds: the kernel refuses larger rings (`IORING_MAX_CQ_ENTRIES`).
const COMPLETIONS_MAX: usize = 64 << 10;

/// The ring of a yardstick for `connections` connections. Fails if the kernel is too old for it, or forbids it.
pub(super) fn build_ring(connections: usize) -> io::Result<IoUring> {
    let completions = connections.clamp(COMPLETIONS_MIN, COMPLETIONS_MAX).next_power_of_two();
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(completions as u32)
        .build(BATCH as u32)
}

/// The ring and its sockets.
pub(super) struct RingLoop {
    ring: IoUring,
    sockets: Vec<TcpStream>,
    /// The number of bytes of the current message that each socket has taken.
    sent: Vec<usize>,
    /// Sockets that took only a part of the message and must be sent the rest.
    behind: Vec<usize>,
}

impl RingLoop {
    pub(super) fn new(sockets: Vec<TcpStream>) -> io::Result<Self> {
        let ring = build_ring(sockets.len())?;
        Ok(Self { ring, sent: vec![0; sockets.len()], sockets, behind: Vec::new() })
    }

    /// The number of its sockets.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Sends `message` to `which` sockets once; returns when all have taken it or failed. Fails if the ring failed. A
    /// socket that fails is skipped: its receiver will miss the message.
    pub(super) fn round(
        &mut self,
        message: Vec<u8>,
        which: impl Iterator<Item = usize>,
    ) -> io::Result<()> {
        // Sends may still be in flight if this function returns an error: then the message is never freed.
        let message = ManuallyDrop::new(message);
        let mut fresh = which;
        let mut in_flight = 0;
        loop {
            in_flight += self.submit(&message, &mut fresh);
            if in_flight == 0 {
                break;
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => in_flight -= self.complete(message.len()),
            }
        }
        drop(ManuallyDrop::into_inner(message));
        Ok(())
    }

    /// Fills the submission queue; returns the number of sends.
    fn submit(&mut self, message: &[u8], fresh: &mut impl Iterator<Item = usize>) -> usize {
        let mut queue = self.ring.submission();
        let mut submitted = 0;
        while !queue.is_full() {
            let index = self.behind.pop().or_else(|| {
                let index = fresh.next()?;
                self.sent[index] = 0;
                Some(index)
            });
            let Some(index) = index else { break };
            let rest = &message[self.sent[index]..];
            let length =
                u32::try_from(rest.len()).expect("messages are bounded when they are read");
            let socket = types::Fd(self.sockets[index].as_raw_fd());
            let send = opcode::Send::new(socket, rest.as_ptr(), length)
                .flags(libc::MSG_NOSIGNAL)
                .build()
                .user_data(index as u64);
            // SAFETY: `rest` is part of the message that `round` keeps until every send has completed, or
            // for ever; nothing writes to it. The socket is open as long as `self` lives.
            unsafe { queue.push(&send) }.expect("the queue was not full");
            submitted += 1;
        }
        submitted
    }

    /// Handles the available completions; returns their number.
    fn complete(&mut self, message_len: usize) -> usize {
        let mut completed = 0;
        for completion in self.ring.completion() {
            completed += 1;
            let index = usize::try_from(completion.user_data()).expect("it was an index");
            match completion.result() {
                error if error < 0 => {
                    if [-libc::EAGAIN, -libc::EINTR].contains(&error) {
                        self.behind.push(index);
                    }
                }
                sent => {
                    self.sent[index] += sent.unsigned_abs() as usize;
                    if self.sent[index] < message_len {
                        self.behind.push(index);
                    }
                }
            }
        }
        completed
    }
}

/// The plain loop and its sockets.
pub(super) struct PlainLoop {
    sockets: Vec<TcpStream>,
    /// Sockets that took only a part of the message, and how much they took.
    behind: Vec<(usize, usize)>,
}

impl PlainLoop {
    pub(super) fn new(sockets: Vec<TcpStream>) -> Self {
        Self { sockets, behind: Vec::new() }
    }

    /// Sends `message` to `which` sockets once; returns when all have taken it or failed. Fails if waiting
    /// for full sockets failed. A socket that fails is skipped: its receiver will miss the message.
    pub(super) fn round(&mut self, message: &[u8], which: Range<usize>) -> io::Result<()> {
        for index in which {
            self.advance(index, 0, message);
        }
        while !self.behind.is_empty() {
            self.wait()?;
            for (index, sent) in std::mem::take(&mut self.behind) {
                self.advance(index, sent, message);
            }
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, sent: usize, message: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.sockets[index], &message[sent..], flags) {
            Ok(more) if sent + more < message.len() => self.behind.push((index, sent + more)),
            Err(Errno::AGAIN | Errno::INTR) => self.behind.push((index, sent)),
            Ok(_) | Err(_) => {}
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut full: Vec<PollFd<'_>> = self
            .behind
            .iter()
            .map(|&(index, _)| PollFd::new(&self.sockets[index], PollFlags::OUT))
            .collect();
        poll(&mut full, None)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_connections_has_a_ring() {
        for connections in [1, COMPLETIONS_MAX, COMPLETIONS_MAX + 1, 1_000_000] {
            build_ring(connections).unwrap_or_else(|error| panic!("{connections}: {error}"));
        }
    }
}
