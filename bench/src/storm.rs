//! A storm of connections: all of them as fast as they can be made.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::clock::now_ns;
use crate::findings::close_fault;
use crate::process::CpuUsed;
use crate::sampler::Series;
use crate::stats::Percentiles;
use crate::subject::{Place, Subject};

/// Connections made before the first look at the memory, so that what a server allocates once is not
/// charged to the connections; at most a tenth of them.
const WARM_UP: usize = 200;

/// What one storm gave. The figures are explained in [`crate::figures`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Storm {
    #[serde(flatten)]
    pub place: Place,
    connections: usize,
    elapsed_ns: u64,
    pub per_second: f64,
    handshake: Percentiles,
    cpu: Option<CpuUsed>,
    pub cpu_per_connection_ns: Option<f64>,
    bench_cpu_share: f64,
    pub rss_per_connection_bytes: Option<f64>,
    pub anonymous_per_connection_bytes: Option<f64>,
    pub idle_cpu_share: Option<f64>,
    /// From just before the first of these connections to when the server has settled.
    series: Series,
    pub closed: BTreeMap<String, u64>,
}

impl Storm {
    /// What went wrong, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.place.name_faults(close_fault(&self.closed))
    }
}

impl Subject {
    /// Makes all connections, and measures what that takes. Fails if one was refused.
    pub(crate) fn storm(&mut self) -> Result<Storm> {
        let all = self.crowd.connections;
        let bar = self.place.bar(Some(all as u64), "connecting");
        let first = WARM_UP.min(all / 10);
        self.clients.dial(0..first, &bar)?;
        self.settle()?;
        let (memory_before, before) = (self.target.gauge.memory()?, self.mark()?);
        let bench_before = self.clients.cpu()?;
        self.clients.start_series(self.target.gauge)?;
        let started_ns = now_ns();
        self.clients.dial(first..all, &bar)?;
        let elapsed_ns = now_ns() - started_ns;
        let bench = self.clients.cpu()?.since(&bench_before);
        bar.finish_and_clear();
        self.settle()?;
        let (memory_after, cpu) = (self.target.gauge.memory()?, self.since(&before)?.cpu);
        let series = self.clients.end_series()?;

        let findings = self.clients.findings(&[])?;
        let connections = all - first;
        let each = |total: f64| total / connections.max(1) as f64;
        let grown = memory_after.zip(memory_before);
        let growth = |now: u64, before: u64| each(now as f64 - before as f64);
        Ok(Storm {
            place: self.place,
            connections,
            elapsed_ns,
            per_second: connections as f64 * 1e9 / elapsed_ns.max(1) as f64,
            handshake: Percentiles::of(&findings.handshakes),
            cpu_per_connection_ns: cpu.as_ref().map(|cpu| each(cpu.total_ns as f64)),
            bench_cpu_share: bench.total_ns as f64 / elapsed_ns.max(1) as f64,
            cpu,
            rss_per_connection_bytes: grown.map(|(now, was)| growth(now.rss_bytes, was.rss_bytes)),
            anonymous_per_connection_bytes: grown
                .map(|(now, was)| growth(now.anonymous_bytes, was.anonymous_bytes)),
            idle_cpu_share: None,
            series,
            closed: findings.closed,
        })
    }
}
