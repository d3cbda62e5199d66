//! The parameters of an attack, and the state shared with its observers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Result;
use crate::subject::Subject;
use crate::target::Endpoints;
use crate::tls::Tls;

/// The largest frame of a client (`protocol.body_max`).
pub(super) const LARGEST: usize = 4096;

/// An attacker of a server.
pub(crate) struct Attacker {
    pub endpoints: Endpoints,
    pub grpc: String,
    pub stat: SocketAddr,
    /// Another API, if that is attacked.
    pub api: SocketAddr,
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
    /// An attacker of the server of `subject`. Fails if that has no push API or no metrics.
    pub(crate) fn of(
        subject: &Subject,
        api: SocketAddr,
        [half_open, stalled]: [usize; 2],
    ) -> Result<Self> {
        Ok(Self {
            endpoints: subject.target.endpoints.clone(),
            grpc: subject.target.grpc.clone().ok_or("no push API: name --grpc")?,
            stat: subject.target.stat.ok_or("no metrics: name --stat")?,
            api,
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

    /// A TLS client. Fails if the server has no TLS.
    pub(super) fn tls(&self) -> Result<Tls> {
        let trust = self.endpoints.tls.as_ref().ok_or("the server has no TLS")?;
        Tls::new(trust, IpAddr::from(Ipv4Addr::LOCALHOST))
    }
}
