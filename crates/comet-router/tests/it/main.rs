//! Tests of the stores: one suite for both kinds, and tests of each kind.

mod conformance;
mod memory;
mod redis;
mod redis_failover;
mod redis_login;
mod server;
