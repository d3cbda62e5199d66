//! A slab in chunks: values keep their address, growth copies nothing, and a reused place has a new generation.

use crate::canary::Canary;
use crate::ids::Generation;
use crate::index::Index;

const CHUNK: usize = 256;

enum Place<I, T> {
    Vacant { next: I },
    Taken(T),
}

struct Entry<I, T> {
    generation: Generation,
    place: Place<I, T>,
}

pub(crate) struct Slab<I, T> {
    chunks: Vec<Box<[Entry<I, T>]>>,
    free: I,
    len: usize,
}

impl<I: Index, T> Slab<I, T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: I::NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the highest index ever used, rounded up to a chunk.
    pub(crate) fn end(&self) -> I {
        I::from_u32(self.capacity())
    }

    /// Every index below [`Slab::end`], used or free.
    pub(crate) fn indices(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.capacity()).map(I::from_u32)
    }

    fn capacity(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).expect("indices are u32")
    }

    pub(crate) fn insert(&mut self, value: T) -> I {
        if self.free == I::NONE {
            self.grow();
        }
        let index = self.free;
        let entry = self.entry_mut(index);
        let Place::Vacant { next } = entry.place else {
            unreachable!("a place on the free list is vacant")
        };
        entry.place = Place::Taken(value);
        self.free = next;
        self.len += 1;
        index
    }

    /// Puts values into an empty slab at given indices, which must be different.
    pub(crate) fn place(&mut self, values: impl Iterator<Item = (I, T)>) {
        debug_assert_eq!(self.len, 0, "nothing is there yet");
        for (index, value) in values {
            while self.capacity() <= index.to_u32() {
                self.grow();
            }
            self.entry_mut(index).place = Place::Taken(value);
            self.len += 1;
        }
        self.free = I::NONE;
        for index in (0..self.capacity()).rev().map(I::from_u32) {
            let free = self.free;
            if let Place::Vacant { next } = &mut self.entry_mut(index).place {
                *next = free;
                self.free = index;
            }
        }
    }

    /// # Panics
    /// If there is no value: only the owner of a value removes it, once.
    pub(crate) fn remove(&mut self, index: I) -> T {
        let next = self.free;
        let entry = self.entry_mut(index);
        let Place::Taken(value) = std::mem::replace(&mut entry.place, Place::Vacant { next })
        else {
            panic!("{} is vacant", index.to_u32())
        };
        if !Canary::ReusedGeneration.is_released() {
            entry.generation = entry.generation.next();
        }
        self.free = index;
        self.len -= 1;
        value
    }

    pub(crate) fn generation(&self, index: I) -> Generation {
        self.entry(index).generation
    }

    /// The value at `index`, if the place still has this generation.
    pub(crate) fn at(&mut self, index: I, generation: Generation) -> Option<&mut T> {
        let index = index.to_u32() as usize;
        let entry = &mut self.chunks.get_mut(index / CHUNK)?[index % CHUNK];
        match &mut entry.place {
            Place::Taken(value) if entry.generation == generation => Some(value),
            _ => None,
        }
    }

    /// The value at `index`, if there is one.
    pub(crate) fn get_mut(&mut self, index: I) -> Option<&mut T> {
        let index = index.to_u32() as usize;
        match &mut self.chunks.get_mut(index / CHUNK)?[index % CHUNK].place {
            Place::Taken(value) => Some(value),
            Place::Vacant { .. } => None,
        }
    }

    pub(crate) fn is_taken(&self, index: I) -> bool {
        let index = index.to_u32() as usize;
        self.chunks
            .get(index / CHUNK)
            .is_some_and(|chunk| matches!(chunk[index % CHUNK].place, Place::Taken(_)))
    }

    fn grow(&mut self) {
        let first = self.capacity();
        assert!(first < u32::MAX - CHUNK as u32, "a slab holds fewer than 2^32 values");
        let end = first + CHUNK as u32;
        let next = |next| if next == end { I::NONE } else { I::from_u32(next) };
        self.chunks.push(
            (first + 1..=end)
                .map(|index| Entry {
                    generation: Generation(0),
                    place: Place::Vacant { next: next(index) },
                })
                .collect(),
        );
        self.free = I::from_u32(first);
    }

    fn entry(&self, index: I) -> &Entry<I, T> {
        let index = index.to_u32() as usize;
        &self.chunks[index / CHUNK][index % CHUNK]
    }

    fn entry_mut(&mut self, index: I) -> &mut Entry<I, T> {
        let index = index.to_u32() as usize;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<I: Index, T> std::ops::Index<I> for Slab<I, T> {
    type Output = T;

    fn index(&self, index: I) -> &T {
        match &self.entry(index).place {
            Place::Taken(value) => value,
            Place::Vacant { .. } => panic!("{} is vacant", index.to_u32()),
        }
    }
}

impl<I: Index, T> std::ops::IndexMut<I> for Slab<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        match &mut self.entry_mut(index).place {
            Place::Taken(value) => value,
            Place::Vacant { .. } => panic!("{} is vacant", index.to_u32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::Slot;

    #[test]
    fn a_reused_place_has_a_new_generation() {
        let mut slab: Slab<Slot, char> = Slab::new();
        let first = slab.insert('a');
        let generation = slab.generation(first);
        assert_eq!(slab.at(first, generation), Some(&mut 'a'));
        assert_eq!(slab.remove(first), 'a');
        assert!(!slab.is_taken(first));
        let second = slab.insert('b');
        assert_eq!(second, first);
        assert_eq!(slab.at(first, generation), None);
        assert_eq!(slab[second], 'b');
    }

    #[test]
    fn values_keep_their_place_while_the_slab_grows() {
        let mut slab: Slab<Slot, usize> = Slab::new();
        let slots: Vec<Slot> = (0..1000).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.len(), 1000);
        assert!((0..1000).all(|value: usize| slab[slots[value]] == value));
        assert_eq!(slab.end(), Slot(1024));
        assert_eq!(slab.indices().count(), 1024);
        assert!(!slab.is_taken(Slot(1000)) && !slab.is_taken(Slot(5000)));
    }
}
