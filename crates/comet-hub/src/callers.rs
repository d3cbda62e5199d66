//! The number of calls that each caller has under way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::queues::CallerId;

/// How many calls each caller has under way, up to a bound. [`CallerId::default`] is this process itself, which has no
/// bound.
#[derive(Debug)]
pub(crate) struct Callers {
    most: usize,
    /// Callers with a call under way.
    calls: HashMap<CallerId, usize>,
}

impl Callers {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, calls: HashMap::new() }
    }

    /// Whether the caller may begin another call.
    pub(crate) fn has_room(&self, caller: CallerId) -> bool {
        self.calls(caller) < self.most
    }

    /// How many calls the caller has under way.
    pub(crate) fn calls(&self, caller: CallerId) -> usize {
        self.calls.get(&caller).copied().unwrap_or(0)
    }

    pub(crate) fn begin(&mut self, caller: CallerId) {
        if caller != CallerId::default() {
            *self.calls.entry(caller).or_default() += 1;
        }
    }

    /// # Panics
    /// If the caller has no call under way.
    pub(crate) fn end(&mut self, caller: CallerId) {
        if caller == CallerId::default() {
            return;
        }
        let Entry::Occupied(mut calls) = self.calls.entry(caller) else {
            panic!("a call that ends has begun")
        };
        *calls.get_mut() -= 1;
        if *calls.get() == 0 {
            calls.remove();
        }
    }
}
