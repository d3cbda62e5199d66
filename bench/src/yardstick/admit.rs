//! The accept phase of a yardstick, with io_uring: for a TCP client one accept, one receive and one send, for a
//! WebSocket client one more receive and send. It is the same exchange as with the server, and nothing else: the token
//! is not checked, nothing is registered, and no further input is read.
#![allow(unsafe_code)] // The kernel writes and reads the buffers that only this module knows to be alive.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use tungstenite::handshake::derive_accept_key;

use super::loops;
use crate::Result;
use crate::message::{HEADER_LEN, OP_AUTH_REPLY, append_header};

/// A client's request for a WebSocket, or its token, arrives whole and within this many bytes.
const REQUEST_MAX: usize = 4096;
/// The user data for completions of the accept; other completions have a handshake's number.
const ACCEPT: u64 = u64::MAX;

/// Accepts `connections` clients and answers their requests. Fails if the ring failed, or a client does not speak the
/// protocol.
pub(super) fn accept_all(listener: &TcpListener, connections: usize) -> Result<Vec<TcpStream>> {
    let mut acceptor = Acceptor::new(listener, connections)?;
    while acceptor.admitted < connections {
        acceptor.turn(listener)?;
    }
    // The ring would still accept a client beyond the last, so it is closed first.
    let Acceptor { ring, sockets, .. } = acceptor;
    drop(ring);
    Ok(sockets)
}

struct Acceptor {
    ring: IoUring,
    completions: Vec<cqueue::Entry>,
    sockets: Vec<TcpStream>,
    /// Boxed, since a pending operation holds the address of its buffer. Once its client is admitted, an entry is
    /// reused for the next one.
    #[allow(clippy::vec_box)]
    handshakes: Vec<Box<Handshake>>,
    free: Vec<usize>,
    admitted: usize,
}

/// A client whose handshake is under way. At most one of its operations is pending.
struct Handshake {
    socket: RawFd,
    /// Whether the reply is being sent; otherwise a request is awaited: for a WebSocket, or with a token.
    is_sending: bool,
    /// Whether the reply makes it a WebSocket, on which the token will follow.
    upgrades: bool,
    request: [u8; REQUEST_MAX],
    reply: Vec<u8>,
}

impl Acceptor {
    fn new(listener: &TcpListener, connections: usize) -> io::Result<Self> {
        let mut acceptor = Self {
            ring: loops::build_ring(connections)?,
            completions: Vec::new(),
            sockets: Vec::with_capacity(connections),
            handshakes: Vec::new(),
            free: Vec::new(),
            admitted: 0,
        };
        acceptor.accept(listener)?;
        Ok(acceptor)
    }

    fn turn(&mut self, listener: &TcpListener) -> Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for completion in completions.drain(..) {
            let result = completion.result();
            if result < 0 {
                return Err(io::Error::from_raw_os_error(-result).into());
            }
            if completion.user_data() == ACCEPT {
                self.arrive(result)?;
                if !cqueue::more(completion.flags()) {
                    self.accept(listener)?;
                }
                continue;
            }
            let index = usize::try_from(completion.user_data()).expect("it was an index");
            let handshake = &mut self.handshakes[index];
            if !handshake.is_sending {
                handshake.answer(result.unsigned_abs() as usize)?;
                self.send(index)?;
            } else if handshake.upgrades {
                self.recv(index)?;
            } else {
                self.free.push(index);
                self.admitted += 1;
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn arrive(&mut self, socket: RawFd) -> io::Result<()> {
        // SAFETY: the descriptor is new and nobody else knows it.
        self.sockets.push(unsafe { TcpStream::from_raw_fd(socket) });
        let handshake = self.free.pop().unwrap_or_else(|| {
            self.handshakes.push(Box::new(Handshake::new()));
            self.handshakes.len() - 1
        });
        self.handshakes[handshake].socket = socket;
        self.recv(handshake)
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build();
        self.push(&accept.user_data(ACCEPT))
    }

    fn recv(&mut self, index: usize) -> io::Result<()> {
        let handshake = &mut self.handshakes[index];
        handshake.is_sending = false;
        let (address, length) = (handshake.request.as_mut_ptr(), handshake.request.len() as u32);
        let recv = opcode::Recv::new(Fd(handshake.socket), address, length).build();
        self.push(&recv.user_data(index as u64))
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let handshake = &mut self.handshakes[index];
        handshake.is_sending = true;
        let (address, length) = (handshake.reply.as_ptr(), handshake.reply.len() as u32);
        let send = opcode::Send::new(Fd(handshake.socket), address, length);
        let send = send.flags(libc::MSG_NOSIGNAL).build();
        self.push(&send.user_data(index as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: an accept uses no memory. The buffers of a handshake do not move and are not touched until its one
        // operation has completed; the ring is closed before they are freed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

impl Handshake {
    fn new() -> Self {
        Self {
            socket: -1,
            is_sending: false,
            upgrades: false,
            request: [0; REQUEST_MAX],
            reply: Vec::with_capacity(256),
        }
    }

    /// Writes the reply to the first `length` bytes of the request.
    fn answer(&mut self, length: usize) -> Result<()> {
        let request = &self.request[..length];
        self.reply.clear();
        let masked = std::mem::take(&mut self.upgrades);
        if request.starts_with(b"GET ") {
            self.upgrades = true;
            let key = websocket_key(request).ok_or("a client's request has no key")?;
            self.reply.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            self.reply.extend_from_slice(derive_accept_key(key).as_bytes());
            self.reply.extend_from_slice(b"\r\n\r\n");
            return Ok(());
        }
        let sequence = if masked {
            self.reply.extend_from_slice(&[0x82, HEADER_LEN as u8]);
            masked_sequence(request)
        } else {
            sequence(request, [0; 4])
        };
        let sequence = sequence.ok_or("a client's frame is cut")?;
        append_header(OP_AUTH_REPLY, sequence, 0, &mut self.reply);
        Ok(())
    }
}

/// The sequence number in a frame's header, after removing the mask.
pub(super) fn sequence(frame: &[u8], mask: [u8; 4]) -> Option<u32> {
    let field = frame.get(HEADER_LEN - 4..HEADER_LEN)?;
    let field = <[u8; 4]>::try_from(field).expect("four bytes were taken");
    Some(u32::from_be_bytes(field) ^ u32::from_be_bytes(mask))
}

/// The same for the frame in a client's WebSocket message (RFC 6455 5.2). The header's length is a multiple of the
/// mask's.
pub(super) fn masked_sequence(message: &[u8]) -> Option<u32> {
    let mask_at = match message.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (mask, frame) = message.get(mask_at..)?.split_first_chunk()?;
    sequence(frame, *mask)
}

fn websocket_key(request: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"sec-websocket-key:";
    let line = request
        .split(|&byte| byte == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    Some(line[NAME.len()..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_frame_are_an_error() {
        assert_eq!(sequence(&[0; 15], [0; 4]), None);
        assert_eq!(masked_sequence(&[0x82, 0xfe, 0, 90, 1, 2, 3, 4, 0, 0]), None);
        assert_eq!(websocket_key(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), None);
    }
}
