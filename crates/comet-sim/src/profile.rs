//! The identity that a client claims: its token, and what logic derives from it.

use std::collections::BTreeSet;

use comet_core::{Identity, Transport};
use comet_logic::{Authenticator, UnverifiedTokens};
use comet_proto::NotRenewed;

use crate::plan::{KEYS, OPERATIONS, Plan, ROOMS, USERS};
use crate::rng::Rng;

/// The user whose tokens expire.
const USER_WITH_EXPIRY: i64 = 4;

#[derive(Clone)]
pub(crate) struct ClientProfile {
    pub(crate) transport: Transport,
    pub(crate) is_protocol_2: bool,
    /// It asks the server to keep its session.
    pub(crate) asks_to_keep: bool,
    /// It speaks the text form.
    pub(crate) is_text: bool,
    /// It offers permessage-deflate, and the server accepts the offer.
    pub(crate) is_deflated: bool,
    pub(crate) token: Box<[u8]>,
    pub(crate) user: i64,
    /// `None`: the user's home makes one.
    pub(crate) key: Option<&'static str>,
    /// Index into [`ROOMS`].
    pub(crate) room: Option<u8>,
    pub(crate) accepts: Accepted,
    pub(crate) heartbeat_ms: u32,
    pub(crate) is_refused: bool,
}

/// The operations that a connection accepts, as a default and its exceptions.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    by_default: bool,
    exceptions: BTreeSet<i32>,
}

impl Accepted {
    pub(crate) fn contains(&self, operation: i32) -> bool {
        self.by_default != self.exceptions.contains(&operation)
    }

    /// Whether every operation that is not an exception is accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.by_default
    }

    pub(crate) fn set(&mut self, operation: i32, accepted: bool) {
        if accepted == self.by_default {
            self.exceptions.remove(&operation);
        } else {
            self.exceptions.insert(operation);
        }
    }
}

impl ClientProfile {
    pub(crate) fn random(rng: &mut Rng, plan: &Plan) -> Self {
        let transport = rng.pick(&[Transport::Tcp, Transport::WebSocket]);
        let is_text = plan.limits.text && transport == Transport::WebSocket && rng.percent(50);
        let deflates = plan.limits.deflate.is_some() && transport == Transport::WebSocket;
        let user = rng.below(USERS as usize) as i64;
        let mut profile = Self {
            transport,
            is_protocol_2: !is_text && rng.percent(50),
            is_text,
            is_deflated: deflates && rng.percent(60),
            token: user.to_string().into_bytes().into(),
            user,
            key: None,
            room: Some(0),
            accepts: Accepted { by_default: true, exceptions: BTreeSet::new() },
            heartbeat_ms: 0,
            is_refused: false,
            asks_to_keep: false,
        };
        profile.asks_to_keep = profile.is_protocol_2 && rng.percent(70);
        match rng.below(100) {
            0..40 => {}
            40..50 => {
                profile.token = (*b"anna").into();
                profile.user = 0;
                profile.room = None;
            }
            50..95 => {
                let key = rng.pick(&KEYS);
                // Mostly of the same user, who comes back.
                let own = KEYS.iter().position(|other| *other == key).unwrap_or(0);
                let user = if rng.percent(70) { own as i64 % USERS } else { user };
                profile.user = user;
                let room = rng.percent(70).then(|| rng.below(ROOMS.len()) as u8);
                let accepts: Vec<i32> =
                    OPERATIONS.into_iter().filter(|_| rng.percent(70)).collect();
                let room_id = room.map_or("", |room| ROOMS[usize::from(room)]);
                let token = format!(
                    r#"{{"mid":{user},"key":"{key}","room_id":"{room_id}","accepts":{accepts:?}}}"#
                );
                profile.token = token.into_bytes().into();
                profile.key = Some(key);
                profile.room = room;
                let exceptions = accepts.into_iter().collect();
                profile.accepts = Accepted { by_default: false, exceptions };
            }
            _ => {
                profile.token = (*b"{\"mid\":").into();
                profile.is_refused = true;
            }
        }
        profile.heartbeat_ms = heartbeat_ms(profile.user, plan).unwrap_or(plan.limits.heartbeat_ms);
        profile
    }
}

impl ClientProfile {
    /// Whether a token with `identity` is valid for renewing this client's token.
    pub(crate) fn is_renewed_by(&self, identity: &Identity, plan: &Plan) -> bool {
        let names_key = |key: &str| self.key == Some(key);
        // Remote logic makes a key if a token names none, and comet cannot distinguish that.
        let is_same_key = plan.is_remote() || identity.key.as_deref().is_none_or(names_key);
        identity.user == self.user && is_same_key
    }

    /// A token for renewing this client's token, and the reason if it will not be accepted.
    pub(crate) fn renewal(&self, rng: &mut Rng, plan: &Plan) -> (Box<[u8]>, Option<NotRenewed>) {
        let key = rng.pick(&KEYS);
        let token = match rng.below(10) {
            0..6 => self.token.clone(),
            6 => rng.below(USERS as usize).to_string().into_bytes().into(),
            // A key that a home made may be equal to this one.
            7 | 8 if self.key.is_some() => {
                let user = if rng.percent(50) { self.user } else { 3 };
                format!(r#"{{"mid":{user},"key":"{key}"}}"#).into_bytes().into()
            }
            _ => (*b"{").into(),
        };
        let is_taken =
            auth(&token, "", plan).is_ok_and(|identity| self.is_renewed_by(&identity, plan));
        (token, (!is_taken).then_some(NotRenewed::Refused))
    }
}

/// Logic's answer to a token.
pub(crate) fn auth(token: &[u8], cookie: &str, plan: &Plan) -> Result<Identity, String> {
    let mut identity =
        UnverifiedTokens.auth(token, cookie).map_err(|refusal| refusal.to_string())?;
    identity.heartbeat_ms = heartbeat_ms(identity.user, plan);
    identity.expires_in_ms = plan.token_ms.filter(|_| identity.user == USER_WITH_EXPIRY);
    Ok(identity)
}

/// Logic sets a shorter heartbeat for one user, as a service may.
fn heartbeat_ms(user: i64, plan: &Plan) -> Option<u32> {
    (user == 3).then_some(plan.limits.heartbeat_ms / 2)
}
