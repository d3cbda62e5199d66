//! All random decisions of a run come from one generator, in order. A fuzzer may provide the first of them instead.

use std::collections::VecDeque;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

pub(crate) struct Rng {
    /// The decisions of a fuzzer, two bytes each. The generator makes the later ones.
    input: VecDeque<[u8; 2]>,
    generator: Xoshiro256PlusPlus,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_input(seed, &[])
    }

    /// As [`Rng::new`], but after the decisions in `input`.
    pub(crate) fn with_input(seed: u64, input: &[u8]) -> Self {
        let (decisions, _) = input.as_chunks();
        Self {
            input: decisions.iter().copied().collect(),
            generator: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        match (self.input.pop_front(), (most - least).checked_add(1)) {
            (Some(decision), Some(choices)) => {
                least + u64::from(u16::from_le_bytes(decision)) % choices
            }
            _ => self.generator.random_range(least..=most),
        }
    }

    /// A generator whose numbers have nothing to do with those of this one, which stays as it is.
    pub(crate) fn independent(&self) -> Self {
        let seed: u64 = self.generator.clone().random();
        Self::new(!seed)
    }

    /// A number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.between(0, end as u64 - 1) as usize
    }

    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.between(0, 99) < u64::from(percent)
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}
