//! HTTP/2 by hand (RFC 9113), for behaviour of callers that no library allows.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use std::net::SocketAddr;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a gRPC call of `path`; fields of the static table, values without Huffman coding (RFC 7541).
pub(crate) fn head(stream: u32, path: &str) -> Vec<u8> {
    head_with(stream, path, None)
}

/// The same with an `Authorization`.
pub(crate) fn head_with(stream: u32, path: &str, authorization: Option<&str>) -> Vec<u8> {
    // :method POST, :scheme http, :path, :authority, content-type, te.
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(&[0x04][..], path), (&[0x01], "test"), (&[0x0f, 0x10], "application/grpc")]
    {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    block.extend(b"\x00\x02te\x08trailers");
    if let Some(authorization) = authorization {
        // Never indexed, name 23 of the static table.
        block.extend([0x1f, 0x08, authorization.len() as u8]);
        block.extend(authorization.bytes());
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Bytes of a message, and whether the call ends with them.
pub(crate) fn data(stream: u32, bytes: &[u8], is_end: bool) -> Vec<u8> {
    frame(DATA, if is_end { END_STREAM } else { 0 }, stream, bytes)
}

/// A message with its prefix (gRPC over HTTP/2, `Length-Prefixed-Message`).
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut whole = vec![0];
    whole.extend((bytes.len() as u32).to_be_bytes());
    whole.extend(bytes);
    whole
}

/// CANCEL.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A connection whose preface is sent.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Self(stream)
    }

    pub(crate) async fn send(&mut self, frames: &[u8]) {
        self.0.write_all(frames).await.unwrap();
    }

    /// Kind, stream and payload of the next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await.ok()?;
        let [l0, l1, l2, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        if kind == SETTINGS && flags == 0 {
            // Acknowledged.
            self.send(&frame(SETTINGS, 1, 0, &[])).await;
        }
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The head of the answer on `stream`; panics if the connection is told to go away before.
    pub(crate) async fn answer(&mut self, stream: u32) -> Vec<u8> {
        loop {
            match self.next().await.expect("an answer before the end") {
                (GOAWAY, _, payload) => panic!("{}", String::from_utf8_lossy(&payload[8..])),
                (HEADERS, of, payload) if of == stream => return payload,
                _ => {}
            }
        }
    }
}
