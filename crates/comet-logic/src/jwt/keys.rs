//! The keys that check tokens, from the bytes of their files. Each key is for one algorithm. A
//! token cannot choose another.

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::Algorithm;
use super::error::JwtError;

/// The shortest HMAC secret, in bytes (RFC 7518, section 3.2).
const SECRET_MIN: usize = 32;

/// Most keys of a URL. Each may be tried for a token that names none.
const KEYS_MAX: usize = 1_000;

/// The shortest RSA modulus, in bytes (RFC 7518, section 3.3: 2048 bits).
const MODULUS_MIN: usize = 256;

/// A key file that the caller has read: this crate opens no files.
#[derive(Clone)]
pub struct KeyFile {
    /// The name in errors, which also decides the format: a name that ends in `.jwks` or `.json` is
    /// a JWK set (RFC 7517). Of other files, those with a PEM line are a public key (SPKI, or PKCS
    /// #1 for RSA), and the rest are an HMAC secret. A line end after a secret in ASCII is not part
    /// of it.
    pub name: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Leaves out the bytes, which may be a secret.
impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A key and its algorithm.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    /// The id; only keys of a JWK set have one.
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
}

impl KeyFile {
    /// The keys in the file for the `allowed` algorithms; at least one.
    pub(super) fn read(&self, allowed: &[Algorithm]) -> Result<Vec<Key>, JwtError> {
        let Self { name, bytes } = self;
        let keys = if name.ends_with(".jwks") || name.ends_with(".json") {
            from_set(bytes, allowed)
        } else if contains(bytes, b"-----BEGIN ") {
            from_pem(bytes).map(|key| vec![key])
        } else {
            from_secret(bytes).map(|key| vec![key])
        };
        let mut keys = keys.map_err(|what| JwtError(format!("{name}: {what}")))?;
        let found = keys.first().map(|key| key.algorithm);
        keys.retain(|key| allowed.contains(&key.algorithm));
        match (keys.is_empty(), found) {
            (false, _) => Ok(keys),
            (true, Some(algorithm)) => Err(JwtError(format!(
                "{name}: its key is for {algorithm}, which is not among the algorithms allowed"
            ))),
            (true, None) => Err(JwtError(format!(
                "{name}: none of its keys is for an algorithm that is allowed"
            ))),
        }
    }
}

/// The public keys for the `allowed` algorithms in the JWK set of a URL; at least one. Secrets are skipped, because any
/// reader of the URL knows them. Unusable keys are skipped as well, each with a sentence: the issuer signs with the
/// others (RFC 7517, section 5).
pub(super) fn read_set(
    bytes: &[u8],
    allowed: &[Algorithm],
) -> Result<(Vec<Key>, Vec<String>), JwtError> {
    let set: Values = serde_json::from_slice(bytes)
        .map_err(|fault| JwtError(format!("not a JWK set: {fault}")))?;
    let (mut keys, mut unusable) = (Vec::new(), Vec::new());
    for (number, value) in (1..).zip(set.keys) {
        let jwk = Jwk::deserialize(value).map_err(|fault| format!("key {number}: {fault}"));
        match jwk.and_then(|jwk| from_jwk(&jwk, allowed)) {
            Ok(key) => keys.extend(key.filter(|key| key.algorithm != Algorithm::Hs256)),
            Err(what) => unusable.push(what),
        }
    }
    match (keys.len(), unusable.first()) {
        (0, None) => Err(JwtError("no public key for an algorithm that is allowed".to_owned())),
        (0, Some(what)) => Err(JwtError(format!("no key that can be used: {what}"))),
        (1..=KEYS_MAX, _) => Ok((keys, unusable)),
        (more, _) => Err(JwtError(format!("{more} keys, more than {KEYS_MAX}"))),
    }
}

/// A JWK set whose keys are not parsed yet.
#[derive(Deserialize)]
struct Values {
    keys: Vec<Value>,
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn from_pem(bytes: &[u8]) -> Result<Key, String> {
    if contains(bytes, b"PRIVATE KEY-----") {
        return Err("this is a private key: give its public one".to_owned());
    }
    if bytes.windows(11).filter(|window| window == b"-----BEGIN ").count() > 1 {
        return Err("it holds more than one key: give each its file".to_owned());
    }
    if !contains(bytes, b"PUBLIC KEY-----") {
        return Err("this PEM is no public key".to_owned());
    }
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        (Algorithm::EdDsa, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        (Algorithm::Es256, key)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        (Algorithm::Rs256, key)
    } else {
        return Err("this public key cannot be read: RSA, P-256 and Ed25519 can".to_owned());
    };
    check(&key, algorithm)?;
    Ok(Key { algorithm, id: None, key })
}

fn from_secret(bytes: &[u8]) -> Result<Key, String> {
    let secret = match bytes.strip_suffix(b"\n") {
        Some(text) if text.is_ascii() => text.strip_suffix(b"\r").unwrap_or(text),
        _ => bytes,
    };
    if is_der(secret) {
        // If a public key were used as a secret, anyone could make tokens.
        return Err("this is DER, not a secret: give a public key as PEM".to_owned());
    }
    let key = DecodingKey::from_secret(secret);
    check(&key, Algorithm::Hs256)?;
    Ok(Key { algorithm: Algorithm::Hs256, id: None, key })
}

/// Whether `bytes` are exactly one ASN.1 SEQUENCE in DER (X.690, section 8.1.3). A random secret of 32 bytes looks like
/// one with a probability of 1 in 65,536.
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, length @ 0..=0x7f, rest @ ..] => usize::from(*length) == rest.len(),
        [0x30, 0x81, length, rest @ ..] => usize::from(*length) == rest.len(),
        [0x30, 0x82, high, low, rest @ ..] => {
            usize::from(u16::from_be_bytes([*high, *low])) == rest.len()
        }
        _ => false,
    }
}

/// The keys of a JWK set in a file. Keys for unsupported purposes are skipped, as in RFC 7517, section 5; any other
/// unusable key is an error.
fn from_set(bytes: &[u8], allowed: &[Algorithm]) -> Result<Vec<Key>, String> {
    let set: JwkSet =
        serde_json::from_slice(bytes).map_err(|fault| format!("not a JWK set: {fault}"))?;
    set.keys.iter().filter_map(|jwk| from_jwk(jwk, allowed).transpose()).collect()
}

/// A key of a JWK set; `None`: it has an unsupported purpose.
fn from_jwk(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Option<Key>, String> {
    let Some(algorithm) = purpose(jwk).filter(|algorithm| allowed.contains(algorithm)) else {
        return Ok(None);
    };
    let id = jwk.common.key_id.clone();
    let named = |what: &dyn fmt::Display| match &id {
        Some(id) => format!("the key {id:?}: {what}"),
        None => format!("a key without kid: {what}"),
    };
    let key = DecodingKey::from_jwk(jwk).map_err(|fault| named(&fault))?;
    check(&key, algorithm).map_err(|what| named(&what))?;
    Ok(Some(Key { algorithm, id, key }))
}

/// The algorithm whose signatures the key checks, if comet supports it.
fn purpose(jwk: &Jwk) -> Option<Algorithm> {
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::Rs256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::Es256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDsa
        }
        AlgorithmParameters::OctetKey(_) => Algorithm::Hs256,
        _ => return None,
    };
    let verifies = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let named =
        jwk.common.key_algorithm.is_none_or(|name| name == by_type.to_jsonwebtoken().into());
    (verifies && named).then_some(by_type)
}

/// Checks the length of a key, which also depends on its curve.
///
/// # Errors
/// If it is too short to be safe, or not of the algorithm's curve.
fn check(key: &DecodingKey, algorithm: Algorithm) -> Result<(), String> {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match algorithm {
        Algorithm::Hs256 if length < SECRET_MIN => {
            Err(format!("the secret has {length} bytes: HS256 wants at least {SECRET_MIN}"))
        }
        Algorithm::Rs256 if length < MODULUS_MIN => {
            Err("the RSA key is too short: RS256 wants at least 2048 bits".to_owned())
        }
        // An uncompressed point: 0x04, x, y.
        Algorithm::Es256 if length != 65 => Err("the key is not one of P-256".to_owned()),
        Algorithm::EdDsa if length != 32 => Err("the key is not one of Ed25519".to_owned()),
        _ => Ok(()),
    }
}
