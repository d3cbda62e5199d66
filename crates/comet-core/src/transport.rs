//! The two ways in which frames travel to clients.

use comet_proto::Encoded;

/// How frames travel on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Transport {
    /// Frames back to back.
    Tcp = 0,
    /// An HTTP upgrade, then one binary message for each frame.
    WebSocket = 1,
}

impl Transport {
    /// The bytes of `frame` on this transport.
    #[inline]
    #[must_use]
    pub fn bytes(self, frame: &Encoded) -> &[u8] {
        match self {
            Self::Tcp => frame.for_tcp(),
            Self::WebSocket => frame.for_websocket(),
        }
    }
}
