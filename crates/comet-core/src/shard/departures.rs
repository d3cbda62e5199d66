//! Sessions that leave their connection, because it has ended without a goodbye or a younger connection takes its
//! place.
//!
//! The pending pushes of such a session stay here until the key's home asks for them. The home asks by a message of the
//! push class, behind all pushes that it has sent to the connection. So the order holds, and what the home is pushed
//! meanwhile comes behind.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::ids::{ConnId, LocalConnId, Slot};
use crate::ledger::{CloseReason, DropReason, ParkedLoss, Tally};
use crate::message::{Message, Push};
use crate::operation_filter::OperationFilter;
use crate::parking::{
    Leaving, ParkedFrame, ParkedFrames, ParkedPush, ParkedPushes, ParkedTotals, Rest, ResumeLimits,
};

use super::Shard;

/// A session without its connection.
struct Departure {
    user: i64,
    accepts: OperationFilter,
    parked: ParkedPushes,
    /// The pushes behind a send that is not completed. How much of that send the kernel takes is not known yet.
    in_flight: Option<Vec<ParkedPush>>,
    /// The key, once its home has asked for the session.
    asked: Option<Arc<str>>,
    /// The session was kicked: nothing is kept for it.
    is_over: bool,
}

pub(super) struct Departures {
    sessions: HashMap<LocalConnId, Departure, RandomState>,
    totals: ParkedTotals,
    /// Parking was enabled before. If it is disabled and enabled again, pushes of the time between are parked as well.
    pub(super) was_on: bool,
}

impl Departures {
    pub(super) fn new(seed: u64) -> Self {
        let sessions = HashMap::with_hasher(RandomState::with_seeds(seed, 45, 46, 47));
        Self { sessions, totals: ParkedTotals::default(), was_on: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether the session of `conn` is held here.
    pub(super) fn has(&self, conn: LocalConnId) -> bool {
        self.sessions.contains_key(&conn)
    }

    pub(super) fn totals(&self) -> ParkedTotals {
        self.totals
    }

    /// The pushes that waited behind the last send of `conn`, which has completed. `None`: the session is not here, or
    /// no send was under way.
    fn take_waiting(&mut self, conn: LocalConnId) -> Option<Vec<ParkedPush>> {
        self.sessions.get_mut(&conn)?.in_flight.take()
    }

    /// Puts unsent pushes in front of those that came later. Returns how many are lost, and why.
    fn put_in_front(
        &mut self,
        conn: LocalConnId,
        unsent: &[ParkedPush],
        limits: &ResumeLimits,
    ) -> Option<(ParkedLoss, u64)> {
        let session = self.sessions.get_mut(&conn).filter(|_| !unsent.is_empty())?;
        if session.is_over {
            return Some((ParkedLoss::Ended, unsent.len() as u64));
        }
        let lost = session.parked.put_in_front(
            unsent.iter().map(ParkedPush::view),
            limits,
            &mut self.totals,
        );
        (lost > 0).then_some((ParkedLoss::Full, lost))
    }

    /// Ends a session that was kicked. Returns how many pushes are lost.
    fn end(&mut self, conn: LocalConnId) -> u64 {
        let Some(session) = self.sessions.get_mut(&conn) else { return 0 };
        session.is_over = true;
        session.parked.take(&mut self.totals).len() as u64
    }

    /// The home of `key` asks for the session of `conn`. `false`: the session is not here.
    fn ask(&mut self, conn: LocalConnId, key: &Arc<str>) -> bool {
        let session = self.sessions.get_mut(&conn);
        session.map(|session| session.asked = Some(Arc::clone(key))).is_some()
    }

    /// Removes a session that its home has asked for, unless a send is not completed.
    fn finish(&mut self, conn: LocalConnId) -> Option<(Arc<str>, Rest)> {
        let session = self.sessions.get(&conn)?;
        if session.in_flight.is_some() || session.asked.is_none() {
            return None;
        }
        let Departure { user, mut parked, asked, is_over, .. } = self.sessions.remove(&conn)?;
        let (lost, pushes) = (parked.lost, parked.take(&mut self.totals));
        Some((asked?, Rest { user: Some(user), pushes, lost, is_over }))
    }

    /// Parks a push for the session of `conn`, or returns the reason why not. If it `is_accepted`, the accept filter is
    /// skipped.
    fn offer(
        &mut self,
        conn: LocalConnId,
        push: &Push,
        is_accepted: bool,
        limits: &ResumeLimits,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(&conn).ok_or(DropReason::Closing)?;
        if session.is_over {
            return Err(DropReason::Closing);
        }
        if !is_accepted && !session.accepts.contains(push.operation) {
            return Err(DropReason::Filtered);
        }
        let Push { operation, ref frame, .. } = *push;
        let push = ParkedFrame::new(operation, frame, true);
        let added = session.parked.add(push, limits, &mut self.totals);
        added.map_err(|_| DropReason::ParkedFull)
    }
}

impl Shard {
    /// The state in which `slot` leaves its session behind. `None`: the session does not outlast a connection that ends
    /// for `reason`.
    pub(super) fn leaving(&self, slot: Slot, reason: CloseReason) -> Option<Leaving> {
        let conn = &self.conns[slot];
        let is_meant = match reason {
            CloseReason::PeerClosed
            | CloseReason::SocketError
            | CloseReason::TlsFailed
            | CloseReason::HeartbeatTimeout
            | CloseReason::WriteTimeout => self.context.limits.resume.is_on(),
            // The next connection exists already.
            CloseReason::Replaced => true,
            _ => false,
        };
        let is_left = conn.is_kept && is_meant && conn.is_live() && !conn.key.is_empty();
        is_left.then(|| Leaving {
            accepts: Some(conn.accepts.clone()),
            expires_in_ms: self.token_expires_in(slot),
        })
    }

    /// The session of `slot` leaves its connection, which has a close reason. It takes the pushes to it in the outbox
    /// along.
    pub(super) fn depart(
        &mut self,
        slot: Slot,
        key: Box<str>,
        leaving: Leaving,
        reason: CloseReason,
    ) {
        let id = self.conns.id(slot);
        self.leave_rooms(slot, &key);
        let conn = &mut self.conns[slot];
        let (user, seq, is_sending) = (conn.user, conn.session, conn.outbox.is_sending());
        let waiting = self.outboxes.chains.direct_waiting(&conn.outbox);
        let remains = self.outboxes.drop_pending(conn);
        self.leave_user(id, user, seq);
        self.counters.lost += u64::from(remains.pushes) - waiting.len() as u64;
        let (in_flight, unsent) =
            if is_sending { (Some(waiting), Vec::new()) } else { (None, waiting) };
        let departure = Departure {
            user,
            accepts: leaving.accepts.clone().unwrap_or_default(),
            parked: ParkedPushes::default(),
            in_flight,
            asked: None,
            is_over: false,
        };
        self.departures.sessions.insert(id.local(), departure);
        self.park_unsent(id.local(), &unsent);
        if reason != CloseReason::Replaced {
            let home = self.context.home_of_key(&key);
            let leaving = Box::new(leaving);
            self.messages.send(home, Message::Park { conn: id, user, key, leaving });
        }
    }

    /// The last send of `slot` has completed. If its session has left it, the pushes that the kernel has not taken
    /// follow the session. `false`: it has not left.
    pub(super) fn settle_departure(&mut self, slot: Slot) -> bool {
        let id = self.conns.id(slot).local();
        let Some(waiting) = self.departures.take_waiting(id) else { return false };
        let conn = &mut self.conns[slot];
        let mut unsent = self.outboxes.chains.direct_in_flight(&conn.outbox, conn.transport);
        let remains = self.outboxes.drop_in_flight(conn);
        self.counters.lost += u64::from(remains.pushes) - unsent.len() as u64;
        unsent.extend(waiting);
        self.park_unsent(id, &unsent);
        self.give_rest(id);
        true
    }

    fn park_unsent(&mut self, conn: LocalConnId, unsent: &[ParkedPush]) {
        self.counters.unsent += unsent.len() as u64;
        let lost = self.departures.put_in_front(conn, unsent, &self.context.limits.resume);
        if let Some((reason, pushes)) = lost {
            self.counters.parked_lost[reason as usize] += pushes;
        }
    }

    /// Offers a push to sessions whose connections have just ended.
    pub(super) fn offer_departed(
        &mut self,
        push: &Push,
        is_accepted: bool,
        conns: &[LocalConnId],
    ) -> Tally {
        let mut tally = Tally::default();
        for &conn in conns {
            if push.is_kick() {
                let ended = self.departures.end(conn);
                self.counters.parked_lost[ParkedLoss::Ended as usize] += ended;
                tally.parked += 1;
                continue;
            }
            match self.departures.offer(conn, push, is_accepted, &self.context.limits.resume) {
                Ok(()) => tally.parked += 1,
                Err(reason) => tally.drop_as(reason, 1),
            }
        }
        tally
    }

    /// The home of `key` asks for the session of `conn`. The home sends no more pushes to that connection.
    pub(super) fn leave_session(&mut self, conn: LocalConnId, key: Arc<str>) {
        if self.conns.get(conn).is_some_and(|conn| conn.is_open()) {
            // The eviction is on its way.
            self.close(conn.slot, CloseReason::Replaced, "");
        }
        if self.departures.ask(conn, &key) {
            return self.give_rest(conn);
        }
        let id = ConnId { shard: self.context.shard, slot: conn.slot, generation: conn.generation };
        let home = self.context.home_of_key(&key);
        let rest =
            Rest { user: None, pushes: ParkedFrames::default(), lost: [0; 2], is_over: false };
        self.messages.send(home, Message::Rest { conn: id, key, rest: Box::new(rest) });
    }

    /// Gives a session to its key's home, once the home has asked and the last send has completed.
    fn give_rest(&mut self, conn: LocalConnId) {
        let Some((key, rest)) = self.departures.finish(conn) else { return };
        let id = ConnId { shard: self.context.shard, slot: conn.slot, generation: conn.generation };
        let home = self.context.home_of_key(&key);
        self.messages.send(home, Message::Rest { conn: id, key, rest: Box::new(rest) });
    }
}
