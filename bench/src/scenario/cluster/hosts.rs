//! Comets that push for each other through a NATS server, and their clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet_client::{Client, Options};
use tempfile::tempfile;

use crate::Result;
use crate::args::ClusterArgs;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::message::Stamp;
use crate::nats::{NatsClient, NatsServer};
use crate::scrape::http_get;
use crate::stats::Latencies;
use crate::target::Target;

/// The room that hosts `a` and `b` have members of.
pub(super) const ROOM: &str = "live://1";
/// How long something expected may take, and the time between two checks.
const PATIENCE_NS: u64 = 15 * SECOND_NS;
const LOOK_NS: u64 = 20 * MILLISECOND_NS;
/// A reader that receives nothing for this long checks whether it should end.
const QUIET: Duration = Duration::from_millis(100);

/// NATS and comets: `a` and `b` have one client each, in the same room; `c`, which joins later, has none.
pub(super) struct Hosts {
    pub targets: Vec<Target>,
    pub nats: NatsServer,
}

impl Hosts {
    /// Starts them. Fails if one does not start, or they do not find each other.
    pub(super) fn start(args: &ClusterArgs) -> Result<Self> {
        let nats = NatsServer::start(&args.nats, &args.host.server_core)?;
        let mut hosts = Self { targets: Vec::new(), nats };
        hosts.add("a", args)?;
        hosts.add("b", args)?;
        Ok(hosts)
    }

    /// Adds a host. Returns when all know each other.
    pub(super) fn add(&mut self, id: &str, args: &ClusterArgs) -> Result<()> {
        let settings = [
            format!("nats.servers=[\"nats://{}\"]", self.nats.address),
            format!("server.id={id:?}"),
            // Room for a flood.
            "protocol.svr_proto=4096".to_owned(),
        ];
        let flags: Vec<_> =
            settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect();
        self.targets.push(Target::start(&args.server, &args.host, &flags, tempfile()?)?);
        let others = self.targets.len() as u64 - 1;
        for target in &self.targets {
            until("the hosts find each other", || {
                Ok(metric(target, "comet_cluster_hosts")? == others)
            })?;
        }
        Ok(())
    }

    /// The counts of pushes from other hosts that reached no client, by reason. Waits for the end of all calls, since
    /// the last of them may still be refused.
    pub(super) fn losses(&self) -> Result<Losses> {
        let mut losses = Losses::new();
        for target in &self.targets {
            let mut page = String::new();
            until("all cores answer, and no call is under way", || {
                page = http_get(stat(target), "/metrics")?;
                // The samples of a core that did not answer are missing.
                let is_silent =
                    |line: &str| line.starts_with("comet_core_answers{") && line.ends_with(" 0");
                let is_idle = page.lines().any(|line| line == "comet_calls_under_way 0");
                Ok(is_idle && !page.lines().any(is_silent))
            })?;
            add_losses(&page, &mut losses)?;
        }
        Ok(losses)
    }
}

/// Numbers by their name and labels.
pub(super) type Losses = BTreeMap<String, u64>;

/// Metrics that count pushes from other hosts that reached no client: on the way from NATS, at the cores, and at the
/// client.
const LOSSES: [&str; 3] =
    ["comet_cluster_dropped_total", "comet_cluster_refused_total", "comet_dropped_total"];

fn add_losses(page: &str, losses: &mut Losses) -> Result<()> {
    for (sample, value) in page.lines().filter_map(|line| line.rsplit_once(' ')) {
        let family = sample.split_once('{').map_or(sample, |(family, _)| family);
        if LOSSES.contains(&family) {
            *losses.entry(sample.to_owned()).or_default() += value.parse::<u64>()?;
        }
    }
    Ok(())
}

/// Checks repeatedly until it is true.
pub(in crate::scenario) fn until(
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline_ns = now_ns() + PATIENCE_NS;
    while !is_so()? {
        if now_ns() > deadline_ns {
            return Err(format!("in vain was it waited for: {what}").into());
        }
        sleep_until(now_ns() + LOOK_NS);
    }
    Ok(())
}

/// The value of a metric without labels.
pub(in crate::scenario) fn metric(target: &Target, name: &str) -> Result<u64> {
    let page = http_get(stat(target), "/metrics")?;
    let value =
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| format!("the server has no metric {name}").into())
}

fn stat(target: &Target) -> SocketAddr {
    target.stat.expect("a server that was started has metrics")
}

/// What a reader received in one run.
#[derive(Clone, Default)]
pub(super) struct Received {
    run: u32,
    pub messages: u64,
    /// Messages that were not the next expected one.
    pub out_of_order: u64,
    pub latencies: Latencies,
    /// Messages that belong to no run: they show that the path is open.
    pub probes: u64,
    is_over: bool,
}

/// A thread that reads messages.
pub(super) struct Reader {
    received: Arc<Mutex<Received>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// A client of the target, with this key. Fails if it is refused.
    pub(super) fn of_client(target: &Target, user: u32, key: &str) -> Result<Self> {
        let token =
            format!("{{\"mid\":{user},\"key\":{key:?},\"room_id\":{ROOM:?},\"accepts\":[1000]}}");
        let mut client: Client = Options::tcp(target.endpoints.tcp.to_string(), token).connect()?;
        Ok(Self::start(move || match client.receive_timeout(QUIET) {
            Ok(message) => Some(message.map(|message| message.body)),
            Err(_) => None,
        }))
    }

    /// A bare subscription at NATS.
    pub(super) fn of_nats(mut client: NatsClient) -> Self {
        Self::start(move || client.receive().ok())
    }

    /// If `next` returns `None`, there are no more messages.
    fn start(mut next: impl FnMut() -> Option<Option<Vec<u8>>> + Send + 'static) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let shared = Arc::clone(&received);
        let thread = thread::spawn(move || {
            while let Some(body) = next() {
                let at_ns = now_ns();
                let mut received = shared.lock().expect("nobody panics with it");
                if let Some(body) = body {
                    received.take(&body, at_ns);
                }
                if received.is_over {
                    break;
                }
            }
        });
        Self { received, thread: Some(thread) }
    }

    /// From now on messages are expected to be of `run`.
    pub(super) fn restart(&self, run: u32) {
        *self.lock() = Received { run, ..Received::default() };
    }

    pub(super) fn received(&self) -> Received {
        self.lock().clone()
    }

    /// Waits until `count` messages have arrived, or no more arrive.
    pub(super) fn await_messages(&self, count: u64) -> Received {
        let (mut last, mut quiet_since_ns) = (0, now_ns());
        loop {
            let messages = self.lock().messages;
            if messages != last {
                (last, quiet_since_ns) = (messages, now_ns());
            }
            if messages >= count || now_ns() > quiet_since_ns + 5 * SECOND_NS {
                return self.received();
            }
            sleep_until(now_ns() + LOOK_NS);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Received> {
        self.received.lock().expect("nobody panics with it")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.lock().is_over = true;
        // The message of a panic is on the terminal already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Received {
    fn take(&mut self, body: &[u8], at_ns: u64) {
        let Some(stamp) = Stamp::decode(body, self.run) else {
            self.probes += 1;
            return;
        };
        self.out_of_order += u64::from(stamp.sequence != self.messages);
        self.messages += 1;
        let due_ns = stamp.intended_ns.unwrap_or(at_ns);
        self.latencies.saturating_record(at_ns.saturating_sub(due_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_and_without_labels_are_losses() {
        let page = "# HELP comet_dropped_total Deliveries not made, by reason.\n\
                    comet_dropped_total{reason=\"outbox_full\"} 3\n\
                    comet_cluster_refused_total 4\n\
                    comet_cluster_refused_total_of_others 5\n";
        let mut losses = Losses::new();
        for _ in 0..2 {
            add_losses(page, &mut losses).unwrap();
        }
        let expected = [
            ("comet_cluster_refused_total", 8),
            ("comet_dropped_total{reason=\"outbox_full\"}", 6),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(losses, Losses::from(expected));
    }
}
