//! Servers as callers over HTTP/2 see them that do what no gRPC library does.

mod caller;
mod pages;
mod reflection;
mod unsent;
