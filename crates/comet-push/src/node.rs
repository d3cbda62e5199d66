//! The servers that clients can connect to.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tonic::Status;

/// Knows the servers that clients may connect to.
pub trait NodeList: Send + Sync + 'static {
    /// Names or addresses of the servers that take clients, the best first; at least one.
    fn hosts(&self) -> impl Future<Output = Vec<String>> + Send;

    /// All servers.
    fn instances(&self) -> impl Future<Output = Result<Vec<Instance>, Status>> + Send;
}

/// The settings of a server for clients.
#[derive(Clone, Debug)]
pub struct ClientEndpoint {
    /// The name or address by which clients reach it.
    pub domain: String,
    /// Its TCP addresses; clients are told the port of the first.
    pub tcp: Vec<SocketAddr>,
    /// Its WebSocket addresses; clients are told the port of the first.
    pub websocket: Vec<SocketAddr>,
    /// Its addresses for WebSocket inside TLS; clients are told the port of the first.
    pub websocket_tls: Vec<SocketAddr>,
    /// Silence after which it closes a connection.
    pub heartbeat: Duration,
}

/// How long clients should wait before they connect again.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest wait, seconds.
    pub max_delay: i32,
    /// The first wait, seconds.
    pub base_delay: i32,
    /// The factor by which each wait is longer than the previous one.
    pub factor: f64,
    /// The random part of a wait.
    pub jitter: f64,
}

impl ClientEndpoint {
    /// Heartbeats that a client may send within the silence that ends its connection, as in goim.
    pub const HEARTBEAT_MAX: u32 = 2;

    /// The values of goim's own example.
    pub const BACKOFF: Backoff =
        Backoff { max_delay: 300, base_delay: 3, factor: 1.8, jitter: 0.3 };

    /// Seconds from one heartbeat to the next, so that one may get lost.
    #[must_use]
    pub fn heartbeat_seconds(&self) -> u64 {
        (self.heartbeat / Self::HEARTBEAT_MAX).as_secs().max(1)
    }

    /// The port of the first TCP address.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        self.tcp.first().map(SocketAddr::port)
    }

    /// The port of the first WebSocket address.
    #[must_use]
    pub fn websocket_port(&self) -> Option<u16> {
        self.websocket.first().map(SocketAddr::port)
    }

    /// The port of the first WebSocket address inside TLS.
    #[must_use]
    pub fn websocket_tls_port(&self) -> Option<u16> {
        self.websocket_tls.first().map(SocketAddr::port)
    }
}

/// One server as goim's discovery describes it.
#[derive(Debug)]
pub struct Instance {
    /// Its id.
    pub hostname: String,
    /// Including their schemes.
    pub addresses: Vec<String>,
    /// Empty if unknown.
    pub version: String,
    /// The name by which clients reach it.
    pub domain: String,
    /// Its share of clients relative to other servers.
    pub weight: u32,
    /// Connections that are authenticated.
    pub live: u64,
    /// Whether it takes no clients.
    pub offline: bool,
}

impl Instance {
    /// The server as JSON. A comet has no region, zone or environment.
    #[allow(clippy::disallowed_methods, reason = "the answer says when it holds")]
    pub(crate) fn json(self) -> Value {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "region": "",
            "zone": "",
            "env": "",
            "appid": "goim.comet",
            "hostname": self.hostname,
            "addrs": self.addresses,
            "version": self.version,
            "latest_timestamp": u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            // All values are text, as in goim.
            "metadata": {
                "addrs": self.domain,
                "conn_count": self.live.to_string(),
                "offline": self.offline.to_string(),
                "weight": self.weight.to_string(),
            },
        })
    }
}
