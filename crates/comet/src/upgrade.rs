//! A live upgrade: another process continues with the connections of this one. docs/adr/0016-live-upgrade.md has the
//! phases, and `comet-upgrade` the protocol of the two processes. The content of the hand-over is here.

mod former;
mod handover_data;
mod hosts;
mod paced;
mod request;
mod successor;

pub use request::{Answer, Request, ask};
pub use successor::is_successor;

pub(crate) use former::Former;
pub(crate) use request::Asked;
pub(crate) use successor::{Takeover, TakeoverError};

// The channel accepts every state that a reader accepts.
const _: () = assert!(comet_upgrade::STATE_BYTES_MAX == comet_handover::SHARD_BYTES_MAX);
