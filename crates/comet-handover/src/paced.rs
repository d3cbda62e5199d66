//! Paced broadcasts that are under way.

use std::collections::BTreeMap;

use prost::Message;

/// A broadcast that visits the connections of a shard at a set speed.
#[derive(Clone, PartialEq, Message)]
pub struct PacedBroadcast {
    /// The id of the call that began it, by which its caller knows it.
    #[prost(uint64, tag = "1")]
    pub call: u64,
    /// The operation that connections must accept.
    #[prost(sint32, tag = "2")]
    pub operation: i32,
    /// The WebSocket form of the frame. Its tail is the TCP form.
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    /// Where the TCP form begins.
    #[prost(uint32, tag = "4")]
    pub tcp_at: u32,
    /// Connections of this shard that it visits per second.
    #[prost(uint32, tag = "5")]
    pub connections_per_second: u32,
    /// Thousandths of a connection that it may visit at once.
    #[prost(uint64, tag = "6")]
    pub credit: u64,
    /// The connections already visited or passed, in ascending order.
    #[prost(message, repeated, tag = "7")]
    pub visited: Vec<Visited>,
    /// Connections whose outbox took it.
    #[prost(uint64, tag = "8")]
    pub queued: u64,
    /// Connections that did not get it, by reason.
    #[prost(btree_map = "string, uint64", tag = "9")]
    pub dropped: BTreeMap<String, u64>,
}

/// A run of neighbours in [`Shard::connections`](crate::Shard::connections).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Visited {
    /// The index of the first.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// The length of the run.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}
