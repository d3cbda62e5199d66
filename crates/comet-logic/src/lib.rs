//! The identities of clients: the [`Authenticator`] trait and its two implementations. [`UnverifiedTokens`] accepts
//! every token as it is, [`Jwt`] accepts tokens that a known key has signed.
//!
//! An authenticator gets the token and the cookies of a client and returns its identity, or why it is
//! refused. It decides nothing else: the shard handles rooms, sessions and keys that have to be
//! counted.
//!
//! **Invariant:** no token, whatever its bytes, makes an authenticator panic.

mod any;
mod authenticator;
mod jwt;
mod unverified;

pub use any::AnyAuthenticator;
pub use authenticator::{Authenticator, Refusal};
pub use comet_core::limits::NAME_MAX;
pub use comet_core::{Identity, OperationFilter};
pub use jwt::{
    AdoptedKeys, Algorithm, ClaimNames, Jwt, JwtError, JwtOptions, KeyChange, KeyFile, KeySet,
};
pub use unverified::UnverifiedTokens;
