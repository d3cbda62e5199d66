//! The sans-IO client of [bilibili/discovery](https://github.com/bilibili/discovery), the registry in which goim's logic
//! and job find comets.
//!
//! [`Registration`] says which request is due at which node, and takes the answer. Its caller has the HTTP client and
//! the clock.
//!
//! **Invariant:** nothing here reads a clock, opens a socket, takes a lock, awaits or logs.

mod answer;
mod instance;
mod nodes;
mod registration;

pub use answer::Answer;
pub use instance::{Census, Instance};
pub use registration::{Event, Registration, Request};
