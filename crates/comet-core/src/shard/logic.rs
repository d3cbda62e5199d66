//! Logic, as a shard asks it: who a client is, what becomes of its messages, and that it is still here.

use comet_proto::Frame;

use crate::ids::{ConnId, Slot, home_of_key};
use crate::ledger::CloseReason;
use crate::limits::{ACCEPTS_MAX, NAME_MAX, SENTENCE_MAX};
use crate::message::{AuthRequest, Denied, Identity, Message, Report};
use crate::state::{AwaitedReply, ConnState, Registering};

use super::Shard;

/// Where logic is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Logic {
    /// The driver asks it, see [`Shard::poll_auth`]. Client messages are answered at once, and logic
    /// hears of nothing else.
    #[default]
    Embedded,
    /// Control asks it: tokens, client messages, renewals and departures go out as [`Report`]s.
    Remote {
        /// Least and most time between two renewals of a connection's session, milliseconds. A renewal
        /// goes out with the first client heartbeat after a random time between the two.
        renew_ms: (u32, u32),
    },
}

impl Logic {
    /// # Panics
    /// If the times contradict each other.
    pub(super) fn assert_sound(self) {
        if let Self::Remote { renew_ms: (least, most) } = self {
            assert!(least <= most, "renew_ms is least and most");
        }
    }
}

impl Shard {
    /// Embedded logic's answer to [`Shard::poll_auth`].
    pub fn handle_auth(&mut self, conn: ConnId, answer: Result<Identity, Denied>) {
        self.identified(conn, answer);
        self.settle();
    }

    pub(super) fn ask_logic(&mut self, slot: Slot, sequence: i32, token: &[u8]) {
        let conn = self.conn_id(slot);
        let entry = &mut self.conns[slot];
        entry.state = ConnState::Identifying { sequence };
        let cookie = entry.input.as_mut().and_then(|input| input.cookie.take()).unwrap_or_default();
        entry.shed_input();
        let request = AuthRequest { conn, token: token.into(), cookie };
        match self.logic {
            Logic::Embedded => self.auths.push_back(request),
            Logic::Remote { .. } => self.reports.push_back(Report::Identify(request)),
        }
    }

    /// Logic has answered.
    pub(super) fn identified(&mut self, conn: ConnId, answer: Result<Identity, Denied>) {
        let Some(slot) = self.slot(conn) else { return self.decline(answer) };
        let ConnState::Identifying { sequence } = self.conns[slot].state else {
            return self.decline(answer);
        };
        let mut identity = match answer {
            Ok(identity) => identity,
            Err(Denied { reason, sentence, retry_after_ms }) => {
                debug_assert!(matches!(
                    reason,
                    CloseReason::AuthRefused | CloseReason::LogicUnavailable
                ));
                return self.turn_away(slot, reason, cut(&sentence), retry_after_ms);
            }
        };
        if let Err(fault) = check_names(&identity) {
            self.decline(Ok(identity));
            return self.close(slot, CloseReason::AuthRefused, &fault);
        }
        let entry = &mut self.conns[slot];
        entry.user = identity.user;
        entry.heartbeat_ms = identity.heartbeat_ms.unwrap_or(0);
        let (user, key) = (identity.user, identity.key.take());
        entry.state = ConnState::Registering(Box::new(Registering { sequence, identity }));
        self.route(self.home_of_user(user), Message::Register { conn, user, key });
    }

    /// Logic let in a client that is not here to come in: its session there ends, unless somebody else
    /// holds the key.
    fn decline(&mut self, answer: Result<Identity, Denied>) {
        if let Logic::Remote { .. } = self.logic
            && let Ok(Identity { user, key: Some(key), .. }) = answer
            && !key.is_empty()
        {
            self.route(home_of_key(&key, self.shards), Message::Unclaimed { user, key });
        }
    }

    /// A client's message. Remote logic has one of a connection at a time: so they keep their order.
    pub(super) fn receive(&mut self, slot: Slot, frame: Frame<'_>) {
        let Frame { operation, sequence, body, .. } = frame;
        if self.logic == Logic::Embedded {
            self.counters.received += 1;
            return self.reply(slot, operation, sequence, b"");
        }
        let conn = self.conn_id(slot);
        let entry = &mut self.conns[slot];
        entry.state = ConnState::Receiving { reply: AwaitedReply { operation, sequence } };
        let (user, key, body) = (entry.user, entry.key.clone(), body.into());
        self.reports.push_back(Report::Receive { conn, user, key, operation, sequence, body });
    }

    /// Logic has taken a client's message, or says why not.
    pub(super) fn receipt(&mut self, conn: ConnId, outcome: Result<(), Box<str>>) {
        let Some(slot) = self.slot(conn) else { return };
        let ConnState::Receiving { reply } = self.conns[slot].state else { return };
        self.counters.received += 1;
        let sentence = outcome.err().unwrap_or_default();
        self.answer(slot, reply, cut(&sentence).as_bytes());
    }

    /// Chooses when the session of `slot` is renewed next.
    pub(super) fn plan_renewal(&mut self, slot: Slot) {
        if let Logic::Remote { renew_ms: (least, most) } = self.logic {
            let pause = self.jitter.within(least..=most);
            self.conns[slot].renew_at = self.deadline(pause);
        }
    }

    /// A client's heartbeat renews its session, when that is due.
    pub(super) fn renew(&mut self, slot: Slot) {
        let entry = &self.conns[slot];
        if self.logic == Logic::Embedded || entry.renew_at > self.now.tick() {
            return;
        }
        let (conn, user, key) = (self.conn_id(slot), entry.user, entry.key.clone());
        // By way of the home: so no renewal comes behind the news that the key is gone.
        self.route(home_of_key(&key, self.shards), Message::Renew { conn, user, key });
        self.plan_renewal(slot);
    }

    /// Home: nobody holds `key` any more.
    pub(super) fn part(&mut self, user: i64, key: Box<str>) {
        if let Logic::Remote { .. } = self.logic {
            self.home.remember_parted(self.now, &key);
            self.reports.push_back(Report::Disconnected { user, key });
        }
    }

    /// Home: `key` has an owner that logic let in perhaps before it heard that the last one is gone. Then
    /// it has ended the new one's session, and a renewal brings it back.
    pub(super) fn heal(&mut self, user: i64, key: &str) {
        if self.home.take_parted(key) {
            self.reports.push_back(Report::Heartbeat { user, key: key.into() });
        }
    }
}

/// As much of logic's sentence as is handed on.
fn cut(sentence: &str) -> &str {
    &sentence[..sentence.floor_char_boundary(SENTENCE_MAX)]
}

/// Logic may be somebody else's: its names are bounded here once more.
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
    match identity.accepts.listed() {
        listed if listed > ACCEPTS_MAX => {
            Err(format!("{listed} accepted operations; at most {ACCEPTS_MAX} are taken"))
        }
        _ => Ok(()),
    }
}
