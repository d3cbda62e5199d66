//! The server's side of WebSocket (RFC 6455): the upgrade, and reading a client's frames.
//!
//! Header codec, close codes and the handshake's rules are tungstenite's; reassembly, masking rules and
//! limits are here, because the caller owns the buffers and an idle connection may hold none.

pub(crate) mod frames;
mod upgrade;

pub use frames::{Event, Fault, Fragments, read};
pub use upgrade::{Upgrade, UpgradeFault, upgrade};
