//! Signed tokens: JSON Web Tokens (RFC 7519) in their compact form.
//!
//! A token is accepted if one of the configured keys has made its signature, with the algorithm
//! that the key is for, and if its times are valid. Keys are bytes here; the caller reads them from
//! files.

mod algorithm;
mod claims;
mod error;
mod fetched;
mod key_set;
mod keys;
mod signatures;

pub use algorithm::Algorithm;
pub use claims::ClaimNames;
pub use error::JwtError;
pub use key_set::{KeyChange, KeySet};
pub use keys::KeyFile;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::Thread;
use std::time::SystemTime;

use comet_core::Identity;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use self::fetched::FetchedKeys;
use crate::authenticator::{Authenticator, Refusal};

/// Most seconds by which the clocks of signer and checker may differ.
const LEEWAY_SECONDS: u64 = 60;

/// Most signatures computed for one token. One by RSA takes some 25 us, and a set may have 1,000 keys.
const TRIES_MAX: usize = 16;

const BAD_ALGORITHM: &str = "the token's algorithm is not accepted";
const TOO_MANY_KEYS: &str = "the token names no key (kid), and more than 16 could have signed it";

/// The requirements on signed tokens.
#[derive(Clone, Debug)]
pub struct JwtOptions {
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// The key files.
    pub keys: Vec<KeyFile>,
    /// How many URLs give more keys: see [`Jwt::adopt_fetched`].
    pub urls: usize,
    /// The required value of `iss`, if any.
    pub issuer: Option<String>,
    /// The value that `aud` must be or contain, if any.
    pub audience: Option<String>,
    /// The names of the claims that make up an identity.
    pub claims: ClaimNames,
    /// Whether a connection ends when its token expires; otherwise it may outlast it.
    pub ends_connections: bool,
}

/// The result of adopting the JWK set of a URL.
#[derive(Debug)]
pub struct AdoptedKeys {
    /// What the set changes, if anything.
    pub change: Option<KeyChange>,
    /// A sentence about each of its keys that was skipped because it cannot be used.
    pub unusable: Vec<String>,
}

/// Accepts tokens that a known key has signed.
///
/// The times must be valid, with a minute of leeway: `exp` is required and must be in the future,
/// and `nbf`, if present, in the past. A `kid` in the token's header selects among the keys of JWK
/// sets; keys without an id are tried as well. A token without a key claim gets `<mid>_<seq>` from
/// the user's home, as tokens of the seed's form do. Cookies are ignored.
pub struct Jwt {
    /// The accepted algorithms, each with the checks of a token besides its signature.
    rules: Vec<(Algorithm, Validation)>,
    /// Read once for each token, so a reload does not affect a check under way.
    keys: RwLock<Arc<KeySet>>,
    fetched: FetchedKeys,
    claims: ClaimNames,
    ends_connections: bool,
}

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// If a key file cannot be used, or there is none.
    pub fn new(options: JwtOptions) -> Result<Self, JwtError> {
        let JwtOptions { algorithms, keys, urls, issuer, audience, claims, ends_connections } =
            options;
        signatures::install();
        if keys.is_empty() && urls == 0 {
            return Err(JwtError("there is no key to check tokens with".to_owned()));
        }
        let keys = RwLock::new(Arc::new(KeySet::read(&keys, &algorithms)?));
        let rules_of =
            |algorithm| (algorithm, rules(algorithm, issuer.as_deref(), audience.as_deref()));
        let rules = algorithms.into_iter().map(rules_of).collect();
        Ok(Self { rules, keys, fetched: FetchedKeys::new(urls), claims, ends_connections })
    }

    /// The keys in newer `files`, for [`Jwt::adopt`].
    ///
    /// # Errors
    /// As [`Jwt::new`].
    pub fn read(&self, files: &[KeyFile]) -> Result<KeySet, JwtError> {
        KeySet::read(files, &self.algorithms())
    }

    /// Checks tokens with `keys` after this call. Returns what they change, by file.
    pub fn adopt(&self, keys: KeySet) -> Vec<KeyChange> {
        let mut present = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let changes = keys.changes_from(&present);
        *present = Arc::new(keys);
        changes
    }

    /// Checks tokens also with the JWK set in `bytes`, which replaces that of `url`.
    ///
    /// # Errors
    /// If no key of the set can be used; the keys of `url` stay as they were.
    ///
    /// # Panics
    /// If there is no URL with this index.
    pub fn adopt_fetched(&self, url: usize, bytes: &[u8]) -> Result<AdoptedKeys, JwtError> {
        let (keys, unusable) = keys::read_set(bytes, &self.algorithms())?;
        let count = keys.len();
        let former = self.fetched.replace(url, keys, bytes);
        let present = self.fetched.sets();
        let present = present[url].as_deref().unwrap_or_default();
        let is_new = former.is_none();
        let change = key_set::change(url, former.as_deref().unwrap_or_default(), present);
        let change = change.or(is_new.then_some(KeyChange { file: url, keys: count, new: count }));
        Ok(AdoptedKeys { change, unusable })
    }

    /// The JWK set of each URL that was last adopted; `None`: none was yet.
    #[must_use]
    pub fn fetched(&self) -> Vec<Option<Arc<[u8]>>> {
        self.fetched.documents()
    }

    /// Sets the thread that calls [`Jwt::adopt_fetched`]. It is unparked when a token names a missing key.
    pub fn set_fetcher(&self, thread: Thread) {
        self.fetched.set_fetcher(thread);
    }

    /// Sets whether the URLs may have keys that are missing here. Then tokens of unknown keys are refused only
    /// temporarily.
    pub fn set_stale(&self, is_stale: bool) {
        self.fetched.set_stale(is_stale);
    }

    /// Whether a token has named a missing key since [`Jwt::begin_fetch`].
    #[must_use]
    pub fn wants_fetch(&self) -> bool {
        self.fetched.is_wanted()
    }

    /// Notes that the URLs are about to be fetched.
    pub fn begin_fetch(&self) {
        self.fetched.begin();
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        self.rules.iter().map(|(algorithm, _)| *algorithm).collect()
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Jwt {
    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, Refusal> {
        let identity = self.claims.identity(claims)?;
        let expires_in_ms = self.ends_connections.then(|| expires_in_ms(claims)).flatten();
        Ok(Identity { expires_in_ms, ..identity })
    }
}

/// How much longer a checked token is valid, including the leeway. `exp` may have a fraction (RFC 7519, section 2).
#[allow(clippy::disallowed_methods, reason = "so does the check of the times before it")]
fn expires_in_ms(claims: &Map<String, Value>) -> Option<u64> {
    let expires_at = claims.get("exp")?.as_f64()? + LEEWAY_SECONDS as f64;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A conversion from float to integer saturates.
    Some(((expires_at - now.as_secs_f64()) * 1e3).ceil() as u64)
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        f.debug_struct("Jwt").field("keys", &keys).field("claims", &self.claims).finish()
    }
}

/// The checks of a token besides its signature.
fn rules(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut rules = Validation::new(algorithm.to_jsonwebtoken());
    let mut required = vec!["exp"];
    rules.leeway = LEEWAY_SECONDS;
    rules.validate_nbf = true;
    rules.validate_aud = audience.is_some();
    if let Some(issuer) = issuer {
        rules.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = audience {
        rules.set_audience(&[audience]);
        required.push("aud");
    }
    rules.set_required_spec_claims(&required);
    rules
}

impl Authenticator for Jwt {
    fn auth(&self, token: &[u8], _cookie: &str) -> Result<Identity, Refusal> {
        let header = decode_header(token).map_err(|error| refusal(&error))?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: a token with an unknown critical header is invalid.
            return Err(Refusal::new("the token has critical headers that are not supported"));
        }
        let rules =
            self.rules.iter().find(|(algorithm, _)| algorithm.to_jsonwebtoken() == header.alg);
        let Some((algorithm, rules)) = rules else {
            return Err(Refusal::new(BAD_ALGORITHM));
        };
        let (keys, fetched) = (self.keys(), self.fetched.sets());
        let fetched = fetched.iter().filter_map(|keys| keys.as_ref().as_ref()).flatten();
        let mut has_algorithm = false;
        let mut has_key = false;
        let mut is_named = false;
        let mut tries = 0;
        for key in keys.iter().chain(fetched).filter(|key| key.algorithm == *algorithm) {
            has_algorithm = true;
            if let (Some(id), Some(wanted)) = (&key.id, &header.kid) {
                if id != wanted {
                    continue;
                }
                is_named = true;
            }
            has_key = true;
            if tries == TRIES_MAX {
                return Err(Refusal::new(TOO_MANY_KEYS));
            }
            tries += 1;
            match decode::<Map<String, Value>>(token, &key.key, rules) {
                Ok(token) => return self.identity(&token.claims),
                // Another key may have made the signature.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refusal(&error)),
            }
        }
        if !is_named && self.fetched.want() {
            return Err(Refusal::for_now("the token's key is not known yet"));
        }
        Err(Refusal::new(match (has_algorithm, has_key) {
            (false, _) => BAD_ALGORITHM,
            (true, false) => "the token's key is not known",
            (true, true) => "the token's signature is wrong",
        }))
    }
}

/// The sentence for the client. It repeats nothing of the token's content.
fn refusal(error: &Error) -> Refusal {
    Refusal::new(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidIssuer => "the token is from another issuer".to_owned(),
        ErrorKind::InvalidAudience => "the token is for another audience".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no claim {claim:?}"),
        ErrorKind::InvalidClaimFormat(claim) => format!("the claim {claim:?} does not fit"),
        ErrorKind::Json(_) => "the token's header or claims do not fit".to_owned(),
        _ => "the token is not a JWT".to_owned(),
    })
}
