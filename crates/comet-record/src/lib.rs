//! The TLS record layer of a connection whose handshake rustls has done.
//!
//! rustls speaks the handshake: versions, suites, certificates, key exchange, tickets. Then
//! [`from_rustls()`] moves the traffic keys into a [`Session`], which seals and opens records with the
//! ciphers of `ring`. A session is two keys and two counters in a few hundred bytes, and it can be
//! written down and read back ([`Session::export`], [`Session::import`]).
//!
//! A session knows TLS 1.3 (RFC 8446) and TLS 1.2 with AES-GCM (RFC 5288) and ChaCha20-Poly1305
//! (RFC 7905). After the handshake it takes application data, alerts and, with TLS 1.3,
//! `KeyUpdate`. It refuses anything else.
//!
//! The caller owns the bytes: [`record_len`] returns the length of a record, [`Session::open`] opens it in place, and
//! the methods that seal append to a `Vec`. Nothing here does I/O, reads a clock or allocates for a record.
//!
//! The crate also has the keys of session tickets, which move to another process in the same way ([`TicketKeys`]).
//!
//! **Invariant**: after a [`Fault`] a session opens no record, and after an alert of its own it seals
//! none.

mod fault;
mod from_rustls;
mod keys;
mod record;
mod session;
mod state;
mod tickets;

pub use fault::{Fault, SealError};
pub use from_rustls::{FromRustlsError, TrafficSecrets, from_rustls};
pub use keys::{Aead, Suite, Version};
pub use record::{PLAINTEXT_MAX, RECORD_LEN_MAX, record_len};
pub use session::{Opened, SEAL_OVERHEAD_MAX, Session, sealed_len_max};
pub use state::{EXPORT_LEN_MAX, ImportError};
pub use tickets::{TICKET_KEY_ROTATION, TicketKeys};
