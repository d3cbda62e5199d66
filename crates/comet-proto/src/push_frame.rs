//! The frames of push callers: one frame carries a push, another the result. Numbers are big-endian.
//!
//! A request is a frame for clients with 12 more bytes of header, and its target before the body:
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | packLen | 4 | the whole request, this field included |
//! | headerLen | 2 | always 28 |
//! | version | 2 | of the frame that clients get; 0 stands for 1 |
//! | operation | 4 | of that frame |
//! | sequence | 4 | of that frame |
//! | id | 4 | chosen by the caller, repeated in the reply |
//! | accept | 4 | the operation that a client must accept; 0: `operation` |
//! | kind | 2 | 0 a token, 1 a push to a key, 2 to a user, 3 to a room, 4 to all |
//! | targetLen | 2 | length of the target |
//! | target | targetLen | a key or a room in UTF-8; a user in 8 bytes, signed; else empty |
//! | body | the rest | of that frame; of kind 0 the token |
//!
//! A reply:
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | packLen | 4 | the whole reply, this field included |
//! | headerLen | 2 | 16 |
//! | version | 2 | 1 |
//! | status | 4 | a code of gRPC; 0: the push was made |
//! | id | 4 | of the request |
//! | body | packLen - 16 | of status 0 the [`PushLedger`], of a token nothing; else a sentence in UTF-8 |

use std::error::Error;
use std::fmt;

use crate::frame::{Frame, HEADER_LEN, VERSION};

/// Length of a request's header, in bytes.
pub const PUSH_HEADER_LEN: usize = 28;

/// The request of a caller: to be let in, or a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushRequest<'a> {
    /// Repeated in the reply.
    pub id: u32,
    /// The receivers of the frame.
    pub target: PushTarget<'a>,
    /// The operation that a client must accept; 0: that of the frame.
    pub accept: i32,
    /// The frame that clients get.
    pub frame: Frame<'a>,
}

/// The receivers named by a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushTarget<'a> {
    /// Nobody: the body is the caller's token.
    Token,
    /// The connection that holds the key.
    Key(&'a str),
    /// All sessions of the user.
    User(i64),
    /// The members of the room.
    Room(&'a str),
    /// Every connection.
    All,
}

const TOKEN: u16 = 0;
const KEY: u16 = 1;
const USER: u16 = 2;
const ROOM: u16 = 3;
const ALL: u16 = 4;

/// Lengths that are wrong. A stream cannot be resynchronised after one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PushFrameFault {
    /// packLen is shorter than the header, or than the target behind it.
    PackLen {
        /// The packLen found.
        pack_len: u32,
    },
    /// headerLen is not that of such a frame.
    HeaderLen {
        /// The headerLen found.
        header_len: u16,
        /// The one expected.
        expected: usize,
    },
    /// The frame is longer than the reader accepts.
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The longest that the reader accepts, in bytes.
        length_max: usize,
    },
}

impl fmt::Display for PushFrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PackLen { pack_len } => {
                write!(f, "packLen is {pack_len}, less than the header and the target take")
            }
            Self::HeaderLen { header_len, expected } => {
                write!(f, "headerLen is {header_len} instead of {expected}")
            }
            Self::TooLong { length, length_max } => {
                write!(f, "the frame has {length} bytes, more than the {length_max} allowed")
            }
        }
    }
}

impl Error for PushFrameFault {}

/// A request with correct lengths but an invalid target. The next request begins behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadTarget {
    /// The kind has no meaning.
    Kind(u16),
    /// A key or a room is not UTF-8, or empty.
    Name,
    /// A user has not 8 bytes.
    User,
    /// A token or a push to all names a target.
    NotEmpty,
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "there is no kind {kind}"),
            Self::Name => f.write_str("the target has to be a name in UTF-8"),
            Self::User => f.write_str("the target has to be a user in 8 bytes"),
            Self::NotEmpty => f.write_str("the target has to be empty for this kind"),
        }
    }
}

impl Error for BadTarget {}

/// A request as it was read. If its target is invalid, its id and the error.
pub type ReadRequest<'a> = Result<PushRequest<'a>, (u32, BadTarget)>;

/// Reads the first request of `input`, and returns it with its length in bytes. `Ok(None)`: more bytes are needed.
/// Wrong lengths are found as soon as the bytes that show them are there.
///
/// # Errors
/// If a length is wrong.
pub fn decode_request(
    input: &[u8],
    length_max: usize,
) -> Result<Option<(ReadRequest<'_>, usize)>, PushFrameFault> {
    let Some(length) = lengths(input, PUSH_HEADER_LEN, length_max)? else { return Ok(None) };
    let Some((header, rest)) = input.split_first_chunk::<PUSH_HEADER_LEN>() else {
        return Ok(None);
    };
    let target_len = usize::from(u16::from_be_bytes([header[26], header[27]]));
    let Some(body_len) = (length - PUSH_HEADER_LEN).checked_sub(target_len) else {
        return Err(PushFrameFault::PackLen { pack_len: word(header, 0) });
    };
    let Some((target, rest)) = rest.split_at_checked(target_len) else { return Ok(None) };
    let Some(body) = rest.get(..body_len) else { return Ok(None) };
    let id = word(header, 16);
    let kind = u16::from_be_bytes([header[24], header[25]]);
    let version = u16::from_be_bytes([header[6], header[7]]);
    let request = read_target(kind, target).map_err(|bad| (id, bad)).map(|target| PushRequest {
        id,
        target,
        accept: word(header, 20).cast_signed(),
        frame: Frame {
            version: if version == 0 { VERSION } else { version },
            operation: word(header, 8).cast_signed(),
            sequence: word(header, 12).cast_signed(),
            body,
        },
    });
    Ok(Some((request, length)))
}

fn read_target(kind: u16, target: &[u8]) -> Result<PushTarget<'_>, BadTarget> {
    let name = || {
        let name = str::from_utf8(target).ok();
        name.filter(|name| !name.is_empty()).ok_or(BadTarget::Name)
    };
    match kind {
        TOKEN | ALL if !target.is_empty() => Err(BadTarget::NotEmpty),
        TOKEN => Ok(PushTarget::Token),
        ALL => Ok(PushTarget::All),
        KEY => name().map(PushTarget::Key),
        ROOM => name().map(PushTarget::Room),
        USER => {
            let user = target.try_into().map_err(|_| BadTarget::User)?;
            Ok(PushTarget::User(i64::from_be_bytes(user)))
        }
        kind => Err(BadTarget::Kind(kind)),
    }
}

impl PushRequest<'_> {
    /// Appends the request to `output`.
    ///
    /// # Panics
    /// If the target has more than 65,535 bytes, or the whole more than a `u32` counts.
    pub fn encode(&self, output: &mut Vec<u8>) {
        let user;
        let (kind, target): (u16, &[u8]) = match self.target {
            PushTarget::Token => (TOKEN, &[]),
            PushTarget::Key(key) => (KEY, key.as_bytes()),
            PushTarget::User(id) => {
                user = id.to_be_bytes();
                (USER, &user)
            }
            PushTarget::Room(room) => (ROOM, room.as_bytes()),
            PushTarget::All => (ALL, &[]),
        };
        let Frame { version, operation, sequence, body } = self.frame;
        let target_len = u16::try_from(target.len()).expect("a name of at most 65,535 bytes");
        put_lengths(output, PUSH_HEADER_LEN, target.len() + body.len());
        output.extend_from_slice(&version.to_be_bytes());
        output.extend_from_slice(&operation.to_be_bytes());
        output.extend_from_slice(&sequence.to_be_bytes());
        output.extend_from_slice(&self.id.to_be_bytes());
        output.extend_from_slice(&self.accept.to_be_bytes());
        output.extend_from_slice(&kind.to_be_bytes());
        output.extend_from_slice(&target_len.to_be_bytes());
        output.extend_from_slice(target);
        output.extend_from_slice(body);
    }
}

/// The result of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushReply<'a> {
    /// A code of gRPC; 0: it was done.
    pub status: u32,
    /// The id of the request.
    pub id: u32,
    /// The ledger in bytes, or a sentence.
    pub body: &'a [u8],
}

/// The result of a push: it matched `matched` connections, of which `queued` have it in their outbox. The others did
/// not get it, by reason.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PushLedger {
    /// Connections the push was meant for.
    pub matched: u64,
    /// Connections whose outbox took it.
    pub queued: u64,
    /// 1 for a key or a user without a connection.
    pub absent: u64,
    /// Sessions without a connection that the push is parked for.
    pub parked: u64,
    /// Other hosts that did not report their part in time.
    pub unanswered: u64,
    /// Pairs of a reason's number and the connections that did not get it for that reason. Reasons without connections
    /// are left out.
    pub dropped: Vec<(u32, u64)>,
}

const COUNTS: usize = 3 * 8;
const DROPPED: usize = 4 + 8;
/// In place of a reason's number: the sessions for which the push is parked. No reason has this number.
const PARKED: u32 = 0;
/// In the same place: the hosts whose part is missing.
const UNANSWERED: u32 = u32::MAX;

impl PushLedger {
    /// Reads the body of a reply. `None` if it is cut short.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (counts, dropped) = body.split_first_chunk::<COUNTS>()?;
        let (dropped, []) = dropped.as_chunks::<DROPPED>() else { return None };
        let count = |bytes: &[u8], at| {
            let bytes = bytes[at..at + 8].try_into().expect("8 bytes");
            u64::from_be_bytes(bytes)
        };
        let entries = dropped.iter().map(|entry| (word(entry, 0), count(entry, 4)));
        let sum = |of: u32| {
            let of_it = entries.clone().filter(|(reason, _)| *reason == of);
            of_it.map(|(_, count)| count).fold(0, u64::saturating_add)
        };
        let is_reason = |(reason, _): &(u32, u64)| ![PARKED, UNANSWERED].contains(reason);
        Some(Self {
            matched: count(counts, 0),
            queued: count(counts, 8),
            absent: count(counts, 16),
            parked: sum(PARKED),
            unanswered: sum(UNANSWERED),
            dropped: entries.clone().filter(is_reason).collect(),
        })
    }
}

impl<'a> PushReply<'a> {
    /// Reads the first reply of `input`, and returns it with its length in bytes. `Ok(None)`: more bytes are needed.
    ///
    /// # Errors
    /// If a length is wrong.
    pub fn decode(
        input: &'a [u8],
        length_max: usize,
    ) -> Result<Option<(Self, usize)>, PushFrameFault> {
        let Some(length) = lengths(input, HEADER_LEN, length_max)? else { return Ok(None) };
        let Some(reply) = input.get(..length) else { return Ok(None) };
        let (header, body) = reply.split_at(HEADER_LEN);
        Ok(Some((Self { status: word(header, 8), id: word(header, 12), body }, length)))
    }

    /// Appends the reply to `output`.
    ///
    /// # Panics
    /// If the whole has more bytes than a `u32` counts.
    pub fn encode(&self, output: &mut Vec<u8>) {
        put_reply_header(output, self.status, self.id, self.body.len());
        output.extend_from_slice(self.body);
    }

    /// Appends the reply to a push that was made: its counts, and the dropped ones by the number of their reason.
    pub fn encode_ledger(
        output: &mut Vec<u8>,
        id: u32,
        (matched, queued, absent): (u64, u64, u64),
        (parked, unanswered): (u64, u64),
        dropped: impl Iterator<Item = (u32, u64)> + Clone,
    ) {
        let parked = (parked > 0).then_some((PARKED, parked));
        let unanswered = (unanswered > 0).then_some((UNANSWERED, unanswered));
        let dropped = parked.into_iter().chain(dropped).chain(unanswered);
        put_reply_header(output, 0, id, COUNTS + DROPPED * dropped.clone().count());
        for count in [matched, queued, absent] {
            output.extend_from_slice(&count.to_be_bytes());
        }
        for (reason, count) in dropped {
            output.extend_from_slice(&reason.to_be_bytes());
            output.extend_from_slice(&count.to_be_bytes());
        }
    }
}

fn put_reply_header(output: &mut Vec<u8>, status: u32, id: u32, body_len: usize) {
    put_lengths(output, HEADER_LEN, body_len);
    output.extend_from_slice(&VERSION.to_be_bytes());
    output.extend_from_slice(&status.to_be_bytes());
    output.extend_from_slice(&id.to_be_bytes());
}

fn put_lengths(output: &mut Vec<u8>, header_len: usize, rest: usize) {
    let pack_len = u32::try_from(header_len + rest).expect("a frame fits into its packLen");
    output.extend_from_slice(&pack_len.to_be_bytes());
    output.extend_from_slice(&(header_len as u16).to_be_bytes());
}

/// The length of the first frame of `input`, whose header has `header_len` bytes; `None` if its own lengths are not
/// complete.
fn lengths(
    input: &[u8],
    header_len: usize,
    length_max: usize,
) -> Result<Option<usize>, PushFrameFault> {
    let Some((&pack_len, rest)) = input.split_first_chunk() else { return Ok(None) };
    let pack_len = u32::from_be_bytes(pack_len);
    let length = pack_len as usize;
    if length < header_len {
        return Err(PushFrameFault::PackLen { pack_len });
    }
    if length > length_max {
        return Err(PushFrameFault::TooLong { length, length_max });
    }
    let Some((&found, _)) = rest.split_first_chunk() else { return Ok(None) };
    let found = u16::from_be_bytes(found);
    if usize::from(found) != header_len {
        return Err(PushFrameFault::HeaderLen { header_len: found, expected: header_len });
    }
    Ok(Some(length))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
