//! `/goim/nodes/*`: where clients find the server. `comet logic` knows many comets; a comet, itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use comet_serve::Phase;
use serde_json::{Value, json};
use tonic::Status;

use super::Api;
use crate::logic_server::nodes as comets;
use crate::reach::Reach;

/// What clients are to know of this server.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name or address that clients reach it by.
    pub domain: String,
    /// Where it listens for TCP clients; they are told the port of the first.
    pub tcp: Vec<SocketAddr>,
    /// Where it listens for WebSocket clients; they are told the port of the first.
    pub websocket: Vec<SocketAddr>,
    /// Where it listens for WebSocket clients inside TLS; they are told the port of the first.
    pub websocket_tls: Vec<SocketAddr>,
    /// Silence after which it closes a connection.
    pub heartbeat: Duration,
}

/// How long clients are told to wait before they connect anew: `max_delay` and `base_delay` in seconds.
pub(crate) struct Backoff {
    pub(crate) max_delay: i32,
    pub(crate) base_delay: i32,
    pub(crate) factor: f64,
    pub(crate) jitter: f64,
}

impl Node {
    /// Heartbeats a client may send in the time after which its silence ends the connection, as in goim.
    pub(crate) const HEARTBEAT_MAX: u32 = 2;

    /// The values of goim's own example.
    pub(crate) const BACKOFF: Backoff =
        Backoff { max_delay: 300, base_delay: 3, factor: 1.8, jitter: 0.3 };

    /// Seconds from one heartbeat to the next: one may be lost on its way.
    pub(crate) fn heartbeat_seconds(&self) -> u64 {
        (self.heartbeat / Self::HEARTBEAT_MAX).as_secs().max(1)
    }

    pub(crate) fn tcp_port(&self) -> Option<u16> {
        self.tcp.first().map(SocketAddr::port)
    }

    pub(crate) fn websocket_port(&self) -> Option<u16> {
        self.websocket.first().map(SocketAddr::port)
    }

    pub(crate) fn websocket_tls_port(&self) -> Option<u16> {
        self.websocket_tls.first().map(SocketAddr::port)
    }
}

/// goim's NodesReply; a port that is not served is left out. The platform changes nothing.
pub(super) async fn weighted(api: Arc<Api>, _: Request) -> Result<Value, Status> {
    let Api { node, reach, .. } = &*api;
    let nodes = match reach {
        Reach::Shards(_) => vec![node.domain.clone()],
        Reach::Comets(known) => comets::hosts(known, &node.domain).await?,
    };
    let Backoff { max_delay, base_delay, factor, jitter } = Node::BACKOFF;
    let mut reply = json!({
        "domain": node.domain,
        "heartbeat": node.heartbeat_seconds(),
        "heartbeat_max": Node::HEARTBEAT_MAX,
        "nodes": nodes,
        "backoff": {
            "max_delay": max_delay, "base_delay": base_delay, "factor": factor, "jitter": jitter,
        },
    });
    for (name, port) in [
        ("tcp_port", node.tcp_port()),
        ("ws_port", node.websocket_port()),
        ("wss_port", node.websocket_tls_port()),
    ] {
        if let Some(port) = port {
            reply[name] = port.into();
        }
    }
    Ok(reply)
}

/// One server as goim's discovery describes it.
pub(crate) struct Instance<'a> {
    pub(crate) hostname: &'a str,
    /// With their schemes.
    pub(crate) addresses: Vec<String>,
    /// Empty where it is not known.
    pub(crate) version: &'a str,
    /// Where clients reach it.
    pub(crate) domain: &'a str,
    pub(crate) live: u64,
    pub(crate) offline: bool,
}

impl Instance<'_> {
    /// comet is in no region, zone or environment.
    #[allow(clippy::disallowed_methods, reason = "the answer says when it holds")]
    pub(crate) fn json(&self) -> Value {
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
            // Text throughout, as in goim.
            "metadata": {
                "addrs": self.domain,
                "conn_count": self.live.to_string(),
                "offline": self.offline.to_string(),
                "weight": "1",
            },
        })
    }
}

/// The servers as goim's discovery describes them.
pub(super) async fn instances(api: Arc<Api>, _: Request) -> Result<Value, Status> {
    if let Reach::Comets(known) = &api.reach {
        return comets::instances(known).await;
    }
    let Node { domain, tcp, websocket, websocket_tls, .. } = &api.node;
    let addresses = [("grpc", &api.grpc), ("tcp", tcp), ("ws", websocket), ("wss", websocket_tls)];
    let addresses = addresses.into_iter().flat_map(|(scheme, addresses)| {
        addresses.iter().map(move |address| format!("{scheme}://{address}"))
    });
    let instance = Instance {
        hostname: &api.server_id,
        addresses: addresses.collect(),
        version: api.version,
        domain,
        live: api.reach.live().await?,
        offline: *api.phase.borrow() != Phase::Ready,
    };
    Ok(json!([instance.json()]))
}
