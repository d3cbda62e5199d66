//! A slab in chunks: slots keep their place, growing copies nothing, a reused slot has a new generation.

const CHUNK: usize = 256;

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

enum Slot<T> {
    Vacant { next: u32 },
    Taken(T),
}

struct Entry<T> {
    generation: u32,
    slot: Slot<T>,
}

pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Entry<T>]>>,
    free: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the highest slot that was ever taken, rounded up to a chunk.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("slots are counted in u32")
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let entry = self.entry_mut(index);
        let Slot::Vacant { next } = entry.slot else {
            unreachable!("a slot on the free list is vacant")
        };
        entry.slot = Slot::Taken(value);
        self.free = next;
        self.len += 1;
        index
    }

    /// # Panics
    /// If the slot is vacant: only its owner removes it, once.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let next = self.free;
        let entry = self.entry_mut(index);
        let Slot::Taken(value) = std::mem::replace(&mut entry.slot, Slot::Vacant { next }) else {
            panic!("slot {index} was vacant")
        };
        entry.generation = entry.generation.wrapping_add(1);
        self.free = index;
        self.len -= 1;
        value
    }

    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.entry(index).generation
    }

    /// The value in `index` if that slot is still in this generation.
    pub(crate) fn at(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        let entry = &mut chunk[index as usize % CHUNK];
        match &mut entry.slot {
            Slot::Taken(value) if entry.generation == generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn occupied(&self, index: u32) -> bool {
        self.chunks
            .get(index as usize / CHUNK)
            .is_some_and(|chunk| matches!(chunk[index as usize % CHUNK].slot, Slot::Taken(_)))
    }

    fn grow(&mut self) {
        let first = self.end();
        assert!(first < NONE - CHUNK as u32, "a slab holds fewer than 2^32 slots");
        let end = first + CHUNK as u32;
        self.chunks.push(
            (first + 1..=end)
                .map(|next| Entry {
                    generation: 0,
                    slot: Slot::Vacant { next: if next == end { NONE } else { next } },
                })
                .collect(),
        );
        self.free = first;
    }

    fn entry(&self, index: u32) -> &Entry<T> {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn entry_mut(&mut self, index: u32) -> &mut Entry<T> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        match &self.entry(index).slot {
            Slot::Taken(value) => value,
            Slot::Vacant { .. } => panic!("slot {index} is vacant"),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        match &mut self.entry_mut(index).slot {
            Slot::Taken(value) => value,
            Slot::Vacant { .. } => panic!("slot {index} is vacant"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_a_new_generation() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        let generation = slab.generation(first);
        assert_eq!(slab.at(first, generation), Some(&mut 'a'));
        assert_eq!(slab.remove(first), 'a');
        assert!(!slab.occupied(first));
        let second = slab.insert('b');
        assert_eq!(second, first);
        assert_eq!(slab.at(first, generation), None);
        assert_eq!(slab[second], 'b');
    }

    #[test]
    fn slots_keep_their_value_while_the_slab_grows() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..1000).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.len(), 1000);
        assert!((0..1000).all(|value: usize| slab[slots[value]] == value));
        assert_eq!(slab.end(), 1024);
        assert!(!slab.occupied(1000) && !slab.occupied(5000));
    }
}
