//! An eventfd as a [`Wake`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};

use crate::wake::Wake;

/// A counter in the kernel: one thread waits until it is not 0, other threads raise it.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one that is non-blocking and closed on exec.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Resets the counter: earlier wake-ups do not end the next wait.
    pub fn clear(&self) {
        // EAGAIN: the counter is 0. No other error is possible on an eventfd of our own.
        let _ = read(&self.0, &mut [0_u8; 8]);
    }

    /// Blocks the calling thread until [`Wake::wake`] is called, and resets the counter.
    ///
    /// # Errors
    /// Only if the kernel refuses to poll.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) {
                Ok(_) => {
                    self.clear();
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // EAGAIN: the counter is at its maximum, so the receiver wakes anyway.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
