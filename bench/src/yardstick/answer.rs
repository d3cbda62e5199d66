//! The work of a yardstick for clients that send heartbeats, with io_uring: one multishot receive for each socket into
//! shared buffers, and one send for the result of a receive. Nothing else: no deadlines are kept.
#![allow(unsafe_code)] // The kernel writes and reads memory that only this module knows to be alive.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::admit::{masked_sequence, sequence};
use super::loops;
use crate::Result;
use crate::message::{HEADER_LEN, OP_HEARTBEAT_REPLY, append_header};

/// Buffers for what is received, a power of two, and the bytes of each.
const BUFFERS: u16 = 512;
const BUFFER_LEN: usize = 512;
const GROUP: u16 = 0;
const PAGE: usize = 4096;
/// Bytes before the frame in a WebSocket message of a client as short as a heartbeat: header and mask.
const MASKED_HEAD_LEN: usize = 2 + 4;
/// The body of a reply: the number of users online.
const ONLINE: [u8; 4] = 1_u32.to_be_bytes();
/// Marks the completion of a receive, whose lower half is the number of the socket. The completion of a send has the
/// reply's number.
const RECV: u64 = 1 << 32;

/// Answers heartbeats on `sockets` until the process is killed. Fails if the ring failed, or a client sent something
/// else.
pub(super) fn answer_all(sockets: Vec<TcpStream>) -> Result<()> {
    let mut answerer = Answerer::new(sockets)?;
    loop {
        answerer.turn()?;
    }
}

struct Answerer {
    // Closed before what the kernel uses is freed.
    ring: IoUring,
    buffers: Buffers,
    sockets: Vec<TcpStream>,
    completions: Vec<cqueue::Entry>,
    /// Replies that are listed in `free` are not being sent.
    replies: Vec<Vec<u8>>,
    free: Vec<usize>,
}

impl Answerer {
    fn new(sockets: Vec<TcpStream>) -> io::Result<Self> {
        let ring = loops::build_ring(sockets.len())?;
        let buffers = Buffers::new();
        // SAFETY: the entries live as long as the ring.
        unsafe {
            let address = buffers.entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0)?;
        }
        let (replies, free) = (Vec::new(), Vec::new());
        let mut this = Self { ring, buffers, sockets, completions: Vec::new(), replies, free };
        (0..this.sockets.len()).try_for_each(|socket| this.recv(socket))?;
        Ok(this)
    }

    fn turn(&mut self) -> Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for completion in completions.drain(..) {
            let index = usize::try_from(completion.user_data() & (RECV - 1)).expect("an index");
            if completion.user_data() & RECV == 0 {
                self.free.push(index);
                continue;
            }
            if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                let length = completion.result().unsigned_abs() as usize;
                let reply = self.free.pop().unwrap_or_else(|| {
                    self.replies.push(Vec::with_capacity(256));
                    self.replies.len() - 1
                });
                write_replies(self.buffers.filled(buffer, length), &mut self.replies[reply])?;
                self.buffers.offer(buffer);
                self.send(index, reply)?;
            }
            let has_left = completion.result() == 0 || completion.result() == -libc::ECONNRESET;
            if !cqueue::more(completion.flags()) && !has_left {
                self.recv(index)?;
            }
        }
        self.completions = completions;
        self.buffers.publish();
        Ok(())
    }

    fn recv(&mut self, socket: usize) -> io::Result<()> {
        let recv = opcode::RecvMulti::new(Fd(self.sockets[socket].as_raw_fd()), GROUP).build();
        self.push(&recv.user_data(RECV | socket as u64))
    }

    fn send(&mut self, socket: usize, reply: usize) -> io::Result<()> {
        let bytes = &self.replies[reply];
        let socket = Fd(self.sockets[socket].as_raw_fd());
        let send = opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32);
        self.push(&send.flags(libc::MSG_NOSIGNAL).build().user_data(reply as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: a receive writes to the buffers, which outlive the ring. A reply is not touched until its send has
        // completed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// Overwrites `replies` with one for each heartbeat in `received`. A heartbeat always arrives whole.
fn write_replies(received: &[u8], replies: &mut Vec<u8>) -> Result<()> {
    replies.clear();
    let is_masked = received.first() == Some(&0x82);
    let message_len = if is_masked { MASKED_HEAD_LEN + HEADER_LEN } else { HEADER_LEN };
    for message in received.chunks(message_len) {
        let sequence = if is_masked { masked_sequence(message) } else { sequence(message, [0; 4]) };
        if is_masked {
            replies.extend_from_slice(&[0x82, (HEADER_LEN + ONLINE.len()) as u8]);
        }
        let sequence = sequence.ok_or("a client's heartbeat is cut")?;
        append_header(OP_HEARTBEAT_REPLY, sequence, ONLINE.len(), replies);
        replies.extend_from_slice(&ONLINE);
    }
    Ok(())
}

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "only the kernel reads it")] [u8; PAGE]);

/// The provided buffers.
struct Buffers {
    /// `BUFFERS` entries; the tail is in the first of them (`io_uring_buf_ring`).
    entries: Box<[Page]>,
    memory: Box<[u8]>,
    tail: u16,
}

impl Buffers {
    fn new() -> Self {
        let pages = usize::from(BUFFERS) * size_of::<BufRingEntry>() / PAGE;
        let entries = vec![Page([0; PAGE]); pages].into();
        let memory = vec![0; usize::from(BUFFERS) * BUFFER_LEN].into();
        let mut buffers = Self { entries, memory, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.offer(buffer));
        buffers.publish();
        buffers
    }

    fn filled(&self, buffer: u16, length: usize) -> &[u8] {
        &self.memory[usize::from(buffer) * BUFFER_LEN..][..length]
    }

    fn offer(&mut self, buffer: u16) {
        let begin = usize::from(buffer) * BUFFER_LEN;
        let address = self.memory[begin..].as_mut_ptr() as u64;
        let index = usize::from(self.tail % BUFFERS);
        // SAFETY: the pages hold `BUFFERS` entries, and the kernel does not read this one before `publish`.
        let entry = unsafe { &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(address);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the first entry is alive and aligned; the kernel only reads the tail.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::OP_HEARTBEAT;

    #[test]
    fn each_heartbeat_has_a_reply_in_its_form() {
        let mut heartbeats = Vec::new();
        append_header(OP_HEARTBEAT, 7, 0, &mut heartbeats);
        append_header(OP_HEARTBEAT, 8, 0, &mut heartbeats);
        let mut replies = Vec::new();
        write_replies(&heartbeats, &mut replies).unwrap();
        assert_eq!(replies.len(), 2 * 20);
        assert_eq!((replies[11], replies[15], replies[35]), (3, 7, 8));
        let mask = [1, 2, 3, 4];
        let masked =
            heartbeats[..16].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let message: Vec<u8> = [0x82, 0x80 | 16].into_iter().chain(mask).chain(masked).collect();
        write_replies(&message, &mut replies).unwrap();
        assert_eq!((replies.len(), &replies[..2], replies[17]), (22, &[0x82, 20][..], 7));
        assert!(write_replies(&heartbeats[..20], &mut replies).is_err());
    }
}
