//! Registration: how a connection gets its place among the sessions of its user and becomes the owner of its
//! key, and how both are given back.
//!
//! The owner asks the user's home ([`Message::Register`]), that asks the key's home ([`Message::Claim`]), and
//! that answers the owner ([`Message::Registered`]).

use comet_proto::{KeptSession, op};

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::message::{Message, Report, TraceKind};
use crate::parking::Leaving;
use crate::settings::Logic;
use crate::state::{AwaitedReply, ConnState, Registering};
use crate::time::TokenTime;

use super::Shard;
use super::parking::Claiming;

impl Shard {
    // ---- at the user's home --------------------------------------------------------------------

    pub(super) fn register(
        &mut self,
        (conn, token_at): (ConnId, TokenTime),
        user: i64,
        key: Option<Box<str>>,
        is_kept: bool,
    ) {
        let most = self.context.limits.user_sessions;
        // A key that it names may be that of a session which this one replaces: its home knows.
        let beyond = if key.is_some() { most } else { 0 };
        let begun = self.home.users.begin(user, conn, most.saturating_add(beyond));
        let Some((seq, sessions)) = begun else {
            if let Some(key) = key {
                self.report_orphaned_session(user, key);
            }
            let reason = CloseReason::TooManySessions;
            return self.messages.send(conn.shard, Message::Evict { conn, reason });
        };
        let is_given = key.is_some();
        if let Some(key) = key.as_deref().filter(|_| is_kept && user != 0) {
            self.home.kept_users.register(user, key, conn);
        }
        let key = key.unwrap_or_else(|| match user {
            0 => format!("0_{}", self.home.keys.number_anonymous()).into(),
            _ => format!("{user}_{seq}").into(),
        });
        let home = self.context.home_of_key(&key);
        let is_beyond = sessions > most;
        let claim = Message::Claim { conn, token_at, user, seq, key, is_given, is_kept, is_beyond };
        self.messages.send(home, claim);
    }

    pub(super) fn end_session(&mut self, conn: ConnId, user: i64, seq: i32) {
        self.home.kept_users.end(conn);
        if let Some(last) = self.home.users.end(user, seq, conn)
            && self.context.limits.user_memory_ms > 0
        {
            let now = self.context.clock.active();
            let is_early = self.home.users.retain_number(now, user, last);
            self.counters.forgotten += u64::from(is_early);
        }
    }

    // ---- at the key's home ---------------------------------------------------------------------

    /// The younger of two connections with one key stays: the one whose token arrived later, in whatever order
    /// logic has answered. The older one is closed. If that is the new one, it is evicted before it learns
    /// that it is registered, and then takes its registration back.
    pub(super) fn claim(&mut self, key: Box<str>, claiming: Claiming, is_beyond: bool) {
        let Claiming { conn, user, seq, claim } = claiming;
        if is_beyond && self.home.keys.owner(&key).is_none() {
            self.leave_user(conn, user, seq);
            self.give_up_session(user, &key, conn);
            self.end_orphaned_session(user, key);
            let reason = CloseReason::TooManySessions;
            return self.messages.send(conn.shard, Message::Evict { conn, reason });
        }
        let older = self.home.keys.claim(&key, conn, claim);
        let older_conn = older.map(|older| older.conn);
        let is_replaced = older_conn == Some(conn);
        if claim.is_given && !is_replaced && self.home.keys.is_watched() {
            self.reports.push(Report::Claimed { key: key.clone(), at: claim.token_at.millis() });
        }
        if let Some(older) = older_conn {
            let reason = CloseReason::Replaced;
            self.messages.send(older.shard, Message::Evict { conn: older, reason });
        }
        // Logic may have let the new owner in before it learned of an end of the key, and then it has ended the new session.
        let was_ended = self.home.keys.take_disconnected(&key);
        if !is_replaced && self.context.is_late(claim.token_at) {
            // Nobody may remember that end. A renewal brings the session back in any case.
            self.reports.push(Report::Heartbeat { user, key: key.clone() });
        } else if was_ended {
            self.reports.push(Report::Reclaimed { user, key: key.clone() });
        }
        if let Some(kept) = self.claim_session(&key, &claiming, older) {
            self.messages.send(conn.shard, Message::Registered { conn, user, seq, key, kept });
        }
    }

    pub(super) fn release(&mut self, conn: ConnId, user: i64, key: Box<str>) {
        let is_kept = self.home.keys.is_kept(&key);
        if self.home.keys.release(&key, conn) {
            if is_kept {
                self.end_kept_session(conn, user, &key);
            }
            self.report_disconnected(user, key);
        } else {
            // It may have said goodbye just before it was replaced.
            self.give_up_session(user, &key, conn);
        }
    }

    /// Logic made a session for a token that is not followed by a claim of `key`.
    pub(super) fn end_orphaned_session(&mut self, user: i64, key: Box<str>) {
        if self.home.keys.owner(&key).is_none() && self.home.parking.find(&key).is_none() {
            self.report_disconnected(user, key);
        }
    }

    /// No connection holds `key` any more.
    pub(super) fn report_disconnected(&mut self, user: i64, key: Box<str>) {
        if let Logic::Remote { .. } = self.context.logic {
            let now = self.context.clock.active();
            let is_early = self.home.keys.retain_disconnected(now, &key);
            self.counters.forgotten += u64::from(is_early);
            self.reports.push(Report::Disconnected { user, key });
        }
    }

    pub(super) fn renew_owner(&mut self, conn: ConnId, user: i64, key: Box<str>) {
        if self.home.keys.owner(&key) == Some(conn) {
            self.reports.push(Report::Heartbeat { user, key });
        }
    }

    pub(super) fn renewal_failed(&mut self, key: &str) {
        if let Some(owner) = self.home.keys.owner(key) {
            self.messages.send(owner.shard, Message::RenewAgain { conn: owner });
        }
    }

    // ---- at the connection's shard -------------------------------------------------------------

    pub(super) fn registered(
        &mut self,
        conn: ConnId,
        (user, seq): (i64, i32),
        key: Box<str>,
        kept: Option<KeptSession>,
    ) {
        let Some((slot, registering)) = self.take_registering(conn) else {
            // It closed while its homes were asked. The answer alone says what they are to take back.
            if kept.is_some_and(|kept| kept.resumed.is_some()) {
                return self.park_registration(conn, user, seq, key);
            }
            return self.release_registration(conn, user, seq, key);
        };
        let Registering { version, sequence, identity } = *registering;
        let entry = &mut self.conns[slot];
        entry.key = key;
        entry.session = seq;
        entry.accepts = identity.accepts;
        let age_ms = entry.age_ms(self.context.now);
        self.counters.handshake_times.record(age_ms * 1_000);
        self.counters.authenticated += 1;
        self.counters.live += 1;
        self.handshakes.end();
        self.set_deadline(slot, self.heartbeat_ms(slot));
        self.plan_renewal(slot);
        self.update_tracing(slot, None);
        if self.conns[slot].is_traced {
            self.trace(slot, TraceKind::Authenticated { room: identity.room.clone() });
        }
        if !identity.rooms.is_empty() {
            self.conns[slot].input_mut().rooms = identity.rooms;
        }
        if kept.is_some() {
            self.conns[slot].input_mut().kept = kept;
        }
        let reply = AwaitedReply { version, operation: op::AUTH_REPLY, sequence };
        match identity.room {
            Some(room) => self.join(slot, &room, reply),
            None => {
                self.conns[slot].state = ConnState::Live;
                self.reply_to_token(slot, reply);
                self.enter_rooms_at_start(slot);
                self.resume_reading(slot);
            }
        }
    }

    /// Makes `conn` live, if it still waits for its homes.
    fn take_registering(&mut self, conn: ConnId) -> Option<(Slot, Box<Registering>)> {
        let slot = self.conns.find(conn)?;
        let state = &mut self.conns[slot].state;
        if !matches!(state, ConnState::Registering(_)) {
            return None;
        }
        let ConnState::Registering(registering) = std::mem::replace(state, ConnState::Live) else {
            unreachable!("looked at above")
        };
        Some((slot, registering))
    }

    pub(super) fn evict(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(slot) = self.conns.find(conn) else { return };
        match reason {
            CloseReason::AddressLimit | CloseReason::SubnetLimit | CloseReason::TooManySessions => {
                self.turn_away(slot, reason);
            }
            _ => self.close(slot, reason, ""),
        }
    }

    pub(super) fn renew_again(&mut self, conn: ConnId) {
        if let Some(slot) = self.conns.find(conn) {
            self.conns[slot].renew_at = self.context.tick();
        }
    }

    /// Takes a closing connection out of its rooms and its homes.
    pub(super) fn unregister(&mut self, slot: Slot, key: Box<str>) {
        self.leave_rooms(slot, &key);
        if !key.is_empty() {
            let conn = &self.conns[slot];
            let (user, seq) = (conn.user, conn.session);
            self.release_registration(self.conns.id(slot), user, seq, key);
        }
    }

    /// Takes a closing connection out of its rooms.
    pub(super) fn leave_rooms(&mut self, slot: Slot, key: &str) {
        self.note_end_of_presence(slot, key);
        self.leave_all(slot);
    }

    /// Ends the place of `conn` among the sessions of `user`.
    pub(super) fn leave_user(&mut self, conn: ConnId, user: i64, seq: i32) {
        if user != 0 {
            let home = self.context.home_of_user(user);
            self.messages.send(home, Message::EndSession { conn, user, seq });
        }
    }

    /// As [`Shard::release_registration`]; the session that it was about to resume goes on.
    fn park_registration(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        self.leave_user(conn, user, seq);
        let home = self.context.home_of_key(&key);
        let leaving = Box::new(Leaving::default());
        self.messages.send(home, Message::Park { conn, user, key, leaving });
    }

    fn release_registration(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        self.leave_user(conn, user, seq);
        let home = self.context.home_of_key(&key);
        self.messages.send(home, Message::Release { conn, user, key });
    }
}
