//! The client against bytes written by hand and against tungstenite's server.

mod reconnect;
mod session;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod websocket;
mod wire;
