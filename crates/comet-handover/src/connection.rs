//! One connection.

use prost::{Enumeration, Message};

use crate::Tls;

/// A connection that is authenticated and registered.
#[derive(Clone, PartialEq, Message)]
pub struct Connection {
    /// Its id in the former process. Operators may know the connection by it.
    #[prost(message, optional, tag = "1")]
    pub id: Option<ConnId>,
    /// How its frames travel.
    #[prost(enumeration = "Transport", tag = "2")]
    pub transport: i32,
    /// Its client speaks the text form.
    #[prost(bool, tag = "3")]
    pub is_text: bool,
    /// Its client speaks protocol 2.
    #[prost(bool, tag = "4")]
    pub is_protocol_2: bool,
    /// Its user; 0 is anonymous.
    #[prost(sint64, tag = "5")]
    pub user: i64,
    /// Its key.
    #[prost(string, tag = "6")]
    pub key: String,
    /// Its number among the user's sessions.
    #[prost(sint32, tag = "7")]
    pub session: i32,
    /// Where its client connects from, as the driver knows it: an address and a port. The shard leaves it empty.
    #[prost(string, tag = "8")]
    pub address: String,
    /// Time since it was accepted, milliseconds.
    #[prost(uint64, tag = "9")]
    pub age_ms: u64,
    /// Time between heartbeats as set by logic; 0: as configured.
    #[prost(uint32, tag = "10")]
    pub heartbeat_ms: u32,
    /// Time until its heartbeat, or the next comment of an event stream, is due.
    #[prost(uint64, tag = "11")]
    pub deadline_ms: u64,
    /// Time until a heartbeat renews its session at logic.
    #[prost(uint64, tag = "12")]
    pub renew_ms: u64,
    /// Time until its token expires.
    #[prost(uint64, optional, tag = "13")]
    pub token_ms: Option<u64>,
    /// Handle of the room that operation 12 changes.
    #[prost(uint32, optional, tag = "14")]
    pub room: Option<u32>,
    /// Handles of the other rooms that it is in.
    #[prost(uint32, repeated, tag = "15")]
    pub further_rooms: Vec<u32>,
    /// What it accepts; none: everything.
    #[prost(message, optional, tag = "16")]
    pub accepts: Option<Accepts>,
    /// Input that is not consumed. Few have any, so it takes no space in the others.
    #[prost(message, optional, boxed, tag = "17")]
    pub input: Option<Box<Input>>,
    /// Counts of its client's input in the current window of the limits; none: no input, or no limit.
    #[prost(message, optional, tag = "18")]
    pub sent: Option<Sent>,
    /// Frames that it waits for, in their order: indices of [`Shard::items`](crate::Shard::items).
    #[prost(uint32, repeated, tag = "19")]
    pub pending: Vec<u32>,
    /// Bytes of the first of these that the kernel took.
    #[prost(uint32, tag = "20")]
    pub taken: u32,
    /// How long a send of these frames has been under way without the kernel taking a byte.
    #[prost(uint64, optional, tag = "21")]
    pub stalled_ms: Option<u64>,
    /// It has negotiated compression.
    #[prost(bool, tag = "22")]
    pub is_deflated: bool,
    /// The pushes it has lost in rooms that keep a history.
    #[prost(message, repeated, tag = "23")]
    pub gaps: Vec<Gap>,
    /// Its TLS session; none: no TLS. The driver fills it in; the shard leaves it empty.
    #[prost(message, optional, boxed, tag = "24")]
    pub tls: Option<Box<Tls>>,
    /// Its session outlasts it.
    #[prost(bool, tag = "25")]
    pub is_kept: bool,
}

/// Pushes of a room that a connection has lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Gap {
    /// The handle of the room.
    #[prost(uint32, tag = "1")]
    pub room: u32,
    /// The connection has left the room.
    #[prost(bool, tag = "2")]
    pub is_left: bool,
    /// Offset of the first lost push since the connection last had all.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// Number of pushes lost since then.
    #[prost(uint64, tag = "4")]
    pub pushes: u64,
    /// The part of the gap that the client must still be told.
    #[prost(message, optional, tag = "5")]
    pub untold: Option<UntoldGap>,
    /// Offset of the first lost push that no newer push has replaced.
    #[prost(uint64, optional, tag = "6")]
    pub needed: Option<u64>,
}

/// The content of a gap marker to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UntoldGap {
    /// Offset of the first push.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// Offset of the last one.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// Newer pushes about the same states have replaced these.
    #[prost(bool, tag = "3")]
    pub is_outdated: bool,
}

/// A connection in the process that accepted it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ConnId {
    /// The shard.
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    /// The slot there.
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    /// How often the slot was taken before.
    #[prost(uint32, tag = "3")]
    pub generation: u32,
}

/// How frames travel. A reader refuses a number that it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Enumeration)]
#[repr(i32)]
pub enum Transport {
    /// Missing.
    Unknown = 0,
    /// Frames back to back.
    Tcp = 1,
    /// One binary or text message for each frame.
    WebSocket = 2,
    /// Server-sent events.
    EventStream = 3,
}

/// Which operations a connection accepts.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Accepts {
    /// How to read the list.
    #[prost(enumeration = "AcceptsKind", tag = "1")]
    pub kind: i32,
    /// The list.
    #[prost(sint32, repeated, tag = "2")]
    pub operations: Vec<i32>,
}

/// How to read a list of operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Enumeration)]
#[repr(i32)]
pub enum AcceptsKind {
    /// Missing.
    Unknown = 0,
    /// Only these.
    Only = 1,
    /// All but these.
    AllBut = 2,
}

/// Input that is not consumed.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Input {
    /// Bytes of a frame that is not complete.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// The open message of a WebSocket.
    #[prost(message, optional, tag = "2")]
    pub fragments: Option<Fragments>,
    /// Cookie header of the upgrade, if the next token is to go with it.
    #[prost(string, optional, tag = "3")]
    pub cookie: Option<String>,
}

/// The fragments of a message so far.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Fragments {
    /// Without mask.
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
    /// The message is text.
    #[prost(bool, tag = "2")]
    pub is_text: bool,
    /// The payload is compressed.
    #[prost(bool, tag = "3")]
    pub is_compressed: bool,
}

/// The amount of a client's input in a window of the limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Sent {
    /// Frames.
    #[prost(uint32, tag = "1")]
    pub frames: u32,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Changes of the room.
    #[prost(uint32, tag = "3")]
    pub room_changes: u32,
    /// Time until the window ends, milliseconds.
    #[prost(uint64, tag = "4")]
    pub window_ms: u64,
}
