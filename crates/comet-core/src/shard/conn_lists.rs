//! The connections that pushes by keys or users are sent to, while these pushes continue in slices.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use crate::ids::LocalConnId;

/// A push with more connections than this is not compared with the lists of others.
const SOUGHT_MAX: usize = 16;

/// The lists of connections of pushes by keys or users that continue in slices, one push after the other. This keeps
/// the order of each key.
pub(super) struct ConnLists {
    /// The list of the push under way, then those of the waiting pushes.
    lists: VecDeque<Vec<LocalConnId>>,
    /// The position in the first list.
    pub(super) next: usize,
    /// The number of connections in all lists.
    len: usize,
    /// How often each connection is in the lists. Built when another push is first compared with them, because many
    /// small pushes may follow long lists.
    index: Option<HashMap<LocalConnId, u32, RandomState>>,
}

impl ConnLists {
    pub(super) fn new(list: Vec<LocalConnId>) -> Self {
        Self { next: 0, len: list.len(), lists: VecDeque::from([list]), index: None }
    }

    /// The list of the push under way.
    pub(super) fn first(&self) -> &[LocalConnId] {
        self.lists.front().map_or(&[], Vec::as_slice)
    }

    /// The number of connections in all lists.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends the lists of `other`.
    pub(super) fn append(&mut self, other: Self) {
        self.len += other.len;
        if let Some(index) = &mut self.index {
            count(index, other.lists.iter().flatten());
        }
        self.lists.extend(other.lists);
    }

    /// Continues with the list after the first.
    pub(super) fn begin_next(&mut self) {
        let done = self.lists.pop_front().unwrap_or_default();
        self.next = 0;
        self.len -= done.len();
        let Some(index) = &mut self.index else { return };
        for conn in &done {
            if let Some(times) = index.get_mut(conn) {
                *times -= 1;
                if *times == 0 {
                    index.remove(conn);
                }
            }
        }
    }

    /// Whether pushes to `others` have to wait for these lists: a connection is in both, or `others` has too many to
    /// compare.
    pub(super) fn must_precede(&mut self, others: &Self) -> bool {
        if others.len() > SOUGHT_MAX {
            return true;
        }
        let index = self.index.get_or_insert_with(|| {
            // The server assigns these ids, so no client can choose colliding ones, and the hash needs no secret seed.
            let mut index = HashMap::with_hasher(RandomState::with_seeds(0, 0, 0, 0));
            count(&mut index, self.lists.iter().flatten());
            index
        });
        others.lists.iter().flatten().any(|conn| index.contains_key(conn))
    }
}

fn count<'a>(
    index: &mut HashMap<LocalConnId, u32, RandomState>,
    conns: impl Iterator<Item = &'a LocalConnId>,
) {
    for conn in conns {
        *index.entry(*conn).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, Slot};

    fn lists(slots: &[u32]) -> ConnLists {
        let conn = |slot| LocalConnId { slot: Slot(slot), generation: Generation(0) };
        ConnLists::new(slots.iter().copied().map(conn).collect())
    }

    #[test]
    fn a_push_waits_for_those_to_the_same_connections() {
        let mut listed = lists(&[1, 2, 2]);
        assert!(listed.must_precede(&lists(&[9, 2])) && !listed.must_precede(&lists(&[9, 3])));
        listed.append(lists(&[2, 3]));
        assert_eq!((listed.len(), listed.first().len()), (5, 3));
        assert!(listed.must_precede(&lists(&[3])));
        listed.begin_next();
        assert!(!listed.must_precede(&lists(&[1])) && listed.must_precede(&lists(&[2])));
        listed.begin_next();
        assert!(!listed.must_precede(&lists(&[2, 3])) && listed.len() == 0);
        let many: Vec<u32> = (100..=100 + SOUGHT_MAX as u32).collect();
        assert!(listed.must_precede(&lists(&many)), "too many to look for");
    }
}
