//! Deadlines: a hierarchical timer wheel whose links are 16 bytes a slot in one array.
//!
//! Moving a deadline to a later tick only stores it. The entry moves when the wheel next visits it. So a heartbeat
//! costs one store, and an idle connection one visit per level and interval.

use crate::budget::Budget;
use crate::ids::Slot;
use crate::index::Index;
use crate::time::Tick;

const LEVELS: u32 = 4;
const BITS: u32 = 6;
/// The number of lists in a level.
const LISTS: u32 = 1 << BITS;
const MASK: u32 = LISTS - 1;
/// An entry with a later deadline is put at this distance, and placed again when it is visited there.
const HORIZON: u32 = (1 << (BITS * LEVELS)) - 1;

/// One of the wheel's lists: `level * LISTS` and the index within the level.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct List(u16);

impl List {
    /// Marks an entry that is in no list.
    const UNARMED: Self = Self(u16::MAX);

    /// The list of `level` for deadlines at `tick`.
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
    /// The list that it is in.
    list: List,
}

const _: () = assert!(size_of::<Links>() == 16);

const IDLE: Links =
    Links { next: Slot::NONE, previous: Slot::NONE, deadline: Tick(0), list: List::UNARMED };

/// Links are allocated in chunks, so that a million of them are never copied in one step.
const CHUNK: usize = 1024;

pub(crate) struct Wheel {
    now: Tick,
    /// The level whose list is being emptied in the tick `now`, from the highest down to 0.
    level: Option<u32>,
    heads: [Slot; (LEVELS * LISTS) as usize],
    links: Vec<Box<[Links; CHUNK]>>,
    armed: usize,
    /// The number of entries that were visited: the work of [`Wheel::poll_expired`].
    #[cfg(test)]
    visits: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            now,
            level: None,
            heads: [Slot::NONE; (LEVELS * LISTS) as usize],
            links: Vec::new(),
            armed: 0,
            #[cfg(test)]
            visits: 0,
        }
    }

    /// As [`Wheel::new`], but deadlines at `now` or before are due at once.
    pub(crate) fn with_present_due(now: Tick) -> Self {
        Self::new(Tick(now.0.saturating_sub(1)))
    }

    /// Sets the deadline of `slot`. [`Wheel::poll_expired`] reports it in the tick of the deadline, or in the next tick
    /// if the deadline has passed already.
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

    /// The deadline of `slot`. `None`: it is not armed.
    pub(crate) fn deadline(&self, slot: Slot) -> Option<Tick> {
        let chunk = self.links.get(slot.0 as usize / CHUNK)?;
        let links = &chunk[slot.0 as usize % CHUNK];
        (links.list != List::UNARMED).then_some(links.deadline)
    }

    pub(crate) fn disarm(&mut self, slot: Slot) {
        if slot.0 as usize >= self.links.len() * CHUNK || self.at(slot).list == List::UNARMED {
            return;
        }
        self.unlink(slot);
        self.at(slot).list = List::UNARMED;
        self.armed -= 1;
    }

    /// Advances the wheel towards `now`. Returns and disarms the next slot whose deadline was reached. `None`: the
    /// wheel has reached `now`, or the budget is spent.
    pub(crate) fn poll_expired(&mut self, now: Tick, budget: &mut Budget) -> Option<Slot> {
        if self.armed == 0 && self.level.is_none() {
            self.now = self.now.max(now);
        }
        while budget.is_left() {
            let Some(level) = self.level else {
                if self.now >= now {
                    return None;
                }
                budget.spend(1);
                self.now.0 += 1;
                self.level = Some((self.now.0.trailing_zeros() / BITS).min(LEVELS - 1));
                continue;
            };
            let slot = self.heads[List::of(level, self.now.0).index()];
            if slot == Slot::NONE {
                self.level = level.checked_sub(1);
                continue;
            }
            budget.spend(1);
            if self.visit(slot) {
                return Some(slot);
            }
        }
        None
    }

    /// Whether [`Wheel::poll_expired`] has something to do by `now`.
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        let is_behind = self.now < now || self.level.is_some();
        is_behind && self.next_tick().is_some_and(|next| next <= now)
    }

    /// The next tick at which [`Wheel::poll_expired`] has something to do, at the latest the next round of level 0.
    pub(crate) fn next_tick(&self) -> Option<Tick> {
        if self.armed == 0 {
            return None;
        }
        if self.level.is_some() {
            return Some(self.now);
        }
        let turn = (self.now.0 | MASK) + 1;
        (self.now.0 + 1..turn)
            .find(|&tick| self.heads[List::of(0, tick).index()] != Slot::NONE)
            .or(Some(turn))
            .map(Tick)
    }

    /// Removes `slot` from its list. It expires, or moves to the list of its deadline. Returns whether it expired.
    fn visit(&mut self, slot: Slot) -> bool {
        #[cfg(test)]
        {
            self.visits += 1;
        }
        self.unlink(slot);
        let now = self.now;
        let links = self.at(slot);
        let has_expired = links.deadline <= now;
        if has_expired {
            links.list = List::UNARMED;
            self.armed -= 1;
        } else {
            self.link(slot);
        }
        has_expired
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

    fn advance(wheel: &mut Wheel, now: u32) -> Vec<Slot> {
        let mut budget = Budget::new(usize::MAX);
        std::iter::from_fn(|| wheel.poll_expired(Tick(now), &mut budget)).collect()
    }

    /// Entries with the same deadline are visited together. Before that each was visited at most once in a level.
    #[test]
    fn an_entry_is_visited_once_in_each_level() {
        const COUNT: u32 = 100_000;
        for (deadline, levels) in [(63, 1), (6_000, 3), (1_000_000, LEVELS)] {
            let mut wheel = Wheel::new(Tick(0));
            (0..COUNT).for_each(|slot| wheel.arm(Slot(slot), Tick(deadline)));
            assert_eq!(advance(&mut wheel, deadline - 1), []);
            assert_eq!(advance(&mut wheel, deadline).len(), COUNT as usize);
            assert!(wheel.visits <= (COUNT * levels) as usize, "{} visits", wheel.visits);
        }
    }

    /// A heartbeat moves the deadline by a store, without a visit. The wheel visits the entry when the former deadline
    /// is reached.
    #[test]
    fn moving_deadlines_cost_a_few_visits_in_an_interval() {
        const INTERVAL: u32 = 1_200;
        const ROUNDS: u32 = 50;
        let mut wheel = Wheel::new(Tick(0));
        for heartbeat in 0..ROUNDS * 4 {
            let now = heartbeat * INTERVAL / 4;
            assert_eq!(advance(&mut wheel, now), []);
            wheel.arm(Slot(0), Tick(now + INTERVAL));
        }
        assert!(wheel.visits <= (ROUNDS * LEVELS) as usize, "{} visits", wheel.visits);
    }

    /// This holds for any number of entries in a tick, and in any level.
    #[test]
    fn a_tick_is_visited_within_the_budget() {
        const COUNT: u32 = 10_000;
        const UNITS: usize = 100;
        for deadline in [63, 6_000, 1_000_000] {
            let mut wheel = Wheel::new(Tick(0));
            (0..COUNT).for_each(|slot| wheel.arm(Slot(slot), Tick(deadline)));
            let mut expired = 0;
            while wheel.is_due(Tick(deadline)) {
                let (before, mut budget) = (wheel.visits, Budget::new(UNITS));
                while wheel.poll_expired(Tick(deadline), &mut budget).is_some() {
                    expired += 1;
                }
                assert!(wheel.visits - before <= UNITS);
            }
            assert_eq!(expired, COUNT);
        }
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
        fn the_wheel_expires_the_same_entries_as_a_sorted_map(
            steps in steps(),
            start in 0..100_000_u32,
            units in prop_oneof![1..20_usize, Just(usize::MAX)],
        ) {
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
                        while now < to {
                            // As the driver does: sleep until something is due.
                            now = wheel.next_tick().map_or(to, |next| next.0.min(to));
                            let mut expired = Vec::new();
                            while wheel.is_due(Tick(now)) {
                                let mut budget = Budget::new(units);
                                expired.extend(std::iter::from_fn(|| {
                                    wheel.poll_expired(Tick(now), &mut budget)
                                }));
                            }
                            let due: Vec<Slot> = model
                                .iter()
                                .filter(|&(_, &deadline)| deadline <= now)
                                .map(|(&slot, _)| Slot(slot))
                                .collect();
                            expired.sort_unstable();
                            prop_assert_eq!(&expired, &due);
                            model.retain(|_, deadline| *deadline > now);
                        }
                    }
                }
            }
        }
    }
}
