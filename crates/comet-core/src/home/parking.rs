//! Sessions of keys that have lost their connections, and the pushes to them until a connection takes them over.
//!
//! A session with a live connection has no entry here.

use crate::bucket::Buckets;
use crate::budget::Budget;
use crate::ids::{ConnId, Slot};
use crate::operation_filter::OperationFilter;
use crate::parking::{
    ParkFault, ParkedFrame, ParkedFrames, ParkedPushes, ParkedTotals, ResumeLimits, SESSION_BYTES,
};
use crate::slab::Slab;
use crate::time::Tick;
use crate::wheel::Wheel;

/// The next connection of a key, which waits for the session.
#[derive(Clone, Copy)]
pub(crate) struct Claimant {
    pub(crate) conn: ConnId,
    pub(crate) user: i64,
    pub(crate) seq: i32,
}

/// Where a session is between its former and its next connection.
pub(crate) enum Phase {
    /// The shard of `from` was asked for the unsent rest of its outbox. No later push was sent to that connection.
    Leaving { from: ConnId, claimant: Option<Claimant> },
    /// No connection has the key.
    Parked,
    /// The connection was told about the session. It gets the pushes when it is ready.
    Returning { conn: ConnId },
}

pub(crate) struct Session {
    pub(crate) key: Box<str>,
    pub(crate) user: i64,
    /// The connection that had the key last.
    pub(crate) last: ConnId,
    pub(crate) phase: Phase,
    /// The filter of the former connection, if it is known.
    pub(crate) accepts: Option<OperationFilter>,
    /// When the token of the former connection expires.
    pub(crate) expires: Option<Tick>,
    parked: ParkedPushes,
}

impl Session {
    /// A session without parked pushes, whose token does not expire.
    pub(crate) fn new(key: Box<str>, user: i64, last: ConnId, phase: Phase) -> Self {
        let parked = ParkedPushes::default();
        Self { key, user, last, phase, accepts: None, expires: None, parked }
    }

    fn bytes(&self) -> usize {
        SESSION_BYTES + 2 * self.key.len()
    }

    /// The number of pushes that are sent whatever the next connection accepts.
    pub(crate) fn accepted(&self) -> usize {
        self.parked.frames.accepted()
    }

    /// The number of pushes lost by the limit of the session, and by that of the shard.
    pub(crate) fn lost(&self) -> [u32; 2] {
        self.parked.lost
    }

    pub(crate) fn pushes(&self) -> &ParkedFrames {
        &self.parked.frames
    }
}

pub(crate) struct Parking {
    /// Indexes into `sessions`. The wheel uses them, too.
    by_key: Buckets<Box<str>, Slot>,
    sessions: Slab<Slot, Session>,
    expiries: Wheel,
    totals: ParkedTotals,
}

impl Parking {
    pub(super) fn new(buckets: usize, seed: u64, now: Tick) -> Self {
        Self {
            by_key: Buckets::new(buckets, seed ^ 44),
            sessions: Slab::new(),
            expiries: Wheel::new(now),
            totals: ParkedTotals::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn totals(&self) -> ParkedTotals {
        self.totals
    }

    pub(crate) fn find(&self, key: &str) -> Option<Slot> {
        if self.sessions.len() == 0 {
            return None;
        }
        self.by_key.get(key).copied()
    }

    /// The user of a session.
    pub(crate) fn user(&self, at: Slot) -> i64 {
        self.sessions[at].user
    }

    pub(crate) fn get(&mut self, at: Slot) -> &mut Session {
        self.sessions.get_mut(at).expect("the session was found")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Session, Option<Tick>)> {
        let taken = self.sessions.indices().filter(|&at| self.sessions.is_taken(at));
        taken.map(|at| (&self.sessions[at], self.expiries.deadline(at)))
    }

    /// The number of sessions on the way from a former or to a next connection.
    pub(crate) fn under_way(&self) -> usize {
        self.iter().filter(|(session, _)| !matches!(session.phase, Phase::Parked)).count()
    }

    /// Begins a session. `None`: there is no memory for it.
    pub(crate) fn begin(&mut self, session: Session, limits: &ResumeLimits) -> Option<Slot> {
        let bytes = session.bytes();
        if self.totals.bytes + bytes > limits.memory {
            return None;
        }
        self.totals.bytes += bytes;
        let key = session.key.clone();
        let at = self.sessions.insert(session);
        let former = self.by_key.insert(key, at);
        debug_assert!(former.is_none(), "a key has one session");
        Some(at)
    }

    /// Ends a session, and returns it with its parked pushes.
    pub(crate) fn end(&mut self, at: Slot) -> (Session, ParkedFrames) {
        self.expiries.disarm(at);
        let mut session = self.sessions.remove(at);
        self.by_key.remove(&*session.key);
        self.totals.bytes -= session.bytes();
        let pushes = session.parked.take(&mut self.totals);
        (session, pushes)
    }

    /// Parks a push behind the others.
    pub(crate) fn park(
        &mut self,
        at: Slot,
        push: ParkedFrame<'_>,
        limits: &ResumeLimits,
    ) -> Result<(), ParkFault> {
        let session = self.sessions.get_mut(at).expect("the session was found");
        session.parked.add(push, limits, &mut self.totals)
    }

    /// Puts the rest of an outbox in front of pushes parked since. Returns how many are lost for want of space.
    pub(crate) fn put_in_front<'a>(
        &mut self,
        at: Slot,
        rest: impl Iterator<Item = ParkedFrame<'a>>,
        lost: [u32; 2],
        limits: &ResumeLimits,
    ) -> u64 {
        let session = self.sessions.get_mut(at).expect("the session was found");
        for (sum, more) in session.parked.lost.iter_mut().zip(lost) {
            *sum = sum.saturating_add(more);
        }
        let mut rest = rest.peekable();
        if rest.peek().is_none() {
            return 0;
        }
        session.parked.put_in_front(rest, limits, &mut self.totals)
    }

    /// Removes the parked pushes.
    pub(crate) fn discard(&mut self, at: Slot) -> ParkedFrames {
        let session = self.sessions.get_mut(at).expect("the session was found");
        session.parked.take(&mut self.totals)
    }

    /// Ends the session at `tick`, unless a connection takes it over.
    pub(crate) fn arm(&mut self, at: Slot, tick: Tick) {
        self.expiries.disarm(at);
        self.expiries.arm(at, tick);
    }

    pub(crate) fn disarm(&mut self, at: Slot) {
        self.expiries.disarm(at);
    }

    pub(crate) fn poll_expired(&mut self, now: Tick, budget: &mut Budget) -> Option<Slot> {
        self.expiries.poll_expired(now, budget)
    }

    pub(crate) fn is_due(&self, now: Tick) -> bool {
        self.expiries.is_due(now)
    }

    pub(crate) fn next_tick(&self) -> Option<Tick> {
        self.expiries.next_tick()
    }
}
