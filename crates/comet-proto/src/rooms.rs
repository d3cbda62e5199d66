//! The bodies of protocol 2 that concern rooms: a connection may be in several of them.
//!
//! Within a connection a room is named by a *handle*, which the server hands out with its
//! [`JoinReply`]. All numbers are big-endian; reserved bytes are 0, and ignored by a reader.
//!
//! | operation | body |
//! |---|---|
//! | [`JOIN`](crate::op::JOIN) | flags 1, reserved 3, with flag 1: epoch 8 and offset 8; then the room |
//! | [`JOIN_REPLY`](crate::op::JOIN_REPLY) | status 1, flags 1, reserved 2, handle 4, epoch 8, offset 8, recovered 4; then the room |
//! | [`ROOM_PUSH`](crate::op::ROOM_PUSH) | handle 4, operation 4, offset 8; then the push's body |
//! | [`LEAVE`](crate::op::LEAVE) | handle 4 |
//! | [`LEAVE_REPLY`](crate::op::LEAVE_REPLY) | status 1, flags 1, reserved 2, handle 4 |
//! | [`GAP`](crate::op::GAP) | handle 4, flags 1, reserved 3, first offset 8, last offset 8 |

use crate::frame::{Frame, HEADER_LEN, VERSION_2};
use crate::op;

/// The request has a position.
const SINCE: u8 = 1;
/// The room keeps a history: epoch and offset are its present position.
const HAS_HISTORY: u8 = 1;
/// All pushes after the requested position follow.
const RECOVERED: u8 = 2;
/// The server acted without a request. The sequence answers none.
const UNASKED: u8 = 4;
/// It is the room that operation 12 changes.
const PRIMARY: u8 = 8;

/// Newer pushes about the same states have replaced all missing pushes.
const OUTDATED: u8 = 1;

/// Names a room within one connection, from the [`JoinReply`] to the [`LeaveReply`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RoomHandle(pub u32);

/// A place among the pushes of a room that keeps a history. The first push of an epoch has offset 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Tells histories of one room apart: offsets of different epochs cannot be compared.
    pub epoch: u64,
    /// The offset of the latest known push.
    pub offset: u64,
}

/// A client's request to enter a further room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Join<'a> {
    /// The latest push of the room that the client has. `None`: it wants no earlier ones.
    pub since: Option<Position>,
    /// The room id, as the client sent it.
    pub room: &'a [u8],
}

impl<'a> Join<'a> {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![if self.since.is_some() { SINCE } else { 0 }, 0, 0, 0];
        if let Some(Position { epoch, offset }) = self.since {
            body.extend(epoch.to_be_bytes());
            body.extend(offset.to_be_bytes());
        }
        body.extend(self.room);
        body
    }

    /// Reads the body. `None`: it is too short for its flags. Unknown flags are ignored.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (&[flags, _, _, _], mut rest) = body.split_first_chunk()?;
        let mut since = None;
        if flags & SINCE > 0 {
            let (&epoch, after) = rest.split_first_chunk()?;
            let (&offset, after) = after.split_first_chunk()?;
            let (epoch, offset) = (u64::from_be_bytes(epoch), u64::from_be_bytes(offset));
            since = Some(Position { epoch, offset });
            rest = after;
        }
        Some(Self { since, room: rest })
    }
}

/// Why a room change was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RoomRefusal {
    /// The connection is in as many rooms as it may be.
    TooManyRooms = 1,
    /// The room id is empty, too long, or not UTF-8; or the body is too short.
    BadName = 2,
    /// The handle names no room of this connection.
    NoSuchHandle = 3,
    /// The server has all the memory it may take. The client may ask again later.
    OutOfMemory = 4,
}

impl RoomRefusal {
    /// All of them, by status.
    pub const ALL: [Self; 4] =
        [Self::TooManyRooms, Self::BadName, Self::NoSuchHandle, Self::OutOfMemory];

    fn of_status(status: u8) -> Option<Result<(), Self>> {
        match status {
            0 => Some(Ok(())),
            _ => Self::ALL.get(usize::from(status) - 1).map(|&refusal| Err(refusal)),
        }
    }

    /// Its name in counters and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooManyRooms => "too_many_rooms",
            Self::BadName => "bad_name",
            Self::NoSuchHandle => "no_such_handle",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

/// The reply to a [`Join`], or the announcement of a join by the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinReply<'a> {
    /// The room's handle, or why the connection is not in it.
    pub outcome: Result<RoomHandle, RoomRefusal>,
    /// The server did it without a request.
    pub is_unasked: bool,
    /// It is the room that [`CHANGE_ROOM`](crate::op::CHANGE_ROOM) changes.
    pub is_primary: bool,
    /// The room's position, if it keeps a history.
    pub position: Option<Position>,
    /// The number of following pushes that came after the requested position, if they are all of these. `None`: the
    /// client has missed some.
    pub recovered: Option<u32>,
    /// The room id; in a refusal as the client sent it.
    pub room: &'a [u8],
}

impl<'a> JoinReply<'a> {
    /// A requested join of `room`, which keeps no history.
    #[must_use]
    pub fn joined(handle: RoomHandle, room: &'a [u8]) -> Self {
        let outcome = Ok(handle);
        let (is_unasked, is_primary) = (false, false);
        Self { outcome, is_unasked, is_primary, position: None, recovered: None, room }
    }

    /// `room` has become the one that [`CHANGE_ROOM`](crate::op::CHANGE_ROOM) changes.
    #[must_use]
    pub fn primary(handle: RoomHandle, room: &'a [u8]) -> Self {
        Self { is_unasked: true, is_primary: true, ..Self::joined(handle, room) }
    }

    /// The connection is not in `room`.
    #[must_use]
    pub fn refused(refusal: RoomRefusal, room: &'a [u8]) -> Self {
        Self { outcome: Err(refusal), ..Self::joined(RoomHandle(0), room) }
    }

    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (status, handle) = match self.outcome {
            Ok(RoomHandle(handle)) => (0, handle),
            Err(refusal) => (refusal as u8, 0),
        };
        let mut flags = if self.is_unasked { UNASKED } else { 0 };
        flags |= if self.is_primary { PRIMARY } else { 0 };
        flags |= if self.position.is_some() { HAS_HISTORY } else { 0 };
        flags |= if self.recovered.is_some() { RECOVERED } else { 0 };
        let Position { epoch, offset } = self.position.unwrap_or(Position { epoch: 0, offset: 0 });
        let mut body = Vec::with_capacity(JOIN_REPLY_LEN + self.room.len());
        body.extend([status, flags, 0, 0]);
        body.extend(handle.to_be_bytes());
        body.extend(epoch.to_be_bytes());
        body.extend(offset.to_be_bytes());
        body.extend(self.recovered.unwrap_or(0).to_be_bytes());
        body.extend(self.room);
        body
    }

    /// Reads the body. `None`: it is too short, or its status is unknown.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (&[status, flags, _, _], rest) = body.split_first_chunk()?;
        let (&handle, rest) = rest.split_first_chunk()?;
        let (&epoch, rest) = rest.split_first_chunk()?;
        let (&offset, rest) = rest.split_first_chunk()?;
        let (&recovered, room) = rest.split_first_chunk()?;
        let position =
            Position { epoch: u64::from_be_bytes(epoch), offset: u64::from_be_bytes(offset) };
        Some(Self {
            outcome: RoomRefusal::of_status(status)?
                .map(|()| RoomHandle(u32::from_be_bytes(handle))),
            is_unasked: flags & UNASKED > 0,
            is_primary: flags & PRIMARY > 0,
            position: (flags & HAS_HISTORY > 0).then_some(position),
            recovered: (flags & RECOVERED > 0).then_some(u32::from_be_bytes(recovered)),
            room,
        })
    }
}

/// A push to a room, as its members of protocol 2 get it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomPush<'a> {
    /// The room.
    pub handle: RoomHandle,
    /// The push's operation. With [`RAW`](crate::op::RAW) the body is a run of whole frames, on every transport.
    pub operation: i32,
    /// Its place in the room's history; 0: the room keeps none.
    pub offset: u64,
    /// The push's body.
    pub body: &'a [u8],
}

/// Bytes before the room of a [`JoinReply`].
const JOIN_REPLY_LEN: usize = 28;

/// Bytes before the push's body.
const ROOM_PUSH_LEN: usize = 16;

impl<'a> RoomPush<'a> {
    /// The frame `push` as a push to the room `handle`: header and body.
    ///
    /// # Panics
    ///
    /// If the length of the frame exceeds packLen, a `u32`.
    pub(crate) fn frame_of(push: &Frame<'_>, handle: RoomHandle, offset: u64) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_LEN + ROOM_PUSH_LEN + push.body.len());
        let header = Frame { version: VERSION_2, operation: op::ROOM_PUSH, ..*push };
        frame.extend(header.header_for(ROOM_PUSH_LEN + push.body.len()));
        frame.extend(handle.0.to_be_bytes());
        frame.extend(push.operation.to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(push.body);
        frame
    }

    /// Reads the body. `None`: it is too short.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (&handle, rest) = body.split_first_chunk()?;
        let (&operation, rest) = rest.split_first_chunk()?;
        let (&offset, body) = rest.split_first_chunk()?;
        Some(Self {
            handle: RoomHandle(u32::from_be_bytes(handle)),
            operation: i32::from_be_bytes(operation),
            offset: u64::from_be_bytes(offset),
            body,
        })
    }
}

/// A client's request to leave a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leave {
    /// The room.
    pub handle: RoomHandle,
}

impl Leave {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> [u8; 4] {
        self.handle.0.to_be_bytes()
    }

    /// Reads the body. Bytes behind it are ignored. `None`: it is too short.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (&handle, _) = body.split_first_chunk()?;
        Some(Self { handle: RoomHandle(u32::from_be_bytes(handle)) })
    }
}

/// The reply to a [`Leave`], or the announcement that the server ended a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaveReply {
    /// Whether the connection was in the room.
    pub outcome: Result<(), RoomRefusal>,
    /// The server did it without a request.
    pub is_unasked: bool,
    /// The former handle of the room.
    pub handle: RoomHandle,
}

impl LeaveReply {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> [u8; 8] {
        let status = self.outcome.map_or_else(|refusal| refusal as u8, |()| 0);
        let [a, b, c, d] = self.handle.0.to_be_bytes();
        [status, if self.is_unasked { UNASKED } else { 0 }, 0, 0, a, b, c, d]
    }

    /// Reads the body. Bytes behind it are ignored. `None`: it is too short, or its status is unknown.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (&[status, flags, _, _], rest) = body.split_first_chunk()?;
        let (&handle, _) = rest.split_first_chunk()?;
        Some(Self {
            outcome: RoomRefusal::of_status(status)?,
            is_unasked: flags & UNASKED > 0,
            handle: RoomHandle(u32::from_be_bytes(handle)),
        })
    }
}

/// Pushes to a room were dropped for the connection. This comes before any push to the room with a higher offset than
/// theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomGap {
    /// The room.
    pub handle: RoomHandle,
    /// Newer pushes about the same states have replaced all missing ones, so the client needs none of them.
    pub is_outdated: bool,
    /// Offset of the first push that is missing.
    pub first: u64,
    /// Offset of the last missing push. Some of those between may have been sent.
    pub last: u64,
}

impl RoomGap {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> [u8; 24] {
        let mut body = [0; 24];
        body[..4].copy_from_slice(&self.handle.0.to_be_bytes());
        body[4] = if self.is_outdated { OUTDATED } else { 0 };
        body[8..16].copy_from_slice(&self.first.to_be_bytes());
        body[16..].copy_from_slice(&self.last.to_be_bytes());
        body
    }

    /// Reads the body. Bytes behind it are ignored. `None`: it is too short.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (&handle, rest) = body.split_first_chunk()?;
        let (&[flags, _, _, _], rest) = rest.split_first_chunk()?;
        let (&first, rest) = rest.split_first_chunk()?;
        let (&last, _) = rest.split_first_chunk()?;
        Some(Self {
            handle: RoomHandle(u32::from_be_bytes(handle)),
            is_outdated: flags & OUTDATED > 0,
            first: u64::from_be_bytes(first),
            last: u64::from_be_bytes(last),
        })
    }
}
