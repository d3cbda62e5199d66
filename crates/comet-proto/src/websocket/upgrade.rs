//! The HTTP request that turns a connection into a WebSocket (RFC 6455 4.2), and the answers to it.

use std::error::Error;
use std::fmt;

use tungstenite::error::{Error as HandshakeError, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::http::HeaderValue;

/// The version of RFC 6455, and the only one spoken.
const VERSION: &str = "13";
const VERSION_HEADER: &str = "Sec-WebSocket-Version";

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
    // A head with its blank line that still parses as incomplete began with one.
    let parsed = Request::try_parse(head).map_err(fault)?;
    let (consumed, mut request) = parsed.ok_or(UpgradeFault::Malformed)?;
    if request.uri().path() != path {
        return Err(UpgradeFault::Path);
    }
    // The version is judged last, of a request that is otherwise an upgrade.
    let version = request.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    let accepted = create_response(&request).map_err(fault)?;
    match version {
        None => return Err(UpgradeFault::MissingHeader(VERSION_HEADER)),
        Some(version) if version != VERSION => return Err(UpgradeFault::Version),
        Some(_) => {}
    }
    let accept = accepted.headers()["Sec-WebSocket-Accept"].to_str();
    let accept = accept.expect("base64 is ASCII");
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some(Upgrade {
        response: response.into_bytes(),
        consumed,
        cookie: text(&request, "Cookie"),
        origin: text(&request, "Origin"),
    }))
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

fn text(request: &Request, header: &str) -> Option<Box<str>> {
    let value = request.headers().get(header)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into())
}

fn fault(error: HandshakeError) -> UpgradeFault {
    match error {
        HandshakeError::Capacity(_) => UpgradeFault::HeadTooLarge,
        HandshakeError::Protocol(error) => match error {
            ProtocolError::WrongHttpMethod => UpgradeFault::Method,
            ProtocolError::MissingConnectionUpgradeHeader => {
                UpgradeFault::MissingHeader("Connection")
            }
            ProtocolError::MissingUpgradeWebSocketHeader => UpgradeFault::MissingHeader("Upgrade"),
            ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey => {
                UpgradeFault::MissingHeader("Sec-WebSocket-Key")
            }
            _ => UpgradeFault::Malformed,
        },
        _ => UpgradeFault::Malformed,
    }
}
