//! Signed tokens: JSON Web Tokens (RFC 7519) in their compact form.
//!
//! A token is taken if one of the configured keys made its signature, with the algorithm the key is for,
//! and if its times hold. Keys are bytes here; who reads them from files is the caller's matter.

mod claims;
mod keys;
mod signatures;

pub use claims::ClaimNames;
pub use keys::KeyFile;

use std::fmt;
use std::str::FromStr;

use comet_core::Identity;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::{Auther, Refusal};
use keys::Key;

/// What the clocks of who signs and who checks may differ by, seconds.
const LEEWAY: u64 = 60;

/// How a signature is made. There is no "none", and what is not here is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// HMAC with SHA-256: who checks could also sign.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, from 2048 bits on.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All that can be allowed.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// Its name in a token's header (RFC 7518, section 3.1; RFC 8037, section 3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn wire(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = JwtError;

    fn from_str(name: &str) -> Result<Self, JwtError> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| {
            JwtError(format!("{name:?} is no algorithm here: HS256, RS256, ES256 and EdDSA are"))
        })
    }
}

/// What signed tokens have to be.
#[derive(Clone, Debug)]
pub struct JwtOptions {
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub keys: Vec<KeyFile>,
    /// What `iss` has to be, if it has to be something.
    pub issuer: Option<String>,
    /// What `aud` has to be or to contain, if it has to be something.
    pub audience: Option<String>,
    /// Which claims say who a client is.
    pub claims: ClaimNames,
}

/// Why no token can be checked: one sentence that names the key file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtError(String);

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JwtError {}

/// Takes tokens that a known key has signed.
///
/// The times have to hold, with a minute of leeway: `exp` must be there and not have passed, and `nbf`
/// must have passed if it is there. A `kid` in the token's header picks among the keys of JWK sets;
/// keys that have no id are tried, too. A token without a key claim gets `<mid>_<seq>` from the user's
/// home, as the seed's tokens do. Cookies do not matter.
pub struct Jwt {
    keys: Vec<(Key, Validation)>,
    claims: ClaimNames,
}

impl Jwt {
    /// # Errors
    /// If a key file cannot be used, or there is none.
    pub fn new(options: JwtOptions) -> Result<Self, JwtError> {
        let JwtOptions { algorithms, keys, issuer, audience, claims } = options;
        signatures::install();
        if keys.is_empty() {
            return Err(JwtError("there is no key to check tokens with".to_owned()));
        }
        let mut usable = Vec::new();
        for file in &keys {
            for key in file.read(&algorithms)? {
                let rules = rules(key.algorithm, issuer.as_deref(), audience.as_deref());
                usable.push((key, rules));
            }
        }
        Ok(Self { keys: usable, claims })
    }
}

/// Leaves the keys out: they may be secrets.
impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(|(key, _)| (key.algorithm, &key.id)).collect();
        f.debug_struct("Jwt").field("keys", &keys).field("claims", &self.claims).finish()
    }
}

/// What a token has to be beside its signature.
fn rules(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut rules = Validation::new(algorithm.wire());
    let mut required = vec!["exp"];
    rules.leeway = LEEWAY;
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

impl Auther for Jwt {
    fn auth(&self, token: &[u8], _cookie: &str) -> Result<Identity, Refusal> {
        let header = decode_header(token).map_err(|error| refusal(&error))?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: what must be understood and is not.
            return Err(Refusal::new("the token has critical headers, which nobody knows here"));
        }
        let mut of_algorithm = false;
        let mut of_id = false;
        for (key, rules) in &self.keys {
            if key.algorithm.wire() != header.alg {
                continue;
            }
            of_algorithm = true;
            if let (Some(id), Some(wanted)) = (&key.id, &header.kid)
                && id != wanted
            {
                continue;
            }
            of_id = true;
            match decode::<Map<String, Value>>(token, &key.key, rules) {
                Ok(token) => return self.claims.identity(&token.claims),
                // Another key may have made it.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refusal(&error)),
            }
        }
        Err(Refusal::new(match (of_algorithm, of_id) {
            (false, _) => "the token's algorithm is not accepted",
            (true, false) => "the token's key is not known",
            (true, true) => "the token's signature is wrong",
        }))
    }
}

/// What the client is told; what the token holds is not repeated.
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
