//! The data that one process hands over to the next in a live upgrade: the state of a shard as protobuf messages.
//!
//! The two processes may be of different releases, so the messages are a format with rules:
//!
//! - Fields are added and never change their meaning. A field that is gone keeps its number (`reserved` in a comment).
//! - A field that a reader must not ignore is announced by a name in [`Shard::required`]. A reader that does not know
//!   the name refuses the whole hand-over, and the former process continues.
//! - [`VERSION`] changes only if all former readers must refuse.
//! - Times are relative: how long something has lasted or is still to last. The processes have different clocks.
//!
//! Bytes are checked in two places: [`Shard::decode`] checks the form, and `comet_core::distribute` the values of the
//! fields.
//!
//! **Invariant:** it depends on no other crate of the workspace. No bytes cause a panic.

mod connection;
mod fault;
mod home;
mod paced;
mod parked;
mod shard;
mod tls;

pub use connection::{
    Accepts, AcceptsKind, ConnId, Connection, Fragments, Gap, Input, Sent, Transport, UntoldGap,
};
pub use fault::Fault;
pub use home::{
    DepartedUser, DisconnectedKey, History, Home, Kept, KeyAge, LeftBehindKey, RemoteRoom, User,
};
pub use paced::{PacedBroadcast, Visited};
pub use parked::{ParkedFrame, ParkedSession};
pub use shard::{Counters, Histogram, Item, Offsets, Room, Shard, State};
pub use tls::{TicketKeys, Tls};

/// The version of the format that is written. Readers take this one and all former ones.
pub const VERSION: u32 = 1;

/// The features that this release knows and a hand-over may require.
pub const FEATURES: &[&str] = &[
    feature::DEFLATE,
    feature::EVENT_STREAMS,
    feature::GAPS,
    feature::HISTORIES,
    feature::HOSTS,
    feature::PACED,
    feature::PARKED,
    feature::SHARED_HISTORIES,
    feature::TICKET_KEYS,
    feature::TLS,
];

/// Names in [`Shard::required`].
pub mod feature {
    /// A connection has negotiated compression.
    pub const DEFLATE: &str = "deflate";
    /// A connection is an event stream.
    pub const EVENT_STREAMS: &str = "event_streams";
    /// A connection has lost pushes of a room that keeps a history.
    pub const GAPS: &str = "gaps";
    /// A home keeps the history of rooms.
    pub const HISTORIES: &str = "histories";
    /// The process pushes together with other hosts, and continues under its name among them.
    pub const HOSTS: &str = "hosts";
    /// A paced broadcast is under way.
    pub const PACED: &str = "paced";
    /// Sessions outlast their connections.
    pub const PARKED: &str = "parked";
    /// Hosts share the histories of rooms.
    pub const SHARED_HISTORIES: &str = "shared_histories";
    /// Tickets resume TLS sessions.
    pub const TICKET_KEYS: &str = "ticket_keys";
    /// A connection is inside TLS.
    pub const TLS: &str = "tls";
}

/// Most bytes of one encoded shard. A million connections with a kilobyte each fit.
pub const SHARD_BYTES_MAX: usize = 2 << 30;
