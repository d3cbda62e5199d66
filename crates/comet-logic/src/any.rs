//! The authenticator that the configuration chooses.

use std::sync::Arc;

use comet_core::Identity;

use crate::authenticator::{Authenticator, Refusal};
use crate::jwt::Jwt;
use crate::unverified::UnverifiedTokens;

/// The authenticator of a configured kind (`token.kind`); a clone shares its keys.
#[derive(Clone, Debug)]
pub enum AnyAuthenticator {
    /// Tokens are not verified.
    Open(UnverifiedTokens),
    /// Tokens are signed.
    Jwt(Arc<Jwt>),
}

impl Authenticator for AnyAuthenticator {
    fn auth(&self, token: &[u8], cookie: &str) -> Result<Identity, Refusal> {
        match self {
            Self::Open(open) => open.auth(token, cookie),
            Self::Jwt(jwt) => jwt.auth(token, cookie),
        }
    }
}
