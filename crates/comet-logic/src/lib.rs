//! Who a client is: the [`Auther`] trait, [`Embedded`], which takes a token at its word, and [`Jwt`], which
//! takes those that a known key has signed.
//!
//! An auther gets what a client showed and says who it is, or why not. It decides nothing else: rooms,
//! sessions and keys that need counting are the shard's.
//!
//! **Invariant:** no token, whatever its bytes, makes an auther panic.

mod embedded;
mod jwt;

pub use comet_core::limits::NAME_MAX;
pub use comet_core::{Accepts, Identity};
pub use embedded::Embedded;
pub use jwt::{Algorithm, ClaimNames, Jwt, JwtError, JwtOptions, KeyFile};

use std::fmt;
use std::sync::Arc;

/// Says who a token is.
pub trait Auther {
    /// The identity behind `token` (the body of operation 7) and `cookie` (the upgrade request's
    /// `Cookie` header; empty over TCP and where none was sent).
    ///
    /// # Errors
    /// The [`Refusal`] that goes to the log and to the client.
    fn auth(&self, token: &[u8], cookie: &str) -> Result<Identity, Refusal>;
}

/// The auther of a configured kind (`token.kind`); a clone shares its keys.
#[derive(Clone, Debug)]
pub enum AnyAuther {
    /// Tokens are taken at their word.
    Open(Embedded),
    /// Tokens are signed.
    Jwt(Arc<Jwt>),
}

impl Auther for AnyAuther {
    fn auth(&self, token: &[u8], cookie: &str) -> Result<Identity, Refusal> {
        match self {
            Self::Open(open) => open.auth(token, cookie),
            Self::Jwt(jwt) => jwt.auth(token, cookie),
        }
    }
}

/// Why a token was not accepted: one short sentence, for the log and for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(String);

impl Refusal {
    /// Longest sentence, bytes: what a WebSocket close frame has room for beside its code
    /// (RFC 6455, section 5.5).
    pub const LEN_MAX: usize = 123;

    /// A refusal that says `sentence`, cut to [`Refusal::LEN_MAX`].
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        let mut sentence = sentence.into();
        sentence.truncate(sentence.floor_char_boundary(Self::LEN_MAX));
        Self(sentence)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let long = format!("{}é and more", "x".repeat(Refusal::LEN_MAX - 1));
        assert_eq!(Refusal::new(long).to_string(), "x".repeat(Refusal::LEN_MAX - 1));
        assert_eq!(Refusal::new("short").to_string(), "short");
    }
}
