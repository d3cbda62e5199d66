//! Servers as seen by HTTP/2 callers with behaviour that no gRPC library has.

mod caller;
mod pages;
mod reflection;
mod unsent;
