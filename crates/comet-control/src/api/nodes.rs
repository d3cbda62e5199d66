//! `/goim/nodes/*`: where clients find the server. goim's logic knows many comets; here it is this one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use serde_json::{Value, json};
use tonic::Status;

use super::Api;
use crate::serve::Phase;

/// Heartbeats a client may send in the time after which its silence ends the connection, as in goim.
const HEARTBEAT_MAX: u32 = 2;

/// What clients are to know of this server.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name or address that clients reach it by.
    pub domain: String,
    /// Where it listens for TCP clients; they are told the port of the first.
    pub tcp: Vec<SocketAddr>,
    /// Where it listens for WebSocket clients; they are told the port of the first.
    pub websocket: Vec<SocketAddr>,
    /// Silence after which it closes a connection.
    pub heartbeat: Duration,
}

/// goim's NodesReply; a port that is not served is left out. The platform changes nothing.
pub(super) async fn weighted(api: Arc<Api>, _: Request) -> Result<Value, Status> {
    let Node { domain, tcp, websocket, heartbeat, .. } = &api.node;
    let mut reply = json!({
        "domain": domain,
        // Seconds from one heartbeat to the next: one may be lost on its way.
        "heartbeat": (*heartbeat / HEARTBEAT_MAX).as_secs().max(1),
        "heartbeat_max": HEARTBEAT_MAX,
        "nodes": [domain],
        // Seconds; the values of goim's own example.
        "backoff": { "max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3 },
    });
    for (port, addresses) in [("tcp_port", tcp), ("ws_port", websocket)] {
        if let Some(first) = addresses.first() {
            reply[port] = first.port().into();
        }
    }
    Ok(reply)
}

/// The servers as goim's discovery describes them. comet is in no region, zone or environment.
#[allow(clippy::disallowed_methods, reason = "the answer says when it holds")]
pub(super) async fn instances(api: Arc<Api>, _: Request) -> Result<Value, Status> {
    let live = api.pushes.live().await?;
    let offline = *api.phase.borrow() != Phase::Ready;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let Node { domain, tcp, websocket, .. } = &api.node;
    let addresses = [("grpc", &api.grpc), ("tcp", tcp), ("ws", websocket)];
    let addresses = addresses.into_iter().flat_map(|(scheme, addresses)| {
        addresses.iter().map(move |address| format!("{scheme}://{address}"))
    });
    Ok(json!([{
        "region": "",
        "zone": "",
        "env": "",
        "appid": "goim.comet",
        "hostname": api.server_id,
        "addrs": addresses.collect::<Vec<_>>(),
        "version": api.version,
        "latest_timestamp": u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        // Text throughout, as in goim.
        "metadata": {
            "addrs": domain,
            "conn_count": live.to_string(),
            "offline": offline.to_string(),
            "weight": "1",
        },
    }]))
}
