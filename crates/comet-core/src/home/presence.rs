//! The connections that have entered and left rooms whose members are told, until the end of a window.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;
use comet_proto::presence::RoomChanges;

use crate::limits::PRESENCE_WINDOWS_MAX;
use crate::presence::PresenceRule;
use crate::time::Millis;

pub(crate) struct PresenceWindows {
    rooms: HashMap<Arc<str>, (Millis, RoomChanges), RandomState>,
    /// The same rooms, by the end of their windows.
    ends: BTreeSet<(Millis, Arc<str>)>,
}

impl PresenceWindows {
    pub(super) fn new(seed: u64) -> Self {
        let rooms = HashMap::with_hasher(RandomState::with_seeds(seed, 30, 31, 32));
        Self { rooms, ends: BTreeSet::new() }
    }

    /// A connection entered or left `room`, for which `rule` holds.
    pub(crate) fn add(
        &mut self,
        room: Arc<str>,
        rule: &PresenceRule,
        (user, key): (i64, Box<str>),
        is_join: bool,
        now: Millis,
    ) {
        let (_, changes) = self.rooms.entry(Arc::clone(&room)).or_insert_with(|| {
            let end = now.after(rule.window_ms.into());
            self.ends.insert((end, room));
            (end, RoomChanges::default())
        });
        changes.add(user, key, is_join, rule.names as usize);
    }

    /// When the next window ends. If there are too many windows, at once.
    pub(crate) fn next_end(&self) -> Option<Millis> {
        let (end, _) = self.ends.first()?;
        Some(if self.ends.len() > PRESENCE_WINDOWS_MAX { Millis(0) } else { *end })
    }

    /// The number of windows.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Removes the window that ended first, if one has ended by `now`.
    pub(crate) fn pop_ended(&mut self, now: Millis) -> Option<(Arc<str>, RoomChanges)> {
        self.next_end().filter(|&end| end <= now)?;
        self.pop()
    }

    /// Removes the window that ends first.
    pub(crate) fn pop(&mut self) -> Option<(Arc<str>, RoomChanges)> {
        let (_, room) = self.ends.pop_first()?;
        let (_, changes) = self.rooms.remove(&room).expect("a window has an end");
        Some((room, changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_in_their_order_and_too_many_at_once() {
        let mut windows = PresenceWindows::new(7);
        let rule = PresenceRule { prefix: "".into(), operation: 5, window_ms: 100, names: 1 };
        let add = |windows: &mut PresenceWindows, room: &str, now| {
            windows.add(room.into(), &rule, (1, "k".into()), true, Millis(now));
        };
        add(&mut windows, "a", 10);
        add(&mut windows, "b", 0);
        add(&mut windows, "a", 50);
        assert_eq!(windows.next_end(), Some(Millis(100)));
        assert!(windows.pop_ended(Millis(99)).is_none());
        assert_eq!(windows.pop_ended(Millis(100)).map(|(room, _)| room), Some("b".into()));
        let (room, changes) = windows.pop_ended(Millis(110)).unwrap();
        assert_eq!((&*room, changes.joined.count, windows.next_end()), ("a", 2, None));
        for number in 0..=PRESENCE_WINDOWS_MAX {
            add(&mut windows, &format!("r{number}"), 200);
        }
        assert!(windows.pop_ended(Millis(200)).is_some());
        assert!(windows.pop_ended(Millis(200)).is_none());
    }
}
