//! The parameters of an attack, and the state shared with its observers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Result;
use crate::subject::Subject;
use crate::target::Endpoints;
use crate::tls::Tls;

/// An attacker of a server.
pub(crate) struct Attacker {
    pub endpoints: Endpoints,
    pub grpc: String,
    /// The HTTP push API, for the attack on it.
    pub http: SocketAddr,
    pub half_open: usize,
    pub stalled: usize,
    /// Operation of what is pushed.
    pub operation: i32,
    /// Pushes to a crowd so far.
    pub crowd_pushes: AtomicU64,
    pub is_under_way: AtomicBool,
    pub is_over: AtomicBool,
}

impl Attacker {
    /// An attacker of the server of `subject`. Fails if that has no push API.
    pub(crate) fn of(
        subject: &Subject,
        http: SocketAddr,
        [half_open, stalled]: [usize; 2],
    ) -> Result<Self> {
        Ok(Self {
            endpoints: subject.target.endpoints.clone(),
            grpc: subject.target.grpc.clone().ok_or("no push API: name --grpc")?,
            http,
            half_open,
            stalled,
            operation: subject.operation,
            crowd_pushes: AtomicU64::new(0),
            is_under_way: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        })
    }

    /// The attack has its full strength.
    pub(super) fn set_under_way(&self) {
        self.is_under_way.store(true, Ordering::Relaxed);
    }

    /// Whether the attack should end.
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
