//! An eventfd as a [`Wake`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};

use crate::Wake;

/// A counter in the kernel that one thread waits for and others raise.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A fresh one, non-blocking and closed on exec.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Takes back every wake-up so far.
    pub fn clear(&self) {
        // EAGAIN: nothing was raised. No other error is possible on an eventfd we own.
        let _ = read(&self.0, &mut [0_u8; 8]);
    }

    /// Blocks the calling thread until somebody calls [`Wake::wake`], and takes the wake-up back.
    ///
    /// # Errors
    /// Only when the kernel refuses to poll.
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
        // EAGAIN means the counter is at its maximum: the receiver has 2^64 reasons to wake already.
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
