//! Reading a client's WebSocket frames into messages, and the header of the frames sent to it.

use std::error::Error;
use std::fmt;
use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest payload of a control frame, in bytes (RFC 6455 5.5).
pub(crate) const CONTROL_MAX: usize = 125;

/// A fragmented message so far.
///
/// Its owner keeps an `Option<Box<Fragments>>`: eight bytes while no message is open, and hardly any
/// client ever fragments one.
#[derive(Debug)]
pub struct Fragments {
    payload: Vec<u8>,
}

/// What a frame of the client amounted to. Borrows from the scratch buffer of [`read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'s> {
    /// A whole binary message, its fragments put together.
    Message(&'s [u8]),
    /// To be answered with a pong of the same payload.
    Ping(&'s [u8]),
    /// Asks for nothing.
    Pong,
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
    /// Part of a message; kept, and nothing is whole yet.
    Fragment,
}

/// What a client did against RFC 6455, or against what is spoken here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A client's frame must be masked (5.1).
    NotMasked,
    /// No extension was agreed that would use a reserved bit (5.2).
    ReservedBits,
    /// The opcode has no meaning yet (5.2).
    ReservedOpcode,
    /// A control frame holds more than 125 bytes (5.5).
    ControlTooLong,
    /// A control frame must be whole (5.5).
    ControlFragmented,
    /// A continuation without a message it continues (5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (5.4).
    ExpectedContinuation,
    /// The message is longer than the reader takes.
    TooLarge,
    /// A text message; frames travel in binary ones.
    Text,
    /// A close with half a code, or with a code that must not be sent (5.5.1, 7.4).
    BadClose,
    /// The reason of a close is not UTF-8 (5.5.1).
    BadCloseReason,
}

impl Fault {
    /// The code to close the connection with (RFC 6455 7.4.1).
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::TooLarge => CloseCode::Size,
            Self::Text => CloseCode::Unsupported,
            Self::BadCloseReason => CloseCode::Invalid,
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
            Self::BadClose => "the code of a close is cut off or not one that may be sent",
            Self::BadCloseReason => "the reason of a close is not UTF-8",
        })
    }
}

impl Error for Fault {}

/// Reads the first frame of `input` as the server, and says how many bytes it took.
///
/// `Ok(None)` asks for more bytes; `scratch` is then untouched. Payloads are unmasked into `scratch`,
/// whose content the caller must not need any more. A message of more than `message_max` bytes is refused
/// by the header of the frame that makes it so, before its payload is there, and so is every other
/// fault a header shows.
///
/// # Errors
///
/// The [`Fault`] found first. The connection is to be closed with its code; `fragments` and `scratch`
/// are of no further use.
pub fn read<'s>(
    input: &[u8],
    fragments: &mut Option<Box<Fragments>>,
    scratch: &'s mut Vec<u8>,
    message_max: usize,
) -> Result<Option<(Event<'s>, usize)>, Fault> {
    let mut cursor = Cursor::new(input);
    // A slice cannot fail to be read: a reserved opcode is all the codec complains about.
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Fault::ReservedOpcode)?;
    let Some((header, length)) = parsed else {
        return Ok(None);
    };
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(Fault::ReservedBits);
    }
    let mask = header.mask.ok_or(Fault::NotMasked)?;
    check_length(&header, length, fragments.as_deref(), message_max)?;

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
        OpCode::Data(_) if header.is_final => {
            match fragments.take() {
                // The message grew in a buffer of its own, which becomes the scratch buffer.
                Some(open) => *scratch = open.payload,
                None => scratch.clear(),
            }
            append_unmasked(scratch, payload, mask);
            Event::Message(scratch)
        }
        OpCode::Data(_) => {
            let open = fragments.get_or_insert_with(|| Box::new(Fragments { payload: Vec::new() }));
            append_unmasked(&mut open.payload, payload, mask);
            Event::Fragment
        }
    };
    Ok(Some((event, consumed)))
}

/// Everything a header shows about a payload of `length` bytes that is yet to come.
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
        (OpCode::Data(Data::Continue), None) => return Err(Fault::UnexpectedContinuation),
        (OpCode::Data(Data::Binary | Data::Text), Some(_)) => {
            return Err(Fault::ExpectedContinuation);
        }
        (OpCode::Data(Data::Text), None) => return Err(Fault::Text),
        (OpCode::Data(_), _) => {}
    }
    let kept = open.map_or(0, |open| open.payload.len());
    if length > message_max.saturating_sub(kept) as u64 {
        return Err(Fault::TooLarge);
    }
    Ok(())
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
    if !CloseCode::from(code).is_allowed() {
        return Err(Fault::BadClose);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Fault::BadCloseReason),
    }
}

/// Appends `payload` to `buffer` with the client's masking undone (RFC 6455 5.3), eight bytes at a time.
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

/// Appends the header of a whole, unmasked frame, as a server sends it.
pub(crate) fn put_header(buffer: &mut Vec<u8>, opcode: OpCode, length: usize) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(length as u64, buffer).expect("a Vec takes all that is written to it");
}
