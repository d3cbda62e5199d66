//! Messages and descriptors over the socket pair.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors of one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_A_MESSAGE: usize = 253;

/// Most bytes of the state of one shard.
pub const STATE_BYTES_MAX: usize = 2 << 30;

/// Most bytes of one message: the state of a shard, and how many descriptors follow.
const BYTES_MAX: usize = STATE_BYTES_MAX + size_of::<u32>();

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// New to former: which formats it reads.
    Greeting = 1,
    /// New to former: it cannot, and why.
    Refusal,
    /// Former to new: what the listeners are; their descriptors follow.
    Listeners,
    /// Former to new: the state of a shard; the descriptors of its connections follow.
    Shard,
    /// Descriptors. The length is their number.
    Descriptors,
    /// Former to new: that was all.
    Complete,
    /// New to former: it could go on.
    Ready,
    /// Former to new: go on.
    Commit,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Greeting,
        Self::Refusal,
        Self::Listeners,
        Self::Shard,
        Self::Descriptors,
        Self::Complete,
        Self::Ready,
        Self::Commit,
    ];
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    /// When all has to be done.
    deadline: Instant,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline, descriptors: VecDeque::new() }
    }

    /// Sets the time when what is called next has to be done.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }

    pub(crate) fn send(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        let length = Some(body.len()).filter(|&length| length <= BYTES_MAX);
        let length = length.ok_or(io::ErrorKind::InvalidInput)? as u32;
        self.arm()?;
        self.stream.write_all(&header(kind, length))?;
        // A piece at a time, so that the deadline holds for all of them.
        for piece in body.chunks(1 << 20) {
            self.arm()?;
            self.stream.write_all(piece)?;
        }
        Ok(())
    }

    /// Sends the state of a shard, and the descriptors that belong to it.
    ///
    /// # Errors
    /// If the other process is gone, or does not take them in time.
    pub fn send_shard(&mut self, state: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(Kind::Shard, &framed(state, descriptors.len())?)?;
        self.send_descriptors(descriptors)
    }

    pub(crate) fn send_listeners(
        &mut self,
        names: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send(Kind::Listeners, &framed(names, descriptors.len())?)?;
        self.send_descriptors(descriptors)
    }

    fn send_descriptors(&mut self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in descriptors.chunks(DESCRIPTORS_A_MESSAGE) {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let has_space = control.push(SendAncillaryMessage::ScmRights(some));
            debug_assert!(has_space, "for 253");
            let header = header(Kind::Descriptors, some.len() as u32);
            loop {
                self.arm()?;
                match sendmsg(
                    &self.stream,
                    &[IoSlice::new(&header)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                ) {
                    Ok(sent) if sent == header.len() => break,
                    Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                    // As many descriptors are under way as may be: the other process takes them.
                    Err(rustix::io::Errno::TOOMANYREFS | rustix::io::Errno::INTR) => {
                        std::thread::yield_now();
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The next message, descriptors aside, which are kept.
    pub(crate) fn receive(&mut self) -> io::Result<(Kind, Vec<u8>)> {
        let (kind, length) = self.receive_header()?;
        if length as usize > BYTES_MAX || kind == Kind::Descriptors {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Grows with what comes: a length alone takes no memory.
        let mut body = Vec::new();
        while body.len() < length as usize {
            self.arm()?;
            let at = body.len();
            body.resize((at + (1 << 20)).min(length as usize), 0);
            self.stream.read_exact(&mut body[at..])?;
        }
        Ok((kind, body))
    }

    fn receive_header(&mut self) -> io::Result<(Kind, u32)> {
        let mut header = [0; 8];
        let mut filled = 0;
        let mut got = 0;
        while filled < header.len() {
            self.arm()?;
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slice = &mut [IoSliceMut::new(&mut header[filled..])];
            match recvmsg(&self.stream, slice, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) if message.bytes == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(message) => filled += message.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    let before = self.descriptors.len();
                    self.descriptors.extend(descriptors);
                    got += self.descriptors.len() - before;
                }
            }
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let kind = Kind::ALL.into_iter().find(|&kind| kind as u32 == word(0));
        let kind = kind.ok_or(io::ErrorKind::InvalidData)?;
        // Fewer than were sent: this process may have no more of them.
        if got != if kind == Kind::Descriptors { word(4) as usize } else { 0 } {
            return Err(io::Error::other("the limit on open files is reached"));
        }
        Ok((kind, word(4)))
    }

    /// The descriptors that belong to a message of [`Channel::send_shard`], and its bytes.
    pub(crate) fn receive_descriptors(
        &mut self,
        mut body: Vec<u8>,
    ) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let at = body.len().checked_sub(4).ok_or(io::ErrorKind::InvalidData)?;
        let count = body.split_off(at);
        let count = u32::from_be_bytes([0, 1, 2, 3].map(|at: usize| count[at])) as usize;
        while self.descriptors.len() < count {
            if self.receive_header()?.0 != Kind::Descriptors {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        if self.descriptors.len() > count {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((body, self.descriptors.drain(..).collect()))
    }
}

fn framed(bytes: &[u8], descriptors: usize) -> io::Result<Vec<u8>> {
    let count = u32::try_from(descriptors).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok([bytes, &count.to_be_bytes()].concat())
}

fn header(kind: Kind, length: u32) -> [u8; 8] {
    let (kind, length) = ((kind as u32).to_be_bytes(), length.to_be_bytes());
    std::array::from_fn(|at| if at < 4 { kind[at] } else { length[at - 4] })
}
