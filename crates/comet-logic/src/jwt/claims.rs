//! The identity from the claims of a checked token.

use comet_core::limits::{ACCEPTS_MAX, FURTHER_ROOMS_MAX, NAME_MAX};
use comet_core::{Identity, OperationFilter};
use serde_json::{Map, Value};

use crate::authenticator::Refusal;

/// The names of the claims (`token.mid`, `token.key`, `token.room`, `token.accepts`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimNames {
    /// The user id: an integer, or a text with one (`sub` is always a text).
    pub mid: String,
    /// The connection's key, a text. Without the claim the user's home makes one.
    pub key: String,
    /// The first room of the connection, a text. Without the claim it has none.
    pub room: String,
    /// Further rooms that the connection starts in, a list of texts. Without the claim there are none.
    pub rooms: String,
    /// The operations that the connection accepts, a list of numbers. Without the claim it accepts
    /// all.
    pub accepts: String,
}

impl Default for ClaimNames {
    /// The names of goim v2's tokens.
    fn default() -> Self {
        let [mid, key, room, rooms, accepts] =
            ["mid", "key", "room_id", "rooms", "accepts"].map(str::to_owned);
        Self { mid, key, room, rooms, accepts }
    }
}

impl ClaimNames {
    /// The identity in `claims`.
    pub(super) fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, Refusal> {
        Ok(Identity {
            user: user(&self.mid, claims)?,
            key: name(&self.key, claims)?,
            room: name(&self.room, claims)?,
            accepts: accepts(&self.accepts, claims)?,
            heartbeat_ms: None,
            expires_in_ms: None,
            rooms: rooms(&self.rooms, claims)?,
        })
    }
}

/// The value of a claim. `null` counts as absent, because Go writes it for an absent value.
fn value_of<'a>(claim: &str, claims: &'a Map<String, Value>) -> Option<&'a Value> {
    claims.get(claim).filter(|value| !value.is_null())
}

fn user(claim: &str, claims: &Map<String, Value>) -> Result<i64, Refusal> {
    let user = match value_of(claim, claims) {
        None => return Err(Refusal::new(format!("the token has no claim {claim:?}"))),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    user.ok_or_else(|| Refusal::new(format!("the claim {claim:?} is not a user id")))
}

/// A key or room id; `None` if it is absent or empty.
fn name(claim: &str, claims: &Map<String, Value>) -> Result<Option<Box<str>>, Refusal> {
    match value_of(claim, claims) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() > NAME_MAX => {
            Err(Refusal::new(format!("the claim {claim:?} is longer than {NAME_MAX} bytes")))
        }
        Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.as_str().into())),
        Some(_) => Err(Refusal::new(format!("the claim {claim:?} is not a text"))),
    }
}

fn rooms(claim: &str, claims: &Map<String, Value>) -> Result<Box<[Box<str>]>, Refusal> {
    let list = match value_of(claim, claims) {
        None => return Ok(Box::default()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Refusal::new(format!("the claim {claim:?} is not a list"))),
    };
    if list.len() > FURTHER_ROOMS_MAX {
        let sentence = format!("the claim {claim:?} has more than {FURTHER_ROOMS_MAX} rooms");
        return Err(Refusal::new(sentence));
    }
    let room = |value: &Value| {
        let name = value.as_str().filter(|name| (1..=NAME_MAX).contains(&name.len()));
        name.map(Into::into)
    };
    let rooms: Option<_> = list.iter().map(room).collect();
    rooms.ok_or_else(|| {
        Refusal::new(format!("the claim {claim:?} contains a value that is not a room id"))
    })
}

fn accepts(claim: &str, claims: &Map<String, Value>) -> Result<OperationFilter, Refusal> {
    match value_of(claim, claims) {
        None => Ok(OperationFilter::All),
        Some(Value::Array(list)) if list.len() > ACCEPTS_MAX => {
            Err(Refusal::new(format!("the claim {claim:?} has more than {ACCEPTS_MAX} operations")))
        }
        Some(Value::Array(list)) => {
            let operations = list.iter().map(|value| value.as_i64()?.try_into().ok());
            let operations: Option<Box<[i32]>> = operations.collect();
            operations.map(OperationFilter::Only).ok_or_else(|| {
                Refusal::new(format!(
                    "the claim {claim:?} contains a value that is not an operation"
                ))
            })
        }
        Some(_) => Err(Refusal::new(format!("the claim {claim:?} is not a list"))),
    }
}
