//! One frame of the goim protocol: a 16-byte big-endian header and a body.
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | packLen | 4 | the whole frame, this field included |
//! | headerLen | 2 | always 16 |
//! | version | 2 | 1, or 2 where a client and a server agree on protocol 2 |
//! | operation | 4 | see [`op`](crate::op) |
//! | sequence | 4 | chosen for a request, echoed in its reply |
//! | body | packLen - 16 | |

use std::error::Error;
use std::fmt;

/// Length of a frame's header, in bytes.
pub const HEADER_LEN: usize = 16;

/// The version of goim's protocol. [`decode`] accepts any version, as goim does.
pub const VERSION: u16 = 1;

/// The version in the [`AUTH`](crate::op::AUTH) of a client that asks for protocol 2, and in the
/// [`AUTH_REPLY`](crate::op::AUTH_REPLY) of a server that speaks it. Any other version there is
/// protocol 1.
pub const VERSION_2: u16 = 2;

/// A checked borrowed view of one frame: its lengths agree with the bytes it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Version of the protocol, [`VERSION`] or [`VERSION_2`].
    pub version: u16,
    /// The kind of frame, see [`op`](crate::op).
    pub operation: i32,
    /// The sequence number; a reply has that of its request.
    pub sequence: i32,
    /// The content; its meaning depends on the operation.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The header of this frame.
    ///
    /// # Panics
    ///
    /// If the length of the frame exceeds packLen, a `u32`.
    pub(crate) fn header(&self) -> [u8; HEADER_LEN] {
        self.header_for(self.body.len())
    }

    /// The header of this frame with another body, of `body_len` bytes.
    ///
    /// # Panics
    ///
    /// If the length of the frame exceeds packLen, a `u32`.
    pub(crate) fn header_for(&self, body_len: usize) -> [u8; HEADER_LEN] {
        let pack_len = u32::try_from(HEADER_LEN + body_len).expect("a frame fits into its packLen");
        let mut header = [0; HEADER_LEN];
        header[0..4].copy_from_slice(&pack_len.to_be_bytes());
        header[4..6].copy_from_slice(&(HEADER_LEN as u16).to_be_bytes());
        header[6..8].copy_from_slice(&self.version.to_be_bytes());
        header[8..12].copy_from_slice(&self.operation.to_be_bytes());
        header[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        header
    }
}

/// What is wrong with the bytes of a frame. A stream cannot be resynchronised after one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameFault {
    /// packLen is shorter than the header it is part of.
    PackLen {
        /// The packLen found.
        pack_len: u32,
    },
    /// headerLen is not 16.
    HeaderLen {
        /// The headerLen found.
        header_len: u16,
    },
    /// The body is longer than the reader accepts.
    BodyTooLarge {
        /// Length of the body by its packLen, in bytes.
        body_len: usize,
        /// The longest body that the reader accepts, in bytes.
        body_max: usize,
    },
    /// A run of frames ends inside one.
    Truncated {
        /// Bytes after the last whole frame.
        left: usize,
    },
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PackLen { pack_len } => {
                write!(f, "packLen is {pack_len}, less than the {HEADER_LEN} bytes of a header")
            }
            Self::HeaderLen { header_len } => {
                write!(f, "headerLen is {header_len} instead of {HEADER_LEN}")
            }
            Self::BodyTooLarge { body_len, body_max } => {
                write!(f, "the body has {body_len} bytes, more than the {body_max} allowed")
            }
            Self::Truncated { left } => {
                write!(f, "the last {left} bytes are not a whole frame")
            }
        }
    }
}

impl Error for FrameFault {}

/// Reads the first frame of `input`, and returns it with its length in bytes.
///
/// `Ok(None)`: more bytes are needed. A wrong packLen is found after four bytes and a wrong
/// headerLen after six, so no reader waits for a body that will be refused.
///
/// # Errors
///
/// The [`FrameFault`] of the first field that is wrong; never [`FrameFault::Truncated`].
pub fn decode(input: &[u8], body_max: usize) -> Result<Option<(Frame<'_>, usize)>, FrameFault> {
    let Some((&pack_len, rest)) = input.split_first_chunk() else {
        return Ok(None);
    };
    let pack_len = u32::from_be_bytes(pack_len);
    let frame_len = pack_len as usize;
    let Some(body_len) = frame_len.checked_sub(HEADER_LEN) else {
        return Err(FrameFault::PackLen { pack_len });
    };
    if body_len > body_max {
        return Err(FrameFault::BodyTooLarge { body_len, body_max });
    }
    let Some((&header_len, rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let header_len = u16::from_be_bytes(header_len);
    if usize::from(header_len) != HEADER_LEN {
        return Err(FrameFault::HeaderLen { header_len });
    }
    Ok(fields(rest, body_len).map(|frame| (frame, frame_len)))
}

/// The fields behind the two lengths; `None` if they are not complete.
fn fields(input: &[u8], body_len: usize) -> Option<Frame<'_>> {
    let (&version, input) = input.split_first_chunk()?;
    let (&operation, input) = input.split_first_chunk()?;
    let (&sequence, input) = input.split_first_chunk()?;
    Some(Frame {
        version: u16::from_be_bytes(version),
        operation: i32::from_be_bytes(operation),
        sequence: i32::from_be_bytes(sequence),
        body: input.get(..body_len)?,
    })
}

/// Checks that `body`, the body of a push with operation [`RAW`](crate::op::RAW), is a run of whole
/// frames, and returns their number. An empty body has none.
///
/// # Errors
///
/// The fault of the first malformed frame, or [`FrameFault::Truncated`].
pub fn count_frames(mut body: &[u8]) -> Result<usize, FrameFault> {
    let mut frames = 0;
    while !body.is_empty() {
        let Some((_, consumed)) = decode(body, usize::MAX)? else {
            return Err(FrameFault::Truncated { left: body.len() });
        };
        body = &body[consumed..];
        frames += 1;
    }
    Ok(frames)
}
