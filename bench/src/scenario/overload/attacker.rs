//! What an attack has to know, and what it and its observers tell each other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Result;
use crate::target::Endpoints;
use crate::tls::Tls;

/// One that attacks a server.
pub(super) struct Attacker {
    pub endpoints: Endpoints,
    pub grpc: String,
    /// The HTTP push API, of the attack on it.
    pub http: SocketAddr,
    pub half_open: usize,
    pub stalled: usize,
    /// Operation of what is pushed.
    pub operation: i32,
    pub is_under_way: AtomicBool,
    pub is_over: AtomicBool,
}

impl Attacker {
    /// The attack is what it is going to be.
    pub(super) fn set_under_way(&self) {
        self.is_under_way.store(true, Ordering::Relaxed);
    }

    /// It is to end.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(super) fn websocket(&self) -> SocketAddr {
        self.endpoints.websocket.expect("the bench has chosen one")
    }

    /// The ClientHello of a TLS client. Fails if the server has no TLS.
    pub(super) fn hello(&self) -> Result<Vec<u8>> {
        let trust = self.endpoints.tls.as_ref().ok_or("the server has no TLS")?;
        Ok(Tls::new(trust, IpAddr::from(Ipv4Addr::LOCALHOST))?.hello()?)
    }
}
