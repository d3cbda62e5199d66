//! The operations of frames.
//!
//! A frame with any other number is a message of an application's own kind: it goes to logic, and
//! the server replies with the same operation and an empty body. goim uses 10 and 11 only inside
//! its process, so they have no names here.

/// Restarts the heartbeat timeout of a client. No body.
pub const HEARTBEAT: i32 = 2;
/// Answers [`HEARTBEAT`]. The body is a big-endian `i32`: the number of connections in this one's
/// room.
pub const HEARTBEAT_REPLY: i32 = 3;
/// A message from a client to logic.
pub const SEND: i32 = 4;
/// A message to a client: the usual operation of a push.
pub const SEND_REPLY: i32 = 5;
/// The close notice of the server; the body is the reason.
pub const DISCONNECT_REPLY: i32 = 6;
/// The first frame of a client; the body is its token.
pub const AUTH: i32 = 7;
/// The token was accepted. No body; in protocol 2 an [`AuthReply`](crate::AuthReply).
pub const AUTH_REPLY: i32 = 8;
/// A batch: the body is a run of whole frames. Only servers send it.
pub const RAW: i32 = 9;
/// Moves the connection to the room in the body; an empty body leaves the room.
pub const CHANGE_ROOM: i32 = 12;
/// Answers [`CHANGE_ROOM`].
pub const CHANGE_ROOM_REPLY: i32 = 13;
/// Adds the operations in the body (`1000,1001`) to those the connection accepts.
pub const SUBSCRIBE: i32 = 14;
/// Answers [`SUBSCRIBE`].
pub const SUBSCRIBE_REPLY: i32 = 15;
/// Removes the operations in the body from those the connection accepts.
pub const UNSUBSCRIBE: i32 = 16;
/// Answers [`UNSUBSCRIBE`].
pub const UNSUBSCRIBE_REPLY: i32 = 17;
/// In protocol 2: enters a room beside those the connection is in; the body is a [`Join`](crate::Join).
pub const JOIN: i32 = 18;
/// Answers [`JOIN`], and announces a room that the server put the connection into; the body is a
/// [`JoinReply`](crate::JoinReply).
pub const JOIN_REPLY: i32 = 19;
/// In protocol 2: a push to a room; the body is a [`RoomPush`](crate::RoomPush).
pub const ROOM_PUSH: i32 = 20;
/// In protocol 2: leaves a room; the body is a [`Leave`](crate::Leave).
pub const LEAVE: i32 = 21;
/// Answers [`LEAVE`], and announces that the connection is no longer in a room; the body is a
/// [`LeaveReply`](crate::LeaveReply).
pub const LEAVE_REPLY: i32 = 22;
/// In protocol 2: pushes to a room were dropped for the connection; the body is a [`RoomGap`](crate::RoomGap).
pub const GAP: i32 = 23;
/// From a client of protocol 2, without a reply. With body 1 before its token, it asks the server to [keep its
/// session](crate::KeptSession). With body 0 later, it withdraws that.
pub const KEEP: i32 = 24;
/// A question of goim v1.2's clients whether the server answers.
pub const TEST: i32 = 254;
/// Answers [`TEST`].
pub const TEST_REPLY: i32 = 255;
