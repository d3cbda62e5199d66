//! Output that is built once and shared by all connections that get it.

mod parts;

use std::iter::repeat_n;
use std::sync::Arc;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::frame::{Frame, HEADER_LEN, decode};
use crate::op;
use crate::rooms::{RoomHandle, RoomPush};
use crate::text;
use crate::websocket::frames::{CONTROL_MAX, put_compressed_header, put_header};

/// A frame in the form of both transports. A clone shares the buffer.
///
/// There is one buffer: the TCP form is the end of the WebSocket form.
///
/// ```text
/// any operation      WebSocket header | frame header | body
///                                     ^ TCP
/// RAW, a batch       WebSocket header | frame header | frame, frame, frame
///                                                    ^ TCP
/// ```
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: Arc<[u8]>,
    /// The index at which the TCP form begins.
    tcp_at: usize,
}

impl Encoded {
    /// Encodes a frame. With operation [`op::RAW`] the body is a run of whole frames (see
    /// [`count_frames`](crate::count_frames)). TCP gets only these frames. WebSocket gets them
    /// behind one header in one message, as goim's web clients expect a batch.
    ///
    /// # Panics
    ///
    /// If the length of the frame exceeds packLen, a `u32`.
    #[must_use]
    pub fn frame(frame: &Frame<'_>) -> Self {
        let mut header = [0; WEBSOCKET_HEADER_MAX];
        let mut rest = &mut header[..];
        put_header(&mut rest, OpCode::Data(Data::Binary), HEADER_LEN + frame.body.len());
        let message_at = WEBSOCKET_HEADER_MAX - rest.len();
        let tcp_at = if frame.operation == op::RAW { message_at + HEADER_LEN } else { message_at };
        let parts = [&header[..message_at], &frame.header(), frame.body];
        let bytes = concat(parts.into_iter());
        Self { bytes, tcp_at }
    }

    /// A WebSocket pong, the answer to a ping with this payload (RFC 6455 5.5.3). Empty on TCP.
    ///
    /// # Panics
    ///
    /// If `payload` has more than 125 bytes, which no ping from [`read`](crate::websocket::read)
    /// has.
    #[must_use]
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(Control::Pong, &[payload])
    }

    /// A WebSocket close (RFC 6455 5.5.1). `reason` is cut to 123 bytes, between characters. Empty
    /// on TCP.
    #[must_use]
    pub fn close(code: u16, reason: &str) -> Self {
        let code = code.to_be_bytes();
        let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - code.len())];
        Self::control(Control::Close, &[&code, reason.as_bytes()])
    }

    /// A WebSocket close without a code, the answer to a close without one (RFC 6455 5.5.1). Empty on
    /// TCP.
    #[must_use]
    pub fn empty_close() -> Self {
        Self::control(Control::Close, &[])
    }

    /// Bytes that both transports send unchanged: the HTTP response to an upgrade.
    #[must_use]
    pub fn verbatim(bytes: &[u8]) -> Self {
        Self::new(bytes, 0)
    }

    /// The concatenation of `parts`, which both transports send unchanged: whole frames in the form of one of them.
    #[must_use]
    pub fn joined<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        Self { bytes: concat(parts), tcp_at: 0 }
    }

    /// The same frame for a WebSocket whose client speaks the [text form](crate::text). Empty on TCP.
    ///
    /// A JSON body is included without its spaces. An empty body becomes `{}`. Any other body becomes a string, in
    /// which bytes that are not UTF-8 are replaced (U+FFFD).
    #[must_use]
    pub fn to_text(&self) -> Self {
        let mut message = text::write(self.for_tcp(), None, 0);
        let is_batch = self.tcp_at > WEBSOCKET_HEADER_MAX;
        if !is_batch {
            message.push(b'\n');
        }
        let mut bytes = Vec::with_capacity(WEBSOCKET_HEADER_MAX + message.len());
        put_header(&mut bytes, OpCode::Data(Data::Text), message.len());
        bytes.extend_from_slice(&message);
        Self::new(&bytes, bytes.len())
    }

    /// The same frame as a [server-sent event](crate::sse), whose data is an array as in the text form. Empty on TCP.
    /// The data contains no line end, because JSON escapes them. `offset` is the place of the last push in the room's
    /// history; 0: it has none.
    #[must_use]
    pub fn to_event(&self, room: Option<&str>, offset: u64) -> Self {
        let data = text::write(self.for_tcp(), room, offset);
        let event = [EVENT, &*data, b"\n\n"].concat();
        Self::new(&event, event.len())
    }

    /// The same push to the room `handle`, for members of protocol 2: a [`RoomPush`]. `offset` is its place in the room's
    /// history; 0: the room keeps none.
    ///
    /// # Panics
    ///
    /// If this is no frame of [`Encoded::frame`], or the length of the new one exceeds packLen, a `u32`.
    #[must_use]
    pub fn to_room_push(&self, handle: RoomHandle, offset: u64) -> Self {
        let (push, _) =
            decode(self.message(), usize::MAX).ok().flatten().expect("a push is a whole frame");
        let frame = RoomPush::frame_of(&push, handle, offset);
        let mut bytes = Vec::with_capacity(WEBSOCKET_HEADER_MAX + frame.len());
        put_header(&mut bytes, OpCode::Data(Data::Binary), frame.len());
        let tcp_at = bytes.len();
        bytes.extend_from_slice(&frame);
        Self::new(&bytes, tcp_at)
    }

    /// The same for a WebSocket that negotiated permessage-deflate: its message is compressed to `deflated`, as RFC 7692 7.2.1
    /// says. Empty on TCP.
    #[must_use]
    pub fn to_compressed(&self, deflated: &[u8]) -> Self {
        let is_text = self.bytes[0] == TEXT_MESSAGE;
        let opcode = OpCode::Data(if is_text { Data::Text } else { Data::Binary });
        let mut bytes = Vec::with_capacity(WEBSOCKET_HEADER_MAX + deflated.len());
        put_compressed_header(&mut bytes, opcode, deflated.len());
        bytes.extend_from_slice(deflated);
        Self::new(&bytes, bytes.len())
    }

    /// The WebSocket message, without its header.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.bytes[header_len(&self.bytes)..]
    }

    /// The text message or event data, if this was made by [`Encoded::to_text`] or [`Encoded::to_event`].
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Some(data) = self.bytes.strip_prefix(EVENT) {
            return str::from_utf8(data).ok();
        }
        let [TEXT_MESSAGE, _, ..] = *self.bytes else { return None };
        self.for_tcp().is_empty().then(|| str::from_utf8(self.message()).ok()).flatten()
    }

    /// Whether this is the encoding of `frame`, which must not be a batch.
    #[must_use]
    pub fn is_frame(&self, frame: &Frame<'_>) -> bool {
        self.for_tcp().strip_prefix(&frame.header()) == Some(frame.body)
    }

    /// The bytes for a TCP connection; may be empty.
    #[must_use]
    pub fn for_tcp(&self) -> &[u8] {
        &self.bytes[self.tcp_at..]
    }

    /// The bytes for a WebSocket connection.
    #[must_use]
    pub fn for_websocket(&self) -> &[u8] {
        &self.bytes
    }

    fn control(control: Control, payload: &[&[u8]]) -> Self {
        let length = payload.iter().map(|part| part.len()).sum();
        assert!(length <= CONTROL_MAX, "a control frame of {length} bytes");
        let mut bytes = Vec::with_capacity(2 + length);
        put_header(&mut bytes, OpCode::Control(control), length);
        for part in payload {
            bytes.extend_from_slice(part);
        }
        Self::new(&bytes, bytes.len())
    }

    fn new(bytes: &[u8], tcp_at: usize) -> Self {
        Self { bytes: bytes.into(), tcp_at }
    }
}

/// The concatenation of the parts. `Arc::from` of a `Vec` would copy a long body once more.
fn concat<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Arc<[u8]> {
    let length = parts.clone().map(<[u8]>::len).sum();
    let mut bytes: Arc<[u8]> = repeat_n(0, length).collect();
    let mut rest = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
    for part in parts {
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    bytes
}

/// The longest header of a server's WebSocket frame: two bytes, eight of length, no mask (RFC 6455
/// 5.2).
const WEBSOCKET_HEADER_MAX: usize = 10;

/// Length of the WebSocket header that `message` begins with (RFC 6455 5.2).
fn header_len(message: &[u8]) -> usize {
    match message[1] {
        126 => 4,
        127 => WEBSOCKET_HEADER_MAX,
        _ => 2,
    }
}

/// What an event of [`Encoded::to_event`] begins with. No WebSocket message of a server does.
const EVENT: &[u8] = b"data: ";
/// The first byte of a whole text message (RFC 6455 5.2).
const TEXT_MESSAGE: u8 = 0x81;
