//! Bytes on their way out, built once and shared by every connection that gets them.

use std::sync::Arc;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::frame::{Frame, HEADER_LEN};
use crate::op;
use crate::websocket::frames::{CONTROL_MAX, put_header};

/// A frame as both transports send it. Cloning counts a reference.
///
/// There is one buffer: the TCP form is the WebSocket form without what stands before it.
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
    /// Where the TCP form begins.
    tcp_at: u8,
}

impl Encoded {
    /// Encodes a frame. With operation [`op::RAW`] the body is a run of whole frames (see
    /// [`count_frames`](crate::count_frames)): TCP gets only them, WebSocket gets them behind one header
    /// in one message, which is how goim's web clients take a batch apart.
    ///
    /// # Panics
    ///
    /// If the frame is longer than packLen, a `u32`, can say.
    #[must_use]
    pub fn frame(frame: &Frame<'_>) -> Self {
        let mut bytes = Vec::with_capacity(WEBSOCKET_HEADER_MAX + HEADER_LEN + frame.body.len());
        put_header(&mut bytes, OpCode::Data(Data::Binary), HEADER_LEN + frame.body.len());
        let message_at = bytes.len();
        bytes.extend_from_slice(&frame.header());
        bytes.extend_from_slice(frame.body);
        let tcp_at = if frame.operation == op::RAW { message_at + HEADER_LEN } else { message_at };
        Self::new(&bytes, tcp_at)
    }

    /// A WebSocket pong, the answer to a ping with this payload (RFC 6455 5.5.3). Empty on TCP.
    ///
    /// # Panics
    ///
    /// If `payload` has more than 125 bytes; no ping that was read has.
    #[must_use]
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(Control::Pong, &[payload])
    }

    /// A WebSocket close (RFC 6455 5.5.1). Of `reason` as many whole characters are sent as fit into
    /// 123 bytes. Empty on TCP.
    #[must_use]
    pub fn close(code: u16, reason: &str) -> Self {
        let code = code.to_be_bytes();
        let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - code.len())];
        Self::control(Control::Close, &[&code, reason.as_bytes()])
    }

    /// Bytes sent as they are on either transport: the HTTP answer to an upgrade.
    #[must_use]
    pub fn verbatim(bytes: &[u8]) -> Self {
        Self::new(bytes, 0)
    }

    /// Whether this is `frame`, which is no batch.
    #[must_use]
    pub fn is_frame(&self, frame: &Frame<'_>) -> bool {
        self.for_tcp().strip_prefix(&frame.header()) == Some(frame.body)
    }

    /// What goes to a TCP connection; may be empty.
    #[must_use]
    pub fn for_tcp(&self) -> &[u8] {
        &self.bytes[usize::from(self.tcp_at)..]
    }

    /// What goes to a WebSocket connection.
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
        let tcp_at = u8::try_from(tcp_at).expect("headers and control frames are short");
        Self { bytes: bytes.into(), tcp_at }
    }
}

/// A server's WebSocket frame has no mask: two bytes and eight of length (RFC 6455 5.2).
const WEBSOCKET_HEADER_MAX: usize = 10;
