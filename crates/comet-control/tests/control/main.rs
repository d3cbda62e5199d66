//! A real control thread over loopback, between real gRPC and HTTP callers and shards that the tests simulate.

#![allow(clippy::disallowed_methods, reason = "shards played by hand have a clock")]

mod called;
mod connections;
mod debug;
mod documents;
mod fake;
mod fake_logic;
mod h2_frames;
mod hostile_callers;
mod http;
mod http_push;
mod lifecycle;
mod live_trace;
mod logic;
mod logic_away;
mod logic_gateway;
mod notices;
mod overload;
mod paced_hosts;
mod push;
mod push_stream;
mod raw_logic;
mod room_lists;
mod spans;
mod stream;
mod text_format;
mod trace_log;
