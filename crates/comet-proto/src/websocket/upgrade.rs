//! The HTTP request that upgrades a connection to WebSocket (RFC 6455 4.2), and the responses to
//! it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::Header;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::Uri;

use super::deflate::{self, DeflateOffer};

/// The version of RFC 6455, the only one supported.
const VERSION: &str = "13";
const VERSION_HEADER: &str = "Sec-WebSocket-Version";
const KEY_HEADER: &str = "Sec-WebSocket-Key";
const EXTENSIONS_HEADER: &str = "Sec-WebSocket-Extensions";
/// Most header lines of a request.
pub(crate) const HEADERS_MAX: usize = 124;

/// A valid upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The whole HTTP response, to be sent before anything else.
    pub response: Vec<u8>,
    /// Length of the request in bytes; WebSocket frames may follow.
    pub consumed: usize,
    /// The `Cookie` headers, for logic, joined with `; `. Bytes that are not UTF-8 are replaced.
    pub cookie: Option<Box<str>>,
    /// The `Origin` header: the origin of a browser's page. Bytes that are not UTF-8 are replaced.
    pub origin: Option<Box<str>>,
    /// The first acceptable offer of permessage-deflate. It is declined unless [`Upgrade::accept_deflate`] is called.
    pub deflate: Option<DeflateOffer>,
}

impl Upgrade {
    /// Accepts the offer of permessage-deflate, if there is one, in the response. Returns whether there is: then each
    /// side may compress its messages, independently of the other.
    pub fn accept_deflate(&mut self) -> bool {
        let Some(offer) = self.deflate else { return false };
        let blank_line = self.response.len() - b"\r\n".len();
        let line = format!("{}\r\n", offer.response());
        self.response.splice(blank_line..blank_line, line.into_bytes());
        true
    }
}

/// Why a request is not an upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeFault {
    /// Not `GET`.
    Method,
    /// Not the path of the WebSocket service.
    Path,
    /// `Sec-WebSocket-Version` is not 13.
    Version,
    /// This header is missing or has the wrong value.
    MissingHeader(&'static str),
    /// This header is repeated but may occur only once.
    RepeatedHeader(&'static str),
    /// The request has a body, which an upgrade must not have: its bytes would be read as frames.
    Body,
    /// The request's target does not fit into the allowed length of the head.
    TargetTooLong,
    /// The head of the request is longer than allowed, or has more than 124 headers.
    HeadTooLarge,
    /// Not an HTTP/1.1 request with lines that end in CRLF.
    Malformed,
}

impl UpgradeFault {
    /// The HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::MissingHeader(_) | Self::RepeatedHeader(_) | Self::Body | Self::Malformed => 400,
            Self::Path => 404,
            Self::Method => 405,
            Self::TargetTooLong => 414,
            Self::Version => 426,
            Self::HeadTooLarge => 431,
        }
    }

    /// The whole HTTP response, to be sent before closing. Its body is this fault as a sentence.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let (reason, extra) = match self {
            Self::MissingHeader(_) | Self::RepeatedHeader(_) | Self::Body | Self::Malformed => {
                ("Bad Request", "")
            }
            Self::Path => ("Not Found", ""),
            Self::Method => ("Method Not Allowed", "Allow: GET\r\n"),
            // RFC 9110 15.5.22 requires the Upgrade header, and 7.8 that Connection lists it.
            Self::Version => (
                "Upgrade Required",
                "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
            ),
            Self::TargetTooLong => ("URI Too Long", ""),
            Self::HeadTooLarge => ("Request Header Fields Too Large", ""),
        };
        let status = self.status();
        let body = format!("{self}\n");
        let length = body.len();
        format!(
            "HTTP/1.1 {status} {reason}\r\nConnection: close\r\n{extra}\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

impl fmt::Display for UpgradeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("Only GET can open a WebSocket."),
            Self::Path => f.write_str("There is no WebSocket at this path."),
            Self::Version => write!(f, "Sec-WebSocket-Version must be {VERSION}."),
            Self::MissingHeader(header) => write!(f, "The header {header} is missing or wrong."),
            Self::RepeatedHeader(header) => write!(f, "The header {header} stands more than once."),
            Self::Body => f.write_str("A request that opens a WebSocket has no body."),
            Self::TargetTooLong => f.write_str("The target of the request is too long."),
            Self::HeadTooLarge => f.write_str("The head of the request is too large."),
            Self::Malformed => {
                f.write_str("This is not an HTTP/1.1 request whose lines end in CRLF.")
            }
        }
    }
}

impl Error for UpgradeFault {}

/// Reads the request that opens a WebSocket at `path`, with or without a query string.
///
/// `Ok(None)`: more bytes are needed, until the head has `head_max` bytes. Before the head is complete only its first
/// line is parsed, and the rest is searched for the blank line at its end. Bytes that no request contains are refused
/// at once, because a peer that speaks another protocol may never send that line.
///
/// # Errors
///
/// The first of these that is wrong: the size, the form of the head, the method, the path, a header
/// that is repeated, the headers `Host`, `Connection`, `Upgrade` and `Sec-WebSocket-Key`, the
/// version.
pub fn upgrade(input: &[u8], path: &str, head_max: usize) -> Result<Option<Upgrade>, UpgradeFault> {
    let Some(head) = head(input, head_max)? else {
        return Ok(None);
    };
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(head, &mut headers).map_err(fault)?;
    // The head ends with a blank line. It parses as incomplete only if it also begins with one.
    let (httparse::Status::Complete(consumed), Some(method), Some(target), Some(minor)) =
        (parsed, request.method, request.path, request.version)
    else {
        return Err(UpgradeFault::Malformed);
    };
    if method != "GET" {
        return Err(UpgradeFault::Method);
    }
    if minor < 1 {
        return Err(UpgradeFault::Malformed);
    }
    if !targets(target, path)? {
        return Err(UpgradeFault::Path);
    }
    let fields = Fields::read(request.headers)?;
    for (is_there, header) in [
        (fields.host.is_some(), "Host"),
        (fields.lists_upgrade, "Connection"),
        (fields.lists_websocket, "Upgrade"),
    ] {
        if !is_there {
            return Err(UpgradeFault::MissingHeader(header));
        }
    }
    let Some(key) = fields.key.filter(|key| is_key(key)) else {
        return Err(UpgradeFault::MissingHeader(KEY_HEADER));
    };
    // The version is checked last: 426 is for a request that is otherwise an upgrade.
    match fields.version {
        None => return Err(UpgradeFault::MissingHeader(VERSION_HEADER)),
        Some(version) if version != VERSION.as_bytes() => return Err(UpgradeFault::Version),
        Some(_) => {}
    }
    let accept = derive_accept_key(key);
    let response = [SWITCHING, accept.as_bytes(), b"\r\n\r\n"].concat();
    let cookie = fields.cookie.as_deref().map(text);
    let origin = fields.origin.map(text);
    Ok(Some(Upgrade { response, consumed, cookie, origin, deflate: fields.deflate }))
}

/// The response to an upgrade, up to the accept key.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// The headers that matter. A list may be spread over several lines (RFC 9110 5.3), cookies as well
/// (RFC 9113 8.2.3). The others may stand once: a second one, which a proxy in front may have read
/// instead, is a fault.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    lists_upgrade: bool,
    lists_websocket: bool,
    key: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    cookie: Option<Cow<'a, [u8]>>,
    origin: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    deflate: Option<DeflateOffer>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[Header<'a>]) -> Result<Self, UpgradeFault> {
        let mut fields = Self::default();
        for &Header { name, value } in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            // Comparing the length first spares most headers every comparison.
            match name.len() {
                4 if is("Host") => once(&mut fields.host, value, "Host")?,
                6 if is("Origin") => once(&mut fields.origin, value, "Origin")?,
                6 if is("Cookie") => match &mut fields.cookie {
                    None => fields.cookie = Some(Cow::Borrowed(value)),
                    Some(cookie) => {
                        let cookie = cookie.to_mut();
                        cookie.extend_from_slice(b"; ");
                        cookie.extend_from_slice(value);
                    }
                },
                7 if is("Upgrade") => fields.lists_websocket |= lists(value, "websocket"),
                10 if is("Connection") => fields.lists_upgrade |= lists(value, "upgrade"),
                14 if is("Content-Length") => {
                    once(&mut fields.content_length, value, "Content-Length")?;
                }
                17 if is(KEY_HEADER) => once(&mut fields.key, value, KEY_HEADER)?,
                17 if is("Transfer-Encoding") => return Err(UpgradeFault::Body),
                21 if is(VERSION_HEADER) => once(&mut fields.version, value, VERSION_HEADER)?,
                24 if fields.deflate.is_none() && is(EXTENSIONS_HEADER) => {
                    fields.deflate = deflate::first_offer(value);
                }
                _ => {}
            }
        }
        match fields.content_length {
            None | Some(b"0") => Ok(fields),
            Some(_) => Err(UpgradeFault::Body),
        }
    }
}

pub(crate) fn once<'a>(
    field: &mut Option<&'a [u8]>,
    value: &'a [u8],
    header: &'static str,
) -> Result<(), UpgradeFault> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(UpgradeFault::RepeatedHeader(header)),
    }
}

/// Whether the request's target is `path`, with or without a query. In requests to a proxy the
/// target includes the host (RFC 9112 3.2.2).
fn targets(target: &str, path: &str) -> Result<bool, UpgradeFault> {
    match target.strip_prefix(path) {
        Some(rest) if rest.is_empty() || rest.starts_with('?') => Ok(true),
        _ => match target.parse::<Uri>() {
            Ok(uri) => Ok(uri.path() == path),
            Err(_) => Err(UpgradeFault::Malformed),
        },
    }
}

/// Whether a list header contains `wanted`, in either case.
fn lists(value: &[u8], wanted: &str) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Whether `key` is sixteen bytes in base64 (RFC 6455 4.2.1). The last four bits of the last digit
/// belong to no byte. They need not be 0: the example key of RFC 6455 4.1 has others.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, b"==")) = key.split_at_checked(22) else { return false };
    digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// The request up to the end of its blank line; `None` if it has not arrived.
///
/// A line ends with CRLF. A CR or LF by itself is refused, as RFC 9112 2.2 allows; so are other control characters.
pub(crate) fn head(input: &[u8], head_max: usize) -> Result<Option<&[u8]>, UpgradeFault> {
    let window = &input[..input.len().min(head_max)];
    let mut first_line = None;
    for at in control_characters(window) {
        match window[at] {
            b'\t' => {}
            b'\r' if window.get(at + 1).is_none_or(|next| *next == b'\n') => {}
            b'\n' if window[..at].ends_with(b"\r") => {
                let line = &window[..=at];
                if line.ends_with(b"\r\n\r\n") {
                    return Ok(Some(line));
                }
                // An empty line may be in front of it (RFC 9112 2.2).
                if line != b"\r\n" {
                    first_line.get_or_insert(line);
                }
            }
            _ => return Err(UpgradeFault::Malformed),
        }
    }
    let may_be_request = match first_line {
        Some(line) => httparse::Request::new(&mut []).parse(line).is_ok(),
        None => may_begin(input),
    };
    if !may_be_request {
        Err(UpgradeFault::Malformed)
    } else if input.len() < head_max {
        Ok(None)
    } else if first_line.is_none() && window.contains(&b' ') {
        Err(UpgradeFault::TargetTooLong)
    } else {
        Err(UpgradeFault::HeadTooLarge)
    }
}

/// The indices of the control characters, which are few. A chunk without any is passed over by a loop without branches,
/// so that a head may arrive byte by byte and be searched each time.
fn control_characters(bytes: &[u8]) -> impl Iterator<Item = usize> {
    const CHUNK: usize = 32;
    let is_control = |byte: u8| byte < b' ';
    let chunks = bytes.chunks(CHUNK).enumerate();
    chunks
        .filter(move |(_, chunk)| chunk.iter().fold(false, |any, byte| any | is_control(*byte)))
        .flat_map(move |(number, chunk)| {
            let found = chunk.iter().enumerate().filter(move |(_, byte)| is_control(**byte));
            found.map(move |(at, _)| number * CHUNK + at)
        })
}

/// Whether `input` may become a request: after empty lines (RFC 9112 2.2) it begins with a method, a token
/// (RFC 9110 5.6.2). The first byte of it tells other protocols apart.
fn may_begin(input: &[u8]) -> bool {
    let first = input.iter().find(|byte| !b"\r\n".contains(byte));
    first.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

pub(crate) fn text(value: &[u8]) -> Box<str> {
    String::from_utf8_lossy(value).into()
}

pub(crate) fn fault(error: httparse::Error) -> UpgradeFault {
    match error {
        httparse::Error::TooManyHeaders => UpgradeFault::HeadTooLarge,
        _ => UpgradeFault::Malformed,
    }
}
