//! The registration in discovery (`[discovery]`), on a thread of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the edge: when to ask again is a matter of time"
)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_control::{Address, CensusTaker};
use comet_discovery::{Census, Event, Instance, NodeEvent, Registration, Request, RequestReply};
use ureq::Agent;

use crate::http_client;

/// The name of the thread.
pub(crate) const THREAD: &str = "discovery";

/// Longest time of a request. A node that does not answer in it has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time, from the beginning of a drain, for which the end of the process waits for the registration to be
/// cancelled.
const END: Duration = Duration::from_secs(5);

/// Longest answer, bytes.
const BODY_MAX: u64 = 64 << 10;

/// The registration of this server. Dropping it cancels the registration, as [`Discovery::cancel`] does.
#[derive(Debug)]
pub(crate) struct Discovery {
    orders: Sender<Order>,
    /// When cancelling began.
    cancelled_at: Option<Instant>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Discovery {
    /// Registers this server until the value is dropped. Returns at once. `None`: there are no nodes.
    pub(crate) fn start(
        config: &Config,
        grpc: &[Address],
        clients: CensusTaker,
    ) -> std::io::Result<Option<Self>> {
        let nodes = config.discovery.nodes.clone();
        if nodes.is_empty() {
            return Ok(None);
        }
        let (orders, taken) = channel();
        let (ends, ended) = channel();
        let driver = Driver {
            instance: instance(config, grpc),
            nodes,
            clients,
            counted: Census::default(),
            agent: agent(TIMEOUT),
            begin: Instant::now(),
            orders: taken,
        };
        let run = move || {
            let _ends: Sender<()> = ends;
            driver.run();
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        Ok(Some(Self { orders, cancelled_at: None, ended }))
    }

    /// A function that sets whether this server is found: `false` cancels the registration, `true` registers again.
    pub(crate) fn listing(&self) -> impl Fn(bool) + Send + Sync + 'static {
        let orders = self.orders.clone();
        move |is_listed| {
            let order = if is_listed { Order::Join } else { Order::Leave };
            // Fails only if the thread has ended, together with the process.
            let _ = orders.send(order);
        }
    }

    /// Begins to take this server out of discovery. Returns at once.
    pub(crate) fn cancel(&mut self) {
        let _ = self.orders.send(Order::End);
        self.cancelled_at.get_or_insert_with(Instant::now);
    }

    /// Waits until the registration is cancelled, or no node has answered for a few seconds.
    pub(crate) fn finish(mut self) {
        self.cancel();
        let waited = self.cancelled_at.map_or(END, |at| at.elapsed());
        if self.ended.recv_timeout(END.saturating_sub(waited)) == Err(RecvTimeoutError::Timeout) {
            log::warn!("discovery: no answer to the end of the registration; it expires there");
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// An order to the thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// Keep this server registered.
    Join,
    /// Cancel the registration, and wait.
    Leave,
    /// Cancel the registration, and end.
    End,
}

/// This server, as logic and job find it. `grpc` has the addresses of its push service.
fn instance(config: &Config, grpc: &[Address]) -> Instance {
    let Config { discovery, server, .. } = config;
    let configured = discovery.grpc.iter().map(|address| format!("grpc://{address}"));
    // A Unix socket cannot be reached from elsewhere.
    let bound = grpc.iter().filter_map(|address| match address {
        Address::Plain(address) => Some(format!("grpc://{address}")),
        Address::Tls(address) => Some(format!("grpcs://{address}")),
        Address::Unix(_) => None,
    });
    let hosts = match discovery.addrs.is_empty() {
        true => vec![server.domain.clone()],
        false => discovery.addrs.clone(),
    };
    Instance {
        region: discovery.region.clone(),
        zone: discovery.zone.clone(),
        env: discovery.env.clone(),
        hostname: server.id.clone(),
        addrs: if discovery.grpc.is_empty() { bound.collect() } else { configured.collect() },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        weight: server.weight,
        hosts,
    }
}

/// An agent for requests that take at most `limit`. Nodes are in the network of this server, so no proxy is used.
pub(crate) fn agent(limit: Duration) -> Agent {
    http_client::agent(limit, |config| {
        config.timeout_resolve(Some(TIMEOUT)).timeout_connect(Some(TIMEOUT))
    })
}

struct Driver {
    instance: Instance,
    nodes: Vec<String>,
    clients: CensusTaker,
    /// The last census of the shards.
    counted: Census,
    agent: Agent,
    /// The zero of the registration's times.
    begin: Instant,
    orders: Receiver<Order>,
}

impl Driver {
    fn run(mut self) {
        let mut order = Order::Join;
        loop {
            order = match order {
                Order::Join => self.register(),
                // Nothing needs to be done until the next order.
                Order::Leave => self.orders.recv().unwrap_or(Order::End),
                Order::End => return,
            };
        }
    }

    /// Keeps this server registered until there is another order, and then cancels the registration. Returns that
    /// order.
    fn register(&mut self) -> Order {
        let mut registration = Registration::new(self.instance.clone(), self.nodes.clone());
        let mut order = Order::Join;
        while let Some(due) = registration.poll_timeout() {
            if order == Order::Join {
                let pause = due.saturating_sub(self.begin.elapsed());
                order = match self.orders.recv_timeout(pause) {
                    Ok(order) => order,
                    Err(RecvTimeoutError::Timeout) => Order::Join,
                    Err(RecvTimeoutError::Disconnected) => Order::End,
                };
                if order != Order::Join {
                    registration.cancel();
                }
            }
            self.turn(&mut registration, order == Order::Join);
        }
        order
    }

    /// Makes the request that is due, if one is.
    fn turn(&mut self, registration: &mut Registration, is_kept: bool) {
        if is_kept && let Some(census) = self.clients.take() {
            self.counted = Census { connections: census.live, addresses: census.addresses };
        }
        let now = self.begin.elapsed();
        let Some(request) = registration.poll_request(now, self.counted) else { return };
        let answer = post(&self.agent, &request);
        let has_failed = !matches!(answer, RequestReply::Done | RequestReply::NotFound);
        let events = registration.handle_answer(self.begin.elapsed(), answer);
        // Counted before it is logged, so that a reader of the log line finds the metric.
        comet_ops::count_registration(registration.is_registered(), has_failed);
        for event in events {
            say(&event);
        }
    }
}

fn post(agent: &Agent, Request { node, path, form }: &Request) -> RequestReply {
    let form = form.iter().map(|(name, value)| (*name, value.as_str()));
    let body = agent
        .post(format!("http://{node}{path}"))
        .send_form(form)
        .and_then(|mut answer| http_client::body(&mut answer, BODY_MAX));
    match body {
        Ok(body) => RequestReply::read(&body),
        Err(error) => RequestReply::Failed(http_client::explain(&error)),
    }
}

fn say(event: &Event) {
    match event {
        Event::Registered { node } => log::info!("discovery: registered at {node}"),
        Event::Forgotten { node } => {
            log::warn!("discovery: {node} does not know this server any more: registering again");
        }
        Event::Node(event) => say_of_node(event),
        Event::Cancelled { node } => log::info!("discovery: taken out at {node}"),
    }
}

pub(crate) fn say_of_node(event: &NodeEvent) {
    match event {
        NodeEvent::Fails { node, cause } => {
            log::warn!(
                "discovery: {node}: {cause}; clients and pushes go on, and the next node is asked"
            );
        }
        NodeEvent::Answers { node } => log::info!("discovery: {node} answers"),
    }
}
