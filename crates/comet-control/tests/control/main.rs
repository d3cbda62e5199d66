//! A real control thread over loopback, between real gRPC and HTTP callers and shards played by hand.

mod fake;
mod http;
mod http_body;
mod http_push;
mod lifecycle;
mod overload;
mod push;
mod text_format;
