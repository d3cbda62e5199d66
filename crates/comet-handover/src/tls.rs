//! TLS sessions of connections, and the keys of tickets.

use std::fmt;

use prost::Message;
use zeroize::Zeroize;

/// The TLS session of a connection after its handshake. Its keys are wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct Tls {
    /// Keys and record numbers of both directions, as `comet_record::Session::export` writes them.
    #[prost(bytes = "vec", tag = "1")]
    pub session: Vec<u8>,
    /// The beginning of a record whose rest has not arrived.
    #[prost(bytes = "vec", tag = "2")]
    pub received: Vec<u8>,
    /// Sealed bytes that the kernel has not taken. They are sent first.
    #[prost(bytes = "vec", tag = "3")]
    pub ciphertext: Vec<u8>,
    /// Number of bytes of the pending frames that are sealed. All of these are sent once the kernel has taken the
    /// ciphertext. They begin behind the bytes of the first frame that are taken.
    #[prost(uint32, tag = "4")]
    pub sealed: u32,
}

/// The keys of session tickets. They are wiped when this is dropped.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct TicketKeys {
    /// As `comet_record::TicketKeys::export` writes them.
    #[prost(bytes = "vec", tag = "1")]
    pub keys: Vec<u8>,
}

impl Tls {
    /// Takes out everything except the counts of sealed bytes.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = std::mem::take(self);
        self.sealed = taken.sealed;
        taken
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session: _, received, ciphertext, sealed } = self;
        f.debug_struct("Tls")
            .field("received", &received.len())
            .field("ciphertext", &ciphertext.len())
            .field("sealed", sealed)
            .finish_non_exhaustive()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.session.zeroize();
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

impl Drop for TicketKeys {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}
