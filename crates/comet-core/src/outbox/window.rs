//! The frames of one send: where each frame ends, and their bytes in one buffer.

/// Built once for all connections of one transport that send the same frames.
pub(super) struct Window {
    /// One for each frame.
    ends: Box<[FrameEnd]>,
    /// `None`: the frames are sent from where they are stored.
    joined: Option<Box<[u8]>>,
}

/// The sums over the frames of a window up to and including one of them.
struct FrameEnd {
    bytes: u32,
    pushes: u32,
    replies: u32,
}

/// Frames that the kernel took to the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Whole {
    pub(super) frames: u32,
    /// The pushes in them, and in an incomplete parcel behind them.
    pub(super) pushes: u32,
    pub(super) replies: u32,
    /// The length of the frames.
    pub(super) bytes: u32,
}

impl Window {
    /// A window of frames, given as their bytes and the number of pushes in each. `joined` is the memory for joining
    /// them into one buffer.
    pub(super) fn new<'a>(
        frames: impl Iterator<Item = (&'a [u8], u32)>,
        mut joined: Option<Vec<u8>>,
    ) -> Self {
        let (mut bytes, mut pushes, mut replies) = (0, 0, 0);
        let ends = frames.map(|(frame, pushes_in_it)| {
            if let Some(joined) = &mut joined {
                joined.extend_from_slice(frame);
            }
            bytes += frame.len() as u32;
            pushes += pushes_in_it;
            replies += u32::from(pushes_in_it == 0);
            FrameEnd { bytes, pushes, replies }
        });
        let ends = ends.collect();
        Self { ends, joined: joined.map(Vec::into_boxed_slice) }
    }

    pub(super) fn joined(&self) -> Option<&[u8]> {
        self.joined.as_deref()
    }

    /// The frames that end within the first `taken` bytes.
    pub(super) fn whole(&self, taken: u32) -> Whole {
        let frames = self.ends.partition_point(|end| end.bytes <= taken);
        match frames.checked_sub(1).map(|last| &self.ends[last]) {
            None => Whole::default(),
            Some(&FrameEnd { bytes, pushes, replies }) => {
                Whole { frames: frames as u32, pushes, replies, bytes }
            }
        }
    }
}
