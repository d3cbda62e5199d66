//! The bytes of one send, as slices.

use crate::limits::SLICES_MAX;
use crate::transport::Transport;

use super::log::Frames;

/// Slices of bytes in the order in which they are sent. None is empty.
#[derive(Clone)]
pub struct Slices<'a> {
    first: Option<&'a [u8]>,
    frames: Option<Frames<'a>>,
    transport: Transport,
    left: usize,
}

impl<'a> Slices<'a> {
    pub(super) fn one(bytes: &'a [u8]) -> Self {
        Self { first: Some(bytes), frames: None, transport: Transport::Tcp, left: 1 }
    }

    /// All of `frames` without the first `skipped` frames and the first `taken` bytes after them, up to [`SLICES_MAX`]
    /// slices.
    pub(super) fn of_frames(
        mut frames: Frames<'a>,
        transport: Transport,
        skipped: usize,
        taken: usize,
    ) -> Self {
        let first = frames.nth(skipped).map(|(_, item)| &transport.bytes(&item.frame)[taken..]);
        Self { first, frames: Some(frames), transport, left: SLICES_MAX }
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.first.take().or_else(|| {
            let (_, item) = self.frames.as_mut()?.next()?;
            Some(self.transport.bytes(&item.frame))
        })
    }
}
