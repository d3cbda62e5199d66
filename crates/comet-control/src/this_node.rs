//! This server as clients find it.

use std::sync::Arc;

use comet_push::{ClientEndpoint, Instance, NodeList};
use comet_serve::{Address, Phase};
use tokio::sync::watch;
use tonic::Status;

use crate::pushes::Pushes;

/// This server, the only one that a comet knows.
pub(crate) struct ThisNode {
    pub(crate) node: ClientEndpoint,
    pub(crate) weight: u32,
    pub(crate) server_id: String,
    pub(crate) version: &'static str,
    /// The addresses of the gRPC service.
    pub(crate) grpc: Vec<Address>,
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl NodeList for ThisNode {
    async fn hosts(&self) -> Vec<String> {
        vec![self.node.domain.clone()]
    }

    async fn instances(&self) -> Result<Vec<Instance>, Status> {
        let ClientEndpoint { domain, tcp, websocket, websocket_tls, .. } = &self.node;
        // A Unix socket cannot be reached from elsewhere.
        let grpc = self.grpc.iter().filter_map(|address| match address {
            Address::Plain(address) => Some(format!("grpc://{address}")),
            Address::Tls(address) => Some(format!("grpcs://{address}")),
            Address::Unix(_) => None,
        });
        let addresses = [("tcp", tcp), ("ws", websocket), ("wss", websocket_tls)];
        let addresses = grpc.chain(addresses.into_iter().flat_map(|(scheme, addresses)| {
            addresses.iter().map(move |address| format!("{scheme}://{address}"))
        }));
        Ok(vec![Instance {
            hostname: self.server_id.clone(),
            addresses: addresses.collect(),
            version: self.version.to_owned(),
            domain: domain.clone(),
            weight: self.weight,
            live: self.pushes.live_here().await?,
            offline: *self.phase.borrow() != Phase::Ready,
        }])
    }
}
