//! Messages and descriptors over the socket pair.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use zeroize::Zeroizing;

use crate::hang_detector::{HangDetector, LOOK};

/// Most descriptors of one message (`SCM_MAX_FD`).
pub const DESCRIPTORS_A_MESSAGE: usize = 253;

/// Most bytes of the state of one shard.
pub const STATE_BYTES_MAX: usize = 2 << 30;

/// Most bytes of one message: the state of a shard, and how many descriptors follow.
const BYTES_MAX: u32 = (STATE_BYTES_MAX + size_of::<u32>()) as u32;

/// The bytes of a message. They are wiped, because those of a shard include keys.
pub type Body = Zeroizing<Vec<u8>>;

/// The kinds of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// New to former: the formats that it reads.
    Greeting = 1,
    /// New to former: it cannot continue, and why.
    Refusal,
    /// Former to new: a description of the listeners; their descriptors follow.
    Listeners,
    /// Former to new: the state of a shard; the descriptors of its connections follow.
    Shard,
    /// Descriptors. The length is their number.
    Descriptors,
    /// Former to new: everything was sent.
    Complete,
    /// New to former: it is ready to continue.
    Ready,
    /// Former to new: continue.
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
    /// The time by which everything must be done.
    deadline: Instant,
    /// Watches the other process for hanging; `None` while nothing does.
    hang_detector: Option<HangDetector>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline, hang_detector: None, descriptors: VecDeque::new() }
    }

    /// From this call on the other process is given up when it hangs, not only at the deadline.
    pub(crate) fn watch(&mut self, process: u32) {
        self.hang_detector = Some(HangDetector::of(process));
    }

    /// Sets the time by which the following calls must be done.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Ends the input. Bytes already received can be read until `deadline`, without waiting.
    pub(crate) fn end_input(&mut self, deadline: Instant) {
        self.set_deadline(deadline);
        // This cannot fail for a stream of AF_UNIX; if it did, the deadline would bound the reads.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    fn arm(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let time = if self.hang_detector.is_some() { left.min(LOOK) } else { left };
        self.stream.set_read_timeout(Some(time))?;
        self.stream.set_write_timeout(Some(time))
    }

    /// Waits for at most [`LOOK`]. Returns whether [`Channel::receive`] would find the beginning of a message.
    ///
    /// # Errors
    /// Also if the other process hangs.
    pub(crate) fn wait(&mut self) -> io::Result<bool> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left.min(LOOK)).expect("a tenth of a second fits");
        match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&time)) {
            Ok(0) if self.hang_detector.as_mut().is_some_and(HangDetector::hangs) => {
                Err(io::ErrorKind::TimedOut.into())
            }
            Ok(0) => Ok(left.is_zero()),
            Ok(_) => Ok(true),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Repeats `attempt` until it succeeds, the deadline passes, or the other process hangs.
    fn retry_until_deadline<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.arm()?;
            match attempt(self) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A socket whose timeout passed fails with EAGAIN.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.hang_detector.as_mut().is_some_and(HangDetector::hangs) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                done => {
                    if let Some(hang_detector) = &mut self.hang_detector {
                        hang_detector.note_progress();
                    }
                    return done;
                }
            }
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.retry_until_deadline(|channel| channel.stream.write(bytes))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn read_exact(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let read = self.retry_until_deadline(|channel| channel.stream.read(bytes))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes = &mut bytes[read..];
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        self.send_parts(kind, [body, &[]])
    }

    /// Sends both parts as one message. They are not joined first: states contain keys, and no copy of them should be
    /// made.
    fn send_parts(&mut self, kind: Kind, parts: [&[u8]; 2]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).ok().filter(|&length| length <= BYTES_MAX);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        self.write_all(&header(kind, length))?;
        // Written in pieces, so that one deadline holds for all of them.
        let mut pieces = parts.iter().flat_map(|part| part.chunks(1 << 20));
        pieces.try_for_each(|piece| self.write_all(piece))
    }

    /// Sends a message and the descriptors that belong to it, preceded by their number.
    fn send_with(
        &mut self,
        kind: Kind,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let count = u32::try_from(descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.send_parts(kind, [body, &count.to_be_bytes()])?;
        self.send_descriptors(descriptors)
    }

    /// Sends the state of a shard, and the descriptors that belong to it.
    ///
    /// # Errors
    /// If the other process is gone, or does not take them in time.
    pub fn send_shard(&mut self, state: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(Kind::Shard, state, descriptors)
    }

    pub(crate) fn send_listeners(
        &mut self,
        names: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.send_with(Kind::Listeners, names, descriptors)
    }

    fn send_descriptors(&mut self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in descriptors.chunks(DESCRIPTORS_A_MESSAGE) {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let has_space = control.push(SendAncillaryMessage::ScmRights(some));
            debug_assert!(has_space, "for 253");
            let header = header(Kind::Descriptors, some.len() as u32);
            let slice = &[IoSlice::new(&header)];
            let sent = self.retry_until_deadline(|channel| {
                let since = Instant::now();
                loop {
                    match sendmsg(&channel.stream, slice, &mut control, SendFlags::NOSIGNAL) {
                        // The limit of descriptors in flight is reached; the other process will take some.
                        Err(Errno::TOOMANYREFS) if since.elapsed() < LOOK => {
                            std::thread::yield_now();
                        }
                        Err(Errno::TOOMANYREFS) => return Err(Errno::AGAIN.into()),
                        sent => return Ok(sent?),
                    }
                }
            })?;
            if sent != header.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// The next message that is not a descriptor message. Descriptors are kept aside.
    pub(crate) fn receive(&mut self) -> io::Result<(Kind, Body)> {
        let (kind, length) = self.receive_header()?;
        if length > BYTES_MAX || kind == Kind::Descriptors {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // The space is reserved first, so that growing leaves no copy behind. It becomes resident only as the bytes
        // arrive.
        let mut body = Body::default();
        body.try_reserve_exact(length as usize).map_err(|_| io::ErrorKind::OutOfMemory)?;
        while body.len() < length as usize {
            let at = body.len();
            body.resize((at + (1 << 20)).min(length as usize), 0);
            self.read_exact(&mut body[at..])?;
        }
        Ok((kind, body))
    }

    fn receive_header(&mut self) -> io::Result<(Kind, u32)> {
        let mut header = [0; 8];
        let mut filled = 0;
        let mut got = 0;
        while filled < header.len() {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slice = &mut [IoSliceMut::new(&mut header[filled..])];
            let read = self.retry_until_deadline(|channel| {
                let flags = RecvFlags::CMSG_CLOEXEC;
                Ok(recvmsg(&channel.stream, slice, &mut control, flags)?.bytes)
            })?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
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
        // Fewer descriptors arrived than were sent: this process may not open more.
        if got != if kind == Kind::Descriptors { word(4) as usize } else { 0 } {
            return Err(io::Error::other("the limit on open files is reached"));
        }
        Ok((kind, word(4)))
    }

    /// The descriptors that belong to a message of [`Channel::send_shard`], and its bytes.
    pub(crate) fn receive_descriptors(
        &mut self,
        mut body: Body,
    ) -> io::Result<(Body, Vec<OwnedFd>)> {
        let (_, count) = body.split_last_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let count = u32::from_be_bytes(*count) as usize;
        let length = body.len() - size_of::<u32>();
        body.truncate(length);
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

fn header(kind: Kind, length: u32) -> [u8; 8] {
    let (kind, length) = ((kind as u32).to_be_bytes(), length.to_be_bytes());
    std::array::from_fn(|at| if at < 4 { kind[at] } else { length[at - 4] })
}
