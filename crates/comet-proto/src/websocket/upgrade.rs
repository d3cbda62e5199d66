//! The HTTP request that turns a connection into a WebSocket (RFC 6455 4.2), and the answers to it.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::Header;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::Uri;

/// The version of RFC 6455, and the only one spoken.
const VERSION: &str = "13";
const VERSION_HEADER: &str = "Sec-WebSocket-Version";
/// Header lines of a request at most.
const HEADERS_MAX: usize = 124;

/// An upgrade that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The whole HTTP response to send before anything else.
    pub response: Vec<u8>,
    /// Bytes of the request; WebSocket frames may follow.
    pub consumed: usize,
    /// The `Cookie` header, for logic. Bytes that are not UTF-8 are replaced.
    pub cookie: Option<Box<str>>,
    /// The `Origin` header: the page a browser's script came from. Bytes that are not UTF-8 are replaced.
    pub origin: Option<Box<str>>,
}

/// Why a request is no upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeFault {
    /// Not `GET`.
    Method,
    /// Not the path WebSocket is served at.
    Path,
    /// `Sec-WebSocket-Version` is not 13.
    Version,
    /// This header is missing, or does not say what it must.
    MissingHeader(&'static str),
    /// The head of the request is longer than allowed, or has more than 124 headers.
    HeadTooLarge,
    /// Not an HTTP/1.1 request.
    Malformed,
}

impl UpgradeFault {
    /// The HTTP status that says so.
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

    /// The whole HTTP response to send before closing; its body is this fault in a sentence.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let (reason, extra) = match self {
            Self::MissingHeader(_) | Self::Malformed => ("Bad Request", ""),
            Self::Path => ("Not Found", ""),
            Self::Method => ("Method Not Allowed", "Allow: GET\r\n"),
            // RFC 9110 15.5.22 wants the Upgrade header, and 7.8 its mention in Connection.
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

/// Reads the request that opens a WebSocket at `path`; a query string after it does not matter.
///
/// `Ok(None)` asks for more bytes, at most until the head has `head_max`. Until the blank line that ends
/// the head is there, all that is done is to look for it, so a head that drips in costs no parsing.
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
    // A head with its blank line that still parses as incomplete began with one.
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
    if !names(target, path)? {
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
    // The version is judged last, of a request that is otherwise an upgrade.
    match version {
        None => return Err(UpgradeFault::MissingHeader(VERSION_HEADER)),
        Some(version) if version != VERSION.as_bytes() => return Err(UpgradeFault::Version),
        Some(_) => {}
    }
    let accept = derive_accept_key(key);
    let response = [SWITCHING, accept.as_bytes(), b"\r\n\r\n"].concat();
    Ok(Some(Upgrade { response, consumed, cookie: cookie.map(text), origin: origin.map(text) }))
}

/// The answer to an upgrade, up to what is derived from the key.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// What matters of the headers; of one that stands there twice, the first.
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

/// Whether the request's target is `path`, with a query or without; a proxy's clients write it with the
/// host before it (RFC 9112 3.2.2).
fn names(target: &str, path: &str) -> Result<bool, UpgradeFault> {
    match target.strip_prefix(path) {
        Some(rest) if rest.is_empty() || rest.starts_with('?') => Ok(true),
        _ => match target.parse::<Uri>() {
            Ok(uri) => Ok(uri.path() == path),
            Err(_) => Err(UpgradeFault::Malformed),
        },
    }
}

/// `Connection` is a list, and has `Upgrade` in it.
fn lists_upgrade(value: &[u8]) -> bool {
    value
        .split(|byte| matches!(byte, b' ' | b',' | b'\t'))
        .any(|item| item.eq_ignore_ascii_case(b"Upgrade"))
}

/// Sixteen bytes in base64 (RFC 6455 4.2.1): the last digit before the padding holds two bits of them.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, b"==")) = key.split_at_checked(22) else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.iter().all(is_digit) && matches!(digits[21], b'A' | b'Q' | b'g' | b'w')
}

/// The request up to and with its blank line, once that is there.
fn head(input: &[u8], head_max: usize) -> Result<Option<&[u8]>, UpgradeFault> {
    const END: &[u8; 4] = b"\r\n\r\n";
    let window = &input[..input.len().min(head_max)];
    // Of four bytes in a row one is at an index 3, 7, 11, ...; hardly any of those ends a line, so a head
    // that drips in is looked through at a quarter of its length each time.
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
