//! The server's side of WebSocket (RFC 6455): the upgrade, and reading a client's frames.
//!
//! The codec of headers, the close codes and the accept key come from tungstenite. Reassembly,
//! masking and limits are here, because the caller owns the buffers and an idle connection must not
//! hold any.

mod deflate;
pub(crate) mod frames;
mod origin;
pub(crate) mod upgrade;

pub use deflate::DeflateOffer;
pub use frames::{Accepted, Event, Fault, FragmentParts, Fragments, MessageKinds, read};
pub use origin::{BadOriginPattern, Origin, OriginPattern};
pub use upgrade::{Upgrade, UpgradeFault, upgrade};
