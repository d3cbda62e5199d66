//! Origins of pages (RFC 6454), and the patterns that say which of them may connect.
//!
//! Both sides are compared in one form: lower case, without the port that the scheme implies, IPv6
//! addresses shortened. Browsers send this form; a proxy or another client may not.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest pattern, bytes.
const PATTERN_MAX: usize = 255;

/// The value of an `Origin` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `null`: a page without an origin, such as a local file or a sandboxed frame.
    Null,
    /// A page with a scheme, a host and a port.
    Page {
        /// In lower case, like `https`.
        scheme: String,
        /// In lower case, IPv6 in brackets. Empty only for `file`.
        host: String,
        /// `None`: the port that the scheme implies, or none.
        port: Option<u16>,
    },
}

impl Origin {
    /// Reads the value of an `Origin` header; `None` if it is not an origin.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, host, port) = split(text)?;
        let scheme = read_scheme(scheme)?;
        let host = read_host(host, &scheme)?;
        let port = port.map(str::parse).transpose().ok()?;
        let port = port.filter(|port| default_port(&scheme) != Some(*port));
        Some(Self::Page { scheme, host, port })
    }
}

/// Which origins may connect: one of them, `null`, or all that a `*` stands for.
///
/// | pattern | origins |
/// |---|---|
/// | `https://a.example` | this one |
/// | `https://*.example` | every host below `example`, at any depth, but not `example` |
/// | `http://localhost:*` | every port of this host |
/// | `https://*` | every host |
/// | `null` | pages without an origin |
/// | `*` | every origin, `null` among them |
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginPattern(Pattern);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    Any,
    Null,
    Page { scheme: String, host: HostPattern, port: PortPattern },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum HostPattern {
    Any,
    /// Every host that ends with this, which begins with a dot.
    Below(String),
    One(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PortPattern {
    Any,
    /// As in [`Origin::Page`].
    One(Option<u16>),
}

/// Why a text is not a pattern: a sentence that says what to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadOriginPattern(&'static str);

impl fmt::Display for BadOriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for BadOriginPattern {}

impl OriginPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// The text is not a pattern, or no browser sends an origin that matches it.
    pub fn parse(text: &str) -> Result<Self, BadOriginPattern> {
        const FORM: BadOriginPattern =
            BadOriginPattern("write SCHEME://HOST or SCHEME://HOST:PORT, \"null\" or \"*\"");
        match text {
            "*" => return Ok(Self(Pattern::Any)),
            "null" => return Ok(Self(Pattern::Null)),
            _ if text.len() > PATTERN_MAX => return Err(FORM),
            _ => {}
        }
        let (scheme, host, port) = split(text).ok_or(FORM)?;
        let scheme = read_scheme(scheme).ok_or(FORM)?;
        if matches!(&*scheme, "ws" | "wss") {
            return Err(BadOriginPattern(
                "browsers send the scheme of the page: write http:// or https://",
            ));
        }
        if !host.is_ascii() {
            return Err(BadOriginPattern(
                "browsers send the host in ASCII: write its labels as xn--...",
            ));
        }
        let host = match host.strip_prefix('*') {
            Some("") => HostPattern::Any,
            Some(below) => {
                let name = below.strip_prefix('.').filter(|name| !name.contains('*')).ok_or(
                    BadOriginPattern("* stands for whole labels at the left: write *.HOST"),
                )?;
                let name = read_host(name, &scheme).ok_or(FORM)?;
                HostPattern::Below(format!(".{name}"))
            }
            None if host.contains('*') => {
                return Err(BadOriginPattern(
                    "* stands for whole labels at the left: write *.HOST",
                ));
            }
            None => HostPattern::One(read_host(host, &scheme).ok_or(FORM)?),
        };
        let port = match port {
            Some("*") => PortPattern::Any,
            Some(port) => {
                let port = port.parse().map_err(|_| FORM)?;
                PortPattern::One(Some(port).filter(|port| default_port(&scheme) != Some(*port)))
            }
            None => PortPattern::One(None),
        };
        Ok(Self(Pattern::Page { scheme, host, port }))
    }

    /// Whether a page of `origin` may connect.
    #[must_use]
    pub fn matches(&self, origin: &Origin) -> bool {
        match (&self.0, origin) {
            (Pattern::Any, _) | (Pattern::Null, Origin::Null) => true,
            (Pattern::Page { scheme, host, port }, Origin::Page { .. }) => {
                origin.is_in(scheme, host, *port)
            }
            (Pattern::Null, Origin::Page { .. }) | (Pattern::Page { .. }, Origin::Null) => false,
        }
    }
}

impl Origin {
    fn is_in(&self, of_scheme: &str, of_host: &HostPattern, of_port: PortPattern) -> bool {
        let Self::Page { scheme, host, port } = self else { return false };
        let is_host = match of_host {
            HostPattern::Any => true,
            HostPattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            HostPattern::One(one) => host == one,
        };
        let is_port = match of_port {
            PortPattern::Any => true,
            PortPattern::One(one) => *port == one,
        };
        scheme == of_scheme && is_host && is_port
    }
}

impl fmt::Display for OriginPattern {
    /// The pattern in the form of comparison. It reads back as the same pattern.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pattern::Page { scheme, host, port } = &self.0 else {
            return f.write_str(if self.0 == Pattern::Any { "*" } else { "null" });
        };
        write!(f, "{scheme}://")?;
        match host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Below(suffix) => write!(f, "*{suffix}")?,
            HostPattern::One(host) => f.write_str(host)?,
        }
        match port {
            PortPattern::Any => f.write_str(":*"),
            PortPattern::One(Some(port)) => write!(f, ":{port}"),
            PortPattern::One(None) => Ok(()),
        }
    }
}

/// Scheme, host and port as they stand in `text`.
fn split(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let (scheme, authority) = text.split_once("://")?;
    let host_end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((scheme, host, None)),
        // `str::parse` would take a sign.
        Some(port) if !port.is_empty() && !port.starts_with('+') => {
            Some((scheme, host, Some(port)))
        }
        _ => None,
    }
}

/// The scheme in lower case (RFC 3986 3.1).
fn read_scheme(text: &str) -> Option<String> {
    let is_rest = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let is_scheme = text.starts_with(|first: char| first.is_ascii_alphabetic());
    (is_scheme && text.bytes().all(is_rest)).then(|| text.to_ascii_lowercase())
}

/// The host as browsers write it: an IPv6 address in brackets, an IPv4 address of four numbers, or a
/// name in lower case. Old Android sends `file://` for local files, which has no host.
fn read_host(text: &str, scheme: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    if text.is_empty() {
        return (scheme == "file").then(String::new);
    }
    let is_host = |b: u8| b.is_ascii_graphic() && !b"\"#%*,/:<>?@[\\]^`{|}".contains(&b);
    let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next()?;
    // A name whose last label is a number is an IPv4 address to browsers.
    let is_number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let is_name = !text.starts_with('.') && !text.contains("..");
    let is_good = text.bytes().all(is_host)
        && if is_number { text.parse::<Ipv4Addr>().is_ok() } else { is_name };
    is_good.then(|| text.to_ascii_lowercase())
}

/// The port that a page of `scheme` has if its origin names none.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
