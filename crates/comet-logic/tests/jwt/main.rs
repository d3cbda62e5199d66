//! Signed tokens, with real keys: accepted ones, and refused ones with their sentence.
#![allow(
    clippy::disallowed_methods,
    reason = "tokens contain times, and the check reads the clock"
)]

mod corpus;
mod signer;

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comet_core::{Identity, OperationFilter};
use comet_logic::{
    AdoptedKeys, Algorithm, AnyAuthenticator, Authenticator, ClaimNames, Jwt, JwtOptions, KeyFile,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use signer::{RSA, SECRET, Signer, all, file, pem, set};

fn options(keys: Vec<KeyFile>) -> JwtOptions {
    JwtOptions {
        algorithms: Algorithm::ALL.to_vec(),
        keys,
        urls: 0,
        issuer: None,
        audience: None,
        claims: ClaimNames::default(),
        ends_connections: false,
    }
}

fn jwt(keys: Vec<KeyFile>) -> Jwt {
    Jwt::new(options(keys)).unwrap()
}

/// The time in `offset` seconds from now, as seconds since 1970.
fn at(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + offset
}

/// Claims of a user whose token is valid for an hour, and `more`.
fn claims(more: Value) -> Value {
    let mut claims = json!({ "mid": 42, "exp": at(3600) });
    let Value::Object(more) = more else { panic!("claims are an object") };
    claims.as_object_mut().unwrap().extend(more);
    claims
}

#[track_caller]
fn refused(jwt: &Jwt, token: &[u8], sentence: &str) {
    let refusal = jwt.auth(token, "").expect_err(sentence);
    assert_eq!(refusal.to_string(), sentence, "{}", token.escape_ascii());
}

#[test]
fn newer_keys_take_the_place_of_the_old_ones() {
    let [old, new] = [SECRET, &SECRET.to_ascii_uppercase()].map(Signer::hmac);
    let named = |signer: &Signer, name: &str| KeyFile { name: name.to_owned(), ..signer.file() };
    let jwt = jwt(vec![named(&old, "a"), named(&old, "b")]);
    let adopt = |files: &[KeyFile]| -> Vec<String> {
        let changes = jwt.adopt(jwt.read(files).unwrap());
        changes.iter().map(|change| format!("{}: {change}", change.file)).collect()
    };
    let is_taken = |signer: &Signer| jwt.auth(&signer.token(&claims(json!({}))), "").is_ok();
    assert_eq!(adopt(&[named(&old, "a"), named(&old, "b")]), [""; 0]);
    assert_eq!(adopt(&[named(&old, "a"), named(&new, "b")]), ["1: 1 key, of which 1 is new"]);
    assert!(is_taken(&old) && is_taken(&new));
    // Keys that cannot be used change nothing.
    let short = KeyFile { bytes: vec![1], ..named(&old, "b") };
    assert!(jwt.read(&[named(&old, "a"), short]).unwrap_err().to_string().starts_with("b: "));
    assert!(is_taken(&old) && is_taken(&new));
    // A file with a key that another file has too.
    assert_eq!(adopt(&[named(&new, "c")]), ["0: 1 key, none of them new"]);
    assert!(!is_taken(&old) && is_taken(&new));
    let keys = set(&[old.jwk("1"), new.jwk("2")]);
    assert_eq!(adopt(std::slice::from_ref(&keys)), ["0: 2 keys, of which 2 are new"]);
    assert_eq!(adopt(&[keys]), [""; 0]);
}

#[test]
fn keys_of_urls_come_and_go() {
    let [first, second] = [Signer::ed(), Signer::ec()];
    let jwt = Jwt::new(JwtOptions { urls: 2, ..options(Vec::new()) }).unwrap();
    let token = |signer: &Signer, id: &str| {
        let header = json!({ "alg": signer.algorithm(), "kid": id });
        signer.token_with(&header, &claims(json!({})))
    };
    let adopt = |url, keys: &[Value]| -> Result<String, String> {
        let fetched =
            jwt.adopt_fetched(url, &set(keys).bytes).map_err(|error| error.to_string())?;
        let AdoptedKeys { change, unusable } = fetched;
        assert!(unusable.iter().all(|what| what.contains("key")), "{unusable:?}");
        Ok(change.map(|change| change.to_string()).unwrap_or_default())
    };
    // Nothing was fetched.
    let refusal = jwt.auth(&token(&first, "1"), "").unwrap_err();
    assert!(refusal.is_temporary() && jwt.wants_fetch(), "{refusal}");
    assert_eq!(jwt.fetched(), [None, None]);
    jwt.begin_fetch();
    assert_eq!(adopt(0, &[first.jwk("1")]).unwrap(), "1 key, of which 1 is new");
    assert_eq!(adopt(0, &[first.jwk("1")]).unwrap(), "");
    assert_eq!(jwt.auth(&token(&first, "1"), "").unwrap().user, 42);
    assert!(!jwt.wants_fetch());
    // A known key and a wrong signature: no fetch helps.
    let mut wrong = token(&first, "1");
    let last = wrong.len() - 2;
    wrong[last] = if wrong[last] == b'A' { b'B' } else { b'A' };
    assert!(!jwt.auth(&wrong, "").unwrap_err().is_temporary() && !jwt.wants_fetch());
    // The other URL is still to come.
    assert!(jwt.auth(&token(&second, "2"), "").unwrap_err().is_temporary() && jwt.wants_fetch());
    assert_eq!(adopt(1, &[second.jwk("2")]).unwrap(), "1 key, of which 1 is new");
    assert_eq!(jwt.auth(&token(&second, "2"), "").unwrap().user, 42);
    // The keys are those of the servers.
    jwt.begin_fetch();
    jwt.set_stale(false);
    let refusal = jwt.auth(&token(&first, "3"), "").unwrap_err();
    assert!(!refusal.is_temporary() && !jwt.wants_fetch(), "{refusal}");
    jwt.set_stale(true);
    assert!(jwt.auth(&token(&first, "3"), "").unwrap_err().is_temporary() && jwt.wants_fetch());
    // Keys that cannot be used change nothing. A secret from a URL is not accepted.
    for bad in [vec![], vec![Signer::hmac(SECRET).jwk("s")], vec![first.jwk("1"); 1_001]] {
        adopt(0, &bad).unwrap_err();
    }
    assert!(jwt.adopt_fetched(0, b"<html>").is_err());
    assert_eq!(jwt.auth(&token(&first, "1"), "").unwrap().user, 42);
    // The keys as another process may receive them.
    let expected = [first.jwk("1"), second.jwk("2")].map(|key| Some(set(&[key]).bytes.into()));
    assert_eq!(jwt.fetched(), expected);
    // An issuer may also list keys that comet cannot use: too short, with an invalid id, or with invalid bytes.
    let odd = [
        json!({ "kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": 1, "x": "AQAB" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "=" }),
        json!("a text"),
    ];
    let mixed = [&[second.jwk("2")][..], &odd].concat();
    assert_eq!(adopt(0, &mixed).unwrap(), "1 key, of which 1 is new");
    assert!(adopt(0, &odd).unwrap_err().contains("too short"));
    assert_eq!(jwt.auth(&token(&second, "2"), "").unwrap().user, 42);
    assert_eq!(adopt(0, &[first.jwk("1")]).unwrap(), "1 key, of which 1 is new");
    assert_eq!(adopt(0, &[second.jwk("2")]).unwrap(), "1 key, of which 1 is new");
    assert!(jwt.auth(&token(&first, "1"), "").is_err());
}

#[test]
fn an_identity_expires_with_its_token() {
    let signer = Signer::hmac(SECRET);
    let check = |exp: Value, range: std::ops::RangeInclusive<u64>| {
        let token = signer.token(&claims(json!({ "exp": exp })));
        let kept = jwt(vec![signer.file()]).auth(&token, "").unwrap();
        assert_eq!(kept.expires_in_ms, None);
        let options = JwtOptions { ends_connections: true, ..options(vec![signer.file()]) };
        let expires_in_ms = Jwt::new(options).unwrap().auth(&token, "").unwrap().expires_in_ms;
        assert!(range.contains(&expires_in_ms.unwrap()), "{exp}: {expires_in_ms:?}");
    };
    // A minute of leeway is added. The test may take half a minute.
    check(json!(at(3600)), 3_629_000..=3_660_000);
    check(json!(at(-30)), 0..=30_000);
    check(json!(at(3600) as f64 + 0.5), 3_629_000..=3_661_500);
    check(json!(1_u64 << 53), 1 << 62..=u64::MAX);
}

#[test]
fn every_algorithm_is_checked_with_a_key_file_and_a_jwk() {
    for signer in all() {
        let token = signer.token(&claims(json!({})));
        for keys in [vec![signer.file()], vec![set(&[signer.jwk("a")])]] {
            let jwt = jwt(keys);
            assert_eq!(jwt.auth(&token, "").unwrap().user, 42, "{}", signer.algorithm());
            // Changes the signature near its end, and the claims.
            let mut changed = token.clone();
            let last = changed.len() - 2;
            changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
            refused(&jwt, &changed, "the token's signature is wrong");
            let other = signer.token(&claims(json!({ "mid": 43 })));
            let dot = |token: &[u8]| token.iter().rposition(|byte| *byte == b'.').unwrap();
            let mixed = [&other[..dot(&other)], &token[dot(&token)..]].concat();
            refused(&jwt, &mixed, "the token's signature is wrong");
        }
    }
    let rsa = Signer::rsa();
    let Signer::Rsa(key) = &rsa else { unreachable!() };
    let spki = b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00";
    let jwt = jwt(vec![file("k", pem("PUBLIC KEY", &[spki, key.public().as_ref()].concat()))]);
    assert_eq!(jwt.auth(&rsa.token(&claims(json!({}))), "").unwrap().user, 42);
}

#[test]
fn claims_become_an_identity() {
    let signer = Signer::hmac(SECRET);
    let check = |names: ClaimNames, more: Value, expected: Identity| {
        let jwt = Jwt::new(JwtOptions { claims: names, ..options(vec![signer.file()]) }).unwrap();
        assert_eq!(jwt.auth(&signer.token(&claims(more.clone())), "c=1"), Ok(expected), "{more}");
    };
    let goim = ClaimNames::default();
    let of = |user, key: Option<&str>, room: Option<&str>, accepts| Identity {
        user,
        key: key.map(Into::into),
        room: room.map(Into::into),
        accepts,
        heartbeat_ms: None,
        expires_in_ms: None,
        rooms: Box::default(),
    };
    check(goim.clone(), json!({}), of(42, None, None, OperationFilter::All));
    check(
        goim.clone(),
        json!({ "mid": -7, "key": "k", "room_id": "live://1", "accepts": [1000, -1] }),
        of(-7, Some("k"), Some("live://1"), OperationFilter::Only([1000, -1].into())),
    );
    check(
        goim,
        json!({ "key": "", "room_id": null, "accepts": [] }),
        of(42, None, None, OperationFilter::Only([].into())),
    );
    check(
        ClaimNames::default(),
        json!({ "rooms": ["a", "b"] }),
        Identity {
            rooms: ["a", "b"].map(Into::into).into(),
            ..of(42, None, None, OperationFilter::All)
        },
    );
    let [mid, key, room, rooms, accepts] =
        ["sub", "jti", "room", "rooms", "ops"].map(str::to_owned);
    check(
        ClaimNames { mid, key, room, rooms, accepts },
        json!({ "sub": "9223372036854775807", "jti": "é", "room": "r", "ops": null, "key": 7 }),
        of(i64::MAX, Some("é"), Some("r"), OperationFilter::All),
    );
}

#[test]
fn claims_of_another_type_are_refused() {
    let signer = Signer::hmac(SECRET);
    let jwt = jwt(vec![signer.file()]);
    let check = |more: Value, sentence: &str| {
        refused(&jwt, &signer.token(&claims(more)), sentence);
    };
    check(json!({ "mid": null }), "the token has no claim \"mid\"");
    for mid in
        [json!("anna"), json!(1.5), json!(9_223_372_036_854_775_808_u64), json!([1]), json!("")]
    {
        check(json!({ "mid": mid }), "the claim \"mid\" is not a user id");
    }
    check(json!({ "key": 7 }), "the claim \"key\" is not a text");
    check(json!({ "room_id": {} }), "the claim \"room_id\" is not a text");
    check(json!({ "key": "x".repeat(257) }), "the claim \"key\" is longer than 256 bytes");
    check(json!({ "room_id": "é".repeat(129) }), "the claim \"room_id\" is longer than 256 bytes");
    check(json!({ "accepts": "1000" }), "the claim \"accepts\" is not a list");
    check(
        json!({ "accepts": ["1000"] }),
        "the claim \"accepts\" contains a value that is not an operation",
    );
    check(
        json!({ "accepts": [2_147_483_648_i64] }),
        "the claim \"accepts\" contains a value that is not an operation",
    );
    check(json!({ "accepts": vec![1; 65] }), "the claim \"accepts\" has more than 64 operations");
    check(json!({ "rooms": "a" }), "the claim \"rooms\" is not a list");
    for rooms in [json!([7]), json!(["a", ""]), json!(["x".repeat(257)])] {
        check(
            json!({ "rooms": rooms }),
            "the claim \"rooms\" contains a value that is not a room id",
        );
    }
    check(json!({ "rooms": vec!["a"; 1025] }), "the claim \"rooms\" has more than 1024 rooms");
    check(json!({ "exp": "tomorrow" }), "the token has no claim \"exp\"");
    check(json!({ "nbf": "now" }), "the claim \"nbf\" does not fit");
    refused(&jwt, &signer.token(&json!([1])), "the token's header or claims do not fit");
}

#[test]
fn times_are_checked_with_a_minute_of_leeway() {
    let signer = Signer::ed();
    let jwt = jwt(vec![signer.file()]);
    let check = |times: Value, outcome: Result<(), &str>| match outcome {
        Ok(()) => assert_eq!(jwt.auth(&signer.token(&times), "").map(|id| id.user), Ok(42)),
        Err(sentence) => refused(&jwt, &signer.token(&times), sentence),
    };
    check(json!({ "mid": 42 }), Err("the token has no claim \"exp\""));
    check(json!({ "mid": 42, "exp": null }), Err("the token has no claim \"exp\""));
    check(json!({ "mid": 42, "exp": at(-3600) }), Err("the token has expired"));
    check(json!({ "mid": 42, "exp": 0 }), Err("the token has expired"));
    check(json!({ "mid": 42, "exp": at(-20) }), Ok(()));
    check(json!({ "mid": 42, "exp": u64::MAX }), Ok(()));
    check(json!({ "mid": 42, "exp": at(9), "nbf": at(3600) }), Err("the token is not valid yet"));
    check(json!({ "mid": 42, "exp": at(9), "nbf": at(20) }), Ok(()));
    check(json!({ "mid": 42, "exp": at(9), "nbf": u64::MAX }), Err("the token is not valid yet"));
}

#[test]
fn issuer_and_audience_are_checked_if_set() {
    let signer = Signer::hmac(SECRET);
    let strict = Jwt::new(JwtOptions {
        issuer: Some("us".to_owned()),
        audience: Some("comet".to_owned()),
        ..options(vec![signer.file()])
    })
    .unwrap();
    let check = |more: Value, sentence: &str| {
        refused(&strict, &signer.token(&claims(more)), sentence);
    };
    check(json!({ "iss": "them", "aud": "comet" }), "the token is from another issuer");
    check(json!({ "iss": "us", "aud": "mail" }), "the token is for another audience");
    check(json!({ "iss": "us", "aud": [] }), "the token is for another audience");
    check(json!({ "aud": "comet" }), "the token has no claim \"iss\"");
    check(json!({ "iss": "us" }), "the token has no claim \"aud\"");
    let loose = jwt(vec![signer.file()]);
    for audience in [json!("comet"), json!(["mail", "comet"])] {
        let token = signer.token(&claims(json!({ "iss": "us", "aud": audience })));
        assert!(strict.auth(&token, "").is_ok());
        assert!(loose.auth(&token, "").is_ok(), "not checked unless set");
    }
}

/// The key decides the algorithm.
#[test]
fn a_token_cannot_choose_its_algorithm() {
    let rsa = Signer::rsa();
    let with_rsa = jwt(vec![rsa.file()]);
    // A known attack: an HMAC with the public key as its secret.
    let Signer::Rsa(key) = &rsa else { unreachable!() };
    for public in [rsa.file().bytes, key.public().as_ref().to_vec()] {
        let forged = Signer::Hmac(public).token(&claims(json!({})));
        refused(&with_rsa, &forged, "the token's algorithm is not accepted");
    }
    let claims = claims(json!({}));
    for algorithm in ["none", "None", "RS1", ""] {
        let forged = rsa.token_with(&json!({ "alg": algorithm }), &claims);
        refused(&with_rsa, &forged, "the token's header or claims do not fit");
    }
    for algorithm in ["RS384", "PS256", "ES256", "EdDSA", "HS512"] {
        let forged = rsa.token_with(&json!({ "alg": algorithm }), &claims);
        refused(&with_rsa, &forged, "the token's algorithm is not accepted");
    }
    // Supported, but not allowed.
    let allowed = vec![Algorithm::EdDsa];
    let ed = Signer::ed();
    let keys = vec![set(&[rsa.jwk("rsa"), ed.jwk("ed")])];
    let narrow = Jwt::new(JwtOptions { algorithms: allowed, ..options(keys) }).unwrap();
    refused(&narrow, &rsa.token(&claims), "the token's algorithm is not accepted");
    assert!(narrow.auth(&ed.token(&claims), "").is_ok());
    let critical =
        ed.token_with(&json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false }), &claims);
    refused(&narrow, &critical, "the token has critical headers that are not supported");
}

#[test]
fn a_kid_selects_the_key_of_a_set() {
    let (one, other, plain) = (Signer::ed(), Signer::ed(), Signer::ed());
    let jwt = jwt(vec![set(&[one.jwk("one"), other.jwk("other")]), plain.file()]);
    let check = |signer: &Signer, header: Value, outcome: Result<(), &str>| {
        let token = signer.token_with(&header, &claims(json!({})));
        match outcome {
            Ok(()) => assert!(jwt.auth(&token, "").is_ok(), "{header}"),
            Err(sentence) => refused(&jwt, &token, sentence),
        }
    };
    check(&one, json!({ "alg": "EdDSA", "kid": "one" }), Ok(()));
    check(&other, json!({ "alg": "EdDSA", "kid": "other" }), Ok(()));
    check(&other, json!({ "alg": "EdDSA" }), Ok(()));
    check(&plain, json!({ "alg": "EdDSA", "kid": "anything" }), Ok(()));
    check(&one, json!({ "alg": "EdDSA", "kid": "other" }), Err("the token's signature is wrong"));
    let only = self::jwt(vec![set(&[one.jwk("one")])]);
    let token = one.token_with(&json!({ "alg": "EdDSA", "kid": "two" }), &claims(json!({})));
    refused(&only, &token, "the token's key is not known");
}

#[test]
fn a_token_without_a_kid_is_tried_with_few_keys() {
    let signers: Vec<_> = (0..17).map(|_| Signer::ed()).collect();
    let keys: Vec<_> = (0..17).map(|number| signers[number].jwk(&number.to_string())).collect();
    let jwt = jwt(vec![set(&keys)]);
    let signed =
        |number: usize, header: Value| signers[number].token_with(&header, &claims(json!({})));
    let unnamed = json!({ "alg": "EdDSA" });
    assert!(jwt.auth(&signed(15, unnamed.clone()), "").is_ok());
    let sentence = "the token names no key (kid), and more than 16 could have signed it";
    refused(&jwt, &signed(16, unnamed), sentence);
    assert!(jwt.auth(&signed(16, json!({ "alg": "EdDSA", "kid": "16" })), "").is_ok());
}

#[test]
fn errors_of_key_files_name_the_fault() {
    let check = |options: JwtOptions, sentence: &str| {
        assert_eq!(Jwt::new(options).unwrap_err().to_string(), sentence);
    };
    let of = |name: &str, bytes: &[u8]| options(vec![file(name, bytes)]);
    check(options(Vec::new()), "there is no key to check tokens with");
    check(of("s", &SECRET[1..]), "s: the secret has 31 bytes: HS256 wants at least 32");
    check(of("s", b""), "s: the secret has 0 bytes: HS256 wants at least 32");
    check(of("k", RSA.as_bytes()), "k: this is a private key: give its public one");
    let Signer::Rsa(rsa) = Signer::rsa() else { unreachable!() };
    check(
        of("k.der", rsa.public().as_ref()),
        "k.der: this is DER, not a secret: give a public key as PEM",
    );
    check(of("k", &pem("CERTIFICATE", b"\x30\x00")), "k: this PEM is no public key");
    check(
        of("k", &pem("PUBLIC KEY", b"\x30\x00")),
        "k: this public key cannot be read: RSA, P-256 and Ed25519 can",
    );
    let twice = Signer::ed().file().bytes.repeat(2);
    check(of("k", &twice), "k: it holds more than one key: give each its file");
    check(
        of("k", SHORT_RSA.as_bytes()),
        "k: the RSA key is too short: RS256 wants at least 2048 bits",
    );
    check(
        of("k.jwks", br#"{"keys":[{"kty":"oct","kid":"a","k":"c2hvcnQ"}]}"#),
        "k.jwks: the key \"a\": the secret has 5 bytes: HS256 wants at least 32",
    );
    check(
        of("k.jwks", br#"{"keys":[{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"}]}"#),
        "k.jwks: none of its keys is for an algorithm that is allowed",
    );
    let ec = Signer::ec().file();
    check(
        JwtOptions { algorithms: vec![Algorithm::EdDsa], ..options(vec![ec]) },
        "the.key: its key is for ES256, which is not among the algorithms allowed",
    );
    let not_json = Jwt::new(of("k.json", b"[")).unwrap_err().to_string();
    assert!(not_json.starts_with("k.json: not a JWK set: "), "{not_json}");
    assert_eq!(
        "HS512".parse::<Algorithm>().unwrap_err().to_string(),
        "\"HS512\" is not a supported algorithm: HS256, RS256, ES256 and EdDSA are"
    );
}

/// Editors end a file with a line feed.
#[test]
fn a_line_end_is_not_part_of_a_secret() {
    let token = Signer::hmac(SECRET).token(&claims(json!({})));
    for end in [&b""[..], b"\n", b"\r\n"] {
        let jwt = jwt(vec![file("secret", [SECRET, end].concat())]);
        assert!(jwt.auth(&token, "").is_ok(), "{}", end.escape_ascii());
    }
    let binary: Vec<u8> = (0xe0..=0xff).chain([b'\n']).collect();
    let jwt = jwt(vec![file("secret", binary.clone())]);
    assert!(jwt.auth(&Signer::hmac(&binary).token(&claims(json!({}))), "").is_ok());
}

#[test]
fn debug_output_contains_no_secret() {
    let file = file("secret", SECRET);
    let shown = format!("{file:?} {:?} {:?}", options(vec![file.clone()]), jwt(vec![file.clone()]));
    let bytes = format!("{SECRET:?}");
    assert!(!shown.contains("a secret of") && !shown.contains(bytes.trim_matches(['[', ']'])));
}

#[test]
fn the_configured_kind_is_used() {
    let signer = Signer::hmac(SECRET);
    let jwt = AnyAuthenticator::Jwt(jwt(vec![signer.file()]).into());
    let open = AnyAuthenticator::Open(comet_logic::UnverifiedTokens);
    assert_eq!(open.auth(b"42", "").unwrap().user, 42);
    assert_eq!(jwt.auth(b"42", "").unwrap_err().to_string(), "the token is not a JWT");
    assert_eq!(jwt.auth(&signer.token(&claims(json!({}))), "").unwrap().user, 42);
}

/// A public RSA key of 1024 bits.
const SHORT_RSA: &str = include_str!("rsa1024.pem");

proptest! {
    #[test]
    fn no_token_causes_a_panic(token in proptest::collection::vec(any::<u8>(), 0..300)) {
        let jwt = jwt(vec![file("secret", SECRET)]);
        prop_assert!(jwt.auth(&token, "").is_err());
    }

    /// The parts are base64 of arbitrary bytes, signed or not.
    #[test]
    fn no_part_causes_a_panic(
        header in "\\{\"alg\":\"HS256\"(,\"[a-z]{2,4}\":[\\[\\]{}0-9\"x]{0,5})?\\}|.{0,40}",
        claims in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let jwt = jwt(vec![file("secret", SECRET)]);
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(Signer::hmac(SECRET).sign(message.as_bytes()));
        for token in [format!("{message}.{signature}"), format!("{message}."), message] {
            prop_assert!(jwt.auth(token.as_bytes(), "").is_err(), "{}", token);
        }
    }

    #[test]
    fn no_number_as_a_time_causes_a_panic(exp in any::<f64>(), nbf in any::<u64>()) {
        let signer = Signer::hmac(SECRET);
        let jwt = jwt(vec![signer.file()]);
        let _ = jwt.auth(&signer.token(&json!({ "mid": 1, "exp": exp, "nbf": nbf })), "");
    }
}
