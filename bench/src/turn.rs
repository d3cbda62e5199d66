//! The measurements of a subject: a turn of pushes (push, wait for every delivery, account), and a storm of connections
//! (all made as fast as possible). Both return JSON, whose figures are explained in [`crate::figures`].

use serde_json::{Value, json};

use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::stats::Percentiles;
use crate::subject::{QUIET_NS, Subject};

/// How long to wait after the last delivery for messages that should not arrive: duplicates.
const AFTERMATH_NS: u64 = 200 * MILLISECOND_NS;
/// Connections made before the memory is first read, so that what a server allocates only once is not charged to the
/// connections; at most a tenth of them.
const WARM_UP: usize = 200;

impl Subject {
    /// Connects all members and runs a turn; there must be no connections before.
    pub(crate) fn only_turn(&mut self, plan: Plan) -> Result<Value> {
        self.connect()?;
        let memory = self.target.gauge.memory()?;
        let mut turn = self.turn(plan, AFTERMATH_NS)?;
        turn["memory"] = json!(memory);
        Ok(turn)
    }

    /// The turn itself, with all connections made: pushes according to `plan`, waits for the deliveries and then
    /// `aftermath_ns` for messages that should not arrive.
    pub(crate) fn turn(&mut self, plan: Plan, aftermath_ns: u64) -> Result<Value> {
        self.restart(plan.run, plan.size, false)?;
        let bar = self.place.bar(plan.expected(), "delivering");
        let before = self.mark()?;
        self.clients.start_series(self.target.gauge)?;
        let sent = self.push(plan, &bar, |_| Ok(()))?;
        let pushed_ns = now_ns();
        while self.clients.received() + sent.dropped() < sent.deliveries
            && now_ns() <= self.clients.received_ns().max(pushed_ns) + QUIET_NS
        {
            self.look(&bar)?;
        }
        let last_ns = self.clients.received_ns();
        let series = self.clients.end_series()?;
        let cpu = self.since(&before)?.cpu;
        bar.finish_and_clear();
        self.wait(aftermath_ns)?;

        let findings = self.clients.findings(std::slice::from_ref(&sent.messages))?;
        let deliveries = findings.deliveries;
        let each = |ns: u64| ns as f64 / deliveries.received.max(1) as f64;
        let mut faults = deliveries.faults(sent.dropped());
        faults.extend(close_fault(&findings.closed));
        faults.extend(sent.refusal());
        if !self.has_receivers {
            faults.clear();
        }
        Ok(json!({
            "subject": self.place.subject,
            "round": self.place.round,
            "deliveries": deliveries,
            "received_bytes": findings.received_bytes,
            "elapsed_ns": last_ns.saturating_sub(sent.started_ns),
            "sent": sent,
            "cpu_per_delivery_ns": cpu.as_ref().map(|cpu| each(cpu.total_ns)),
            "data_cpu_per_delivery_ns": cpu.as_ref().map(|cpu| each(cpu.data_ns)),
            // From when the first push was due to the last delivery, like the time.
            "cpu": cpu,
            "latency": Percentiles::of(&findings.latencies),
            // From just before the first push to the last delivery.
            "series": series,
            "closed": findings.closed,
            "faults": self.place.name_faults(faults),
        }))
    }

    /// Makes all connections, and measures how long that takes, and their cost in `hold_s` seconds in which they are
    /// idle. Fails if one was refused.
    pub(crate) fn storm(&mut self, hold_s: Option<f64>) -> Result<Value> {
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
        let idle_cpu_share = hold_s.map(|seconds| self.idle_share(seconds)).transpose()?.flatten();

        let findings = self.clients.findings(&[])?;
        let connections = all - first;
        let each = |total: f64| total / connections.max(1) as f64;
        let grown = memory_after.zip(memory_before);
        let growth = |now: u64, before: u64| each(now as f64 - before as f64);
        Ok(json!({
            "subject": self.place.subject,
            "round": self.place.round,
            "connections": connections,
            "elapsed_ns": elapsed_ns,
            "per_second": connections as f64 * 1e9 / elapsed_ns.max(1) as f64,
            "handshake": Percentiles::of(&findings.handshakes),
            "cpu_per_connection_ns": cpu.as_ref().map(|cpu| each(cpu.total_ns as f64)),
            "bench_cpu_share": bench.total_ns as f64 / elapsed_ns.max(1) as f64,
            "cpu": cpu,
            "rss_per_connection_bytes": grown.map(|(now, was)| growth(now.rss_bytes, was.rss_bytes)),
            "anonymous_per_connection_bytes":
                grown.map(|(now, was)| growth(now.anonymous_bytes, was.anonymous_bytes)),
            "idle_cpu_share": idle_cpu_share,
            // From just before the first of these connections until the server has settled.
            "series": series,
            "closed": findings.closed,
            "faults": self.place.name_faults(close_fault(&findings.closed)),
        }))
    }
}
