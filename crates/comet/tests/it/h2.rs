//! Calls over HTTP/2 by hand (RFC 9113): announced, and not sent.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

/// A connection with so many calls of PushMsg, of each the five bytes that announce a message of `length`.
pub(crate) fn calls_that_announce(address: SocketAddr, calls: u32, length: u32) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
