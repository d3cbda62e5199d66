//! The client's side of the wire: frames and WebSocket messages in both directions.

use std::collections::VecDeque;

use comet_core::Transport;
use comet_proto::{Frame, HEADER_LEN, RoomPush, VERSION, count_frames, decode, op, text};

use crate::deflate::{COMPRESSED, inflate};
use crate::plan::PRESENCE_OPERATION;
use crate::positions::Place;
use crate::presence::Presence;

/// Sequence of every pushed frame; replies carry the client's, which are positive, and op 6 has 0.
pub(crate) const PUSH_SEQUENCE: i32 = -7;

/// First byte of a WebSocket frame: final, and the opcode (RFC 6455 5.2).
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
/// For the first frame of a fragmented message, and for the following ones.
pub(crate) const BEGIN: u8 = 0x7f;
pub(crate) const CONTINUATION: u8 = 0x00;
pub(crate) const CONTINUATION_END: u8 = 0x80;

pub(crate) fn frame(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    frame_as(VERSION, operation, sequence, body)
}

pub(crate) fn frame_as(version: u16, operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend((HEADER_LEN as u32 + body.len() as u32).to_be_bytes());
    bytes.extend((HEADER_LEN as u16).to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// The message for a frame in the text form. The body becomes a JSON string.
pub(crate) fn to_text(frame: &[u8]) -> Vec<u8> {
    let (Frame { operation, sequence, body, .. }, _) =
        decode(frame, usize::MAX).ok().flatten().expect("a whole frame");
    let body = str::from_utf8(body).expect("clients of the text form send text");
    let message = format!(r#"{{"ver":1,"op":{operation},"seq":{sequence},"body":{body:?}}}"#);
    message.into_bytes()
}

/// A WebSocket frame of a client. Without a mask it violates the protocol.
pub(crate) fn websocket(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ ..126 => bytes.push(masked | length as u8),
        length @ ..65_536 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// An HTTP request that opens a WebSocket, unless a part of it is wrong.
pub(crate) fn upgrade(method: &str, path: &str, version: u32, key: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: push.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: {version}\r\n{key}Cookie: sid=7\r\n\r\n"
    )
    .into_bytes()
}

/// The header a client must send (RFC 6455 4.1); the key is the RFC's own example.
pub(crate) const KEY_HEADER: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The header of a client that offers compression, as Chromium does.
pub(crate) const OFFER_HEADER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// The target of a push, which is written into its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Keys,
    Users,
    /// Index into [`crate::plan::ROOMS`].
    Room(u8),
    All,
    Paced,
}

/// The body of every pushed frame. The frames of a batch have the same id. It is text but not JSON, so it is a string
/// in the text form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) id: u64,
    pub(crate) part: u8,
    pub(crate) parts: u8,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
}

impl Stamp {
    /// The body, with `padding` bytes that depend on the id.
    pub(crate) fn write(self, padding: usize) -> Vec<u8> {
        let (kind, room) = match self.kind {
            Kind::Keys => (0, 0),
            Kind::Users => (1, 0),
            Kind::Room(room) => (2, room),
            Kind::All => (3, 0),
            Kind::Paced => (4, 0),
        };
        let Self { id, part, parts, operation, .. } = self;
        let mut body =
            format!("s{id:016x}{part:02x}{parts:02x}{kind:02x}{room:02x}{operation:08x}")
                .into_bytes();
        body.resize(body.len() + padding, Self::padding(id));
        body
    }

    /// The push caller that made it; 0: control. Pushes of one source keep their order.
    pub(crate) fn source(self) -> u64 {
        self.id >> 32
    }

    fn padding(id: u64) -> u8 {
        b'a' + (id % 26) as u8
    }

    pub(crate) fn read(frame: &Frame<'_>) -> Result<Self, String> {
        let bad = || format!("a push with a body nobody sent: {frame:?}");
        let body = str::from_utf8(frame.body).map_err(|_| bad())?;
        let number = |digits: std::ops::Range<usize>| {
            body.get(digits).and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(bad)
        };
        let byte = |at: usize| number(at..at + 2).map(|byte| byte as u8);
        let (id, room) = (number(1..17)?, byte(23)?);
        let stamp = Self {
            id,
            part: byte(17)?,
            parts: byte(19)?,
            kind: match byte(21)? {
                0 => Kind::Keys,
                1 => Kind::Users,
                2 => Kind::Room(room),
                3 => Kind::All,
                4 => Kind::Paced,
                _ => return Err(bad()),
            },
            operation: number(25..33)? as u32 as i32,
        };
        let is_padded = body.bytes().skip(33).all(|byte| byte == Self::padding(id));
        if stamp.operation != frame.operation || !body.starts_with('s') || !is_padded {
            return Err(bad());
        }
        Ok(stamp)
    }
}

/// The body of operations 14 and 16.
pub(crate) fn list(operations: &[i32]) -> String {
    let operations: Vec<String> = operations.iter().map(i32::to_string).collect();
    operations.join(",")
}

/// A message of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ServerMessage {
    Http(u16),
    /// A push. In protocol 2 a push to a room has its place there.
    Push(Stamp, Option<Place>),
    /// A push of the server itself that says who has entered and left a room.
    Presence(Presence, Option<Place>),
    Reply {
        operation: i32,
        sequence: i32,
        body: Box<[u8]>,
    },
    Pong(Box<[u8]>),
    Close {
        text: Box<str>,
    },
}

/// Decodes the server's bytes. A byte that belongs to no message is an error.
pub(crate) struct Decoder {
    transport: Transport,
    is_upgraded: bool,
    /// The upgrade was refused, so the rest is text.
    is_refused: bool,
    /// Messages may be compressed.
    is_deflated: bool,
    pending: Vec<u8>,
    taken: u64,
}

impl Decoder {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            is_upgraded: transport == Transport::Tcp,
            is_refused: false,
            is_deflated: false,
            pending: Vec::new(),
            taken: 0,
        }
    }

    /// Adds the messages that the bytes complete to `messages`, each with its end in the stream.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        messages: &mut VecDeque<(u64, ServerMessage)>,
    ) -> Result<(), String> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut at = 0;
        while !self.is_refused {
            let rest = &pending[at..];
            let consumed = match (self.is_upgraded, self.transport) {
                (false, _) => self.http(rest, messages)?,
                (true, Transport::Tcp) => self.frame(rest, messages)?,
                (true, Transport::WebSocket) => self.message(rest, messages)?,
                (true, Transport::EventStream) => unreachable!("no client asks for events"),
            };
            let Some(consumed) = consumed else { break };
            at += consumed;
            self.taken += consumed as u64;
        }
        self.pending = pending;
        self.pending.drain(..at);
        Ok(())
    }

    fn http(
        &mut self,
        input: &[u8],
        messages: &mut VecDeque<(u64, ServerMessage)>,
    ) -> Result<Option<usize>, String> {
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&input[..end]);
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("not an HTTP response: {head}"))?;
        self.is_upgraded = status == 101;
        self.is_refused = !self.is_upgraded;
        self.is_deflated = head.contains("\r\nSec-WebSocket-Extensions: permessage-deflate; ");
        let end = end + 4;
        messages.push_back((self.taken + end as u64, ServerMessage::Http(status)));
        Ok(Some(end))
    }

    fn frame(
        &self,
        input: &[u8],
        messages: &mut VecDeque<(u64, ServerMessage)>,
    ) -> Result<Option<usize>, String> {
        let decoded = decode(input, usize::MAX).map_err(|fault| format!("a bad frame: {fault}"))?;
        let Some((frame, consumed)) = decoded else { return Ok(None) };
        if frame.operation == op::RAW {
            return Err("operation 9 on TCP".to_owned());
        }
        add_messages(&frame, self.taken + consumed as u64, messages)?;
        Ok(Some(consumed))
    }

    fn message(
        &self,
        input: &[u8],
        messages: &mut VecDeque<(u64, ServerMessage)>,
    ) -> Result<Option<usize>, String> {
        let [first, second, ..] = *input else { return Ok(None) };
        let (header, length) = match second {
            126 => match input.get(2..4) {
                Some(bytes) => (4, usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))),
                None => return Ok(None),
            },
            127 => match input.get(2..10) {
                Some(bytes) => {
                    (10, bytes.iter().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte)))
                }
                None => return Ok(None),
            },
            128.. => return Err("the server masks its frames".to_owned()),
            length => (2, usize::from(length)),
        };
        let Some(payload) = input.get(header..header + length) else { return Ok(None) };
        let end = self.taken + (header + length) as u64;
        let (mut kind, mut payload) = (first, payload);
        let inflated;
        if self.is_deflated && first & COMPRESSED != 0 {
            kind ^= COMPRESSED;
            inflated = inflate(payload)?;
            if inflated.len() <= length {
                return Err("a compressed message that is no shorter".to_owned());
            }
            payload = &inflated;
        }
        match kind {
            BINARY => {
                let whole = |bytes| match decode(bytes, usize::MAX) {
                    Ok(Some(decoded)) => Ok(decoded),
                    other => Err(format!("a message that is not whole frames: {other:?}")),
                };
                let (frame, consumed) = whole(payload)?;
                if consumed != payload.len() {
                    return Err("bytes behind the frame of a message".to_owned());
                }
                if frame.operation == op::RAW {
                    add_run(frame.body, None, end, messages)?;
                } else {
                    add_messages(&frame, end, messages)?;
                }
            }
            TEXT => {
                let message = str::from_utf8(payload).map_err(|_| "not UTF-8".to_owned())?;
                for object in text::objects(message) {
                    let request =
                        text::read(object).map_err(|fault| format!("{fault}: {object}"))?;
                    let frame = request.frame();
                    let string =
                        frame.body.strip_prefix(b"\"").and_then(|body| body.strip_suffix(b"\""));
                    let body = match frame.body {
                        b"{}" => b"",
                        raw => string.unwrap_or(raw),
                    };
                    messages.push_back((end, server_message(&Frame { body, ..frame }, None)?));
                }
            }
            0x8a => messages.push_back((end, ServerMessage::Pong(payload.into()))),
            // The answer to a close frame without a code.
            CLOSE if matches!(payload.len(), 0 | 2..=125) => {
                let text = payload.get(2..).unwrap_or_default();
                let text =
                    std::str::from_utf8(text).map_err(|error| format!("a close: {error}"))?;
                messages.push_back((end, ServerMessage::Close { text: text.into() }));
            }
            _ => return Err(format!("a WebSocket frame that begins with {first:#x}")),
        }
        Ok(Some(header + length))
    }
}

/// Adds the messages in a frame. A push to a room in protocol 2 may be a batch.
fn add_messages(
    frame: &Frame<'_>,
    end: u64,
    messages: &mut VecDeque<(u64, ServerMessage)>,
) -> Result<(), String> {
    if frame.operation != op::ROOM_PUSH {
        messages.push_back((end, server_message(frame, None)?));
        return Ok(());
    }
    let push = RoomPush::decode(frame.body).ok_or("a push to a room without its fields")?;
    let RoomPush { handle, operation, offset, body } = push;
    // Only batches that the server makes of its history have another sequence.
    let is_recovered = operation == op::RAW && frame.sequence != PUSH_SEQUENCE;
    let place = Place { handle, offset, is_recovered };
    if operation == op::RAW {
        return add_run(body, Some(place), end, messages);
    }
    messages.push_back((end, server_message(&Frame { operation, body, ..*frame }, Some(place))?));
    Ok(())
}

/// Adds the frames of a batch.
fn add_run(
    mut run: &[u8],
    place: Option<Place>,
    end: u64,
    messages: &mut VecDeque<(u64, ServerMessage)>,
) -> Result<(), String> {
    let mut left = count_frames(run).map_or(0, |frames| frames as u64);
    while !run.is_empty() {
        let Ok(Some((frame, consumed))) = decode(run, usize::MAX) else {
            return Err("a batch that is not whole frames".to_owned());
        };
        left = left.saturating_sub(1);
        // If the room keeps no history, all offsets are 0.
        let place = place.map(|all| Place { offset: all.offset.saturating_sub(left), ..all });
        messages.push_back((end, server_message(&frame, place)?));
        run = &run[consumed..];
    }
    Ok(())
}

fn server_message(frame: &Frame<'_>, place: Option<Place>) -> Result<ServerMessage, String> {
    if frame.sequence == PUSH_SEQUENCE {
        return Stamp::read(frame).map(|stamp| ServerMessage::Push(stamp, place));
    }
    let Frame { operation, sequence, body, .. } = *frame;
    if operation == PRESENCE_OPERATION {
        let presence = Presence::read(body).ok_or_else(|| format!("a bad list: {frame:?}"))?;
        return Ok(ServerMessage::Presence(presence, place));
    }
    Ok(ServerMessage::Reply { operation, sequence, body: body.into() })
}
