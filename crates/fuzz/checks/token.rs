//! Tokens of both kinds: whatever their bytes, an authenticator gives an identity or a short sentence. None of
//! these is signed with the key.

use comet_logic::{
    Algorithm, Authenticator, ClaimNames, Jwt, JwtOptions, KeyFile, Refusal, UnverifiedTokens,
};

pub(crate) fn check(token: &[u8]) {
    // The first byte is the length of the cookie.
    let (cookie, token) = match token.split_first() {
        Some((&length, rest)) => rest.split_at(usize::from(length).min(rest.len())),
        None => (token, token),
    };
    let cookie = String::from_utf8_lossy(cookie);
    if let Err(refusal) = UnverifiedTokens.auth(token, &cookie) {
        assert!(refusal.to_string().len() <= Refusal::LEN_MAX);
    }
    let secret = KeyFile { name: "secret".to_owned(), bytes: vec![7; 32] };
    let options = JwtOptions {
        algorithms: vec![Algorithm::Hs256],
        keys: vec![secret],
        urls: 0,
        issuer: None,
        audience: None,
        claims: ClaimNames::default(),
        ends_connections: true,
    };
    let jwt = Jwt::new(options).expect("the secret is long enough");
    let refusal = jwt.auth(token, &cookie).expect_err("nobody signed it");
    assert!(refusal.to_string().len() <= Refusal::LEN_MAX);
}
