//! The authenticator for an installation without a logic service: both token forms of the goim family, not
//! verified.

use comet_core::limits::{ACCEPTS_MAX, FURTHER_ROOMS_MAX, NAME_MAX};
use comet_core::{Identity, OperationFilter};
use serde::Deserialize;
use uuid::Uuid;

use crate::authenticator::{Authenticator, Refusal};

/// The room of a user whose token has the seed's form.
const SEED_ROOM: &str = "1";

/// Accepts every well-formed token as it is; the first byte selects the form.
///
/// - `{`: goim v2's JSON, `{"mid":42,"key":"optional","room_id":"live://1000","accepts":[1000]}`, optionally with a
///   list of further `rooms`. Without a key it gets a random one (UUID v4), without a room it is in none, and without
///   `accepts` it accepts nothing, as in goim. Other fields are ignored. JSON of another form is refused.
/// - anything else: the seed's decimal user id. The user is in room `1` and accepts all operations.
///   A token that is not a number is user 0, in no room; nothing is refused.
#[derive(Clone, Copy, Default, Debug)]
pub struct UnverifiedTokens;

impl Authenticator for UnverifiedTokens {
    fn auth(&self, token: &[u8], _cookie: &str) -> Result<Identity, Refusal> {
        match token.first() {
            Some(b'{') => from_json(token),
            _ => Ok(from_number(token)),
        }
    }
}

/// The fields of goim v2's token that comet uses. They are options because Go writes an absent list
/// as `null`.
#[derive(Deserialize)]
struct JsonToken {
    mid: i64,
    key: Option<String>,
    room_id: Option<String>,
    rooms: Option<Vec<Box<str>>>,
    accepts: Option<Vec<i32>>,
}

fn from_json(token: &[u8]) -> Result<Identity, Refusal> {
    let token: JsonToken = serde_json::from_slice(token)
        .map_err(|fault| Refusal::new(format!("the token does not fit: {fault}")))?;
    let accepts = token.accepts.unwrap_or_default();
    if accepts.len() > ACCEPTS_MAX {
        return Err(Refusal::new(format!("the token accepts more than {ACCEPTS_MAX} operations")));
    }
    let key = match name("key", token.key)? {
        Some(key) => key,
        None => Uuid::new_v4().to_string().into(),
    };
    Ok(Identity {
        user: token.mid,
        key: Some(key),
        room: name("room_id", token.room_id)?,
        accepts: OperationFilter::Only(accepts.into()),
        heartbeat_ms: None,
        expires_in_ms: None,
        rooms: rooms(token.rooms)?,
    })
}

/// A key or room id; `None` if it is empty.
fn name(field: &str, value: Option<String>) -> Result<Option<Box<str>>, Refusal> {
    match value {
        Some(value) if value.len() > NAME_MAX => {
            Err(Refusal::new(format!("the token's {field} is longer than {NAME_MAX} bytes")))
        }
        Some(value) if !value.is_empty() => Ok(Some(value.into())),
        _ => Ok(None),
    }
}

fn rooms(rooms: Option<Vec<Box<str>>>) -> Result<Box<[Box<str>]>, Refusal> {
    let rooms = rooms.unwrap_or_default();
    if rooms.len() > FURTHER_ROOMS_MAX {
        return Err(Refusal::new(format!("the token has more than {FURTHER_ROOMS_MAX} rooms")));
    }
    if rooms.iter().any(|room| room.is_empty() || room.len() > NAME_MAX) {
        let sentence = format!("a room of the token is empty or longer than {NAME_MAX} bytes");
        return Err(Refusal::new(sentence));
    }
    Ok(rooms.into())
}

fn from_number(token: &[u8]) -> Identity {
    let user = str::from_utf8(token).ok().and_then(|text| text.parse().ok());
    Identity {
        user: user.unwrap_or(0),
        key: None,
        room: user.map(|_: i64| SEED_ROOM.into()),
        accepts: OperationFilter::All,
        heartbeat_ms: None,
        expires_in_ms: None,
        rooms: Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn auth(token: &[u8]) -> Result<Identity, Refusal> {
        UnverifiedTokens.auth(token, "")
    }

    #[test]
    fn tokens_of_the_seed_are_numbers() {
        let check = |token: &[u8], user, room: Option<&str>| {
            let expected = Identity {
                user,
                key: None,
                room: room.map(Into::into),
                accepts: OperationFilter::All,
                heartbeat_ms: None,
                expires_in_ms: None,
                rooms: Box::default(),
            };
            assert_eq!(auth(token), Ok(expected), "{}", token.escape_ascii());
        };
        check(b"42", 42, Some("1"));
        check(b"0", 0, Some("1"));
        check(b"-7", -7, Some("1"));
        check(b"9223372036854775807", i64::MAX, Some("1"));
        check(b"9223372036854775808", 0, None);
        check(b"", 0, None);
        check(b"anna", 0, None);
        check(b"42 ", 0, None);
        check(b" {\"mid\":1}", 0, None);
        check(b"[1]", 0, None);
        check(b"\xff\xfe", 0, None);
    }

    #[test]
    fn goim_v2_tokens_are_json() {
        let check = |token: &str, user, key: &str, room: Option<&str>, accepts: &[i32]| {
            let expected = Identity {
                user,
                key: Some(key.into()),
                room: room.map(Into::into),
                accepts: OperationFilter::Only(accepts.into()),
                heartbeat_ms: None,
                expires_in_ms: None,
                rooms: Box::default(),
            };
            assert_eq!(auth(token.as_bytes()), Ok(expected), "{token}");
        };
        check(
            r#"{"mid":42,"key":"k","room_id":"live://1000","platform":"web","accepts":[1000,1001]}"#,
            42,
            "k",
            Some("live://1000"),
            &[1000, 1001],
        );
        check(r#"{"mid":-1,"key":"k"}"#, -1, "k", None, &[]);
        check(r#"{"mid":1,"key":"k","room_id":"","accepts":[]}"#, 1, "k", None, &[]);
        check(r#"{"mid":1,"key":"k","room_id":null,"accepts":null}"#, 1, "k", None, &[]);
        check(r#"{"mid":1,"key":"k","other":{"deep":[1,{}]}} "#, 1, "k", None, &[]);
        check(r#"{ "key" : "\u00e9" , "mid" : 1 }"#, 1, "é", None, &[]);
        let longest = "r".repeat(NAME_MAX);
        let token = format!(r#"{{"mid":1,"key":"{longest}","room_id":"{longest}"}}"#);
        check(&token, 1, &longest, Some(&longest), &[]);
        let most: Vec<i32> = (0..64).collect();
        check(&format!(r#"{{"mid":1,"key":"k","accepts":{most:?}}}"#), 1, "k", None, &most);
    }

    #[test]
    fn a_token_without_a_key_gets_a_random_one() {
        for token in [r#"{"mid":1}"#, r#"{"mid":1,"key":""}"#, r#"{"mid":1,"key":null}"#] {
            let made = || auth(token.as_bytes()).unwrap().key.unwrap();
            let (one, other) = (made(), made());
            assert_ne!(one, other, "{token}");
            assert_eq!(Uuid::parse_str(&one).unwrap().get_version_num(), 4, "{token}");
        }
    }

    #[test]
    fn malformed_tokens_are_refused_with_a_sentence() {
        let check = |token: &[u8], sentence: &str| {
            let refusal = auth(token).expect_err("refused").to_string();
            assert!(refusal.contains(sentence), "{}: {refusal}", token.escape_ascii());
        };
        check(b"{", "EOF while parsing");
        check(b"{}", "missing field `mid`");
        check(br#"{"mid":1}x"#, "trailing characters");
        check(br#"{"mid":null}"#, "expected i64");
        check(br#"{"mid":"1"}"#, "expected i64");
        check(br#"{"mid":1.5}"#, "expected i64");
        check(br#"{"mid":9223372036854775808}"#, "expected i64");
        check(br#"{"mid":1,"mid":2}"#, "duplicate field `mid`");
        check(br#"{"mid":1,"key":7}"#, "expected a string");
        check(br#"{"mid":1,"accepts":["1000"]}"#, "expected i32");
        check(br#"{"mid":1,"accepts":[2147483648]}"#, "expected i32");
        check(b"{\"mid\":1,\"key\":\"\xff\"}", "invalid unicode code point");
        let long = "x".repeat(NAME_MAX + 1);
        check(format!(r#"{{"mid":1,"key":"{long}"}}"#).as_bytes(), "key is longer than 256 bytes");
        check(
            format!(r#"{{"mid":1,"room_id":"{long}"}}"#).as_bytes(),
            "room_id is longer than 256",
        );
        let many = vec![1000; ACCEPTS_MAX + 1];
        let token = format!(r#"{{"mid":1,"accepts":{many:?}}}"#);
        check(token.as_bytes(), "accepts more than 64 operations");
        check(&[br#"{"mid":1,"x":"#, "[".repeat(2000).as_bytes()].concat(), "EOF");
    }

    proptest! {
        #[test]
        fn no_token_causes_a_panic(mut token in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = auth(&token);
            token.insert(0, b'{');
            let _ = auth(&token);
        }

        #[test]
        fn tokens_beyond_the_limits_are_refused(
            key in "[a-zé]{0,300}", room in "[a-zé]{0,300}", accepts in 0..2 * ACCEPTS_MAX,
        ) {
            let fits = key.len() <= NAME_MAX && room.len() <= NAME_MAX && accepts <= ACCEPTS_MAX;
            let list = vec![1000; accepts];
            let token = format!(r#"{{"mid":1,"key":"{key}","room_id":"{room}","accepts":{list:?}}}"#);
            prop_assert_eq!(auth(token.as_bytes()).is_ok(), fits);
        }

        #[test]
        fn every_user_id_is_read_back(user in any::<i64>()) {
            prop_assert_eq!(auth(user.to_string().as_bytes()).unwrap().user, user);
            let json = format!(r#"{{"mid":{user}}}"#);
            prop_assert_eq!(auth(json.as_bytes()).unwrap().user, user);
        }
    }
}
