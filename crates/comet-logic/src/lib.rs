//! Who a client is: the [`Auther`] trait and its two implementations. [`Embedded`] accepts every
//! token as it is, [`Jwt`] accepts tokens that a known key has signed.
//!
//! An auther gets the token and the cookies of a client and returns its identity, or why it is
//! refused. It decides nothing else: the shard handles rooms, sessions and keys that have to be
//! counted.
//!
//! **Invariant:** no token, whatever its bytes, makes an auther panic.

mod any;
mod auther;
mod embedded;
mod jwt;

pub use any::AnyAuther;
pub use auther::{Auther, Refusal};
pub use comet_core::limits::NAME_MAX;
pub use comet_core::{Accepts, Identity};
pub use embedded::Embedded;
pub use jwt::{Algorithm, ClaimNames, Jwt, JwtError, JwtOptions, KeyFile};
