//! A connection as plain data.

use crate::ids::ConnId;
use crate::live_traces::TraceId;

/// A connection that is authenticated and registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveConn<'a> {
    /// Its id.
    pub conn: ConnId,
    /// The key it was registered under. A newer connection may have claimed the key since.
    pub key: &'a str,
    /// User id; 0 is anonymous.
    pub user: i64,
    /// Its number among the user's sessions; 0 without a user.
    pub session: i32,
    /// The room that operation 12 changes.
    pub room: Option<&'a str>,
    /// The rooms that it is in besides that one.
    pub further_rooms: Vec<&'a str>,
    /// The count in the reply to its next heartbeat (op 2).
    pub online: u32,
    /// The live traces that it belongs to.
    pub traces: &'a [TraceId],
}
