//! One shard.

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{self, DecodeContext};
use zeroize::Zeroizing;

use crate::{
    Connection, FEATURES, Fault, Home, PacedBroadcast, ParkedFrame, SHARD_BYTES_MAX, TicketKeys,
    VERSION,
};

/// Tag of [`Shard::connections`].
const CONNECTIONS: u32 = 6;

/// The state of one shard.
#[derive(Clone, PartialEq, Message)]
pub struct Shard {
    /// Version of the format; see [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The features that the reader must know; see [`FEATURES`].
    #[prost(string, repeated, tag = "2")]
    pub required: Vec<String>,
    /// The number of the shard.
    #[prost(uint32, tag = "3")]
    pub shard: u32,
    /// The number of shards.
    #[prost(uint32, tag = "4")]
    pub shards: u32,
    /// The time of the former process's clock, milliseconds. The clock of the new process should begin there, so that
    /// ages reaching back before its start are kept.
    #[prost(uint64, tag = "5")]
    pub clock_ms: u64,
    /// Connections, by slot. The driver hands over the socket of each in this order.
    #[prost(message, repeated, tag = "6")]
    pub connections: Vec<Connection>,
    /// Frames that connections wait for. A frame that several wait for is here once.
    #[prost(message, repeated, tag = "7")]
    pub items: Vec<Item>,
    /// Rooms with members among the connections.
    #[prost(message, repeated, tag = "8")]
    pub rooms: Vec<Room>,
    /// The state of the shard as a home.
    #[prost(message, optional, tag = "9")]
    pub home: Option<Home>,
    /// The counters of the shard.
    #[prost(message, optional, tag = "10")]
    pub counters: Option<Counters>,
    /// Keys of the tickets that resume TLS sessions; none: the process has no TLS. The driver fills in the keys of the
    /// process, the same for each shard; the shard leaves them empty.
    #[prost(message, optional, tag = "11")]
    pub ticket_keys: Option<TicketKeys>,
    /// Paced broadcasts that have not ended on the shard, the oldest first.
    #[prost(message, repeated, tag = "12")]
    pub paced: Vec<PacedBroadcast>,
}

/// A frame on its way to clients.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Item {
    /// The WebSocket form. Its tail is the TCP form.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// Where the TCP form begins.
    #[prost(uint32, tag = "2")]
    pub tcp_at: u32,
    /// Whether it is a push, which the ledger counts. Otherwise it is a reply.
    #[prost(bool, tag = "3")]
    pub is_push: bool,
    /// The state that it is about, if clients need only the latest push about it.
    #[prost(message, optional, tag = "4")]
    pub state: Option<State>,
    /// Its place in the history of its room.
    #[prost(message, optional, tag = "5")]
    pub offsets: Option<Offsets>,
    /// For a push to keys or users: the frame that is parked if the connection ends.
    #[prost(message, optional, tag = "6")]
    pub direct: Option<ParkedFrame>,
}

/// The state that a push is about. Clients need only the latest push about it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct State {
    /// The room; none: the push goes to all connections.
    #[prost(string, optional, tag = "1")]
    pub room: Option<String>,
    /// The id that its caller gave it.
    #[prost(string, tag = "2")]
    pub id: String,
}

/// The place of a push in the history of its room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Offsets {
    /// The handle of the room.
    #[prost(uint32, tag = "1")]
    pub room: u32,
    /// The offset of its last frame.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// How many frames it has.
    #[prost(uint32, tag = "3")]
    pub pushes: u32,
    /// The handle in its frame, if the room's handle has changed since.
    #[prost(uint32, optional, tag = "4")]
    pub sent_as: Option<u32>,
}

/// A room with members on the shard.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Room {
    /// Its handle on the shard, by which clients of protocol 2 know it.
    #[prost(uint32, tag = "1")]
    pub handle: u32,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Offset of the latest push that its members were offered, if the room keeps a history. Members have lost the
    /// later pushes.
    #[prost(uint64, optional, tag = "3")]
    pub offered: Option<u64>,
}

/// The counts of a shard since the first process of the series of upgrades started. Names of counters are a part of the
/// format: a counter whose name the reader does not know is lost, and a missing one begins at 0.
#[derive(Clone, PartialEq, Message)]
pub struct Counters {
    /// Totals by name. Elements of an array have their label behind a slash.
    #[prost(btree_map = "string, uint64", tag = "1")]
    pub totals: BTreeMap<String, u64>,
    /// Times by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub histograms: BTreeMap<String, Histogram>,
}

/// A histogram of times.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Histogram {
    /// The count of each bucket, without those of the buckets before it.
    #[prost(uint64, repeated, tag = "1")]
    pub buckets: Vec<u64>,
    /// The sum of all times, microseconds.
    #[prost(uint64, tag = "2")]
    pub sum_micros: u64,
}

/// The part of a [`Shard`] that is read first.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, repeated, tag = "2")]
    required: Vec<String>,
}

impl Shard {
    /// Encodes the message that [`Shard::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // The size is computed first, so growing leaves no copy of a shorter buffer behind.
        self.encode_to_vec().into()
    }

    /// Reads a shard. The values of its fields are checked by `comet_core::distribute`.
    ///
    /// # Errors
    /// If there are too many bytes, they are not such a message, or this release cannot read them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > SHARD_BYTES_MAX {
            return Err(Fault::TooLarge(bytes.len()));
        }
        let malformed = |fault: prost::DecodeError| Fault::Malformed(fault.to_string());
        // A later release may have changed a field's type. So the required features are read before the rest.
        let Head { version, required } = Message::decode(bytes).map_err(malformed)?;
        if version == 0 || version > VERSION {
            return Err(Fault::Version(version));
        }
        if let Some(name) = required.iter().find(|name| !FEATURES.contains(&name.as_str())) {
            return Err(Fault::Feature(name.clone()));
        }
        let mut shard = Self::default();
        // One allocation for all: clients wait for each page that the kernel has to find.
        shard.connections.reserve_exact(connections_in(bytes));
        shard.merge(bytes).map_err(malformed)?;
        Ok(shard)
    }
}

/// How many connections a message has, as far as it can be read.
fn connections_in(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok((tag, wire_type)) = encoding::decode_key(&mut bytes) {
        if encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
        count += usize::from(tag == CONNECTIONS);
    }
    count
}
