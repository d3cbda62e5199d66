//! The frames of all logs. A frame is stored once, no matter how many logs have it.

use std::ops::Index;

use crate::ids::Generation;
use crate::parking::ParkedFrames;
use crate::slab::Slab;

use super::{FrameId, Item};

/// The memory of a frame in each log that has it.
pub(super) const ENTRY_BYTES: usize = 20;

pub(super) struct FrameStore {
    frames: Slab<FrameId, Stored>,
    /// The memory of the frames and of their entries in logs.
    held_bytes: usize,
}

struct Stored {
    item: Item,
    /// The number of logs that have it.
    logs: u32,
}

impl FrameStore {
    pub(super) fn new() -> Self {
        Self { frames: Slab::new(), held_bytes: 0 }
    }

    /// Stores the frame for one more log.
    pub(super) fn hold(&mut self, item: &Item) -> FrameId {
        let (id, generation) = item.stored.get();
        if self.frames.at(id, generation).is_some() {
            self.hold_again(id);
            return id;
        }
        self.held_bytes += ENTRY_BYTES + bytes_of(item);
        let id = self.frames.insert(Stored { item: item.clone(), logs: 1 });
        item.stored.set((id, self.frames.generation(id)));
        id
    }

    /// Counts one more log for a frame that another log has.
    pub(super) fn hold_again(&mut self, id: FrameId) {
        self.held_bytes += ENTRY_BYTES;
        self.frames[id].logs += 1;
    }

    /// One log no longer has the frame.
    pub(super) fn release(&mut self, id: FrameId) {
        self.held_bytes -= ENTRY_BYTES;
        let stored = &mut self.frames[id];
        stored.logs -= 1;
        if stored.logs == 0 {
            let Stored { item, .. } = self.frames.remove(id);
            self.held_bytes -= bytes_of(&item);
        }
    }

    /// The memory of the frames, each counted once, and of their entries in logs.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }
}

impl Index<FrameId> for FrameStore {
    type Output = Item;

    fn index(&self, id: FrameId) -> &Item {
        &self.frames[id].item
    }
}

/// The memory of a frame without its entries in logs.
pub(super) fn bytes_of(item: &Item) -> usize {
    let parcel = item.parcel().map_or(0, ParkedFrames::bytes);
    size_of::<Stored>() + size_of::<Generation>() + item.frame.for_websocket().len() + parcel
}
