//! One `send(2)` for each socket, one socket after the other.

use std::io;
use std::net::TcpStream;
use std::ops::Range;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// The loop and its sockets.
pub(super) struct PlainLoop {
    sockets: Vec<TcpStream>,
    /// Sockets that took less than the message, and how much they took.
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
