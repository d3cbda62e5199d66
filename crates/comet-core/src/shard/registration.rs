//! Registration: how a connection gets its place among the sessions of its user and becomes the owner of its
//! key, and how both are given back.
//!
//! The owner asks the user's home ([`Message::Register`]), that asks the key's home ([`Message::Claim`]), and
//! that answers the owner ([`Message::Registered`]).

use comet_proto::op;

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::message::{Message, Report, TraceKind};
use crate::settings::Logic;
use crate::state::{AwaitedReply, ConnState, Registering};
use crate::time::TokenTime;

use super::Shard;

impl Shard {
    // ---- at the user's home --------------------------------------------------------------------

    pub(super) fn register(
        &mut self,
        (conn, token_at): (ConnId, TokenTime),
        user: i64,
        key: Option<Box<str>>,
    ) {
        let most = self.context.limits.user_sessions;
        let Some(seq) = self.home.users.begin(user, conn, most) else {
            if let Some(key) = key {
                self.disown(user, key);
            }
            let reason = CloseReason::TooManySessions;
            return self.messages.send(conn.shard, Message::Evict { conn, reason });
        };
        let is_given = key.is_some();
        let key = key.unwrap_or_else(|| match user {
            0 => format!("0_{}", self.home.keys.number_anonymous()).into(),
            _ => format!("{user}_{seq}").into(),
        });
        let home = self.context.home_of_key(&key);
        self.messages.send(home, Message::Claim { conn, token_at, user, seq, key, is_given });
    }

    pub(super) fn end_session(&mut self, conn: ConnId, user: i64, seq: i32) {
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
    pub(super) fn claim(
        &mut self,
        (conn, token_at): (ConnId, TokenTime),
        (user, seq): (i64, i32),
        key: Box<str>,
        is_given: bool,
    ) {
        let older = self.home.keys.claim(&key, conn, (token_at, is_given));
        if is_given && older != Some(conn) && self.home.keys.is_watched() {
            self.reports.push(Report::Claimed { key: key.clone(), at: token_at.millis() });
        }
        if let Some(older) = older {
            let reason = CloseReason::Replaced;
            self.messages.send(older.shard, Message::Evict { conn: older, reason });
        }
        // Logic may have let the new owner in before it learned that the key is disconnected, and then it
        // has ended the new session. A renewal brings that back.
        if self.home.keys.take_disconnected(&key) {
            self.reports.push(Report::Heartbeat { user, key: key.clone() });
        }
        self.messages.send(conn.shard, Message::Registered { conn, user, seq, key });
    }

    pub(super) fn release(&mut self, conn: ConnId, user: i64, key: Box<str>) {
        if self.home.keys.release(&key, conn) {
            self.report_disconnected(user, key);
        }
    }

    /// Logic made a session for a token that is not followed by a claim of `key`.
    pub(super) fn unclaimed(&mut self, user: i64, key: Box<str>) {
        if self.home.keys.owner(&key).is_none() {
            self.report_disconnected(user, key);
        }
    }

    /// No connection holds `key` any more.
    fn report_disconnected(&mut self, user: i64, key: Box<str>) {
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

    pub(super) fn registered(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        let Some((slot, registering)) = self.take_registering(conn) else {
            // It closed while its homes were asked. The answer alone says what they are to take back.
            return self.release_registration(conn, user, seq, key);
        };
        let Registering { version, sequence, token_at, identity } = *registering;
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
        if self.context.is_late(token_at) {
            // The key's home may have forgotten that logic was told of the key's end since.
            self.renew_now(slot);
        }
        self.update_tracing(slot, None);
        if self.conns[slot].is_traced {
            self.trace(slot, TraceKind::Authenticated { room: identity.room.clone() });
        }
        if !identity.rooms.is_empty() {
            self.conns[slot].input_mut().rooms = identity.rooms;
        }
        let reply = AwaitedReply { version, operation: op::AUTH_REPLY, sequence };
        match identity.room {
            Some(room) => self.join(slot, &room, reply),
            None => {
                self.conns[slot].state = ConnState::Live;
                let body = self.auth_reply(slot, None);
                self.reply(slot, reply, &body);
                self.enter_rooms_at_start(slot);
                self.resume(slot);
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
            CloseReason::AddressLimit | CloseReason::SubnetLimit => self.turn_away(slot, reason),
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
        self.note_end_of_presence(slot, &key);
        self.leave_all(slot);
        if !key.is_empty() {
            let conn = &self.conns[slot];
            let (user, seq) = (conn.user, conn.session);
            self.release_registration(self.conns.id(slot), user, seq, key);
        }
    }

    fn release_registration(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        if user != 0 {
            let home = self.context.home_of_user(user);
            self.messages.send(home, Message::EndSession { conn, user, seq });
        }
        let home = self.context.home_of_key(&key);
        self.messages.send(home, Message::Release { conn, user, key });
    }
}
