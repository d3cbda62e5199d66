//! The connections of a shard and their deadlines.

use std::collections::VecDeque;

use crate::budget::Budget;
use crate::conn::Conn;
use crate::ids::{ConnId, LocalConnId, ShardId, Slot};
use crate::limits::{EXPIRED_MAX, TICK_MS};
use crate::slab::Slab;
use crate::time::{Millis, Tick};
use crate::transport::Transport;
use crate::wheel::Wheel;

use super::context::Context;
use super::outboxes::Outboxes;

pub(super) struct Connections {
    shard: ShardId,
    slab: Slab<Slot, Conn>,
    wheel: Wheel,
    /// Connections whose send began after the last tick. See [`Connections::begin_send`].
    watched: VecDeque<Slot>,
    /// The tick in which the watched connections were last checked, and how many are left to check, from the front.
    checked: Tick,
    unchecked: usize,
    /// Slots that the wheel reported and that were not handled yet.
    expired: Vec<Slot>,
}

impl Connections {
    pub(super) fn new(shard: ShardId, now: Millis) -> Self {
        Self {
            shard,
            slab: Slab::new(),
            wheel: Wheel::new(now.tick()),
            watched: VecDeque::new(),
            checked: now.tick(),
            unchecked: 0,
            expired: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn insert(&mut self, transport: Transport, now: Millis, deadline: Tick) -> Slot {
        let slot = self.slab.insert(Conn::new(transport, now, deadline));
        self.wheel.arm(slot, deadline);
        slot
    }

    /// Prepares for connections of another process, whose deadlines may have passed already.
    pub(super) fn begin_take_over(&mut self, context: &Context) {
        self.wheel = Wheel::with_present_due(context.tick());
    }

    /// Adds a connection of another process, and arms its deadlines.
    pub(super) fn take_over(&mut self, conn: Conn, context: &Context) -> Slot {
        let slot = self.slab.insert(conn);
        self.arm(slot, context);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.wheel.disarm(slot);
        self.slab.remove(slot);
    }

    pub(super) fn is_taken(&self, slot: Slot) -> bool {
        self.slab.is_taken(slot)
    }

    /// The connection in `slot`, whatever its generation.
    #[inline]
    pub(super) fn in_slot(&mut self, slot: Slot) -> Option<&mut Conn> {
        self.slab.get_mut(slot)
    }

    /// One past the highest slot ever used, rounded up.
    pub(super) fn end(&self) -> Slot {
        self.slab.end()
    }

    /// Every slot below [`Connections::end`], used or free.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.slab.indices()
    }

    /// The slot of `conn`, if that connection still exists.
    pub(super) fn find(&mut self, conn: ConnId) -> Option<Slot> {
        debug_assert_eq!(conn.shard, self.shard);
        self.get(conn.local()).map(|_| conn.slot)
    }

    #[inline]
    pub(super) fn get(&mut self, conn: LocalConnId) -> Option<&mut Conn> {
        self.slab.at(conn.slot, conn.generation)
    }

    pub(super) fn id(&self, slot: Slot) -> ConnId {
        ConnId { shard: self.shard, slot, generation: self.slab.generation(slot) }
    }

    // ---- deadlines -----------------------------------------------------------------------------

    /// Moves the deadline of `slot`.
    pub(super) fn set_deadline(&mut self, slot: Slot, deadline: Tick, context: &Context) {
        self.slab[slot].deadline = deadline;
        self.arm(slot, context);
    }

    /// Arms the wheel with the deadline of `slot`, or with that of its send if that is earlier.
    pub(super) fn arm(&mut self, slot: Slot, context: &Context) {
        let conn = &self.slab[slot];
        let mut next = conn.deadline;
        // A send that has just begun is watched, and armed at the next tick if it has not ended by then.
        if conn.outbox.is_sending() && !conn.is_watched {
            next = next.min(write_deadline(conn, context));
        }
        self.wheel.arm(slot, next);
    }

    /// A send of `slot` begins. Most sends end within the tick, so the wheel is not armed for it yet: the
    /// connection is watched instead.
    pub(super) fn begin_send(&mut self, slot: Slot, now: Tick) {
        let conn = &mut self.slab[slot];
        conn.last_progress = now;
        if !conn.is_watched {
            conn.is_watched = true;
            self.watched.push_back(slot);
        }
    }

    /// Advances the wheel towards the present tick, by [`EXPIRED_MAX`] steps at most. The slots that it reports wait
    /// for [`Connections::take_expired`].
    pub(super) fn advance(&mut self, context: &Context, outboxes: &mut Outboxes) {
        let mut budget = Budget::new(EXPIRED_MAX.saturating_sub(self.expired.len()));
        let tick = context.tick();
        if self.checked < tick {
            self.checked = tick;
            self.unchecked = self.watched.len();
        }
        while self.unchecked > 0 && budget.is_left() {
            budget.spend(1);
            self.unchecked -= 1;
            self.check_watched(context, outboxes);
        }
        while let Some(slot) = self.wheel.poll_expired(tick, &mut budget) {
            self.expired.push(slot);
        }
    }

    /// Whether the wheel has not reached the present tick.
    pub(super) fn is_behind(&self, context: &Context) -> bool {
        self.unchecked > 0 || self.wheel.is_due(context.tick())
    }

    /// Checks the first watched send. If it is still under way a tick after it began, its write deadline is armed, and
    /// its client is noted as slow.
    fn check_watched(&mut self, context: &Context, outboxes: &mut Outboxes) {
        let Some(slot) = self.watched.pop_front() else { return };
        let Some(conn) = self.slab.get_mut(slot).filter(|conn| conn.is_watched) else { return };
        let is_sending = conn.outbox.is_sending();
        if is_sending && conn.last_progress == self.checked {
            return self.watched.push_back(slot);
        }
        conn.is_watched = false;
        if is_sending {
            let Outboxes { chains, slow, .. } = outboxes;
            slow.note_late(self.id(slot).local(), &self.slab[slot], chains);
            self.arm(slot, context);
        }
    }

    pub(super) fn has_expired(&self) -> bool {
        !self.expired.is_empty()
    }

    /// The slots that the wheel reported. Give the list back to [`Connections::return_expired`], so that its memory is
    /// reused.
    pub(super) fn take_expired(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.expired)
    }

    pub(super) fn return_expired(&mut self, expired: Vec<Slot>) {
        debug_assert!(self.expired.is_empty());
        self.expired = expired;
    }

    /// Makes the wheel report `slot` again at `at`. The connection's deadline does not change.
    pub(super) fn look_again(&mut self, slot: Slot, at: Tick) {
        self.wheel.arm(slot, at);
    }

    /// When [`Connections::advance`] has something to do next; no later than the longest sleep of a thread with
    /// deadlines.
    pub(super) fn next_deadline(&self, context: &Context) -> Option<Millis> {
        if self.unchecked > 0 {
            return Some(context.now);
        }
        let wheel = self.wheel.next_tick().map(|tick| context.clock.time_of(tick.begin()));
        let watched = (!self.watched.is_empty()).then(|| context.now.after(TICK_MS));
        let next = wheel.into_iter().chain(watched).min()?;
        Some(next.min(context.clock.awake_until()))
    }
}

/// The tick at which the send of `conn` has made no progress for too long.
pub(super) fn write_deadline(conn: &Conn, context: &Context) -> Tick {
    // The last progress was at some point within that tick, so counting begins at the end of the tick.
    Tick(conn.last_progress.0 + 1 + context.limits.write_ms.div_ceil(TICK_MS as u32))
}

impl std::ops::Index<Slot> for Connections {
    type Output = Conn;

    #[inline]
    fn index(&self, slot: Slot) -> &Conn {
        &self.slab[slot]
    }
}

impl std::ops::IndexMut<Slot> for Connections {
    #[inline]
    fn index_mut(&mut self, slot: Slot) -> &mut Conn {
        &mut self.slab[slot]
    }
}
