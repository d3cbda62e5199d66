//! The frames of all logs. A frame is stored once, however many logs have it.

use std::ops::Index;

use crate::ids::Generation;
use crate::parking::ParkedFrames;
use crate::slab::Slab;

use super::{FrameId, Item};

/// What a frame takes in each log that has it.
pub(super) const ENTRY_BYTES: usize = 20;

pub(super) struct FrameStore {
    frames: Slab<FrameId, Stored>,
    /// What the frames and their entries in logs take.
    held_bytes: usize,
}

struct Stored {
    item: Item,
    /// Logs that have it.
    logs: u32,
}

impl FrameStore {
    pub(super) fn new() -> Self {
        Self { frames: Slab::new(), held_bytes: 0 }
    }

    /// Keeps the frame for one log more.
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

    /// Keeps a frame that some log has for one more.
    pub(super) fn hold_again(&mut self, id: FrameId) {
        self.held_bytes += ENTRY_BYTES;
        self.frames[id].logs += 1;
    }

    /// One log has the frame no more.
    pub(super) fn release(&mut self, id: FrameId) {
        self.held_bytes -= ENTRY_BYTES;
        let stored = &mut self.frames[id];
        stored.logs -= 1;
        if stored.logs == 0 {
            let Stored { item, .. } = self.frames.remove(id);
            self.held_bytes -= bytes_of(&item);
        }
    }

    /// What the frames take, each counted once, and their entries in logs.
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

/// What a frame takes beside its entries in logs.
pub(super) fn bytes_of(item: &Item) -> usize {
    let parcel = item.parcel().map_or(0, ParkedFrames::bytes);
    size_of::<Stored>() + size_of::<Generation>() + item.frame.for_websocket().len() + parcel
}
