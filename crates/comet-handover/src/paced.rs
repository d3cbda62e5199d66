//! Paced broadcasts that are under way.

use std::collections::BTreeMap;

use prost::Message;

/// A broadcast that goes over the connections of a shard at a speed.
#[derive(Clone, PartialEq, Message)]
pub struct PacedBroadcast {
    /// The call that began it, by which it is known to its caller.
    #[prost(uint64, tag = "1")]
    pub call: u64,
    /// The operation that connections must accept.
    #[prost(sint32, tag = "2")]
    pub operation: i32,
    /// The form for a WebSocket, whose end is the form for TCP.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    /// Where the form for TCP begins.
    #[prost(uint32, tag = "4")]
    pub tcp_at: u32,
    /// How many connections of this shard it goes to in a second.
    #[prost(uint32, tag = "5")]
    pub connections_per_second: u32,
    /// Thousandths of a connection that it may go to at once.
    #[prost(uint64, tag = "6")]
    pub credit: u64,
    /// The connections that it went to or past, in ascending order.
    #[prost(message, repeated, tag = "7")]
    pub visited: Vec<Visited>,
    /// Connections whose outbox took it.
    #[prost(uint64, tag = "8")]
    pub queued: u64,
    /// Connections that did not get it, by reason.
    #[prost(btree_map = "string, uint64", tag = "9")]
    pub dropped: BTreeMap<String, u64>,
}

/// Connections that stand together in [`Shard::connections`](crate::Shard::connections).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Visited {
    /// The place of the first.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// How many they are.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}
