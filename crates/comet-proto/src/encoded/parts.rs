//! An [`Encoded`] as bytes, for another process.

use super::{Encoded, TEXT_MESSAGE, header_len};

impl Encoded {
    /// The bytes for a WebSocket, and the index at which the bytes for TCP begin.
    #[must_use]
    pub fn parts(&self) -> (&[u8], usize) {
        let Self { bytes, tcp_at } = self;
        (bytes, *tcp_at)
    }

    /// The inverse of [`Encoded::parts`]. `None`: these are not parts of an [`Encoded`].
    #[must_use]
    pub fn from_parts(bytes: &[u8], tcp_at: usize) -> Option<Self> {
        let is_whole = match *bytes {
            [TEXT_MESSAGE, _, ..] => header_len(bytes) <= bytes.len(),
            _ => true,
        };
        (tcp_at <= bytes.len() && is_whole).then(|| Self::new(bytes, tcp_at))
    }
}
