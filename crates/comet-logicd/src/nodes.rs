//! The comets as clients and operators see them: `/goim/nodes/*` and the `Nodes` call.

use std::cmp::Reverse;
use std::sync::Arc;

use comet_hub::fanout::CometNumber;
use comet_push::{Instance, NodeList};
use tonic::Status;

use crate::comet::{Comet, CometOptions};
use crate::comets::Comets;

/// The comets, and the domain for clients while no comet takes them.
#[derive(Clone)]
pub(crate) struct Nodes {
    pub(crate) comets: Arc<Comets>,
    pub(crate) domain: String,
}

impl Nodes {
    /// The load of each comet; without sessions while these are unknown.
    async fn loads(&self) -> Vec<Load> {
        let live = self.comets.live_by_comet().await;
        let list = self.comets.all();
        let load = |(number, comet): (&CometNumber, &Comet)| Load {
            options: comet.options.clone(),
            sessions: live.get(&comet.options.id).copied().unwrap_or(0),
            is_online: comet.is_for_clients() && self.comets.is_serving(*number),
        };
        list.iter().map(load).collect()
    }
}

/// The load of a comet.
struct Load {
    options: CometOptions,
    sessions: u64,
    /// Whether clients are sent to it.
    is_online: bool,
}

impl NodeList for Nodes {
    /// The hosts of comets that take clients, the one with the fewest sessions for its weight first, each host once.
    /// The domain if there are none.
    async fn hosts(&self) -> Vec<String> {
        let loads = self.loads().await;
        let online = loads.iter().filter(|load| load.is_online);
        let hosts = by_load(online.flat_map(|Load { options, sessions, .. }| {
            let hosts = options.hosts.iter();
            hosts.map(|host| (&**host, options.weight, *sessions))
        }));
        match hosts.is_empty() {
            true => vec![self.domain.clone()],
            false => hosts.into_iter().map(str::to_owned).collect(),
        }
    }

    /// A comet that is gone or takes no clients is offline.
    async fn instances(&self) -> Result<Vec<Instance>, Status> {
        let instance = |Load { options, sessions, is_online }| Instance {
            addresses: vec![format!("grpc://{}", options.address)],
            hostname: options.id,
            version: String::new(),
            domain: options.hosts.join(","),
            weight: options.weight,
            live: sessions,
            offline: !is_online,
        };
        Ok(self.loads().await.into_iter().map(instance).collect())
    }
}

/// Hosts with their weights and sessions, sorted by sessions per weight. Of equal ones the heavier comes first.
fn by_load<'a>(nodes: impl Iterator<Item = (&'a str, u32, u64)>) -> Vec<&'a str> {
    let mut nodes: Vec<_> = nodes.collect();
    nodes.sort_by(|(_, weight, live), (_, other_weight, other_live)| {
        let load = |live: u64, other_weight: u32| u128::from(live) * u128::from(other_weight);
        load(*live, *other_weight)
            .cmp(&load(*other_live, *weight))
            .then(Reverse(weight).cmp(&Reverse(other_weight)))
    });
    let mut hosts: Vec<&str> = Vec::new();
    for (host, ..) in nodes {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_host_comes_first() {
        let check = |nodes: &[(&'static str, u32, u64)], expected: &[&str]| {
            assert_eq!(by_load(nodes.iter().copied()), expected, "{nodes:?}");
        };
        check(&[("a", 1, 9), ("b", 1, 3), ("c", 1, 0)], &["c", "b", "a"]);
        check(&[("a", 1, 4), ("b", 10, 39), ("c", 10, 41)], &["b", "a", "c"]);
        check(&[("a", 1, 0), ("b", 3, 0), ("c", 2, 0), ("d", 3, 0)], &["b", "d", "c", "a"]);
        check(&[("a", 1, 5), ("b", 1, 4), ("a", 1, 3)], &["a", "b"]);
        check(&[("a", 10_000, u64::MAX), ("b", 9_999, u64::MAX)], &["a", "b"]);
        check(&[], &[]);
    }
}
