//! One turn of a measurement: connect, settle, push, wait for every delivery, account.

use std::sync::Arc;

use indicatif::ProgressBar;
use serde::Serialize;

use crate::Result;
use crate::accounting::Deliveries;
use crate::args::DialArgs;
use crate::clients::Order;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crew::{Brief, Crew};
use crate::crowd::Crowd;
use crate::findings::{Findings, close_fault};
use crate::outlet::Sink;
use crate::process::{CpuUsed, Memory};
use crate::report::progress_bar;
use crate::sampler::Series;
use crate::sender::{self, Plan, Progress, Sent};
use crate::stats::Percentiles;
use crate::target::Target;
use crate::yardstick::Feed;

/// After this long without any delivery, what has not come is lost.
pub(crate) const QUIET_NS: u64 = 5 * SECOND_NS;
/// After the last delivery, so long for what should not come: duplicates.
const AFTERMATH_NS: u64 = 200 * MILLISECOND_NS;
/// A server has settled once it uses less than this share of one CPU for so long.
const SETTLED_SHARE: f64 = 0.03;
const SETTLED_NS: u64 = 100 * MILLISECOND_NS;
/// It is measured as it is where it does not settle in this time.
const SETTLING_NS_MAX: u64 = 10 * SECOND_NS;

/// What one turn gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    /// What was measured: `comet`, `ring`, `send`.
    pub subject: &'static str,
    /// From 1.
    pub round: u32,
    pub deliveries: Deliveries,
    pub sent: Sent,
    /// Time from when the first push was due to the last delivery.
    pub elapsed_ns: u64,
    /// CPU time of the server in that time.
    pub cpu: Option<CpuUsed>,
    /// CPU time of all its threads for one delivery.
    pub cpu_per_delivery_ns: Option<f64>,
    /// CPU time of its data cores for one delivery.
    pub data_cpu_per_delivery_ns: Option<f64>,
    /// Memory of the server with all connections idle.
    pub memory: Option<Memory>,
    /// From the time a push was due to its delivery.
    pub latency: Percentiles,
    /// From just before the first push to the last delivery.
    pub series: Series,
    /// Connections that the server closed, by reason.
    pub closed: std::collections::BTreeMap<String, u64>,
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

    /// Deliveries for a second of the data cores' CPU time: what one data core makes that is never idle.
    pub(crate) fn per_core_second(&self) -> Option<f64> {
        self.data_cpu_per_delivery_ns.map(|ns| 1e9 / ns)
    }

    /// What went wrong, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.deliveries.faults(self.sent.dropped);
        faults.extend(close_fault(&self.closed));
        if let Some(words) = &self.sent.answers.refusal {
            faults.push(format!("{} pushes refused: {words}", self.sent.answers.refused));
        }
        for fault in &mut faults {
            *fault = format!("{}, round {}: {fault}", self.subject, self.round);
        }
        faults
    }
}

/// Which turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub subject: &'static str,
    pub round: u32,
}

/// Takes a turn: connects `crowd` to `target`, pushes `plan` into `sink`, and closes everything.
///
/// # Errors
///
/// The connections could not be made, or the target ended. Lost deliveries are a result.
pub(crate) fn measure(
    place: Place,
    target: &mut Target,
    sink: Sink,
    plan: Plan,
    crowd: &Crowd,
    dial: &DialArgs,
) -> Result<Turn> {
    let progress = Arc::new(Progress::default());
    let brief =
        Brief { run: plan.run, operation: plan.operation, size: plan.size, slow_buffer: None };
    let mut crew = Crew::gather(brief, target, crowd, dial, Arc::clone(&progress))?;
    let label = format!("{} {}: connecting", place.subject, place.round);
    let bar = progress_bar(Some(crowd.connections as u64), &label);
    crew.dial(0..crowd.connections, &bar)?;
    bar.finish_and_clear();
    settle(&mut crew, target)?;
    let memory = target.memory()?;

    let (turn, _feed) = take_turn(place, target, &mut crew, progress, (plan, sink), AFTERMATH_NS)?;
    Ok(Turn { memory, ..turn })
}

/// The turn itself, with all connections made: pushes `plan` into `sink`, waits for what it becomes and then
/// `aftermath_ns` for what should not come. The crew, which reports to `progress`, has opened its books for the
/// plan's run. A yardstick's feed comes back, for another turn.
///
/// # Errors
///
/// The target ended. Lost deliveries are a result.
pub(crate) fn take_turn(
    place: Place,
    target: &mut Target,
    crew: &mut Crew,
    progress: Arc<Progress>,
    (plan, sink): (Plan, Sink),
    aftermath_ns: u64,
) -> Result<(Turn, Option<Feed>)> {
    let label = format!("{} {}: delivering", place.subject, place.round);
    let bar = progress_bar(plan.expected(), &label);
    let before = target.cpu()?;
    let pushed = push(crew, target, plan, sink, progress, &bar)?;
    let after = target.cpu()?;
    bar.finish_and_clear();
    turn_for(crew, aftermath_ns)?;

    let findings = crew.findings(std::slice::from_ref(&pushed.sent.messages))?;
    let deliveries = findings.deliveries;
    let cpu = after.zip(before).map(|(after, before)| after.since(&before));
    let per_delivery = |ns: fn(&CpuUsed) -> u64| {
        Some(ns(cpu.as_ref()?) as f64 / deliveries.received.max(1) as f64)
    };
    let turn = Turn {
        subject: place.subject,
        round: place.round,
        deliveries,
        elapsed_ns: pushed.last_ns.saturating_sub(pushed.sent.started_ns),
        sent: pushed.sent,
        cpu_per_delivery_ns: per_delivery(|cpu| cpu.total_ns),
        data_cpu_per_delivery_ns: per_delivery(|cpu| cpu.data_ns),
        cpu,
        memory: None,
        latency: Percentiles::of(&findings.latencies),
        series: pushed.series,
        closed: findings.closed,
    };
    Ok((turn, pushed.feed))
}

struct Pushed {
    sent: Sent,
    /// When the last delivery came.
    last_ns: u64,
    series: Series,
    /// A yardstick ends without it.
    feed: Option<Feed>,
}

/// Runs the sender to its end and waits for what it sent.
fn push(
    crew: &mut Crew,
    target: &mut Target,
    plan: Plan,
    sink: Sink,
    progress: Arc<Progress>,
    bar: &ProgressBar,
) -> Result<Pushed> {
    crew.start_series(target.gauge)?;
    let mut thread = Some(sender::start(plan, sink, progress));
    let mut finished = None;
    let mut received = 0;
    let mut last_ns = now_ns();
    let mut quiet_since_ns = last_ns;
    loop {
        crew.turn(20 * MILLISECOND_NS)?;
        if crew.received() > received {
            (received, last_ns) = (crew.received(), now_ns());
            quiet_since_ns = last_ns;
            bar.set_position(received);
        } else {
            // One that has ended delivers nothing, and would be waited for until all is pushed.
            target.ensure_runs()?;
        }
        if let Some(done) = thread.take_if(|thread| thread.is_finished()) {
            finished = Some(done.join().map_err(|_| "the sender panicked")??);
            quiet_since_ns = now_ns();
        }
        if let Some((sent, feed)) = finished.take() {
            let all = received + sent.dropped >= sent.deliveries;
            if all || now_ns() > quiet_since_ns + QUIET_NS {
                let series = crew.end_series()?;
                return Ok(Pushed { sent, last_ns, series, feed });
            }
            finished = Some((sent, feed));
        }
    }
}

/// Handles what comes until the server has nothing left to do.
///
/// # Errors
///
/// The server has ended.
pub(crate) fn settle(crew: &mut Crew, target: &mut Target) -> Result<()> {
    let deadline_ns = now_ns() + SETTLING_NS_MAX;
    while now_ns() < deadline_ns {
        let before = target.cpu()?;
        turn_for(crew, SETTLED_NS)?;
        let Some((after, before)) = target.cpu()?.zip(before) else { return Ok(()) };
        if after.since(&before).total_ns as f64 <= SETTLED_NS as f64 * SETTLED_SHARE {
            return Ok(());
        }
    }
    Ok(())
}

/// Has no more heartbeats sent and handles what comes until all are answered, or no reply comes any more; says
/// what was found since the books were opened.
///
/// # Errors
///
/// The clients' side failed.
pub(crate) fn await_replies(crew: &mut Crew) -> Result<Findings> {
    crew.order(Order::Heartbeat(0))?;
    let mut answered = 0;
    let mut quiet_since_ns = now_ns();
    loop {
        turn_for(crew, 20 * MILLISECOND_NS)?;
        let findings = crew.findings(&[])?;
        if findings.round_trips.len() != answered {
            answered = findings.round_trips.len();
            quiet_since_ns = now_ns();
        }
        if findings.unanswered() == 0 || now_ns() > quiet_since_ns + QUIET_NS {
            return Ok(findings);
        }
    }
}

/// Handles what comes for so long.
///
/// # Errors
///
/// The clients' side failed.
pub(crate) fn turn_for(crew: &mut Crew, duration_ns: u64) -> Result<()> {
    let deadline_ns = now_ns() + duration_ns;
    loop {
        let left_ns = deadline_ns.saturating_sub(now_ns());
        if left_ns == 0 {
            return Ok(());
        }
        crew.turn(left_ns)?;
    }
}
