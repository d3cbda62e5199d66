//! The stores from outside: one suite for both kinds, and what only Redis has.

mod conformance;
mod memory;
mod redis;
mod server;
