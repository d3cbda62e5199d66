//! The transports of frames to clients.

use comet_proto::Encoded;

/// How frames travel on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Transport {
    /// Frames back to back.
    Tcp = 0,
    /// An HTTP upgrade, then one binary message for each frame.
    WebSocket = 1,
    /// An HTTP response without an end, with an event for each push. It is accepted as [`Transport::WebSocket`].
    EventStream = 2,
}

impl Transport {
    /// The bytes of `frame` on this transport.
    #[inline]
    #[must_use]
    pub fn bytes(self, frame: &Encoded) -> &[u8] {
        match self {
            Self::Tcp => frame.for_tcp(),
            Self::WebSocket | Self::EventStream => frame.for_websocket(),
        }
    }

    /// The encoding of an [`Encoded`] that it sends: 0 is that for TCP, 1 that of the other transports.
    #[inline]
    pub(crate) fn encoding(self) -> usize {
        usize::from(self != Self::Tcp)
    }
}
