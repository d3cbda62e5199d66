//! `/goim/nodes/*`: the servers for clients. `comet logic` lists its comets; a comet lists itself.

use std::sync::Arc;

use axum::extract::Request;
use serde_json::{Value, json};
use tonic::Status;

use crate::node::{Backoff, ClientEndpoint, Instance, NodeList};

/// The state that both calls use.
pub(super) struct Nodes<N> {
    pub(super) node: ClientEndpoint,
    pub(super) list: Arc<N>,
}

/// goim's NodesReply. Ports that are not served are left out. The platform has no effect.
pub(super) async fn weighted<N: NodeList>(
    nodes: Arc<Nodes<N>>,
    _: Request,
) -> Result<Value, Status> {
    let Nodes { node, list } = &*nodes;
    let hosts = list.hosts().await;
    let Backoff { max_delay, base_delay, factor, jitter } = ClientEndpoint::BACKOFF;
    let mut reply = json!({
        "domain": node.domain,
        "heartbeat": node.heartbeat_seconds(),
        "heartbeat_max": ClientEndpoint::HEARTBEAT_MAX,
        "nodes": hosts,
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

/// The servers as goim's discovery describes them.
pub(super) async fn instances<N: NodeList>(
    nodes: Arc<Nodes<N>>,
    _: Request,
) -> Result<Value, Status> {
    Ok(nodes.list.instances().await?.into_iter().map(Instance::json).collect())
}
