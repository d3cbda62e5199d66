//! The HTTP request that upgrades a connection to WebSocket (RFC 6455 4.2), and the responses to
//! it.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::Header;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::Uri;

/// The version of RFC 6455, the only one supported.
const VERSION: &str = "13";
const VERSION_HEADER: &str = "Sec-WebSocket-Version";
/// Most header lines of a request.
const HEADERS_MAX: usize = 124;

/// A valid upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The whole HTTP response, to be sent before anything else.
    pub response: Vec<u8>,
    /// Length of the request in bytes; WebSocket frames may follow.
    pub consumed: usize,
    /// The `Cookie` header, for logic. Bytes that are not UTF-8 are replaced.
    pub cookie: Option<Box<str>>,
    /// The `Origin` header: the origin of a browser's page. Bytes that are not UTF-8 are replaced.
    pub origin: Option<Box<str>>,
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
    /// The head of the request is longer than allowed, or has more than 124 headers.
    HeadTooLarge,
    /// Not an HTTP/1.1 request.
    Malformed,
}

impl UpgradeFault {
    /// The HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::MissingHeader(_) | Self::Malformed => 400,
            Self::Path => 404,
            Self::Method => 405,
            Self::Version => 426,
            Self::HeadTooLarge => 431,
        }
    }

    /// The whole HTTP response, to be sent before closing. Its body is this fault as a sentence.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let (reason, extra) = match self {
            Self::MissingHeader(_) | Self::Malformed => ("Bad Request", ""),
            Self::Path => ("Not Found", ""),
            Self::Method => ("Method Not Allowed", "Allow: GET\r\n"),
            // RFC 9110 15.5.22 requires the Upgrade header, and 7.8 that Connection lists it.
            Self::Version => (
                "Upgrade Required",
                "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
            ),
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
            Self::HeadTooLarge => f.write_str("The head of the request is too large."),
            Self::Malformed => f.write_str("This is not an HTTP/1.1 request."),
        }
    }
}

impl Error for UpgradeFault {}

/// Reads the request that opens a WebSocket at `path`, with or without a query string.
///
/// `Ok(None)`: more bytes are needed, until the head has `head_max` bytes. The head is parsed only
/// once it is complete; before that it is only searched for the blank line at its end.
///
/// # Errors
///
/// The first of these that is wrong: the size, the form of the head, the method, the path, the
/// headers `Connection`, `Upgrade` and `Sec-WebSocket-Key`, the version.
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
    let Fields { connection, upgrade, key, version, cookie, origin } = fields(request.headers);
    let is_wanted = |value: &[u8]| value.eq_ignore_ascii_case(b"websocket");
    if !connection.is_some_and(lists_upgrade) {
        return Err(UpgradeFault::MissingHeader("Connection"));
    }
    if !upgrade.is_some_and(is_wanted) {
        return Err(UpgradeFault::MissingHeader("Upgrade"));
    }
    let Some(key) = key.filter(|key| is_key(key)) else {
        return Err(UpgradeFault::MissingHeader("Sec-WebSocket-Key"));
    };
    // The version is checked last: 426 is for a request that is otherwise an upgrade.
    match version {
        None => return Err(UpgradeFault::MissingHeader(VERSION_HEADER)),
        Some(version) if version != VERSION.as_bytes() => return Err(UpgradeFault::Version),
        Some(_) => {}
    }
    let accept = derive_accept_key(key);
    let response = [SWITCHING, accept.as_bytes(), b"\r\n\r\n"].concat();
    Ok(Some(Upgrade { response, consumed, cookie: cookie.map(text), origin: origin.map(text) }))
}

/// The response to an upgrade, up to the accept key.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// The values of the headers that matter. Of a repeated header it is the first.
#[derive(Default)]
struct Fields<'a> {
    connection: Option<&'a [u8]>,
    upgrade: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    cookie: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
}

fn fields<'a>(headers: &[Header<'a>]) -> Fields<'a> {
    let mut fields = Fields::default();
    for Header { name, value } in headers {
        let field = match name.len() {
            6 if name.eq_ignore_ascii_case("Cookie") => &mut fields.cookie,
            6 if name.eq_ignore_ascii_case("Origin") => &mut fields.origin,
            7 if name.eq_ignore_ascii_case("Upgrade") => &mut fields.upgrade,
            10 if name.eq_ignore_ascii_case("Connection") => &mut fields.connection,
            17 if name.eq_ignore_ascii_case("Sec-WebSocket-Key") => &mut fields.key,
            21 if name.eq_ignore_ascii_case(VERSION_HEADER) => &mut fields.version,
            _ => continue,
        };
        field.get_or_insert(value);
    }
    fields
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

/// Whether the list in `Connection` contains `Upgrade`.
fn lists_upgrade(value: &[u8]) -> bool {
    value
        .split(|byte| matches!(byte, b' ' | b',' | b'\t'))
        .any(|item| item.eq_ignore_ascii_case(b"Upgrade"))
}

/// Whether `key` is sixteen bytes in base64 (RFC 6455 4.2.1). The last digit before the padding has
/// two of their bits.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, b"==")) = key.split_at_checked(22) else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.iter().all(is_digit) && matches!(digits[21], b'A' | b'Q' | b'g' | b'w')
}

/// The request up to the end of its blank line; `None` if it has not arrived.
fn head(input: &[u8], head_max: usize) -> Result<Option<&[u8]>, UpgradeFault> {
    const END: &[u8; 4] = b"\r\n\r\n";
    let window = &input[..input.len().min(head_max)];
    // One of four consecutive bytes has an index of 3, 7, 11, ... Only these are examined, and few
    // of them are part of a line end. So a search examines a quarter of the head, also when the
    // head arrives byte by byte.
    let end = (END.len() - 1..window.len())
        .step_by(END.len())
        .filter(|&index| END.contains(&window[index]))
        .find_map(|index| (index - 3..=index).find(|&at| window[at..].starts_with(END)));
    match end {
        Some(at) => Ok(Some(&input[..at + END.len()])),
        None if input.len() < head_max => Ok(None),
        None => Err(UpgradeFault::HeadTooLarge),
    }
}

fn text(value: &[u8]) -> Box<str> {
    String::from_utf8_lossy(value).into()
}

fn fault(error: httparse::Error) -> UpgradeFault {
    match error {
        httparse::Error::TooManyHeaders => UpgradeFault::HeadTooLarge,
        _ => UpgradeFault::Malformed,
    }
}
