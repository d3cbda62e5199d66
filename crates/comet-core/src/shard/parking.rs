//! Parked sessions at their key's home: how they are parked, resumed and ended.
//!
//! A session leaves its connection ([`Phase::Leaving`]) when the connection has ended without a goodbye, or a younger
//! one claims the key. The shard of the connection sends the unsent pushes. Then the session is parked, or it returns
//! to the connection that claimed the key ([`Phase::Returning`]). That connection learns how many pushes there are, and
//! gets them once it has told its client. Meanwhile all pushes to the key wait here, so nothing overtakes them.

use comet_proto::{KeptSession, Resumed};

use crate::budget::{self, Budget};
use crate::hand_over::{ArrivedKept, ArrivedSession};
use crate::home::keys::{Claim, Older};
use crate::home::parking::{Claimant, Phase, Session};
use crate::ids::{CallId, ConnId, Generation, LocalConnId, Slot};
use crate::ledger::{DropReason, ParkedLoss, Tally};
use crate::message::{Message, Order, Push};
use crate::parking::{Leaving, ParkedFrame, ParkedFrames, ParkedPush, Rest};
use crate::transport::Transport;

use super::Shard;
use super::delivery::DeliveryMode;
use super::push_task::{Names, Owners, TallyKind, Target};

/// A connection that claims a key, and its registration.
#[derive(Clone, Copy)]
pub(super) struct Claiming {
    pub(super) conn: ConnId,
    pub(super) user: i64,
    pub(super) seq: i32,
    pub(super) claim: Claim,
}

impl Shard {
    // ---- claims --------------------------------------------------------------------------------

    /// `claiming` has claimed `key`, whose former owner is `older`. Returns what the connection is told about its
    /// session, or `None` if it has to wait for that.
    pub(super) fn claim_session(
        &mut self,
        key: &str,
        claiming: &Claiming,
        older: Option<Older>,
    ) -> Option<Option<KeptSession>> {
        let Claiming { conn, user, seq, claim } = *claiming;
        let is_kept = claim.is_kept;
        let fresh = is_kept.then_some(KeptSession { resumed: None });
        if older.is_some_and(|older| older.conn == conn) {
            // The connection is being evicted, so it will undo its registration.
            return Some(None);
        }
        let Some(at) = self.home.parking.find(key) else {
            let Some(Older { conn: from, is_kept: true }) = older else { return Some(fresh) };
            self.ask_for_rest(from, key);
            let claimant = Claimant { conn, user, seq };
            let phase = Phase::Leaving { from, claimant: Some(claimant) };
            let session = Session::new(key.into(), user, conn, phase);
            let resume = &self.context.limits.resume;
            let is_begun = is_kept && self.home.parking.begin(session, resume).is_some();
            return (!is_begun).then_some(fresh);
        };
        let session = self.home.parking.get(at);
        let is_entitled = is_kept && session.user == user;
        let claimant = Claimant { conn, user, seq };
        match &mut session.phase {
            Phase::Parked if is_entitled => {
                return Some(Some(self.return_session(at, conn)));
            }
            Phase::Leaving { claimant: waiting, .. } if is_entitled => {
                let former = waiting.replace(claimant);
                session.last = conn;
                self.dismiss(key, former);
                return None;
            }
            Phase::Returning { conn: from } if is_entitled => {
                let from = std::mem::replace(from, conn);
                session.phase = Phase::Leaving { from, claimant: Some(claimant) };
                session.last = conn;
                self.ask_for_rest(from, key);
                return None;
            }
            Phase::Returning { conn: from } => {
                let from = *from;
                self.ask_for_rest(from, key);
            }
            Phase::Parked | Phase::Leaving { .. } => {}
        }
        self.end_session_at(at);
        Some(fresh)
    }

    /// Registers the waiting claimant of a session without that session.
    fn dismiss(&mut self, key: &str, claimant: Option<Claimant>) {
        if let Some(Claimant { conn, user, seq }) = claimant {
            let message = Message::Registered { conn, user, seq, key: key.into(), kept: None };
            self.messages.send(conn.shard, message);
        }
    }

    /// Gives the session at `at` to `conn`. Returns what its client is told.
    fn return_session(&mut self, at: Slot, conn: ConnId) -> KeptSession {
        self.home.parking.disarm(at);
        let session = self.home.parking.get(at);
        session.phase = Phase::Returning { conn };
        let former = std::mem::replace(&mut session.last, conn);
        let [lost_full, lost_memory] = session.lost();
        // The next connection may filter out the other pushes, so its client is not promised them.
        let (parked, user, key) = (session.accepted() as u32, session.user, session.key.clone());
        if former != conn {
            self.give_up_session(user, &key, former);
        }
        KeptSession { resumed: Some(Resumed { parked, lost_full, lost_memory }) }
    }

    /// Asks the shard of `conn` for the pending pushes of the session of `key`, behind all pushes on their way to the
    /// connection.
    fn ask_for_rest(&mut self, conn: ConnId, key: &str) {
        let target = Target::Owners(Names::Conn(Some(conn)), Owners::default());
        self.begin_push(CallId::NONE, Push::leaving(key.into()), target, TallyKind::None);
    }

    /// Tells the user's home that the session of `key` no longer belongs to `conn`.
    pub(super) fn give_up_session(&mut self, user: i64, key: &str, conn: ConnId) {
        if user != 0 {
            let home = self.context.home_of_user(user);
            self.messages.send(home, Message::GiveUp { user, key: key.into(), conn });
        }
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// The connection that owns `key` has ended without a goodbye. Parks its session.
    pub(super) fn park_session(
        &mut self,
        conn: ConnId,
        user: i64,
        key: Box<str>,
        leaving: Leaving,
    ) {
        if self.home.keys.owner(&key) != Some(conn) {
            // The connection was replaced, so its shard has been asked already.
            return;
        }
        self.home.keys.release(&key, conn);
        self.ask_for_rest(conn, &key);
        self.counters.sessions_parked += 1;
        let Leaving { accepts, expires_in_ms } = leaving;
        let expires = expires_in_ms.map(|millis| self.context.deadline(millis));
        let phase = Phase::Leaving { from: conn, claimant: None };
        if let Some(at) = self.home.parking.find(&key) {
            let session = self.home.parking.get(at);
            (session.phase, session.expires) = (phase, expires);
            // The former connection's filter has accepted the pushes that are here.
            session.accepts = session.accepts.take().or(accepts);
            return;
        }
        let mut session = Session::new(key.clone(), user, conn, phase);
        (session.accepts, session.expires) = (accepts, expires);
        if self.home.parking.begin(session, &self.context.limits.resume).is_none() {
            self.give_up_session(user, &key, conn);
            self.report_disconnected(user, key);
        }
    }

    /// The owner of `key` had a kept session, and ended with a goodbye or was closed by the server.
    pub(super) fn end_kept_session(&mut self, conn: ConnId, user: i64, key: &str) {
        if let Some(at) = self.home.parking.find(key) {
            self.end_session_at(at);
        }
        self.give_up_session(user, key, conn);
    }

    /// Takes the pushes that the shard of a former connection has for its session.
    pub(super) fn take_rest(&mut self, conn: ConnId, key: &str, rest: Rest) {
        let Rest { user, pushes, lost, is_over } = rest;
        let at = self.home.parking.find(key).filter(|&at| {
            let phase = &self.home.parking.get(at).phase;
            matches!(phase, Phase::Leaving { from, .. } if *from == conn)
        });
        let Some(at) = at else {
            // The session has ended, or belongs to a connection that does not resume it.
            self.lose_parked(ParkedLoss::Ended, pushes.len() as u64);
            if let Some(user) = user {
                self.give_up_session(user, key, conn);
            }
            return;
        };
        let is_same_user = user.is_none_or(|user| user == self.home.parking.get(at).user);
        let resume = self.context.limits.resume;
        if is_same_user {
            let too_many = self.home.parking.put_in_front(at, pushes.iter(), lost, &resume);
            self.lose_parked(ParkedLoss::Full, too_many);
        } else {
            self.lose_parked(ParkedLoss::Ended, pushes.len() as u64);
        }
        let session = self.home.parking.get(at);
        let Phase::Leaving { claimant, .. } = &mut session.phase else { unreachable!("looked at") };
        if let Some(Claimant { conn: next, user: its_user, seq }) = claimant.take() {
            self.give_up_session(user.unwrap_or(its_user), key, conn);
            let kept = Some(self.return_session(at, next));
            let (conn, user, key) = (next, its_user, key.into());
            self.messages.send(conn.shard, Message::Registered { conn, user, seq, key, kept });
        } else if is_over {
            self.end_parked(at, ParkedLoss::Ended);
        } else {
            session.phase = Phase::Parked;
            let expires = session.expires;
            let end = self.context.deadline(resume.window_ms);
            self.home.parking.arm(at, expires.map_or(end, |at| at.min(end)));
        }
    }

    /// The client of `conn` was told about its session. Sends the parked pushes.
    pub(super) fn resume_session(&mut self, conn: ConnId, key: &str) {
        let Some(at) = self.home.parking.find(key) else { return };
        if !matches!(self.home.parking.get(at).phase, Phase::Returning { conn: to } if to == conn) {
            return;
        }
        let (_, pushes) = self.home.parking.end(at);
        self.counters.sessions_resumed += 1;
        self.counters.resumed += pushes.len() as u64;
        if !pushes.is_empty() {
            self.messages.send(conn.shard, Message::Resume { conn: conn.local(), pushes });
        }
    }

    /// Ends sessions whose resume window is over.
    pub(super) fn expire_parked(&mut self, budget: &mut Budget) {
        let tick = self.context.tick();
        while let Some(at) = self.home.parking.poll_expired(tick, budget) {
            budget.spend(budget::ENTRY);
            self.counters.sessions_expired += 1;
            self.end_parked(at, ParkedLoss::Expired);
        }
    }

    /// Ends a session whose key no connection holds, and reports that.
    fn end_parked(&mut self, at: Slot, reason: ParkedLoss) {
        let (Session { key, user, last, .. }, pushes) = self.home.parking.end(at);
        self.lose_parked(reason, pushes.len() as u64);
        self.give_up_session(user, &key, last);
        self.report_disconnected(user, key);
    }

    /// Ends a session if another connection holds its key, or nobody needs to be told.
    fn end_session_at(&mut self, at: Slot) {
        let (session, pushes) = self.home.parking.end(at);
        let Session { key, user, last, phase, .. } = session;
        self.lose_parked(ParkedLoss::Ended, pushes.len() as u64);
        self.give_up_session(user, &key, last);
        if let Phase::Leaving { from, claimant } = phase {
            self.give_up_session(user, &key, from);
            self.dismiss(&key, claimant);
        }
    }

    fn lose_parked(&mut self, reason: ParkedLoss, pushes: u64) {
        self.counters.parked_lost[reason as usize] += pushes;
    }

    /// A younger connection holds `key` on another host. Ends the session here, because it would get pushes meant for
    /// that connection.
    pub(super) fn end_session_elsewhere(&mut self, key: &str, owner: Option<Older>) {
        if let Some(Older { conn, is_kept: true }) = owner {
            let is_claimant =
                self.home.parking.find(key).is_some_and(|at| {
                    matches!(self.home.parking.get(at).phase, Phase::Leaving { .. })
                });
            if !is_claimant {
                self.ask_for_rest(conn, key);
            }
        }
        if let Some(at) = self.home.parking.find(key) {
            self.end_session_at(at);
        }
    }

    // ---- pushes --------------------------------------------------------------------------------

    /// Parks a push for the session of `key`, if it has no connection to take the push. `None`: it has one, or there is
    /// no session.
    pub(super) fn park_push(&mut self, key: &str, push: &Push) -> Option<Tally> {
        let at = self.home.parking.find(key)?;
        let mut tally = Tally::default();
        match push.order.as_deref() {
            None => {}
            Some(Order::Kick(_)) => return self.kick_session(at),
            // A parked session is in no room, and has no connection to leave.
            Some(Order::Rooms(_) | Order::Leave(_)) => return None,
        }
        let session = self.home.parking.get(at);
        let is_accepted = session.accepts.as_ref().map(|it| it.contains(push.operation));
        if is_accepted == Some(false) {
            tally.drop_as(DropReason::Filtered, 1);
            return Some(tally);
        }
        let Push { operation, ref frame, .. } = *push;
        let is_accepted = is_accepted.is_some();
        let parked = ParkedFrame::new(operation, frame, is_accepted);
        match self.home.parking.park(at, parked, &self.context.limits.resume) {
            Ok(()) => tally.parked += 1,
            Err(_) => tally.drop_as(DropReason::ParkedFull, 1),
        }
        Some(tally)
    }

    /// A kick ends a session. If a connection has claimed the key, the kick also reaches that connection.
    fn kick_session(&mut self, at: Slot) -> Option<Tally> {
        match &self.home.parking.get(at).phase {
            Phase::Returning { .. } | Phase::Leaving { claimant: Some(_), .. } => {
                let pushes = self.home.parking.discard(at).len() as u64;
                self.lose_parked(ParkedLoss::Ended, pushes);
                None
            }
            Phase::Parked | Phase::Leaving { claimant: None, .. } => {
                self.end_parked(at, ParkedLoss::Ended);
                Some(Tally { parked: 1, ..Tally::default() })
            }
        }
    }

    /// Delivers the parked pushes to `conn`, which is ready for them. Its outbox may have less space than the session
    /// had.
    pub(super) fn deliver_parked(&mut self, conn: LocalConnId, pushes: ParkedFrames) {
        let Some(pushes) = self.deliver_parcel(conn, pushes) else { return };
        let mut budget = Budget::new(0);
        for parked in pushes.iter() {
            let ParkedPush { operation, frame, is_accepted } = parked.to_push();
            let push = Push::new(operation, frame);
            if self.departures.has(conn) {
                // The client has left again, which its home did not know yet.
                let tally = self.offer_departed(&push, is_accepted, &[conn]);
                self.counters.deliveries += tally;
                continue;
            }
            let mut items = self.direct_items(&push);
            let mode = if is_accepted { DeliveryMode::Offer } else { DeliveryMode::OfferFiltered };
            let delivered = self.deliver(&push, &mut items, mode, |delivery| {
                delivery.offer_to(conn);
            });
            let (_, to_close) = self.count(&push, delivered, &mut budget);
            self.close_offered(None, to_close, &mut budget);
        }
    }

    /// Puts all of `pushes` into the outbox of `conn` as one item. They are returned if each push has to be delivered
    /// by itself: the client has another form of frames, may filter them, or has no space for all of them.
    fn deliver_parcel(&mut self, id: LocalConnId, pushes: ParkedFrames) -> Option<ParkedFrames> {
        let limits = &self.context.limits;
        let Some(conn) = self.conns.get(id).filter(|conn| conn.takes_pushes().is_ok()) else {
            return Some(pushes);
        };
        let has_binary_form = !conn.is_text && conn.transport != Transport::EventStream;
        let is_plain = has_binary_form && !conn.is_traced && pushes.accepted() == pushes.len();
        if !is_plain || !self.outboxes.has_space_for_parcel(conn, &pushes, limits) {
            return Some(pushes);
        }
        let count = pushes.len() as u64;
        self.outboxes.append_parcel(id.slot, conn, pushes);
        self.counters.deliveries += Tally { matched: count, queued: count, ..Tally::default() };
        self.idle.note_activity(self.context.now);
        None
    }

    // ---- from another process ------------------------------------------------------------------

    pub(super) fn take_over_parked(
        &mut self,
        sessions: Vec<ArrivedSession>,
        kept: Vec<ArrivedKept>,
    ) {
        // A placeholder for an unknown connection. It must equal no real one and be the same at both homes.
        let nobody = ConnId {
            shard: self.context.shard,
            slot: Slot(u32::MAX),
            generation: Generation(u32::MAX),
        };
        for ArrivedKept { user, key, conn } in kept {
            let last = conn.unwrap_or(ConnId { shard: self.context.home_of_key(&key), ..nobody });
            self.home.kept_users.register(user, &key, last);
            if conn.is_none() {
                self.home.kept_users.end(last);
            }
        }
        let resume = self.context.limits.resume;
        for ArrivedSession { key, user, left_ms, accepts, pushes, lost } in sessions {
            let mut session = Session::new(key.clone(), user, nobody, Phase::Parked);
            session.accepts = accepts;
            let Some(at) = self.home.parking.begin(session, &resume) else {
                self.lose_parked(ParkedLoss::Ended, pushes.len() as u64);
                self.give_up_session(user, &key, nobody);
                self.report_disconnected(user, key);
                continue;
            };
            let rest = pushes.iter().map(ParkedPush::view);
            let too_many = self.home.parking.put_in_front(at, rest, lost, &resume);
            self.lose_parked(ParkedLoss::Full, too_many);
            let left_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
            self.home.parking.arm(at, self.context.deadline(left_ms));
        }
    }
}
