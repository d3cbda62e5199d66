//! What operators reach from outside: debug pages over loopback, and signals.

mod debug;
mod panics;
mod signals;
