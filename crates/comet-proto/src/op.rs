//! The operations a frame can name.
//!
//! Any number without a name here is a message of the client's own kind: it goes to logic, and the frame
//! comes back with the same operation and an empty body. goim's 10 and 11 never leave its process and
//! are not named either.

/// A client lives; re-arms its heartbeat deadline. No body.
pub const HEARTBEAT: i32 = 2;
/// Answers [`HEARTBEAT`]; the body is a big-endian `i32`: how many are online in the connection's room.
pub const HEARTBEAT_REPLY: i32 = 3;
/// A message from a client to logic.
pub const SEND: i32 = 4;
/// A message to a client: the usual operation of a push.
pub const SEND_REPLY: i32 = 5;
/// The server closes the connection; the body says why.
pub const DISCONNECT_REPLY: i32 = 6;
/// The first frame of a client; the body is its token.
pub const AUTH: i32 = 7;
/// The token was accepted. No body.
pub const AUTH_REPLY: i32 = 8;
/// The body is a run of whole frames. Only ever from the server.
pub const RAW: i32 = 9;
/// Moves the connection to the room the body names; an empty body leaves the room.
pub const CHANGE_ROOM: i32 = 12;
/// Answers [`CHANGE_ROOM`].
pub const CHANGE_ROOM_REPLY: i32 = 13;
/// Adds the operations in the body (`1000,1001`) to those the connection accepts.
pub const SUBSCRIBE: i32 = 14;
/// Answers [`SUBSCRIBE`].
pub const SUBSCRIBE_REPLY: i32 = 15;
/// Takes the operations in the body from those the connection accepts.
pub const UNSUBSCRIBE: i32 = 16;
/// Answers [`UNSUBSCRIBE`].
pub const UNSUBSCRIBE_REPLY: i32 = 17;
