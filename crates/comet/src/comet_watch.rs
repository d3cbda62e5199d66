//! The comets of `comet logic` that are registered in discovery (`[discovery]`), polled on a thread of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the edge: when to ask again is a matter of time"
)]

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_discovery::{PollReply, RegisteredComet, Request, Watch, WatchEvent};
use comet_logicd::{ApiTls, CometOptions, DiscoveredComets};
use comet_serve::root_cause;
use ureq::Agent;

use crate::discovery::{THREAD, TIMEOUT, agent, say_of_node};
use crate::http_client;

/// Longest time of a poll: a node answers after 30 s if nothing changes.
const POLL_TIMEOUT: Duration = Duration::from_secs(30).saturating_add(TIMEOUT);

/// Longest answer, bytes: a thousand comets with long names.
const BODY_MAX: u64 = 4 << 20;

/// Longest server id, bytes, as comets may have.
const ID_MAX: usize = 255;

/// The heaviest weight of a comet, as `logic_server.nodes` has it.
const WEIGHT_MAX: u32 = 10_000;

/// Begins to look for comets, until `comet logic` ends. Returns at once; without nodes nothing happens.
pub(crate) fn start(
    config: &Config,
    tls: ApiTls,
    discovered: DiscoveredComets,
) -> std::io::Result<()> {
    let nodes = config.discovery.nodes.clone();
    if nodes.is_empty() {
        return Ok(());
    }
    let watch = Watch::new(config.discovery.env.clone(), config.server.id.clone(), nodes);
    let (unused, begin) = (BTreeSet::new(), Instant::now());
    let driver = Driver { watch, tls, discovered, unused, begin };
    thread::Builder::new().name(THREAD.to_owned()).spawn(move || driver.run())?;
    Ok(())
}

struct Driver {
    watch: Watch,
    tls: ApiTls,
    discovered: DiscoveredComets,
    /// Names of comets that cannot be called and were logged.
    unused: BTreeSet<String>,
    /// The zero of the watch's times.
    begin: Instant,
}

impl Driver {
    fn run(mut self) {
        let agent = agent(POLL_TIMEOUT);
        while self.discovered.is_wanted() {
            match self.watch.poll_request(self.begin.elapsed()) {
                Some(request) => self.handle(poll(&agent, request)),
                None => {
                    let pause = self.watch.poll_timeout().saturating_sub(self.begin.elapsed());
                    thread::sleep(pause);
                }
            }
        }
    }

    fn handle(&mut self, reply: PollReply) {
        comet_ops::count_poll(!matches!(reply, PollReply::Failed(_)));
        for event in self.watch.handle_answer(self.begin.elapsed(), reply) {
            match event {
                WatchEvent::Comets(found) => {
                    log::info!("discovery: {} comets are registered", found.len());
                    let comets = self.comets(&found);
                    self.discovered.set(comets);
                }
                WatchEvent::NoInstances => log::warn!(
                    "discovery: no comet is registered; pushes go on to those that are known"
                ),
                WatchEvent::Node(event) => say_of_node(&event),
            }
        }
    }

    /// The comets that can be called. One that cannot is logged once.
    fn comets(&mut self, found: &[RegisteredComet]) -> Vec<CometOptions> {
        let said = std::mem::take(&mut self.unused);
        let mut comets = Vec::new();
        for found in found {
            match comet(found, &self.tls) {
                Ok(comet) => comets.push(comet),
                Err(error) => {
                    if !said.contains(&found.hostname) {
                        let name: String = found.hostname.chars().take(ID_MAX).collect();
                        log::warn!("discovery: comet {name:?} is not used: {error}");
                    }
                    self.unused.insert(found.hostname.clone());
                }
            }
        }
        comets
    }
}

fn poll(agent: &Agent, Request { node, path, form }: Request) -> PollReply {
    let body = agent
        .get(format!("http://{node}{path}"))
        .query_pairs(form)
        .call()
        .and_then(|mut answer| http_client::body(&mut answer, BODY_MAX));
    match body {
        Ok(body) => PollReply::read(&body),
        Err(error) => PollReply::Failed(http_client::explain(&error)),
    }
}

/// The comet with its address for pushes.
///
/// # Errors
/// Why it cannot be called, as a sentence.
fn comet(found: &RegisteredComet, tls: &ApiTls) -> Result<CometOptions, String> {
    let RegisteredComet { hostname, addrs, weight, hosts, is_offline } = found;
    if !(1..=ID_MAX).contains(&hostname.len()) {
        return Err(format!("its name has {} bytes: 1 to {ID_MAX}", hostname.len()));
    }
    let address = addrs.iter().find_map(|address| peer_address(address));
    let address = address.ok_or_else(|| format!("grpc://HOST:PORT is not among {addrs:?}"))?;
    let comet = CometOptions::new(hostname, &address, tls)
        .map_err(|error| format!("{address:?}: {}", root_cause(error.error.as_ref())))?;
    let comet = match hosts.is_empty() {
        true => comet,
        false => comet.for_clients(hosts.clone(), (*weight).min(WEIGHT_MAX)),
    };
    Ok(if *is_offline { comet.offline() } else { comet })
}

/// `grpc://HOST:PORT` or `grpcs://HOST:PORT` in the form of a peer.
fn peer_address(address: &str) -> Option<String> {
    let (prefix, place) = match address.strip_prefix("grpc://") {
        Some(place) => ("", place),
        None => ("tls:", address.strip_prefix("grpcs://")?),
    };
    let (host, port) = place.rsplit_once(':')?;
    let is_place = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_place.then(|| format!("{prefix}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comets_that_can_be_called_are_used() {
        let check = |hostname: &str, addrs: &[&str], expected: Option<&str>| {
            let found = RegisteredComet {
                hostname: hostname.to_owned(),
                addrs: addrs.iter().map(|&address| address.to_owned()).collect(),
                weight: 1,
                hosts: Vec::new(),
                is_offline: false,
            };
            let comet = comet(&found, &ApiTls::default());
            assert_eq!(comet.as_ref().ok().map(CometOptions::address), expected, "{comet:?}");
        };
        check("a", &["grpc://192.0.2.1:8083"], Some("192.0.2.1:8083"));
        check("a", &["http://h:1", "grpc://[2001:db8::1]:8083"], Some("[2001:db8::1]:8083"));
        check("a", &["grpcs://comet.example:8083"], Some("tls:comet.example:8083"));
        check("", &["grpc://192.0.2.1:8083"], None);
        check(&"a".repeat(256), &["grpc://192.0.2.1:8083"], None);
        for bad in ["", "192.0.2.1:8083", "grpc://h", "grpc://:1", "grpc://h:0", "grpc://h:1/x"] {
            check("a", &[bad], None);
        }
        check("a", &["grpc://a b:1"], None);
        check("a", &[], None);
    }
}
