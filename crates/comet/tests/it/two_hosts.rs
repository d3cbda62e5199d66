//! Two hosts, each a process of its own, that push for each other through a real NATS server.

use ::comet::blocking_client::PushClient;

use crate::nats_server::NatsServer;
use crate::process::{Server, comet, with_sets};
use crate::support::{Metrics, Permit, To, try_push, two_cores, until};

/// The hosts a and b, which have discovered each other.
pub(crate) struct TwoHosts {
    pub(crate) hosts: [Server; 2],
    pub(crate) nats: NatsServer,
}

/// In the first second of a connection to NATS a ledger names `*`, as other hosts may not have announced themselves yet.
pub(crate) fn until_others_had_their_time(host: &Server) {
    let caller = PushClient::connect(&host.grpc.to_string()).unwrap();
    let settled =
        || try_push(&caller, To::All, 6, b"").is_ok_and(|ledger| ledger.unanswered.is_empty());
    until("the time in which hosts announce themselves to end", settled);
}

impl TwoHosts {
    /// `None`: `nats-server` is not installed.
    pub(crate) fn start(sets: &[&str]) -> Option<Self> {
        Self::start_each(sets, [&[], &[]])
    }

    /// With settings for each host.
    pub(crate) fn start_each(sets: &[&str], own: [&[&str]; 2]) -> Option<Self> {
        let permit = Permit::wait();
        let nats = NatsServer::start(&[])?;
        let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
        let launch = |id: &str, own: &[&str], permit: Option<Permit>| {
            let id = format!("server.id={id:?}");
            let sets = [&[&*servers, &*id], sets, own].concat();
            let cores = two_cores();
            let arguments = [&["--cores", &*cores], &*with_sets(&sets)].concat();
            Server::launch(comet(&arguments), permit)
        };
        let hosts = [launch("a", own[0], Some(permit)), launch("b", own[1], None)];
        let two = Self { hosts, nats };
        for host in 0..2 {
            two.until(host, "comet_cluster_hosts", 1);
            until_others_had_their_time(&two.hosts[host]);
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

    /// Stops the process of a host, or continues it.
    pub(crate) fn pause(&self, host: usize, is_paused: bool) {
        self.hosts[host].pause(is_paused);
    }
}
