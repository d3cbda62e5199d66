//! A turn of pushes: push, wait for every delivery, account.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::accounting::Deliveries;
use crate::clients::Clients;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::process::{CpuUsed, Memory};
use crate::sampler::Series;
use crate::sender::Sent;
use crate::stats::Percentiles;
use crate::subject::{Place, QUIET_NS, Subject};
use crate::target::Target;

/// After the last delivery, so long for what should not come: duplicates.
pub(crate) const AFTERMATH_NS: u64 = 200 * MILLISECOND_NS;

/// What one turn gave. The figures are explained in [`crate::figures`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    #[serde(flatten)]
    pub place: Place,
    pub deliveries: Deliveries,
    pub sent: Sent,
    pub elapsed_ns: u64,
    /// From when the first push was due to the last delivery, as the time is.
    pub cpu: Option<CpuUsed>,
    pub cpu_per_delivery_ns: Option<f64>,
    pub data_cpu_per_delivery_ns: Option<f64>,
    /// Memory of the server with all connections idle.
    pub memory: Option<Memory>,
    pub latency: Percentiles,
    /// From just before the first push to the last delivery.
    pub series: Series,
    pub closed: BTreeMap<String, u64>,
}

impl Turn {
    /// CPU time of all threads, and of the data cores alone, for each of `count`.
    pub(crate) fn cpu_for_each(&self, count: u64) -> Option<(f64, f64)> {
        let each = |ns: u64| ns as f64 / count.max(1) as f64;
        self.cpu.as_ref().map(|cpu| (each(cpu.total_ns), each(cpu.data_ns)))
    }

    /// Deliveries a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.deliveries.received as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }

    /// What went wrong, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.deliveries.faults(self.sent.dropped());
        faults.extend(close_fault(&self.closed));
        faults.extend(self.sent.refusal());
        self.place.name_faults(faults)
    }
}

impl Subject {
    /// Connects the first `count` members and takes a turn, for which no connections are there before.
    pub(crate) fn only_turn(&mut self, count: usize, plan: Plan) -> Result<Turn> {
        self.connect(count)?;
        let memory = self.target.gauge.memory()?;
        Ok(Turn { memory, ..self.turn(plan, AFTERMATH_NS)? })
    }

    /// The turn itself, with all connections made: pushes as `plan` says, waits for what it becomes and then
    /// `aftermath_ns` for what should not come.
    pub(crate) fn turn(&mut self, plan: Plan, aftermath_ns: u64) -> Result<Turn> {
        self.restart(&plan)?;
        let bar = self.place.bar(plan.expected(), "delivering");
        let before = self.mark()?;
        self.clients.start_series(self.target.gauge)?;
        let mut arrived = Arrivals { count: 0, last_ns: now_ns() };
        let sent = self.push(plan, &bar, |clients, target| arrived.look(clients, target))?;
        let pushed_ns = now_ns();
        while arrived.count + sent.dropped() < sent.deliveries
            && now_ns() <= arrived.last_ns.max(pushed_ns) + QUIET_NS
        {
            self.clients.turn(20 * MILLISECOND_NS)?;
            arrived.look(&self.clients, &mut self.target)?;
            bar.set_position(arrived.count);
        }
        let series = self.clients.end_series()?;
        let cpu = self.since(&before)?.cpu;
        bar.finish_and_clear();
        self.wait(aftermath_ns)?;

        let findings = self.clients.findings(std::slice::from_ref(&sent.messages))?;
        let deliveries = findings.deliveries;
        let mut turn = Turn {
            place: self.place,
            deliveries,
            elapsed_ns: arrived.last_ns.saturating_sub(sent.started_ns),
            sent,
            cpu_per_delivery_ns: None,
            data_cpu_per_delivery_ns: None,
            cpu,
            memory: None,
            latency: Percentiles::of(&findings.latencies),
            series,
            closed: findings.closed,
        };
        (turn.cpu_per_delivery_ns, turn.data_cpu_per_delivery_ns) =
            turn.cpu_for_each(deliveries.received).unzip();
        Ok(turn)
    }
}

/// The deliveries of a turn so far.
struct Arrivals {
    count: u64,
    /// When the last one came, as far as it was looked.
    last_ns: u64,
}

impl Arrivals {
    /// Looks whether there are more. Fails if there are not and the target has ended, which would be waited for
    /// until all is pushed.
    fn look(&mut self, clients: &Clients, target: &mut Target) -> Result<()> {
        if clients.received() == self.count {
            return target.ensure_runs();
        }
        (self.count, self.last_ns) = (clients.received(), now_ns());
        Ok(())
    }
}
