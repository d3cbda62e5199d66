//! Tests of the stores: one suite for both kinds, and tests of each kind.
#![allow(clippy::print_stderr, reason = "the harness shows it")]

mod conformance;
mod memory;
mod redis;
mod redis_failover;
mod redis_login;
mod server;
