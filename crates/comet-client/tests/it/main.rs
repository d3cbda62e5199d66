//! Tests of the client against hand-written bytes and against tungstenite's server.

mod asynchronous;
mod positions;
mod pusher;
mod reconnect;
mod rooms;
mod session;
mod set_up;
mod taken;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod websocket;
mod wire;
