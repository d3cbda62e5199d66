//! Reading a client's WebSocket frames into messages, and the header of the frames sent to it.

mod parts;

use std::error::Error;
use std::fmt;
use std::io::{Cursor, Write};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

pub use parts::FragmentParts;

/// The longest payload of a control frame, in bytes (RFC 6455 5.5).
pub(crate) const CONTROL_MAX: usize = 125;

/// The fragments of a message so far.
///
/// The owner has an `Option<Box<Fragments>>`, which takes eight bytes while no message is open.
/// Clients rarely fragment messages.
#[derive(Debug)]
pub struct Fragments {
    payload: Vec<u8>,
    is_text: bool,
    is_compressed: bool,
}

/// The messages that a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Longest message, bytes.
    pub message_max: usize,
    /// The kinds of messages.
    pub kinds: MessageKinds,
    /// Whether compressed ones too: permessage-deflate was negotiated (RFC 7692).
    pub deflate: bool,
}

/// Kinds of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageKinds {
    /// Binary ones.
    Binary,
    /// Text.
    Text,
    /// Both.
    Any,
}

/// The meaning of a client's frame. Borrows from the scratch buffer of [`read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'s> {
    /// A whole binary message, reassembled from its fragments.
    Message(&'s [u8]),
    /// The same of a text message.
    Text(&'s str),
    /// A whole message that is compressed (RFC 7692 6), of text or binary.
    Compressed {
        /// The payload to inflate, followed by the four bytes that the sender left out.
        payload: &'s [u8],
        /// Whether it is a text message; its content is not checked yet.
        is_text: bool,
    },
    /// A ping, to be answered with a pong of the same payload.
    Ping(&'s [u8]),
    /// A pong, which needs no answer.
    Pong,
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
    /// A fragment of a message that is not complete; it was kept.
    Fragment,
}

impl<'s> Event<'s> {
    /// A whole message that was compressed, inflated to `payload`.
    ///
    /// # Errors
    /// If it is a text message that is not UTF-8.
    pub fn inflated(payload: &'s [u8], is_text: bool) -> Result<Self, Fault> {
        if is_text { Self::text(payload) } else { Ok(Self::Message(payload)) }
    }

    fn text(payload: &'s [u8]) -> Result<Self, Fault> {
        std::str::from_utf8(payload).map(Self::Text).map_err(|_| Fault::TextNotUtf8)
    }
}

/// How a client violated RFC 6455 or the rules of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A client's frame must be masked (5.1).
    NotMasked,
    /// A reserved bit is set that has no meaning by a negotiated extension (5.2). The bit of permessage-deflate has
    /// none in control frames and continuations (RFC 7692 6.1).
    ReservedBits,
    /// The opcode is reserved (5.2).
    ReservedOpcode,
    /// A control frame holds more than 125 bytes (5.5).
    ControlTooLong,
    /// A control frame must not be fragmented (5.5).
    ControlFragmented,
    /// A continuation without a message (5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (5.4).
    ExpectedContinuation,
    /// The message is longer than the reader accepts.
    TooLarge,
    /// A text message of a client that must send binary ones.
    Text,
    /// A binary message of a client that must send text.
    Binary,
    /// A text message is not UTF-8 (8.1).
    TextNotUtf8,
    /// A close with a truncated code, or with a code that must not be sent (5.5.1, 7.4).
    BadClose,
    /// The reason of a close is not UTF-8 (5.5.1).
    BadCloseReason,
    /// The payload of a compressed message is no DEFLATE data (RFC 7692 6.2).
    BadDeflate,
}

impl Fault {
    /// The code to close the connection with (RFC 6455 7.4.1).
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge => CloseCode::Size,
            Self::Text | Self::Binary => CloseCode::Unsupported,
            Self::BadCloseReason | Self::TextNotUtf8 | Self::BadDeflate => CloseCode::Invalid,
            Self::NotMasked
            | Self::ReservedBits
            | Self::ReservedOpcode
            | Self::ControlTooLong
            | Self::ControlFragmented
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::BadClose => CloseCode::Protocol,
        }
        .into()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMasked => "a client's frame is not masked",
            Self::ReservedBits => "a reserved bit is set",
            Self::ReservedOpcode => "the opcode is a reserved one",
            Self::ControlTooLong => "a control frame has more than 125 bytes",
            Self::ControlFragmented => "a control frame is fragmented",
            Self::UnexpectedContinuation => "a continuation follows no message",
            Self::ExpectedContinuation => "a message begins inside a fragmented one",
            Self::TooLarge => "the message is larger than allowed",
            Self::Text => "a text message, where only binary ones are spoken",
            Self::Binary => "a binary message of a client that speaks text",
            Self::TextNotUtf8 => "a text message is not UTF-8",
            Self::BadClose => "the code of a close is cut off or not one that may be sent",
            Self::BadCloseReason => "the reason of a close is not UTF-8",
            Self::BadDeflate => "the data of a compressed message is not DEFLATE",
        })
    }
}

impl Error for Fault {}

/// Reads the first frame of `input` as the server, and returns its event and its length in bytes.
///
/// `Ok(None)`: more bytes are needed, and `scratch` is unchanged. Payloads are unmasked into
/// `scratch`, which overwrites its content. All faults of a header are found before its payload has
/// arrived. One of them is a message that is not `accepted`. How long a compressed message is shows only when it is inflated.
///
/// # Errors
///
/// The first [`Fault`]. The connection is to be closed with its code, and `fragments` and `scratch`
/// must not be used any more.
pub fn read<'s>(
    input: &[u8],
    fragments: &mut Option<Box<Fragments>>,
    scratch: &'s mut Vec<u8>,
    accepted: Accepted,
) -> Result<Option<(Event<'s>, usize)>, Fault> {
    let mut cursor = Cursor::new(input);
    // Reading a slice cannot fail, so the only error of the codec is a reserved opcode.
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Fault::ReservedOpcode)?;
    let Some((header, length)) = parsed else {
        return Ok(None);
    };
    let begins_message = matches!(header.opcode, OpCode::Data(Data::Binary | Data::Text));
    if header.rsv2 || header.rsv3 || (header.rsv1 && !(accepted.deflate && begins_message)) {
        return Err(Fault::ReservedBits);
    }
    let mask = header.mask.ok_or(Fault::NotMasked)?;
    check_kind(&header, fragments.as_deref(), accepted.kinds)?;
    check_length(&header, length, fragments.as_deref(), accepted.message_max)?;

    let rest = &input[cursor.position() as usize..];
    let Some(payload) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return Ok(None);
    };
    let consumed = input.len() - rest.len() + payload.len();

    let event = match header.opcode {
        OpCode::Control(control) => {
            scratch.clear();
            append_unmasked(scratch, payload, mask);
            control_event(control, scratch)?
        }
        OpCode::Data(kind) if header.is_final => {
            let (is_text, is_compressed) = match fragments.take() {
                // The buffer of the fragments becomes the scratch buffer.
                Some(open) => {
                    *scratch = open.payload;
                    (open.is_text, open.is_compressed)
                }
                None => {
                    scratch.clear();
                    (kind == Data::Text, header.rsv1)
                }
            };
            append_unmasked(scratch, payload, mask);
            match (is_compressed, is_text) {
                (true, is_text) => Event::Compressed { payload: scratch, is_text },
                (false, true) => Event::text(scratch)?,
                (false, false) => Event::Message(scratch),
            }
        }
        OpCode::Data(kind) => {
            let (is_text, is_compressed) = (kind == Data::Text, header.rsv1);
            let begin = || Box::new(Fragments { payload: Vec::new(), is_text, is_compressed });
            let open = fragments.get_or_insert_with(begin);
            append_unmasked(&mut open.payload, payload, mask);
            Event::Fragment
        }
    };
    Ok(Some((event, consumed)))
}

/// Checks that a data frame is in a valid place, and that its message is one the client may send.
fn check_kind(
    header: &FrameHeader,
    open: Option<&Fragments>,
    kinds: MessageKinds,
) -> Result<(), Fault> {
    match (header.opcode, open, kinds) {
        (OpCode::Data(Data::Continue), None, _) => Err(Fault::UnexpectedContinuation),
        (OpCode::Data(Data::Binary | Data::Text), Some(_), _) => Err(Fault::ExpectedContinuation),
        (OpCode::Data(Data::Text), None, MessageKinds::Binary) => Err(Fault::Text),
        (OpCode::Data(Data::Binary), None, MessageKinds::Text) => Err(Fault::Binary),
        _ => Ok(()),
    }
}

/// Checks a header with a payload of `length` bytes, which need not have arrived.
fn check_length(
    header: &FrameHeader,
    length: u64,
    open: Option<&Fragments>,
    message_max: usize,
) -> Result<(), Fault> {
    match (header.opcode, open) {
        (OpCode::Control(_), _) if !header.is_final => return Err(Fault::ControlFragmented),
        (OpCode::Control(_), _) if length > CONTROL_MAX as u64 => {
            return Err(Fault::ControlTooLong);
        }
        (OpCode::Control(_), _) => return Ok(()),
        (OpCode::Data(_), _) => {}
    }
    let kept = open.map_or(0, |open| open.payload.len());
    let is_compressed = open.map_or(header.rsv1, |open| open.is_compressed);
    let payload_max = if is_compressed { compressed_max(message_max) } else { message_max };
    if length > payload_max.saturating_sub(kept) as u64 {
        return Err(Fault::TooLarge);
    }
    Ok(())
}

/// Most bytes to which a message of `message_max` bytes is compressed: some become longer. This is zlib's bound for the
/// compressor with the least memory.
fn compressed_max(message_max: usize) -> usize {
    message_max + message_max / 8 + message_max / 64 + 16
}

fn control_event(control: Control, payload: &[u8]) -> Result<Event<'_>, Fault> {
    Ok(match control {
        Control::Ping => Event::Ping(payload),
        Control::Pong => Event::Pong,
        Control::Close => Event::Close(close_code(payload)?),
        Control::Reserved(_) => return Err(Fault::ReservedOpcode),
    })
}

/// The code in the payload of a close frame, which may be empty.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (&code, reason) = payload.split_first_chunk().ok_or(Fault::BadClose)?;
    let code = u16::from_be_bytes(code);
    if !may_be_sent(code) {
        return Err(Fault::BadClose);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Fault::BadCloseReason),
    }
}

/// Whether a close frame may hold `code`: those of RFC 6455 7.4.1 that are not for local use, those
/// registered since (1012 to 1014), and the ranges of libraries and applications.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends the unmasked `payload` to `buffer` (RFC 6455 5.3), eight bytes at a time.
fn append_unmasked(buffer: &mut Vec<u8>, payload: &[u8], mask: [u8; 4]) {
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    let [a, b, c, d] = mask;
    let word_mask = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = buffer[start..].as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes the header of an unfragmented, unmasked frame, as a server sends it, to memory that has space for it.
pub(crate) fn put_header(memory: &mut impl Write, opcode: OpCode, length: usize) {
    put(memory, &FrameHeader { opcode, ..FrameHeader::default() }, length);
}

/// The same for a compressed message (RFC 7692 6.1).
pub(crate) fn put_compressed_header(memory: &mut impl Write, opcode: OpCode, length: usize) {
    put(memory, &FrameHeader { opcode, rsv1: true, ..FrameHeader::default() }, length);
}

fn put(memory: &mut impl Write, header: &FrameHeader, length: usize) {
    header.format(length as u64, memory).expect("there is space for it");
}
