//! The [`Authenticator`] trait and the [`Refusal`] of a token.

use std::fmt;

use comet_core::Identity;

/// Identifies the client behind a token.
pub trait Authenticator {
    /// The identity behind `token` (the body of operation 7) and `cookie` (the upgrade request's `Cookie` header; empty
    /// over TCP, and if none was sent).
    ///
    /// # Errors
    /// The [`Refusal`], for the log and for the client.
    fn auth(&self, token: &[u8], cookie: &str) -> Result<Identity, Refusal>;
}

/// Why a token is refused: one short sentence, for the log and for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    sentence: String,
    is_temporary: bool,
}

impl Refusal {
    /// The longest sentence, in bytes: the room for a reason in a WebSocket close frame (RFC 6455,
    /// section 5.5).
    pub const LEN_MAX: usize = 123;

    /// A refusal with this sentence, cut to [`Refusal::LEN_MAX`].
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        let mut sentence = sentence.into();
        sentence.truncate(sentence.floor_char_boundary(Self::LEN_MAX));
        Self { sentence, is_temporary: false }
    }

    /// A refusal that may not be repeated a few seconds later: the client should come back with the same token.
    #[must_use]
    pub fn for_now(sentence: impl Into<String>) -> Self {
        Self { is_temporary: true, ..Self::new(sentence) }
    }

    /// Whether the same token may be accepted a few seconds later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.is_temporary
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.sentence)
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
