//! Calls over HTTP/2 by hand (RFC 9113): announced, and not sent; and a head that never ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{PATIENCE, Server};

/// A connection with so many calls of PushMsg, of each the five bytes that announce a message of `length`.
pub(crate) fn calls_that_announce(address: SocketAddr, calls: u32, length: u32) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = preface();
    // Fields of the static table, and values without Huffman coding (RFC 7541).
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
    let announced = [&[0][..], &length.to_be_bytes()].concat();
    for stream in (1..).step_by(2).take(calls as usize) {
        bytes.extend(frame(1, 4, stream, &head));
        bytes.extend(frame(0, 0, stream, &announced));
    }
    stream.write_all(&bytes).unwrap();
    stream
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
