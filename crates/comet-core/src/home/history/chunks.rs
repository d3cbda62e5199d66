//! The part of missed pushes that fits into one push.

use comet_proto::{Encoded, RoomHandle};

use super::HistoryFrame;

/// Successive pushes of one room.
pub(super) struct Chunk {
    pub(super) epoch: u64,
    pub(super) after: u64,
    pub(super) to: u64,
    pub(super) handle: RoomHandle,
    pub(super) frame: Encoded,
}

/// The part of `frames` for one chunk: its bytes, its number of frames, and the offset of its last push. `None`: the
/// first frame is too long.
pub(super) fn fitting<'a>(
    frames: impl Iterator<Item = &'a HistoryFrame> + Clone,
    after: u64,
    most: usize,
) -> Option<(usize, usize, u64)> {
    let lengths = frames.map(|kept| (kept.frames_after(after).len(), kept.offset));
    let all: usize = lengths.clone().map(|(bytes, _)| bytes).sum();
    let most_of_part = if all <= most { most } else { most / 2 };
    let mut fitting = None;
    for (length, offset) in lengths {
        let (bytes, count, _) = fitting.unwrap_or((0, 0, 0));
        let most = if count == 0 { most } else { most_of_part };
        if bytes + length > most {
            break;
        }
        fitting = Some((bytes + length, count + 1, offset));
    }
    fitting
}
