//! Deadlines: a hierarchical timer wheel whose links are 16 bytes a slot in one array.
//!
//! A deadline that moves later only stores a tick; the entry is moved when the wheel next comes past
//! it. So a heartbeat costs one store, and an idle connection one visit per level and interval.

use crate::slab::NONE;
use crate::time::Tick;

const LEVELS: u32 = 4;
const BITS: u32 = 6;
const SLOTS: u32 = 1 << BITS;
const MASK: u32 = SLOTS - 1;
const UNARMED: u16 = u16::MAX;
/// Beyond this the entry is parked at the horizon and looked at again from there.
const HORIZON: u32 = (1 << (BITS * LEVELS)) - 1;

#[derive(Clone, Copy)]
struct Links {
    next: u32,
    previous: u32,
    deadline: Tick,
    /// Which list it is in: `level * SLOTS + index`, or `UNARMED`.
    place: u16,
}

const IDLE: Links = Links { next: NONE, previous: NONE, deadline: Tick(0), place: UNARMED };

/// Links are allocated in chunks, so that a million of them are never copied in one step.
const CHUNK: usize = 1024;

pub(crate) struct Wheel {
    now: Tick,
    heads: [u32; (LEVELS * SLOTS) as usize],
    links: Vec<Box<[Links; CHUNK]>>,
    armed: usize,
}

impl Wheel {
    pub(crate) fn new(now: Tick) -> Self {
        Self { now, heads: [NONE; (LEVELS * SLOTS) as usize], links: Vec::new(), armed: 0 }
    }

    /// The tick the wheel was last turned to.
    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// Sets the deadline of `slot`, which [`Wheel::advance`] reports in the tick it is reached, or in
    /// the next tick if it has passed already.
    pub(crate) fn arm(&mut self, slot: u32, deadline: Tick) {
        while self.links.len() * CHUNK <= slot as usize {
            self.links.push(Box::new([IDLE; CHUNK]));
        }
        let links = self.at(slot);
        if links.place != UNARMED {
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

    pub(crate) fn disarm(&mut self, slot: u32) {
        if slot as usize >= self.links.len() * CHUNK || self.at(slot).place == UNARMED {
            return;
        }
        self.unlink(slot);
        self.at(slot).place = UNARMED;
        self.armed -= 1;
    }

    /// Turns the wheel to `now`; every slot whose deadline was reached is disarmed and added to
    /// `expired`.
    pub(crate) fn advance(&mut self, now: Tick, expired: &mut Vec<u32>) {
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

    /// The next tick at which [`Wheel::advance`] has something to do; no later than the next turn of
    /// level 0.
    pub(crate) fn next_tick(&self) -> Option<Tick> {
        if self.armed == 0 {
            return None;
        }
        let turn = (self.now.0 | MASK) + 1;
        (self.now.0 + 1..turn)
            .find(|tick| self.heads[(tick & MASK) as usize] != NONE)
            .or(Some(turn))
            .map(Tick)
    }

    /// Empties the list that is due at `level`: each entry expires or moves to where its deadline is.
    fn visit(&mut self, level: u32, expired: &mut Vec<u32>) {
        let index = (self.now.0 >> (BITS * level)) & MASK;
        let head = &mut self.heads[(level * SLOTS + index) as usize];
        let mut slot = std::mem::replace(head, NONE);
        while slot != NONE {
            let now = self.now;
            let links = self.at(slot);
            let next = links.next;
            if links.deadline <= now {
                links.place = UNARMED;
                self.armed -= 1;
                expired.push(slot);
            } else {
                self.link(slot);
            }
            slot = next;
        }
    }

    fn link(&mut self, slot: u32) {
        let now = self.now.0;
        let deadline = self.at(slot).deadline.0;
        // The list of the present tick has been visited already.
        let ahead = deadline.saturating_sub(now).clamp(1, HORIZON);
        let level = (31 - ahead.leading_zeros()) / BITS;
        let index = ((now + ahead) >> (BITS * level)) & MASK;
        let place = level * SLOTS + index;
        let first = std::mem::replace(&mut self.heads[place as usize], slot);
        if first != NONE {
            self.at(first).previous = slot;
        }
        let links = self.at(slot);
        links.next = first;
        links.previous = NONE;
        links.place = place as u16;
    }

    fn unlink(&mut self, slot: u32) {
        let Links { next, previous, place, .. } = *self.at(slot);
        if previous == NONE {
            self.heads[place as usize] = next;
        } else {
            self.at(previous).next = next;
        }
        if next != NONE {
            self.at(next).previous = previous;
        }
    }

    fn at(&mut self, slot: u32) -> &mut Links {
        &mut self.links[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u32),
        Disarm(u32),
        Advance(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..40_u32, prop_oneof![0..200_u32, 0..20_000_u32, 0..20_000_000_u32])
                .prop_map(|(slot, ahead)| Step::Arm(slot, ahead)),
            1 => (0..40_u32).prop_map(Step::Disarm),
            3 => prop_oneof![0..3_u32, 0..300_u32, 0..100_000_u32].prop_map(Step::Advance),
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
                    Step::Arm(slot, ahead) => {
                        wheel.arm(slot, Tick(now + ahead));
                        model.insert(slot, now + ahead);
                    }
                    Step::Disarm(slot) => {
                        wheel.disarm(slot);
                        model.remove(&slot);
                    }
                    Step::Advance(by) => {
                        let to = now + by;
                        let mut expired = Vec::new();
                        while now < to {
                            // What the driver does: sleep until something is due.
                            now = wheel.next_tick().map_or(to, |next| next.0.min(to));
                            wheel.advance(Tick(now), &mut expired);
                            let due: Vec<u32> = model
                                .iter()
                                .filter(|&(_, &deadline)| deadline <= now)
                                .map(|(&slot, _)| slot)
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
