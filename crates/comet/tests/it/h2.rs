//! Calls over HTTP/2 by hand (RFC 9113): announced and not sent, or sent in two parts; and a head that never ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{PATIENCE, Server};

/// A connection with so many calls of PushMsg, of each the five bytes that announce a message of `length`.
pub(crate) fn calls_that_announce(address: SocketAddr, calls: u32, length: u32) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = preface();
    let head = head();
    let announced = [&[0][..], &length.to_be_bytes()].concat();
    for stream in (1..).step_by(2).take(calls as usize) {
        bytes.extend(frame(1, 4, stream, &head));
        bytes.extend(frame(0, 0, stream, &announced));
    }
    stream.write_all(&bytes).unwrap();
    stream
}

/// A connection with the first part of a call of PushMsg, and the bytes of the rest.
pub(crate) fn half_a_push(address: SocketAddr) -> (TcpStream, Vec<u8>) {
    // Key "a", operation 5, and a frame with this operation (protocol buffers), behind the prefix of gRPC.
    let push = [&[0, 0, 0, 0, 9][..], b"\x0a\x01a\x18\x05\x12\x02\x10\x05"].concat();
    let (begin, rest) = push.split_at(8);
    let mut stream = TcpStream::connect(address).unwrap();
    let bytes = [preface(), frame(1, 4, 1, &head()), frame(0, 0, 1, begin)].concat();
    stream.write_all(&bytes).unwrap();
    (stream, frame(0, 1, 1, rest))
}

/// Waits for the reply to the call: a refusal has none, only trailers.
pub(crate) fn reply(stream: &mut TcpStream) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("a frame of the reply");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).unwrap();
        let is_end = head[3] == 1 && head[4] & 1 == 1;
        assert!(!is_end, "the call is refused");
        if head[3] == 0 && length > 0 {
            return;
        }
    }
}

/// The fields of PushMsg, of the static table or as values without Huffman coding (RFC 7541).
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], "/goim.comet.Comet/PushMsg"),
        (&[0x01], "test"),
        (&[0x0f, 0x10], "application/grpc"),
    ] {
        head.extend(name);
        head.push(value.len() as u8);
        head.extend(value.bytes());
    }
    head
}

fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// HEADERS and many CONTINUATION frames, each with a field and without END_HEADERS.
#[test]
fn a_head_without_an_end_ends_its_connection_and_is_counted() {
    let server = Server::start(&[]);
    let address = server.app().grpc_addrs()[0].socket().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = preface();
    bytes.extend(frame(1, 0, 1, &[0x83]));
    for _ in 0..64 {
        bytes.extend(frame(9, 0, 1, b"\x00\x01a\x01b"));
    }
    stream.write_all(&bytes).unwrap();
    // The server may have closed its side before it read all of that.
    let _ = stream.read_to_end(&mut Vec::new());
    server.until("comet_api_closed_total{listener=\"push.grpc\",reason=\"http2_limit\"}", 1);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
