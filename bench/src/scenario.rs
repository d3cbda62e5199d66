//! The measurements.

pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod day;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod raw;
pub(crate) mod readers;
pub(crate) mod targets;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::args::HostArgs;
use crate::awake;
use crate::clock::now_ns;
use crate::findings::{Findings, close_fault};
use crate::process::Memory;
use crate::sender::Sent;

/// Connections made before the first look at the memory, so that what a server allocates once is not
/// charged to the connections; at most a tenth of them.
const WARM_UP: usize = 200;

/// What a server's figures stand under in results, whichever server it is.
const COMET: &str = "comet";

/// Memory of one connection: what the server grew by, divided.
#[derive(Clone, Copy, Debug, Serialize)]
struct Growth {
    rss_per_connection_bytes: f64,
    /// The private part of it.
    anonymous_per_connection_bytes: f64,
}

impl Growth {
    fn between(before: Option<Memory>, after: Option<Memory>, connections: usize) -> Option<Self> {
        let (before, after) = before.zip(after)?;
        let each = |now: u64, then: u64| (now as f64 - then as f64) / connections.max(1) as f64;
        Some(Self {
            rss_per_connection_bytes: each(after.rss_bytes, before.rss_bytes),
            anonymous_per_connection_bytes: each(after.anonymous_bytes, before.anonymous_bytes),
        })
    }
}

/// What a server has owned to not delivering, by reason, in messages; `batch` of them are one push.
fn dropped_by_reason<'a>(
    sent: impl IntoIterator<Item = &'a Sent>,
    batch: u64,
) -> BTreeMap<String, u64> {
    let mut dropped = BTreeMap::new();
    for (reason, count) in sent.into_iter().flat_map(|sent| &sent.answers.ledger.dropped) {
        *dropped.entry(reason.clone()).or_default() += count * batch;
    }
    dropped
}

/// Of what a server has owned to not delivering, what members or guests who stay may miss.
fn dropped_of_present(dropped: &BTreeMap<String, u64>) -> u64 {
    // These befall only connections that are coming or going.
    let is_present = |reason: &str| !["closing", "not_ready"].contains(&reason);
    dropped.iter().filter(|(reason, _)| is_present(reason)).map(|(_, count)| count).sum()
}

/// What is wrong with deliveries to members and guests, in words: where guests come and go, the server may
/// have dropped more than anybody here can miss, but not less.
fn faults_beside_guests(findings: &Findings, dropped: &BTreeMap<String, u64>) -> Vec<String> {
    let (lost, dropped) = (findings.lost(), dropped_of_present(dropped));
    let mut faults = findings.deliveries.faults(findings.deliveries.lost);
    faults.extend(findings.visits.faults());
    faults.extend(close_fault(&findings.closed));
    if lost > dropped {
        faults.push(format!("{lost} deliveries lost, where the server owned to {dropped}"));
    }
    faults
}

/// The words of the first push that was refused.
fn refusal(sent: &Sent) -> Option<String> {
    let answers = &sent.answers;
    Some(format!("{} pushes refused: {}", answers.refused, answers.refusal.as_ref()?))
}

/// Pins the bench, and keeps the CPUs awake if that is asked for; children are started with CPUs of their own.
///
/// # Errors
///
/// The host has no such CPU, or lets nobody keep it awake.
fn pin(host: &HostArgs) -> Result<()> {
    let cpus = &host.bench_core;
    cpus.pin().map_err(|error| format!("cannot run on CPU {cpus}: {error}"))?;
    if host.awake {
        awake::stay_awake()
            .map_err(|error| format!("--awake: {}: {error}", awake::IDLE_CONTROL))?;
    }
    Ok(())
}

/// A number that tells the messages of one turn from those of any other.
fn run_id() -> u32 {
    // Low bits of the time in microseconds: turns are seconds apart.
    (now_ns() / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_at_those_who_come_and_go_explain_nothing() {
        let dropped = [("outbox_full", 2), ("filtered", 1), ("closing", 4), ("not_ready", 8)];
        let dropped = dropped.map(|(reason, count)| (reason.to_owned(), count)).into();
        assert_eq!(dropped_of_present(&dropped), 3);
        let mut findings = Findings::default();
        findings.visits.lost = 3;
        assert_eq!(faults_beside_guests(&findings, &dropped), [""; 0]);
        findings.visits.lost = 4;
        assert_eq!(faults_beside_guests(&findings, &dropped).len(), 1);
    }
}
