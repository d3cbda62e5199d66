//! The two processes of a live upgrade: the channel between them, and the two phases, both of which can be undone.
//!
//! The former process starts the new binary with one end of a socket pair as its standard input ([`upgrade`]). The new one finds it
//! there ([`Successor::from_environment`]). docs/adr/0016-live-upgrade.md has the phases.
//!
//! **Invariant:** nothing here knows the content of the hand-over: states are bytes, sockets are descriptors. Any
//! failure before the commit is undone: the new process is ended, its end is waited for, and the former one continues.
#![allow(clippy::disallowed_methods, reason = "both processes have deadlines")]

mod channel;
mod failure;
mod greeting;
mod hang_detector;
mod predecessor;
mod successor;

pub use channel::{Body, Channel, DESCRIPTORS_A_MESSAGE, STATE_BYTES_MAX};
pub use failure::Failure;
pub use greeting::Greeting;
pub use predecessor::{Predecessor, Timeouts, upgrade};
pub use successor::{Handed, Successor};

/// The variable that tells a process that it is the new one of an upgrade.
pub const VARIABLE: &str = "COMET_UPGRADE";
