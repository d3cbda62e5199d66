//! An open message as bytes, for another process.

use super::Fragments;

/// An open message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentParts<Bytes> {
    /// The payload so far, without mask.
    pub payload: Bytes,
    /// The message is text.
    pub is_text: bool,
    /// The payload is compressed.
    pub is_compressed: bool,
}

impl Fragments {
    /// The message so far.
    #[must_use]
    pub fn parts(&self) -> FragmentParts<&[u8]> {
        let Self { payload, is_text, is_compressed } = self;
        FragmentParts { payload, is_text: *is_text, is_compressed: *is_compressed }
    }

    /// The inverse of [`Fragments::parts`].
    #[must_use]
    pub fn from_parts(parts: FragmentParts<Vec<u8>>) -> Self {
        let FragmentParts { payload, is_text, is_compressed } = parts;
        Self { payload, is_text, is_compressed }
    }
}
