//! The interfaces for operators: debug pages over loopback, and signals.

mod debug;
mod panics;
mod signals;
