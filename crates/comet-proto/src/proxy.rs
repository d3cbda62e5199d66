//! The PROXY protocol, versions 1 and 2: how a load balancer passes on the address of a client
//! (haproxy's `doc/proxy-protocol.txt`).
//!
//! A header comes before everything else on a connection, also before TLS. Which peers may send one
//! is the caller's decision.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest version 1 header, in bytes, with its line end (section 2.1).
const TEXT_MAX: usize = 107;
const TEXT_START: &[u8] = b"PROXY ";
const TEXT_END: &[u8] = b"\r\n";

/// Bytes of a version 2 header before its addresses (section 2.2).
const BINARY_LEN: usize = 16;
const BINARY_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes of addresses and extensions in an accepted version 2 header. The longest addresses
/// have 216 bytes; the rest is for extensions, which are skipped.
const BINARY_REST_MAX: usize = 1024;

/// The longest accepted header, in bytes.
pub const HEADER_MAX: usize = BINARY_LEN + BINARY_REST_MAX;

/// A valid header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The client's address. `None`: the socket's own address holds, because the connection is the
    /// balancer's own (`LOCAL`), or because the address is unknown or not one of TCP.
    pub source: Option<SocketAddr>,
    /// Length of the header in bytes; the client's bytes follow.
    pub consumed: usize,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyFault {
    /// They begin as in neither version.
    Start,
    /// Version 1: no line end within 107 bytes.
    LineTooLong,
    /// Version 1: the line is malformed.
    Line,
    /// Version 2: another version in the 13th byte.
    Version {
        /// The number found.
        version: u8,
    },
    /// Version 2: neither `LOCAL` nor `PROXY`.
    Command {
        /// The number found.
        command: u8,
    },
    /// Version 2: an unspecified address family or transport.
    Family {
        /// The byte found.
        family: u8,
    },
    /// Version 2: fewer bytes than the addresses need, or more than are accepted.
    Length {
        /// The length found.
        length: u16,
    },
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("the connection does not begin with a PROXY header"),
            Self::LineTooLong => {
                write!(f, "the PROXY line has no end within {TEXT_MAX} bytes")
            }
            Self::Line => f.write_str("the PROXY line is malformed"),
            Self::Version { version } => write!(f, "PROXY version {version} in a binary header"),
            Self::Command { command } => write!(f, "PROXY command {command} is unknown"),
            Self::Family { family } => write!(f, "PROXY address family {family:#04x} is unknown"),
            Self::Length { length } => {
                write!(f, "a PROXY header of this family does not have {length} bytes")
            }
        }
    }
}

impl Error for ProxyFault {}

/// Reads the header at the start of `bytes`. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// As soon as no further bytes can make it a header.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, ProxyFault> {
    if may_begin_with(bytes, BINARY_START) {
        read_binary(bytes)
    } else if may_begin_with(bytes, TEXT_START) {
        read_text(bytes)
    } else {
        Err(ProxyFault::Start)
    }
}

/// Whether `bytes` begin with `start`, or `start` begins with `bytes`.
fn may_begin_with(bytes: &[u8], start: &[u8]) -> bool {
    let len = bytes.len().min(start.len());
    bytes[..len] == start[..len]
}

fn read_text(bytes: &[u8]) -> Result<Option<Header>, ProxyFault> {
    let window = &bytes[..bytes.len().min(TEXT_MAX)];
    let Some(end) = window.windows(TEXT_END.len()).position(|pair| pair == TEXT_END) else {
        return if window.len() == TEXT_MAX { Err(ProxyFault::LineTooLong) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| ProxyFault::Line)?;
    let consumed = end + TEXT_END.len();
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // The rest of the line is to be ignored (section 2.1).
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(text_source::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(text_source::<Ipv6Addr>(words)?),
        _ => return Err(ProxyFault::Line),
    };
    Ok(Some(Header { source, consumed }))
}

/// The source address from the fields after the protocol: source, destination, and their ports. No
/// other fields may follow.
fn text_source<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, ProxyFault> {
    let mut next = || words.next().ok_or(ProxyFault::Line);
    let [source, destination] = [next()?, next()?].map(|word| word.parse::<A>().ok());
    let [source_port, destination_port] = [next()?, next()?].map(text_port);
    match (source, destination, source_port, destination_port, words.next()) {
        (Some(address), Some(_), Some(port), Some(_), None) => {
            Ok(SocketAddr::new(address.into(), port))
        }
        _ => Err(ProxyFault::Line),
    }
}

/// A decimal number without a sign and without leading zeros.
fn text_port(word: &str) -> Option<u16> {
    let is_canonical =
        word == "0" || word.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    word.parse().ok().filter(|_| is_canonical)
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, ProxyFault> {
    let Some(head) = bytes.first_chunk::<BINARY_LEN>() else {
        return Ok(None);
    };
    let (version, command) = (head[12] >> 4, head[12] & 0xf);
    if version != 2 {
        return Err(ProxyFault::Version { version });
    }
    if command > 1 {
        return Err(ProxyFault::Command { command });
    }
    let family = head[13];
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(ProxyFault::Family { family });
    }
    let length = u16::from_be_bytes([head[14], head[15]]);
    // Connections here are TCP. An address of another kind cannot be that of their client.
    let address_len = match (command, family) {
        (1, 0x11) => 12,
        (1, 0x21) => 36,
        _ => 0,
    };
    if !(address_len..=BINARY_REST_MAX).contains(&usize::from(length)) {
        return Err(ProxyFault::Length { length });
    }
    let consumed = BINARY_LEN + usize::from(length);
    let Some(rest) = bytes.get(BINARY_LEN..consumed) else {
        return Ok(None);
    };
    let source = match address_len {
        12 => Some(binary_source::<4>(rest)),
        36 => Some(binary_source::<16>(rest)),
        _ => None,
    };
    Ok(Some(Header { source, consumed }))
}

/// `N` bytes of source, `N` of destination, then the ports.
fn binary_source<const N: usize>(rest: &[u8]) -> SocketAddr
where
    IpAddr: From<[u8; N]>,
{
    let address: [u8; N] = *rest.first_chunk().expect("the length was checked");
    let port = u16::from_be_bytes([rest[2 * N], rest[2 * N + 1]]);
    SocketAddr::new(address.into(), port)
}
