//! An open message as bytes, for another process.

use super::Fragments;

impl Fragments {
    /// The payload so far, and whether the message is text.
    #[must_use]
    pub fn parts(&self) -> (&[u8], bool) {
        let Self { payload, is_text } = self;
        (payload, *is_text)
    }

    /// What [`Fragments::parts`] gave.
    #[must_use]
    pub fn from_parts(payload: Vec<u8>, is_text: bool) -> Self {
        Self { payload, is_text }
    }
}
