//! Server-Sent Events (HTML Living Standard 9.2): the request for an event stream, its responses and its events.
//!
//! A stream is the body of one HTTP response, which lasts until the connection closes. There is no `Content-Length` and no
//! chunk, so proxies that speak HTTP/1.0 to the server pass it on as well.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::Header;

use crate::event_id::EventId;
use crate::text::put_string;
use crate::websocket::UpgradeFault;
use crate::websocket::upgrade::{HEADERS_MAX, fault, head, once, text};

/// The path of event streams.
pub const PATH: &str = "/sse";

/// How long a browser waits before it connects again, if no close event says otherwise, milliseconds.
const RETRY_MS: u32 = 3_000;

/// A valid request for an event stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// From the query's `token`, or the `Authorization` header; empty: there is none.
    pub token: Box<str>,
    /// From the query's `rooms`.
    pub rooms: Vec<Box<str>>,
    /// From the `Last-Event-ID` header, otherwise from the query's `last_event_id`.
    pub last_event_id: LastEventId,
    /// As in [`Upgrade`](crate::websocket::Upgrade).
    pub cookie: Option<Box<str>>,
    /// As in [`Upgrade`](crate::websocket::Upgrade).
    pub origin: Option<Box<str>>,
}

/// The last event that a client has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LastEventId {
    /// It names none.
    #[default]
    None,
    /// The positions of its rooms.
    Known(EventId),
    /// It names an event that is not of this server.
    Unknown,
}

impl LastEventId {
    fn read(id: &[u8]) -> Self {
        match id {
            b"" => Self::None,
            id => EventId::read(id).map_or(Self::Unknown, Self::Known),
        }
    }
}

/// Why a request for an event stream is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestFault {
    /// As for the request that opens a WebSocket.
    Head(UpgradeFault),
    /// Something follows the request's head.
    Body,
    /// Not `GET`.
    Method,
    /// This part of the query is not percent-encoded UTF-8.
    Encoding(&'static str),
    /// The query has this part twice.
    Repeated(&'static str),
    /// The request comes from something other than a script, such as an image or a page. Such requests carry the
    /// cookies of this server and no `Origin`, whatever page makes them.
    NoScript,
    /// A token is in the query and in a header.
    TwoTokens,
    /// The `Authorization` header has another scheme than `Bearer`.
    Authorization,
    /// `rooms` has an empty name.
    EmptyRoom,
}

impl RequestFault {
    /// The HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Head(fault) => fault.status(),
            Self::Method => 405,
            Self::NoScript => 403,
            _ => 400,
        }
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(fault) => fault.fmt(f),
            Self::Body => f.write_str("Nothing follows the head of a request for events."),
            Self::Method => f.write_str("Only GET can open an event stream."),
            Self::Encoding(name) => write!(f, "{name} is no percent-encoded UTF-8."),
            Self::Repeated(name) => write!(f, "{name} stands more than once."),
            Self::NoScript => f.write_str("In a browser only a script can open an event stream."),
            Self::TwoTokens => f.write_str("A token is in the query or in a header, not in both."),
            Self::Authorization => f.write_str("The Authorization header is: Bearer TOKEN."),
            Self::EmptyRoom => f.write_str("rooms has an empty name."),
        }
    }
}

impl Error for RequestFault {}

/// Whether `input` begins with a request whose target is [`PATH`], with or without a query.
#[must_use]
pub fn is_request(input: &[u8]) -> bool {
    // Empty lines may be in front of a request (RFC 9112 2.2).
    let mut words = input.trim_ascii_start().splitn(3, |byte| *byte == b' ');
    let rest = words.nth(1).and_then(|target| target.strip_prefix(PATH.as_bytes()));
    rest.is_some_and(|rest| matches!(rest, [] | [b'?', ..]))
}

/// Reads a request for which [`is_request`] returns true. `Ok(None)`: more bytes are needed, until the head has
/// `head_max` bytes.
///
/// # Errors
///
/// The first of these that is wrong: the head, the method, a header, the query.
pub fn request(input: &[u8], head_max: usize) -> Result<Option<Request>, RequestFault> {
    let Some(head) = head(input, head_max).map_err(RequestFault::Head)? else {
        return Ok(None);
    };
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    parsed
        .parse_with_uninit_headers(head, &mut headers)
        .map_err(|error| RequestFault::Head(fault(error)))?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(RequestFault::Head(UpgradeFault::Malformed));
    };
    if method != "GET" {
        return Err(RequestFault::Method);
    }
    let fields = Fields::read(parsed.headers)?;
    if input.len() > head.len() {
        return Err(RequestFault::Body);
    }
    // HTTP/1.0 has no such rule (RFC 9112 3.2).
    if minor > 0 && fields.host.is_none() {
        return Err(RequestFault::Head(UpgradeFault::MissingHeader("Host")));
    }
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let Query { token, rooms, last_event_id } = read_query(query)?;
    let token = match (token, fields.authorization.map(bearer).transpose()?) {
        (Some(_), Some(_)) => return Err(RequestFault::TwoTokens),
        (token, header) => token.or(header).unwrap_or_default(),
    };
    Ok(Some(Request {
        token,
        rooms,
        // A reconnecting browser sends the header in addition to the original URL, so the header takes precedence.
        last_event_id: match fields.last_event_id.map(LastEventId::read) {
            None | Some(LastEventId::None) => last_event_id,
            Some(id) => id,
        },
        cookie: fields.cookie.as_deref().map(text),
        origin: fields.origin.map(text),
    }))
}

/// The headers that matter, as in a request that opens a WebSocket.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    cookie: Option<Cow<'a, [u8]>>,
    origin: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    last_event_id: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[Header<'a>]) -> Result<Self, RequestFault> {
        let mut fields = Self::default();
        for &Header { name, value } in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let (field, known) = match name.len() {
                4 if is("Host") => (&mut fields.host, "Host"),
                6 if is("Origin") => (&mut fields.origin, "Origin"),
                6 if is("Cookie") => {
                    match &mut fields.cookie {
                        None => fields.cookie = Some(Cow::Borrowed(value)),
                        Some(cookie) => cookie.to_mut().extend([b"; ", value].concat()),
                    }
                    continue;
                }
                13 if is("Authorization") => (&mut fields.authorization, "Authorization"),
                13 if is("Last-Event-ID") => (&mut fields.last_event_id, "Last-Event-ID"),
                // Fetch Standard, "request mode".
                14 if is("Sec-Fetch-Mode") => match value {
                    b"no-cors" | b"navigate" => return Err(RequestFault::NoScript),
                    _ => continue,
                },
                14 if is("Content-Length") => (&mut fields.content_length, "Content-Length"),
                17 if is("Transfer-Encoding") => return Err(RequestFault::Body),
                _ => continue,
            };
            once(field, value, known).map_err(RequestFault::Head)?;
        }
        match fields.content_length {
            None | Some(b"0") => Ok(fields),
            Some(_) => Err(RequestFault::Body),
        }
    }
}

struct Query {
    token: Option<Box<str>>,
    rooms: Vec<Box<str>>,
    last_event_id: LastEventId,
}

/// Reads a query string (`application/x-www-form-urlencoded`). Parts of other names are ignored.
fn read_query(query: &str) -> Result<Query, RequestFault> {
    let (mut token, mut rooms, mut last_event_id) = (None, None, None);
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (place, name) = match name {
            "token" => (&mut token, "token"),
            "rooms" => (&mut rooms, "rooms"),
            "last_event_id" => (&mut last_event_id, "last_event_id"),
            _ => continue,
        };
        let value = percent_decode(value).ok_or(RequestFault::Encoding(name))?;
        if place.replace(value).is_some() {
            return Err(RequestFault::Repeated(name));
        }
    }
    let rooms: Vec<Box<str>> = match rooms.as_deref() {
        None | Some("") => Vec::new(),
        Some(rooms) => rooms.split(',').map(Into::into).collect(),
    };
    if rooms.iter().any(|room| room.is_empty()) {
        return Err(RequestFault::EmptyRoom);
    }
    let last_event_id =
        last_event_id.map_or(LastEventId::None, |id| LastEventId::read(id.as_bytes()));
    Ok(Query { token, rooms, last_event_id })
}

/// Decodes `%xx`, and `+` as a space. `None`: a `%` without two digits, or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<Box<str>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        decoded.push(match byte {
            b'%' => {
                let (&[high, low], behind) = rest.split_first_chunk()?;
                rest = behind;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            b'+' => b' ',
            other => *other,
        });
    }
    String::from_utf8(decoded).ok().map(Into::into)
}

fn bearer(value: &[u8]) -> Result<Box<str>, RequestFault> {
    let value = std::str::from_utf8(value).map_err(|_| RequestFault::Authorization)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => {
            Ok(token.trim_start_matches(' ').into())
        }
        _ => Err(RequestFault::Authorization),
    }
}

/// The header lines that let a page of another origin read the response (Fetch Standard, CORS protocol). `is_listed`: the
/// origin is one of those that the server names. Then the page may send its cookies, too.
#[must_use]
pub fn cors(origin: &str, is_listed: bool) -> Box<str> {
    if !is_listed {
        return "Access-Control-Allow-Origin: *\r\n".into();
    }
    format!(
        "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n\
         Vary: Origin\r\n"
    )
    .into()
}

/// The head of the response, and the first field of the stream. `cors` is of [`cors`].
#[must_use]
pub fn begin(cors: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
         X-Accel-Buffering: no\r\nConnection: close\r\n{cors}\r\nretry: {RETRY_MS}\n\n"
    )
    .into_bytes()
}

/// A whole response in place of a stream. Its body is JSON: `error`, a word, and `message`, a sentence.
#[must_use]
pub fn refusal(
    status: u16,
    error: &str,
    message: &str,
    retry_after_ms: Option<u32>,
    cors: &str,
) -> Vec<u8> {
    let reason = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        414 => "URI Too Long",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        // RFC 9112 4: a reason may be empty.
        _ => "",
    };
    let mut extra = String::new();
    if let Some(millis) = retry_after_ms {
        extra += &format!("Retry-After: {}\r\n", millis.div_ceil(1_000));
    }
    extra += match status {
        401 => "WWW-Authenticate: Bearer\r\n",
        405 => "Allow: GET\r\n",
        _ => "",
    };
    let mut body = JsonObject::new("error", error);
    body.text("message", message);
    let body = body.end();
    let length = body.len() + 1;
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n{extra}{cors}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), &body, b"\n"].concat()
}

/// A comment. It shows proxies that the stream is in use, and lets the kernel find out whether the client is there.
pub const COMMENT: &[u8] = b": \n\n";

/// The event that tells the client that it is in `room`, or why not. `recovered` is set for a room that keeps a
/// history: the number of following pushes, if these are all after the position that the client named, otherwise `None`
/// inside.
#[must_use]
pub fn room_event(room: &str, refused: Option<&str>, recovered: Option<Option<u32>>) -> Vec<u8> {
    let mut data = JsonObject::new("room", room);
    match recovered {
        Some(Some(pushes)) => data.number("recovered", pushes),
        Some(None) => data.raw("recovered", "false"),
        None => {}
    }
    if let Some(refused) = refused {
        data.text("refused", refused);
    }
    [b"event: room\ndata: ", &*data.end(), b"\n\n"].concat()
}

/// The missing pushes of a room that keeps a history, as JSON: the body of operation 23 in the text form, and the data
/// of an event.
#[must_use]
pub fn gap_data(room: &str, first: u64, last: u64, is_outdated: bool) -> Vec<u8> {
    let mut data = JsonObject::new("room", room);
    data.raw("first", &first.to_string());
    data.raw("last", &last.to_string());
    if is_outdated {
        data.raw("outdated", "true");
    }
    data.end()
}

/// The event that says that pushes to a room were dropped for the stream.
#[must_use]
pub fn gap_event(room: &str, first: u64, last: u64, is_outdated: bool) -> Vec<u8> {
    [b"event: gap\ndata: ", &*gap_data(room, first, last, is_outdated), b"\n\n"].concat()
}

/// The event for a client that named a [`LastEventId::Unknown`].
#[must_use]
pub fn unknown_id_event() -> Vec<u8> {
    let mut data = JsonObject::new("warning", "unknown_last_event_id");
    data.text("message", "The last event ID is no id of an event of this server.");
    [b"event: warning\ndata: ", &*data.end(), b"\n\n"].concat()
}

/// The last event of a stream that the server ends.
#[must_use]
pub fn close_event(reason: &str, message: &str, retry_after_ms: Option<u32>) -> Vec<u8> {
    let mut data = JsonObject::new("reason", reason);
    data.text("message", message);
    let mut retry = String::new();
    if let Some(millis) = retry_after_ms {
        data.number("retry_after_ms", millis);
        retry = format!("retry: {millis}\n");
    }
    [retry.as_bytes(), b"event: close\ndata: ", &data.end(), b"\n\n"].concat()
}

/// A JSON object.
struct JsonObject(Vec<u8>);

impl JsonObject {
    fn new(name: &str, text: &str) -> Self {
        let mut object = Self(vec![b'{']);
        object.text(name, text);
        object
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        put_string(&mut self.0, name);
        self.0.push(b':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        put_string(&mut self.0, text);
    }

    fn number(&mut self, name: &str, number: u32) {
        self.raw(name, &number.to_string());
    }

    fn raw(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.extend(value.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
