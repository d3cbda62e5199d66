//! Sessions whose keys have no connection, and what waits for them.

use prost::Message;

use crate::Accepts;

/// A session that the next connection of its key resumes.
#[derive(Clone, PartialEq, Message)]
pub struct ParkedSession {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its user; 0 is anonymous.
    #[prost(sint64, tag = "2")]
    pub user: i64,
    /// Until it ends.
    #[prost(uint64, tag = "3")]
    pub left_ms: u64,
    /// What its last connection accepted is known.
    #[prost(bool, tag = "4")]
    pub has_accepts: bool,
    /// What that was; none: everything.
    #[prost(message, optional, tag = "5")]
    pub accepts: Option<Accepts>,
    /// What waits for it, in order.
    #[prost(message, repeated, tag = "6")]
    pub pushes: Vec<ParkedFrame>,
    /// Pushes that it has lost because it had too many.
    #[prost(uint32, tag = "7")]
    pub lost_full: u32,
    /// Those that it has lost because there was no memory.
    #[prost(uint32, tag = "8")]
    pub lost_memory: u32,
}

/// A push that is parked, or would be if its connection ended.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ParkedFrame {
    /// The operation that is looked at where only some are accepted.
    #[prost(sint32, tag = "1")]
    pub operation: i32,
    /// The form for a WebSocket, whose end is the form for TCP.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
    /// Where the form for TCP begins.
    #[prost(uint32, tag = "3")]
    pub tcp_at: u32,
    /// The last connection has accepted it.
    #[prost(bool, tag = "4")]
    pub is_accepted: bool,
}
