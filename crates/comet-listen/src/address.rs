//! Where a server listens: an IP address with or without TLS, or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest path of a Unix socket, bytes: `sun_path` without its last zero (unix(7)).
pub const UNIX_PATH_MAX: usize = 107;

/// An address to listen on. It is written `127.0.0.1:8083`, `tls:127.0.0.1:8083` or
/// `unix:/run/comet/push.sock`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Plain(SocketAddr),
    /// TLS over TCP.
    Tls(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The IP address and port; `None` for a Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether other hosts may reach it.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.socket().is_some_and(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Whether both addresses are the same place, so that only one socket can listen there. Port 0 is a different free
    /// port each time.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(path), Self::Unix(other)) => path == other,
            _ => {
                self.socket() == other.socket()
                    && self.socket().is_some_and(|address| address.port() != 0)
            }
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Plain(address)
    }
}

/// Text that is not an address of a listener. Its `Display` is the rest of a sentence that begins with the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadAddress {
    /// Neither an IP address with a port nor one of the other forms.
    Form,
    /// The path of a Unix socket is relative or has a zero byte.
    Path,
    /// The path of a Unix socket has more than [`UNIX_PATH_MAX`] bytes.
    LongPath,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => {
                f.write_str("is not an address: use HOST:PORT, tls:HOST:PORT or unix:/PATH")
            }
            Self::Path => f.write_str("names no Unix socket: its path has to begin with /"),
            Self::LongPath => {
                write!(f, "is too long for a Unix socket: its path may have {UNIX_PATH_MAX} bytes")
            }
        }
    }
}

impl std::error::Error for BadAddress {}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(|path| Self::Unix(path.to_owned()));
        }
        match text.strip_prefix("tls:") {
            Some(address) => address.parse().map(Self::Tls),
            None => text.parse().map(Self::Plain),
        }
        .map_err(|_| BadAddress::Form)
    }
}

/// The path behind `unix:`.
///
/// # Errors
/// [`BadAddress::Path`] or [`BadAddress::LongPath`].
pub fn unix_path(path: &str) -> Result<&Path, BadAddress> {
    match path {
        _ if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
            Err(BadAddress::Path)
        }
        _ if path.len() > UNIX_PATH_MAX => Err(BadAddress::LongPath),
        _ => Ok(Path::new(path)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Written like the `Display`, as the addresses of std do.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text} {error}"))
    }

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["127.0.0.1:8083", "[::1]:1", "tls:0.0.0.0:8083", "tls:[::]:1", "unix:/a b/c"] {
            assert_eq!(read(text).to_string(), text);
        }
        let longest = format!("unix:/{}", "a".repeat(UNIX_PATH_MAX - 1));
        assert_eq!(read(&longest).to_string(), longest);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let check = |text: &str, error| assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        for text in ["", "8083", "tls:", "tls:8083", "tls:unix:/a", "TLS:127.0.0.1:1", "/a"] {
            check(text, BadAddress::Form);
        }
        for text in ["unix:", "unix:a", "unix:/", "unix:/a/", "unix:/a\0b", "unix:@a"] {
            check(text, BadAddress::Path);
        }
        check(&format!("unix:/{}", "a".repeat(UNIX_PATH_MAX)), BadAddress::LongPath);
    }

    #[test]
    fn only_addresses_beyond_loopback_are_exposed() {
        for text in ["127.0.0.1:1", "127.9.9.9:1", "tls:[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/a"]
        {
            assert!(!read(text).is_exposed(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "tls:192.0.2.1:1", "[2001:db8::1]:1"] {
            assert!(read(text).is_exposed(), "{text}");
        }
    }

    #[test]
    fn a_place_is_the_same_with_tls_and_without() {
        let check = |one: &str, other: &str, is_same| {
            assert_eq!(read(one).is_same_place(&read(other)), is_same, "{one} {other}");
        };
        check("127.0.0.1:1", "tls:127.0.0.1:1", true);
        check("127.0.0.1:0", "tls:127.0.0.1:0", false);
        check("127.0.0.1:1", "127.0.0.1:2", false);
        check("unix:/a", "unix:/a", true);
        check("unix:/a", "unix:/b", false);
        check("unix:/a", "127.0.0.1:0", false);
    }
}
