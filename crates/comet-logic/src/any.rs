//! The auther that the configuration chooses.

use std::sync::Arc;

use comet_core::Identity;

use crate::auther::{Auther, Refusal};
use crate::embedded::Embedded;
use crate::jwt::Jwt;

/// The auther of a configured kind (`token.kind`); a clone shares its keys.
#[derive(Clone, Debug)]
pub enum AnyAuther {
    /// Tokens are not verified.
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
