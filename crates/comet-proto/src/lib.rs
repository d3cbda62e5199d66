//! The wire of the goim family: frames and their operations, and the WebSocket upgrade and framing
//! around them, and the PROXY protocol before them.
//!
//! Everything works on slices the caller owns. Bytes of a peer are checked in exactly three places, [`decode`], [`websocket`] and [`proxy`];
//! what fails there is a named fault with the numbers in it. What goes out is built once as [`Encoded`] and shared
//! by every connection, whatever its transport.
//!
//! **Invariant:** nothing here reads a socket or a clock, or knows what a room is; and no bytes make it
//! panic or allocate without a bound.

mod encoded;
mod frame;
pub mod op;
pub mod proxy;
pub mod websocket;

pub use encoded::Encoded;
pub use frame::{Frame, FrameFault, HEADER_LEN, VERSION, count_frames, decode};
