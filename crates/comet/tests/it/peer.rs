//! A client that writes and reads raw bytes, so that it can send malformed input and check every byte of the replies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use comet_client::{AuthReply, Message, Transport, op};

use crate::support::{PATIENCE, Server};

/// The upgrade request of RFC 6455, section 1.2.
pub(crate) const UPGRADE: &str = "GET /sub HTTP/1.1\r\nHost: comet\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The required part of the reply to [`UPGRADE`] (RFC 6455, section 1.3).
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// First byte of a WebSocket frame: FIN and the opcode.
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;

/// A frame of the protocol.
pub(crate) fn frame(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let pack_len = u32::try_from(16 + body.len()).unwrap();
    frame_with(pack_len, 16, operation, sequence, body)
}

/// A frame with the given lengths in its header, which may be wrong.
pub(crate) fn frame_with(
    pack_len: u32,
    header_len: u16,
    operation: i32,
    sequence: i32,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = pack_len.to_be_bytes().to_vec();
    bytes.extend(header_len.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A WebSocket frame as a client sends it.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x00, 0xff, 0x13];
    let mut bytes = websocket_header(first, payload.len(), 0x80);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A WebSocket frame as only a server may send it.
pub(crate) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = websocket_header(first, payload.len(), 0);
    bytes.extend(payload);
    bytes
}

fn websocket_header(first: u8, len: usize, mask_bit: u8) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(len) {
        Ok(len @ 0..126) => bytes.push(mask_bit | u8::try_from(len).unwrap()),
        Ok(len) => {
            bytes.push(mask_bit | 126);
            bytes.extend(len.to_be_bytes());
        }
        Err(_) => {
            bytes.push(mask_bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes
}

/// The end of a connection by the server.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct CloseNotice {
    /// Body of the op 6.
    pub(crate) reason: String,
    /// Code and text of the close frame, over WebSocket.
    pub(crate) close: Option<(u16, String)>,
}

/// A client on a socket, or on a stream that replaces it.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) transport: Transport,
}

impl Peer {
    /// A connection without any data yet.
    pub(crate) fn connect(address: SocketAddr, transport: Transport) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), transport)
    }

    /// The same on `stream`.
    pub(crate) fn over(stream: TcpStream, transport: Transport) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, transport }
    }

    /// A connection that is ready for frames: over WebSocket it is upgraded.
    pub(crate) fn open(server: &Server, transport: Transport) -> Self {
        let mut peer = Self::connect(server.address(transport), transport);
        peer.upgrade();
        peer
    }

    /// An authenticated connection, in protocol 2.
    pub(crate) fn live(server: &Server, transport: Transport, token: &str) -> Self {
        let mut peer = Self::open(server, transport);
        peer.authenticate(token);
        peer
    }

    /// An authenticated connection, in protocol 1.
    pub(crate) fn live_1(server: &Server, transport: Transport, token: &str) -> Self {
        let mut peer = Self::open(server, transport);
        peer.authenticate_1(token);
        peer
    }
}

impl<S: Read + Write> Peer<S> {
    pub(crate) fn upgrade(&mut self) {
        if self.transport == Transport::WebSocket {
            self.write(UPGRADE.as_bytes());
            self.expect_upgraded();
        }
    }

    pub(crate) fn expect_upgraded(&mut self) {
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
    }

    pub(crate) fn authenticate(&mut self, token: &str) {
        self.send(op::AUTH, 1, token.as_bytes());
        assert_eq!(self.recv(), message(op::AUTH_REPLY, 1, b""));
    }

    /// Authenticates in protocol 1, so that all later bytes are as in goim.
    pub(crate) fn authenticate_1(&mut self, token: &str) {
        let bytes = self.wrap(&frame(op::AUTH, 1, token.as_bytes()));
        self.write(&bytes);
        assert_eq!(self.recv(), message(op::AUTH_REPLY, 1, b""));
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// `frame` in the framing of the transport.
    pub(crate) fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        match self.transport {
            Transport::Tcp => frame.to_vec(),
            Transport::WebSocket => masked(BINARY, frame),
        }
    }

    /// Sends a request. An operation 7 requests protocol 2.
    pub(crate) fn send(&mut self, operation: i32, sequence: i32, body: &[u8]) {
        let mut frame = frame(operation, sequence, body);
        if operation == op::AUTH {
            frame[7] = 2;
        }
        let bytes = self.wrap(&frame);
        self.write(&bytes);
    }

    /// Sends a request and reads its reply.
    pub(crate) fn ask(&mut self, operation: i32, sequence: i32, body: &[u8]) -> Message {
        self.send(operation, sequence, body);
        self.recv()
    }

    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// An HTTP head with its empty line.
    pub(crate) fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read(1));
        }
        String::from_utf8(head).unwrap()
    }

    /// First byte and payload of a WebSocket frame.
    pub(crate) fn read_websocket(&mut self) -> (u8, Vec<u8>) {
        let head = self.read(2);
        let len = match head[1] {
            126 => u16::from_be_bytes(self.read(2).try_into().unwrap()).into(),
            127 => u64::from_be_bytes(self.read(8).try_into().unwrap()),
            len => {
                assert!(len < 126, "a server does not mask");
                len.into()
            }
        };
        (head[0], self.read(usize::try_from(len).unwrap()))
    }

    /// The bytes of the next frame; over WebSocket it has to be one whole binary message.
    pub(crate) fn read_frame(&mut self) -> Vec<u8> {
        match self.transport {
            Transport::Tcp => {
                let mut bytes = self.read(4);
                let pack_len = u32::from_be_bytes(bytes[..].try_into().unwrap());
                bytes.extend(self.read(pack_len as usize - 4));
                bytes
            }
            Transport::WebSocket => {
                let (first, payload) = self.read_websocket();
                assert_eq!(first, BINARY, "{payload:?}");
                payload
            }
        }
    }

    /// The next frame in the form of protocol 1: an operation 8 without its body, and a push to a room without the room. Messages
    /// that name rooms are skipped.
    pub(crate) fn recv(&mut self) -> Message {
        let mut bytes = self.read_frame();
        if bytes[7] == 2 {
            let sequence = i32::from_be_bytes(bytes[12..16].try_into().unwrap());
            match i32::from(bytes[11]) {
                op::AUTH_REPLY => {
                    assert!(AuthReply::decode(&bytes[16..]).is_some(), "{bytes:x?}");
                    bytes = frame(op::AUTH_REPLY, sequence, b"");
                }
                op::JOIN_REPLY if sequence == 0 => return self.recv(),
                op::ROOM_PUSH => {
                    let operation = i32::from_be_bytes(bytes[20..24].try_into().unwrap());
                    bytes = frame(operation, sequence, &bytes[32..]);
                }
                _ => {}
            }
        }
        let number = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let (operation, sequence) = (number(8), number(12));
        assert_eq!(bytes, frame(operation, sequence, &bytes[16..]), "one well-formed frame");
        Message { operation, sequence, body: bytes[16..].to_vec(), room: None, position: None }
    }

    /// The number of members of the room, by a heartbeat.
    pub(crate) fn online(&mut self) -> i32 {
        let reply = self.ask(op::HEARTBEAT, 77, b"");
        assert_eq!((reply.operation, reply.sequence), (op::HEARTBEAT_REPLY, 77), "{reply:?}");
        i32::from_be_bytes(reply.body[..].try_into().unwrap())
    }

    /// Reads the close notice, and the end of the stream after it.
    pub(crate) fn close_notice(&mut self) -> CloseNotice {
        let last = self.recv();
        assert_eq!((last.operation, last.sequence), (op::DISCONNECT_REPLY, 0), "{last:?}");
        let close = (self.transport == Transport::WebSocket).then(|| self.read_close());
        self.expect_end();
        CloseNotice { reason: String::from_utf8(last.body).unwrap(), close }
    }

    /// The end of a connection that did not request protocol 2: over WebSocket the code and text of the close frame, over TCP
    /// nothing, and then the end of the stream.
    pub(crate) fn close_frame(&mut self) -> Option<(u16, String)> {
        let close = (self.transport == Transport::WebSocket).then(|| self.read_close());
        self.expect_end();
        close
    }

    /// Code and text of a close frame, which must be the next frame.
    pub(crate) fn read_close(&mut self) -> (u16, String) {
        let (first, payload) = self.read_websocket();
        assert_eq!(first, CLOSE);
        let (code, text) = payload.split_first_chunk().expect("a close frame has a code");
        (u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap())
    }

    /// Expects the end of the stream.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "{}", rest.escape_ascii());
    }
}

pub(crate) fn message(operation: i32, sequence: i32, body: &[u8]) -> Message {
    Message { operation, sequence, body: body.to_vec(), room: None, position: None }
}

/// The number of clients that get `paced`, each once, before the body `next`. Bodies that begin with `ready` are skipped.
pub(crate) fn receivers_before_next(clients: &mut [Peer], paced: &[u8]) -> u64 {
    let mut receivers = 0;
    for client in clients {
        let mut body = client.recv().body;
        while body.starts_with(b"ready") {
            body = client.recv().body;
        }
        if body == paced {
            receivers += 1;
            body = client.recv().body;
        }
        assert_eq!(body, b"next");
    }
    receivers
}
