//! What an attack has to know.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Result;
use crate::args::Attack;
use crate::target::{Endpoints, free_ports_at};

/// Addresses beside those of the server.
#[derive(Clone)]
pub(super) struct Site {
    /// The HTTP push API, of the attack on it.
    pub http: SocketAddr,
    /// Where connections with PROXY headers come from.
    pub proxy: Ipv4Addr,
}

impl Site {
    pub(super) fn choose() -> Result<Self> {
        let [http] = free_ports_at(Ipv4Addr::LOCALHOST)?;
        Ok(Self { http, proxy: Ipv4Addr::new(127, 99, 0, 1) })
    }
}

/// What an attack and its observers tell each other.
#[derive(Default)]
pub(super) struct Signs {
    is_under_way: AtomicBool,
    is_over: AtomicBool,
}

impl Signs {
    /// The attack is what it is going to be.
    pub(super) fn set_under_way(&self) {
        self.is_under_way.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Relaxed)
    }

    /// It is to end.
    pub(super) fn set_over(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// What an attack needs to know.
pub(super) struct Attacker {
    pub attack: Attack,
    pub endpoints: Endpoints,
    pub grpc: String,
    pub site: Site,
    pub half_open: usize,
    pub stalled: usize,
    pub operation: i32,
    pub signs: Arc<Signs>,
}
