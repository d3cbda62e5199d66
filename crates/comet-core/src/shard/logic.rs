//! The requests of a shard to logic: the identity behind a token, the answer to a client's message, and the renewal of
//! a session.

use comet_proto::{Frame, op};

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{ACCEPTS_MAX, FURTHER_ROOMS_MAX, NAME_MAX, SENTENCE_MAX};
use crate::message::{AuthRequest, Denied, Identity, Message, Report};
use crate::settings::Logic;
use crate::state::{AwaitedReply, ConnState, Registering};

use super::Shard;

impl Shard {
    /// Embedded logic's answer to [`Shard::poll_auth`].
    pub fn handle_auth(&mut self, conn: ConnId, answer: Result<Identity, Denied>) {
        self.identified(conn, answer);
        self.dispatch_local();
    }

    /// The next token to identify. There is none with [`Logic::Remote`], and none of a connection that was closed while
    /// its token waited.
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        while let Some(conn) = self.auths.pop_front() {
            if let Some(entry) = self.conns.get(conn.local())
                && let Some(input) = &mut entry.input
                && let Some(token) = input.token.take()
            {
                let cookie = input.cookie.take().unwrap_or_default();
                entry.shed_input();
                return Some(AuthRequest { conn, token, cookie });
            }
        }
        None
    }

    /// Whether tokens may wait for [`Shard::poll_auth`].
    #[must_use]
    pub fn has_auths(&self) -> bool {
        !self.auths.is_empty()
    }

    pub(super) fn request_identity(&mut self, slot: Slot, frame: Frame<'_>) {
        let Frame { version, sequence, body: token, .. } = frame;
        self.latest_token = self.latest_token.next(self.context.now);
        let token_at = self.latest_token;
        self.conns[slot].state = ConnState::Identifying { version, sequence, token_at };
        self.ask_about(slot, token);
    }

    /// Asks logic about a token of `slot`. The cookie is sent with the first token.
    pub(super) fn ask_about(&mut self, slot: Slot, token: &[u8]) {
        let id = self.conns.id(slot);
        let conn = &mut self.conns[slot];
        if let Logic::Embedded = self.context.logic {
            conn.input_mut().token = Some(token.into());
            return self.auths.push_back(id);
        }
        let cookie = conn.input.as_mut().and_then(|input| input.cookie.take()).unwrap_or_default();
        conn.shed_input();
        let request = AuthRequest { conn: id, token: token.into(), cookie };
        self.reports.push(Report::Identify(request));
    }

    /// Logic's answer to a token.
    pub(super) fn identified(&mut self, conn: ConnId, answer: Result<Identity, Denied>) {
        let Some(slot) = self.conns.find(conn) else { return self.discard_identity(answer) };
        let (version, sequence, token_at) = match self.conns[slot].state {
            ConnState::Identifying { version, sequence, token_at } => (version, sequence, token_at),
            ConnState::Renewing { reply } => return self.renewed(slot, reply, answer),
            _ => return self.discard_identity(answer),
        };
        let mut identity = match answer {
            Ok(identity) => identity,
            Err(Denied { reason, sentence, retry_after_ms }) => {
                debug_assert!(matches!(
                    reason,
                    CloseReason::AuthRefused | CloseReason::LogicUnavailable
                ));
                return self.close_with_hint(slot, reason, cut(&sentence), retry_after_ms);
            }
        };
        if let Err(fault) = check_names(&identity) {
            self.discard_identity(Ok(identity));
            return self.close(slot, CloseReason::AuthRefused, &fault);
        }
        self.set_token_expiry(slot, identity.expires_in_ms);
        // The reply tells the client. A limit that is lowered later closes no client that keeps to what it was told.
        let heartbeat_ms = identity.heartbeat_ms.unwrap_or(self.context.limits.heartbeat_ms);
        let entry = &mut self.conns[slot];
        entry.user = identity.user;
        entry.heartbeat_ms = heartbeat_ms;
        let (user, key) = (identity.user, identity.key.take());
        let resume = &self.context.limits.resume;
        // A client without a key of its own gets another key the next time, so its session cannot be resumed.
        entry.is_kept = (entry.is_kept || resume.for_all) && resume.is_on() && key.is_some();
        let is_kept = entry.is_kept;
        entry.state = ConnState::Registering(Box::new(Registering { version, sequence, identity }));
        let home = self.context.home_of_user(user);
        self.messages.send(home, Message::Register { conn, token_at, user, key, is_kept });
    }

    /// Logic let in a client that is not registered here. Its session at logic must end, unless another
    /// connection holds the key.
    pub(super) fn discard_identity(&mut self, answer: Result<Identity, Denied>) {
        if let Ok(Identity { user, key: Some(key), .. }) = answer
            && !key.is_empty()
        {
            self.report_orphaned_session(user, key);
        }
    }

    /// As [`Shard::discard_identity`], if no claim of `key` is going to follow.
    pub(super) fn report_orphaned_session(&mut self, user: i64, key: Box<str>) {
        if let Logic::Remote { .. } = self.context.logic {
            let home = self.context.home_of_key(&key);
            self.messages.send(home, Message::OrphanedSession { user, key });
        }
    }

    /// A client's message. Remote logic gets one message of a connection at a time, so they keep their order.
    pub(super) fn receive(&mut self, slot: Slot, frame: Frame<'_>) {
        let Frame { operation, sequence, body, .. } = frame;
        let id = self.conns.id(slot);
        let conn = &mut self.conns[slot];
        // goim v1.2 answers operation 4 with 5 and the same body.
        let is_echoed = conn.is_text && operation == op::SEND;
        let answer = if is_echoed { op::SEND_REPLY } else { operation };
        let reply = AwaitedReply::to(&frame, answer);
        if self.context.logic == Logic::Embedded {
            self.counters.received += 1;
            return self.reply(slot, reply, if is_echoed { body } else { b"" });
        }
        if is_echoed {
            conn.input_mut().echo = Some(body.into());
        }
        conn.state = ConnState::Receiving { reply };
        let (user, key, body) = (conn.user, conn.key.clone(), body.into());
        self.reports.push(Report::Receive { conn: id, user, key, operation, sequence, body });
    }

    /// Logic's answer to a client's message: accepted, or a sentence that says why not.
    pub(super) fn receipt(&mut self, conn: ConnId, outcome: Result<(), Box<str>>) {
        let Some(slot) = self.conns.find(conn) else { return };
        let ConnState::Receiving { reply } = self.conns[slot].state else { return };
        self.counters.received += 1;
        let echo = self.conns[slot].input.as_mut().and_then(|input| input.echo.take());
        self.conns[slot].shed_input();
        match outcome {
            Ok(()) => self.answer(slot, reply, &echo.unwrap_or_default()),
            Err(sentence) => self.answer(slot, reply, cut(&sentence).as_bytes()),
        }
    }

    /// Chooses the time of the next renewal of the session of `slot`.
    pub(super) fn plan_renewal(&mut self, slot: Slot) {
        if let Logic::Remote { renew_ms: (least, most) } = self.context.logic {
            let pause = self.jitter.within(least..=most);
            self.conns[slot].renew_at = self.context.deadline(pause);
        }
    }

    /// Renews the session of `slot` at logic.
    pub(super) fn renew_now(&mut self, slot: Slot) {
        self.conns[slot].renew_at = self.context.tick();
        self.renew(slot);
    }

    /// Renews a client's session at logic on a heartbeat, if that is due.
    pub(super) fn renew(&mut self, slot: Slot) {
        let entry = &self.conns[slot];
        if self.context.logic == Logic::Embedded || entry.renew_at > self.context.tick() {
            return;
        }
        let (conn, user, key) = (self.conns.id(slot), entry.user, entry.key.clone());
        // The key's home reports both renewals and ends of sessions, so logic gets them in their order.
        let home = self.context.home_of_key(&key);
        self.messages.send(home, Message::Renew { conn, user, key });
        self.plan_renewal(slot);
    }
}

/// The part of logic's sentence that is passed on.
fn cut(sentence: &str) -> &str {
    &sentence[..sentence.floor_char_boundary(SENTENCE_MAX)]
}

/// Logic may be another program, so the names that it gives are checked here.
fn check_names(identity: &Identity) -> Result<(), String> {
    let check = |what: &str, name: Option<&str>| match name {
        Some("") => Err(format!("logic gave an empty {what}")),
        Some(name) if name.len() > NAME_MAX => {
            Err(format!("{what} of {} bytes; at most {NAME_MAX} are taken", name.len()))
        }
        _ => Ok(()),
    };
    check("key", identity.key.as_deref())?;
    check("room", identity.room.as_deref())?;
    let rooms = identity.rooms.len();
    if rooms > FURTHER_ROOMS_MAX {
        return Err(format!("{rooms} rooms; at most {FURTHER_ROOMS_MAX} are taken"));
    }
    identity.rooms.iter().try_for_each(|room| check("room", Some(room)))?;
    match identity.accepts.listed() {
        listed if listed > ACCEPTS_MAX => {
            Err(format!("{listed} accepted operations; at most {ACCEPTS_MAX} are taken"))
        }
        _ => Ok(()),
    }
}
