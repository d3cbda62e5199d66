//! Deadlines: a hierarchical timer wheel whose links are 16 bytes a slot in one array.
//!
//! A deadline that moves to a later tick is only stored. The entry moves when the wheel next visits it. So a
//! heartbeat costs one store, and an idle connection one visit per level and interval.

use crate::ids::Slot;
use crate::index::Index;
use crate::time::Tick;

const LEVELS: u32 = 4;
const BITS: u32 = 6;
/// Lists of a level.
const LISTS: u32 = 1 << BITS;
const MASK: u32 = LISTS - 1;
/// An entry with a deadline beyond this is put here, and visited again from here on.
const HORIZON: u32 = (1 << (BITS * LEVELS)) - 1;

/// One of the wheel's lists: `level * LISTS` and the index within the level.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct List(u16);

impl List {
    /// In no list.
    const UNARMED: Self = Self(u16::MAX);

    /// The list of `level` that holds what is due at `tick`.
    fn of(level: u32, tick: u32) -> Self {
        Self((level * LISTS + ((tick >> (BITS * level)) & MASK)) as u16)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[derive(Clone, Copy)]
struct Links {
    next: Slot,
    previous: Slot,
    deadline: Tick,
    /// Which list it is in.
    list: List,
}

const _: () = assert!(size_of::<Links>() == 16);

const IDLE: Links =
    Links { next: Slot::NONE, previous: Slot::NONE, deadline: Tick(0), list: List::UNARMED };

/// Links are allocated in chunks, so that a million of them are never copied in one step.
const CHUNK: usize = 1024;

pub(crate) struct Wheel {
    now: Tick,
    heads: [Slot; (LEVELS * LISTS) as usize],
    links: Vec<Box<[Links; CHUNK]>>,
    armed: usize,
    /// Entries that were looked at: the work of [`Wheel::advance`].
    #[cfg(test)]
    visits: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            now,
            heads: [Slot::NONE; (LEVELS * LISTS) as usize],
            links: Vec::new(),
            armed: 0,
            #[cfg(test)]
            visits: 0,
        }
    }

    /// The tick the wheel was last turned to.
    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// Sets the deadline of `slot`, which [`Wheel::advance`] reports in the tick it is reached, or in
    /// the next tick if it has passed already.
    pub(crate) fn arm(&mut self, slot: Slot, deadline: Tick) {
        while self.links.len() * CHUNK <= slot.0 as usize {
            self.links.push(Box::new([IDLE; CHUNK]));
        }
        let links = self.at(slot);
        if links.list != List::UNARMED {
            if deadline >= links.deadline {
                links.deadline = deadline;
                return;
            }
            self.unlink(slot);
        } else {
            self.armed += 1;
        }
        self.at(slot).deadline = deadline;
        self.link(slot);
    }

    pub(crate) fn disarm(&mut self, slot: Slot) {
        if slot.0 as usize >= self.links.len() * CHUNK || self.at(slot).list == List::UNARMED {
            return;
        }
        self.unlink(slot);
        self.at(slot).list = List::UNARMED;
        self.armed -= 1;
    }

    /// Turns the wheel to `now`; every slot whose deadline was reached is disarmed and added to
    /// `expired`.
    pub(crate) fn advance(&mut self, now: Tick, expired: &mut Vec<Slot>) {
        while self.now < now {
            self.now.0 += 1;
            for level in (1..LEVELS).rev() {
                if self.now.0.trailing_zeros() >= BITS * level {
                    self.visit(level, expired);
                }
            }
            self.visit(0, expired);
        }
    }

    /// The next tick at which [`Wheel::advance`] has something to do, no later than the next round of level
    /// 0.
    pub(crate) fn next_tick(&self) -> Option<Tick> {
        if self.armed == 0 {
            return None;
        }
        let turn = (self.now.0 | MASK) + 1;
        (self.now.0 + 1..turn)
            .find(|&tick| self.heads[List::of(0, tick).index()] != Slot::NONE)
            .or(Some(turn))
            .map(Tick)
    }

    /// Empties the list that is due at `level`: each entry expires, or moves to the list of its deadline.
    fn visit(&mut self, level: u32, expired: &mut Vec<Slot>) {
        let head = &mut self.heads[List::of(level, self.now.0).index()];
        let mut slot = std::mem::replace(head, Slot::NONE);
        while slot != Slot::NONE {
            #[cfg(test)]
            {
                self.visits += 1;
            }
            let now = self.now;
            let links = self.at(slot);
            let next = links.next;
            if links.deadline <= now {
                links.list = List::UNARMED;
                self.armed -= 1;
                expired.push(slot);
            } else {
                self.link(slot);
            }
            slot = next;
        }
    }

    fn link(&mut self, slot: Slot) {
        let now = self.now.0;
        let deadline = self.at(slot).deadline.0;
        // The list of the present tick has been visited already.
        let ahead = deadline.saturating_sub(now).clamp(1, HORIZON);
        let level = (31 - ahead.leading_zeros()) / BITS;
        let list = List::of(level, now + ahead);
        let first = std::mem::replace(&mut self.heads[list.index()], slot);
        if first != Slot::NONE {
            self.at(first).previous = slot;
        }
        let links = self.at(slot);
        links.next = first;
        links.previous = Slot::NONE;
        links.list = list;
    }

    fn unlink(&mut self, slot: Slot) {
        let Links { next, previous, list, .. } = *self.at(slot);
        if previous == Slot::NONE {
            self.heads[list.index()] = next;
        } else {
            self.at(previous).next = next;
        }
        if next != Slot::NONE {
            self.at(next).previous = previous;
        }
    }

    fn at(&mut self, slot: Slot) -> &mut Links {
        &mut self.links[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A tick has no bound of its own: entries with one deadline expire together. Each of them was visited
    /// once in a level at most before that.
    #[test]
    fn an_entry_is_visited_once_in_each_level() {
        const COUNT: u32 = 100_000;
        for (deadline, levels) in [(63, 1), (6_000, 3), (1_000_000, LEVELS)] {
            let mut wheel = Wheel::new(Tick(0));
            (0..COUNT).for_each(|slot| wheel.arm(Slot(slot), Tick(deadline)));
            let mut expired = Vec::new();
            wheel.advance(Tick(deadline - 1), &mut expired);
            assert!(expired.is_empty());
            wheel.advance(Tick(deadline), &mut expired);
            assert_eq!(expired.len(), COUNT as usize);
            assert!(wheel.visits <= (COUNT * levels) as usize, "{} visits", wheel.visits);
        }
    }

    /// A heartbeat moves the deadline, which is a store and no visit. The wheel looks at the entry when the
    /// former deadline is reached.
    #[test]
    fn moving_deadlines_cost_a_few_visits_in_an_interval() {
        const INTERVAL: u32 = 1_200;
        const ROUNDS: u32 = 50;
        let mut wheel = Wheel::new(Tick(0));
        let mut expired = Vec::new();
        for heartbeat in 0..ROUNDS * 4 {
            let now = heartbeat * INTERVAL / 4;
            wheel.advance(Tick(now), &mut expired);
            wheel.arm(Slot(0), Tick(now + INTERVAL));
        }
        assert!(expired.is_empty());
        assert!(wheel.visits <= (ROUNDS * LEVELS) as usize, "{} visits", wheel.visits);
    }

    #[derive(Clone, Debug)]
    enum TimerStep {
        Arm(u32, u32),
        Disarm(u32),
        Advance(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<TimerStep>> {
        let step = prop_oneof![
            4 => (0..40_u32, prop_oneof![0..200_u32, 0..20_000_u32, 0..20_000_000_u32])
                .prop_map(|(slot, ahead)| TimerStep::Arm(slot, ahead)),
            1 => (0..40_u32).prop_map(TimerStep::Disarm),
            3 => prop_oneof![0..3_u32, 0..300_u32, 0..100_000_u32].prop_map(TimerStep::Advance),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn expires_what_a_sorted_map_would(steps in steps(), start in 0..100_000_u32) {
            let mut wheel = Wheel::new(Tick(start));
            let mut model = BTreeMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    TimerStep::Arm(slot, ahead) => {
                        wheel.arm(Slot(slot), Tick(now + ahead));
                        model.insert(slot, now + ahead);
                    }
                    TimerStep::Disarm(slot) => {
                        wheel.disarm(Slot(slot));
                        model.remove(&slot);
                    }
                    TimerStep::Advance(by) => {
                        let to = now + by;
                        let mut expired = Vec::new();
                        while now < to {
                            // What the driver does: sleep until something is due.
                            now = wheel.next_tick().map_or(to, |next| next.0.min(to));
                            wheel.advance(Tick(now), &mut expired);
                            let due: Vec<Slot> = model
                                .iter()
                                .filter(|&(_, &deadline)| deadline <= now)
                                .map(|(&slot, _)| Slot(slot))
                                .collect();
                            expired.sort_unstable();
                            prop_assert_eq!(&expired, &due);
                            model.retain(|_, deadline| *deadline > now);
                            expired.clear();
                        }
                    }
                }
            }
        }
    }
}
