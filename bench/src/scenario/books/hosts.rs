//! Three comets, their NATS server, and their clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir, tempfile};

use super::client::{self, Member, Shared};
use super::record::{Diary, VICTIM};
use crate::Result;
use crate::args::BooksArgs;
use crate::nats::NatsServer;
use crate::scenario::cluster::hosts::{metric, until};
use crate::scrape::http_get;
use crate::target::Target;

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];
/// Counters of pushes that a host did not make, or did not make to all clients.
const LOSSES: [&str; 8] = [
    "comet_cluster_dropped_total",
    "comet_cluster_invalid_total",
    "comet_cluster_not_published_total",
    "comet_cluster_refused_total",
    "comet_cluster_stream_lost_total",
    "comet_cluster_unreported_total",
    "comet_dropped_total",
    "comet_lost_total",
];

/// The hosts end when it is dropped.
pub(super) struct Hosts {
    targets: Vec<Option<Target>>,
    pub nats: NatsServer,
    pub shared: Arc<Shared>,
    pub members: Vec<Member>,
    readers: Vec<JoinHandle<Diary>>,
    _store: TempDir,
}

impl Hosts {
    /// Starts them. Fails if one does not start, or they do not find each other and all clients.
    pub(super) fn start(args: &BooksArgs, members: &[Member]) -> Result<Self> {
        let store = tempdir()?;
        let folder = store.path().to_str().ok_or("the folder of temporary files has no UTF-8")?;
        let arguments = ["--jetstream", "--store_dir", folder];
        let nats = NatsServer::start_with(&args.nats, &args.host.server_core, &arguments)?;
        let shared = Shared {
            hosts: Mutex::new(vec![None; NAMES.len()]),
            is_settled: AtomicBool::new(true),
            is_stalled: AtomicBool::new(false),
            is_late_time: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            ends: members.iter().map(|_| AtomicU8::new(0)).collect(),
            ready: members.iter().map(|_| AtomicBool::new(false)).collect(),
        };
        let mut hosts = Self {
            targets: Vec::new(),
            nats,
            shared: Arc::new(shared),
            members: members.to_vec(),
            readers: Vec::new(),
            _store: store,
        };
        for host in 0..NAMES.len() {
            let target = hosts.launch(host, args)?;
            hosts.targets.push(Some(target));
        }
        let others = NAMES.len() as u64 - 1;
        for target in hosts.targets.iter().flatten() {
            until("the hosts find each other", || {
                Ok(metric(target, "comet_cluster_hosts")? == others
                    && metric(target, "comet_cluster_stream_hosts")? == others + 1
                    && metric(target, "comet_cluster_stream_is_read")? == 1)
            })?;
        }
        for (host, target) in hosts.targets.iter().enumerate() {
            hosts.publish(host, target.as_ref());
        }
        let start = |member: &Member| client::start(*member, Arc::clone(&hosts.shared));
        hosts.readers = members.iter().map(start).collect();
        until("all clients are connected", || {
            Ok(hosts.shared.ready.iter().all(|is_ready| is_ready.load(SeqCst)))
        })?;
        Ok(hosts)
    }

    fn launch(&self, host: usize, args: &BooksArgs) -> Result<Target> {
        let settings = [
            format!("nats.servers=[\"nats://{}\"]", self.nats.address),
            format!("server.id={:?}", NAMES[host]),
            "nats.history=\"jetstream\"".to_owned(),
            "history.rules=[{rooms=\"history://\", pushes=5000, bytes=\"1MiB\"}]".to_owned(),
            // How long a call waits for a host that was killed.
            "push.timeout=\"1s\"".to_owned(),
            // A client that does not read must miss something.
            "tcp.sndbuf=16384".to_owned(),
            // It must stay connected, even if the bench gets no CPU for a while.
            "protocol.write_timeout=\"1h\"".to_owned(),
        ];
        let flags: Vec<_> =
            settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect();
        Target::start(&args.server, &args.host, &flags, tempfile()?)
    }

    /// Tells clients the address of a host.
    fn publish(&self, host: usize, target: Option<&Target>) {
        let mut hosts = self.shared.hosts.lock().expect("nobody panics with it");
        hosts[host] = target.map(|target| target.endpoints.tcp);
    }

    /// The push APIs that are called, with the numbers of their hosts.
    pub(super) fn push_apis(&self) -> Vec<(usize, String)> {
        let api = |(host, target): (usize, &Option<Target>)| {
            Some((host, target.as_ref()?.grpc.clone()?)).filter(|_| host != VICTIM)
        };
        self.targets.iter().enumerate().filter_map(api).collect()
    }

    pub(super) fn kill_victim(&mut self) {
        self.targets[VICTIM] = None;
        self.publish(VICTIM, None);
    }

    /// Starts the killed host again. Some clients connect at once, the others once it has read the stream. Fails if it
    /// does not start.
    pub(super) fn start_victim(&mut self, args: &BooksArgs) -> Result<()> {
        self.shared.is_settled.store(false, SeqCst);
        let target = self.launch(VICTIM, args)?;
        self.publish(VICTIM, Some(&target));
        until("the host has read the stream", || {
            Ok(metric(&target, "comet_cluster_stream_is_read")? == 1)
        })?;
        self.shared.is_settled.store(true, SeqCst);
        self.targets[VICTIM] = Some(target);
        Ok(())
    }

    /// Whether all clients have received the pushes that mark the end of the run.
    pub(super) fn has_ended(&self) -> bool {
        self.members.iter().all(|member| {
            let all = member.kinds().fold(0, |bits, kind| bits | 1 << kind as u8);
            self.shared.ends[member.number].load(SeqCst) == all
        })
    }

    /// The counts of lost pushes at the running hosts, as text and for machines.
    pub(super) fn counters(&self) -> Result<(String, Value)> {
        let (mut text, mut all) = (String::new(), BTreeMap::new());
        for (name, target) in NAMES.iter().zip(&self.targets) {
            let Some(stat) = target.as_ref().and_then(|target| target.stat) else { continue };
            let page = http_get(stat, "/metrics")?;
            let counters =
                page.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(sample, value)| {
                    let family = sample.split_once('{').map_or(*sample, |(family, _)| family);
                    LOSSES.contains(&family) && *value != "0"
                });
            let counters: BTreeMap<_, _> =
                counters.map(|(sample, value)| (sample.to_owned(), value.to_owned())).collect();
            for (sample, value) in &counters {
                text.push_str(&format!("host {name}: {sample} {value}\n"));
            }
            all.insert(*name, counters);
        }
        Ok((text, json!(all)))
    }

    /// Ends the clients; returns the records of each.
    pub(super) fn end(self) -> Vec<Diary> {
        self.shared.is_over.store(true, SeqCst);
        let joined = self.readers.into_iter().map(JoinHandle::join);
        joined.map(|diary| diary.expect("clients do not panic")).collect()
    }
}
