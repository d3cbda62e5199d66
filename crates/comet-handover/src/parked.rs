//! Sessions whose keys have no connection, and the pushes that wait for them.

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
    /// Time until it ends.
    #[prost(uint64, tag = "3")]
    pub left_ms: u64,
    /// Whether it is known which operations its last connection accepted.
    #[prost(bool, tag = "4")]
    pub has_accepts: bool,
    /// Those operations; none: all.
    #[prost(message, optional, tag = "5")]
    pub accepts: Option<Accepts>,
    /// The pushes that wait for it, in order.
    #[prost(message, repeated, tag = "6")]
    pub pushes: Vec<ParkedFrame>,
    /// Number of pushes lost because too many waited.
    #[prost(uint32, tag = "7")]
    pub lost_full: u32,
    /// Number of pushes lost for want of memory.
    #[prost(uint32, tag = "8")]
    pub lost_memory: u32,
}

/// A push that is parked, or would be if its connection ended.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ParkedFrame {
    /// The operation that is compared with the accepted ones.
    #[prost(sint32, tag = "1")]
    pub operation: i32,
    /// The WebSocket form of the frame. Its tail is the TCP form.
    #[prost(bytes = "vec", tag = "2")]
    pub bytes: Vec<u8>,
    /// Where the TCP form begins.
    #[prost(uint32, tag = "3")]
    pub tcp_at: u32,
    /// The last connection has accepted it.
    #[prost(bool, tag = "4")]
    pub is_accepted: bool,
}
