//! Two comets, each a process of its own, that push for each other through a real NATS server.

use crate::nats_server::NatsServer;
use crate::process::{Server, comet, with_sets};
use crate::support::{Metrics, Permit, two_cores, until};

/// Called a and b. They know each other.
pub(crate) struct TwoHosts {
    pub(crate) hosts: [Server; 2],
    pub(crate) nats: NatsServer,
}

impl TwoHosts {
    /// `None`: there is no NATS server here.
    pub(crate) fn start(sets: &[&str]) -> Option<Self> {
        let permit = Permit::wait();
        let nats = NatsServer::start(&[])?;
        let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
        let launch = |id: &str, permit: Option<Permit>| {
            let id = format!("server.id={id:?}");
            let sets = [&[&*servers, &*id], sets].concat();
            let cores = two_cores();
            let arguments = [&["--cores", &*cores], &*with_sets(&sets)].concat();
            Server::launch(comet(&arguments), permit)
        };
        let two = Self { hosts: [launch("a", Some(permit)), launch("b", None)], nats };
        for host in 0..2 {
            two.until(host, "comet_cluster_hosts", 1);
        }
        Some(two)
    }

    pub(crate) fn metrics(&self, host: usize) -> Metrics {
        Metrics::read(self.hosts[host].stat)
    }

    #[track_caller]
    pub(crate) fn until(&self, host: usize, sample: &str, value: u64) {
        let what = format!("{sample} of host {host} to be {value}");
        until(&what, || self.metrics(host).value(sample) == value);
    }

    /// Lets a host run no more, or run again.
    pub(crate) fn pause(&self, host: usize, is_paused: bool) {
        self.hosts[host].pause(is_paused);
    }
}
