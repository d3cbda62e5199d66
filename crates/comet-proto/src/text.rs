//! The text form of frames, which goim v1.2 uses over WebSocket: JSON in text messages.
//!
//! A client's message is one object, `{"ver":1,"op":7,"seq":1,"body":42}`. A message of the server is an array of
//! such objects: one for a frame, and one for each frame of a batch. Its bytes equal those of goim, which come from
//! Go's `encoding/json`: no spaces, some characters escaped, and a line feed behind a message that is not a batch.

mod json;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io::Write;

use crate::frame::{Frame, VERSION, count_frames, decode};
use crate::op;

pub use json::DEPTH_MAX;
pub(crate) use json::put_string;

/// A client's message in the text form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    version: u16,
    operation: i32,
    sequence: i32,
    body: Cow<'a, [u8]>,
}

impl Request<'_> {
    /// The frame that the message stands for.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        let Self { version, operation, sequence, ref body } = *self;
        Frame { version, operation, sequence, body }
    }
}

/// What is wrong with a client's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextFault {
    /// It is not one JSON object, or its values are nested too deep.
    NotAnObject,
    /// There is no `op`.
    NoOperation,
    /// This member is not a whole number of its size.
    NotANumber(&'static str),
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => {
                write!(
                    f,
                    "a text message is one JSON object, its values nested at most {DEPTH_MAX} deep"
                )
            }
            Self::NoOperation => f.write_str("the message has no \"op\""),
            Self::NotANumber(name) => {
                let bits = if *name == "ver" { 16 } else { 32 };
                write!(f, "{name:?} is not a whole number of {bits} bits")
            }
        }
    }
}

impl Error for TextFault {}

/// Reads a client's message. `ver` defaults to 1, `seq` to 0 and `body` to nothing. Other members are ignored. Of a
/// repeated member the last one counts, as in Go.
///
/// The frame's body is the JSON text of the message's body, as in goim v1.2. For operations whose body the server reads
/// (7, 12, 14 and 16) it may also be a string, which stands for its content.
///
/// # Errors
///
/// The first [`TextFault`].
pub fn read(message: &str) -> Result<Request<'_>, TextFault> {
    let [mut version, mut operation, mut sequence, mut body] = [None; 4];
    json::read_object(message, &mut |name, value| match name {
        "ver" => version = Some(value),
        "op" => operation = Some(value),
        "seq" => sequence = Some(value),
        "body" => body = Some(value),
        _ => {}
    })
    .ok_or(TextFault::NotAnObject)?;
    let operation = number("op", operation.ok_or(TextFault::NoOperation)?)?;
    let body = match body {
        None | Some("null") => Cow::Borrowed(&b""[..]),
        Some(body) if has_read_body(operation) => match json::string(body) {
            Some(content) => Cow::Owned(content.into_bytes()),
            None => Cow::Borrowed(body.as_bytes()),
        },
        Some(body) => Cow::Borrowed(body.as_bytes()),
    };
    Ok(Request {
        version: version.map_or(Ok(VERSION), |version| number("ver", version))?,
        operation,
        sequence: sequence.map_or(Ok(0), |sequence| number("seq", sequence))?,
        body,
    })
}

fn number<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<T, TextFault> {
    value.parse().map_err(|_| TextFault::NotANumber(name))
}

/// Whether the server itself reads the body of this operation.
fn has_read_body(operation: i32) -> bool {
    matches!(operation, op::AUTH | op::CHANGE_ROOM | op::SUBSCRIBE | op::UNSUBSCRIBE)
}

/// The message for a run of whole frames: an array with an object for each, which names `room` if there is one. Bytes
/// behind the last whole frame are left out. If the room keeps a history, `offset` is that of the last frame, and each
/// object has its own.
///
/// A JSON body is included without its spaces. An empty body becomes `{}`. Any other body becomes a string, in which
/// bytes that are not UTF-8 are replaced (U+FFFD).
pub(crate) fn write(mut run: &[u8], room: Option<&str>, offset: u64) -> Vec<u8> {
    let mut left = if offset > 0 { count_frames(run).unwrap_or(0) as u64 } else { 0 };
    let mut message = Vec::with_capacity(run.len() + 32);
    message.push(b'[');
    while let Ok(Some((frame, consumed))) = decode(run, usize::MAX) {
        if message.len() > 1 {
            message.push(b',');
        }
        let Frame { version, operation, sequence, body } = frame;
        write!(message, r#"{{"ver":{version},"op":{operation},"seq":{sequence},"#)
            .expect("writing to a Vec cannot fail");
        if let Some(room) = room {
            message.extend_from_slice(br#""room":"#);
            put_string(&mut message, room);
            message.push(b',');
        }
        if offset > 0 {
            left = left.saturating_sub(1);
            write!(message, r#""offset":{},"#, offset - left).expect("as above");
        }
        message.extend_from_slice(br#""body":"#);
        put_body(&mut message, body);
        message.push(b'}');
        run = &run[consumed..];
    }
    message.push(b']');
    message
}

fn put_body(message: &mut Vec<u8>, body: &[u8]) {
    match std::str::from_utf8(body) {
        Ok("") => message.extend_from_slice(b"{}"),
        Ok(text) if json::is_value(text) => json::put_value(message, text),
        _ => put_string(message, &String::from_utf8_lossy(body)),
    }
}

/// The objects of a server's message, each of which [`read`] accepts as well. If the message is malformed, the objects
/// before the fault.
#[must_use]
pub fn objects(message: &str) -> Vec<&str> {
    let mut objects = Vec::new();
    let _ = json::read_array(message, &mut |object| objects.push(object));
    objects
}
