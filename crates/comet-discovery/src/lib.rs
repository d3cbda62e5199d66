//! The sans-IO client of [bilibili/discovery](https://github.com/bilibili/discovery), the registry in which goim's logic
//! and job find comets.
//!
//! [`Registration`] of a comet and [`Watch`] for comets return the request that is due and its node, and take the
//! answer. Their callers have the HTTP client and the clock.
//!
//! **Invariant:** nothing here reads a clock, opens a socket, takes a lock, awaits or logs.

mod instance;
mod nodes;
mod poll_reply;
mod registration;
mod request;
mod request_reply;
mod watch;

pub use instance::{Census, Instance};
pub use nodes::NodeEvent;
pub use poll_reply::{PollReply, RegisteredComet};
pub use registration::{Event, Registration};
pub use request::Request;
pub use request_reply::RequestReply;
pub use watch::{Watch, WatchEvent};
