//! The PROXY protocol, versions 1 and 2: how a load balancer says whose connection it passes on
//! (haproxy's `doc/proxy-protocol.txt`).
//!
//! Who may say it is not decided here. A header comes before everything else on a connection, TLS too.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest version 1 header, its line end included (section 2.1).
const TEXT_MAX: usize = 107;
const TEXT_START: &[u8] = b"PROXY ";
const TEXT_END: &[u8] = b"\r\n";

/// Bytes of a version 2 header before its addresses (section 2.2).
const BINARY_LEN: usize = 16;
const BINARY_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and extensions of a version 2 header taken at most. The longest addresses have 216 bytes;
/// the rest is room for extensions, which are read over.
const BINARY_REST_MAX: usize = 1024;

/// No header is longer than this.
pub const HEADER_MAX: usize = BINARY_LEN + BINARY_REST_MAX;

/// A header that was understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose connection it is; `None` where the header leaves it at the socket's own address: the
    /// balancer speaks for itself (`LOCAL`), or does not know or not say in terms of TCP.
    pub source: Option<SocketAddr>,
    /// Bytes of the header; the client's own follow.
    pub consumed: usize,
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// They begin like neither version.
    Start,
    /// Version 1: no line end within 107 bytes.
    LineTooLong,
    /// Version 1: the line does not say what it must.
    Line,
    /// Version 2: another version in the 13th byte.
    Version {
        /// The one found.
        version: u8,
    },
    /// Version 2: neither `LOCAL` nor `PROXY`.
    Command {
        /// The one found.
        command: u8,
    },
    /// Version 2: an address family or transport nobody specified.
    Family {
        /// The byte found.
        family: u8,
    },
    /// Version 2: fewer bytes than the addresses need, or more than are taken.
    Length {
        /// The length found.
        length: u16,
    },
}

impl fmt::Display for Fault {
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

impl Error for Fault {}

/// Reads the header at the start of `bytes`. `None`: more bytes are needed.
///
/// # Errors
/// As soon as the bytes cannot become a header.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    if begins_like(bytes, BINARY_START) {
        read_binary(bytes)
    } else if begins_like(bytes, TEXT_START) {
        read_text(bytes)
    } else {
        Err(Fault::Start)
    }
}

/// `bytes` begin with `start`, or are the start of it.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    let len = bytes.len().min(start.len());
    bytes[..len] == start[..len]
}

fn read_text(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let window = &bytes[..bytes.len().min(TEXT_MAX)];
    let Some(end) = window.windows(TEXT_END.len()).position(|pair| pair == TEXT_END) else {
        return if window.len() == TEXT_MAX { Err(Fault::LineTooLong) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| Fault::Line)?;
    let consumed = end + TEXT_END.len();
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(text_source::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(text_source::<Ipv6Addr>(words)?),
        _ => return Err(Fault::Line),
    };
    Ok(Some(Header { source, consumed }))
}

/// Source and destination, and their ports; exactly these, one space apart.
fn text_source<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, Fault> {
    let mut next = || words.next().ok_or(Fault::Line);
    let [source, destination] = [next()?, next()?].map(|word| word.parse::<A>().ok());
    let [source_port, destination_port] = [next()?, next()?].map(text_port);
    match (source, destination, source_port, destination_port, words.next()) {
        (Some(address), Some(_), Some(port), Some(_), None) => {
            Ok(SocketAddr::new(address.into(), port))
        }
        _ => Err(Fault::Line),
    }
}

/// A decimal number without a sign and without leading zeros.
fn text_port(word: &str) -> Option<u16> {
    let is_canonical =
        word == "0" || word.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    word.parse().ok().filter(|_| is_canonical)
}

fn read_binary(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let Some(head) = bytes.first_chunk::<BINARY_LEN>() else {
        return Ok(None);
    };
    let (version, command) = (head[12] >> 4, head[12] & 0xf);
    if version != 2 {
        return Err(Fault::Version { version });
    }
    if command > 1 {
        return Err(Fault::Command { command });
    }
    let family = head[13];
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Fault::Family { family });
    }
    let length = u16::from_be_bytes([head[14], head[15]]);
    // Only stream connections over IP come here; an address of another kind is no peer of theirs.
    let address_len = match (command, family) {
        (1, 0x11) => 12,
        (1, 0x21) => 36,
        _ => 0,
    };
    if !(address_len..=BINARY_REST_MAX).contains(&usize::from(length)) {
        return Err(Fault::Length { length });
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
