//! The wire protocol of the goim family: frames and their operations, the WebSocket upgrade and
//! framing around them, and the PROXY protocol before them.
//!
//! All functions work on slices of the caller. Bytes of a peer are checked in exactly six places: [`decode`],
//! [`websocket`], [`sse`], [`text`], [`proxy`] and [`push_frame`]. A failed check is a named fault that contains the
//! numbers.
//! Output is built once as [`Encoded`] and shared by all connections, whatever their transport.
//!
//! **Invariant:** nothing here reads a socket or a clock, or knows what a room is. No bytes cause a
//! panic, or an allocation without a bound.

mod auth_reply;
mod encoded;
pub mod event_id;
mod frame;
pub mod op;
pub mod presence;
pub mod proxy;
pub mod push_frame;
mod rooms;
pub mod sse;
pub mod text;
pub mod websocket;

pub use auth_reply::{AuthReply, KeptSession, NotRenewed, Resumed};
pub use encoded::Encoded;
pub use frame::{Frame, FrameFault, HEADER_LEN, VERSION, VERSION_2, count_frames, decode};
pub use rooms::{
    Join, JoinReply, Leave, LeaveReply, Position, RoomGap, RoomHandle, RoomPush, RoomRefusal,
};
