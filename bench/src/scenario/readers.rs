//! `readers`: some clients read slowly or not at all. The others must not notice, and the slow ones must miss exactly
//! what the server counted as dropped.

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::args::ReadersArgs;
use crate::clients::ClientCommand;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crowd::Crowd;
use crate::findings::Findings;
use crate::report::{self, Table};
use crate::scrape::Counted;
use crate::sender::Sent;
use crate::stats::{Percentiles, Reasons};
use crate::subject::{COMET, Place, Subject};

/// Time between two reads of the server's memory.
const MEMORY_NS: u64 = 200 * MILLISECOND_NS;
/// How long the server may take to send everything that waits, once all clients read again.
const WAITING_NS_MAX: u64 = 10 * SECOND_NS;

/// The outcome of the deliveries that did not arrive. Without the server's metrics, what only they show is unknown; and
/// what only its answers show is unknown if these have no ledger.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
struct Fate {
    missing: u64,
    /// Of these, missing at connections that stay open to the end; they can only have been dropped or superseded.
    open_missing: u64,
    /// Of these, pushed when the connection was already closed.
    closed_before: Option<u64>,
    /// Not queued, by reason.
    dropped: Option<Reasons>,
    /// Queued, and removed again for a newer one.
    superseded: Option<u64>,
    /// Queued, and lost with the connection.
    lost: Option<u64>,
    /// Accepted by the kernel for a connection that was cut before it had read them.
    in_kernel: Option<i64>,
    /// Missing, and not counted in any known field above. If negative, the server has counted more than is missing.
    #[serde(skip)]
    unexplained: i64,
}

const FIGURES: &str = "healthy expected, healthy lost, healthy p50, healthy p99, healthy p99.9, healthy \
    max, expected, missing, CPU of a delivery, RSS before, RSS peak";
const FATES: &str = "dropped, superseded, lost in queue, closed before, in kernel, closed";

/// Runs it; returns whether the server counted everything that is missing.
pub(crate) fn run(args: &ReadersArgs) -> Result<bool> {
    if args.load.rate <= 0.0 {
        return Err("readers needs a rate above 0".into());
    }
    if args.slow + args.stalled > 1.0 {
        return Err("the shares of slow and stalled readers are more than all".into());
    }
    prepare(&args.setup, 0)?;
    let turns = each_turn(args.load.rounds, &[COMET], |place| turn(place, args))?;
    let [figures, fates] = [FIGURES, FATES].map(|names| Table::of_turns(&turns, names).text());
    let text = format!("{figures}\n{fates}");
    report::finish("readers", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// The results of one turn, explained in [`crate::figures`].
fn turn(place: Place, args: &ReadersArgs) -> Result<Value> {
    let crowd = Crowd {
        slow_share: args.slow,
        stalled_share: args.stalled,
        slow_buffer: Some(args.receive_buffer as usize),
        ..Crowd::of(&args.setup, args.rooms)
    };
    let mut subject = Subject::server(place, &args.setup, crowd)?;
    let plan = subject.plan_of(&args.load);
    subject.connect()?;
    subject.restart(plan.run, plan.size, false)?;
    let memory_before = subject.target.gauge.memory()?;
    let counted_before = subject.target.stat.map(Counted::of).transpose()?;

    subject.clients.start_series(subject.target.gauge)?;
    subject.clients.execute(ClientCommand::SlowDown(args.slow_rate))?;
    let bar = place.bar(plan.expected(), "delivering");
    let before = subject.mark()?;
    let mut memory_peak = memory_before;
    let mut look_ns = now_ns();
    let sent = subject.push(plan, &bar, |gauge| {
        if now_ns() >= look_ns {
            look_ns = now_ns() + MEMORY_NS;
            memory_peak = memory_peak.max(gauge.memory()?);
        }
        Ok(())
    })?;
    let cpu = subject.since(&before)?.cpu;
    bar.finish_and_clear();

    subject.clients.execute(ClientCommand::ReadNormally)?;
    let counted = match subject.target.stat.zip(counted_before) {
        Some((stat, before)) => Some(count_when_done(&mut subject, stat, &before)?),
        None => None,
    };
    let batch = u64::from(args.load.batch);
    let later = counted.as_ref().map_or(0, |counted| counted.lost + counted.superseded);
    let explained = sent.dropped() + later * batch;
    let findings = subject.await_deliveries(std::slice::from_ref(&sent.messages), explained)?;
    let series = subject.clients.end_series()?;
    let fate = Fate::of(&findings, &sent, counted.as_ref(), batch);
    let faults = faults(&findings, &fate).into_iter().chain(sent.refusal());
    let received = findings.deliveries.received.max(1) as f64;
    Ok(json!({
        "subject": place.subject,
        "round": place.round,
        "deliveries": findings.deliveries,
        "healthy_expected": findings.healthy_expected,
        "healthy_lost": findings.healthy_lost,
        "healthy_latency": Percentiles::of(&findings.latencies),
        "impaired_latency": Percentiles::of(&findings.impaired_latencies),
        "sent": sent,
        "fate": fate,
        "cpu": cpu,
        "cpu_per_delivery_ns": cpu.as_ref().map(|cpu| cpu.total_ns as f64 / received),
        "memory_before": memory_before,
        "memory_peak": memory_peak,
        "series": series,
        "closed": findings.closed,
        "closed_by_server": counted.map(|counted| counted.closed),
        "faults": place.name_faults(faults),
    }))
}

/// The server's counts since `before`, once nothing waits any more.
fn count_when_done(subject: &mut Subject, stat: SocketAddr, before: &Counted) -> Result<Counted> {
    let mut counted = Counted::default();
    subject.wait_for(WAITING_NS_MAX, |_| {
        counted = Counted::of(stat)?.since(before);
        Ok((counted.waiting == 0).then_some(()))
    })?;
    Ok(counted)
}

impl Fate {
    fn of(findings: &Findings, sent: &Sent, counted: Option<&Counted>, batch: u64) -> Self {
        let is = &findings.deliveries;
        let matched = sent.answers.has_ledger().then(|| sent.answers.ledger.matched * batch);
        let mut fate = Self {
            missing: is.lost,
            open_missing: findings.open_lost,
            closed_before: matched.map(|matched| is.expected.saturating_sub(matched)),
            dropped: sent.dropped.clone(),
            superseded: counted.map(|counted| counted.superseded * batch),
            lost: counted.map(|counted| counted.lost * batch),
            in_kernel: None,
            unexplained: 0,
        };
        let known = [fate.closed_before, fate.superseded, fate.lost];
        let explained = fate.dropped() + known.iter().flatten().sum::<u64>();
        fate.unexplained = is.lost as i64 - explained as i64;
        fate.in_kernel = counted.map(|_| fate.unexplained);
        fate
    }

    fn dropped(&self) -> u64 {
        self.dropped.as_ref().map_or(0, Reasons::total)
    }
}

fn faults(findings: &Findings, fate: &Fate) -> Vec<String> {
    let is = &findings.deliveries;
    // Lost deliveries are checked by their `Fate`.
    let mut faults = is.faults(is.lost);
    if fate.unexplained < 0 {
        faults.push(format!(
            "{} of {} deliveries missing, and the server counted {} more",
            fate.missing, is.expected, -fate.unexplained
        ));
    }
    let explained = fate.dropped() + fate.superseded.unwrap_or(0);
    if fate.open_missing > explained {
        faults.push(format!(
            "{} deliveries missing at open connections, where the server counted {explained}",
            fate.open_missing
        ));
    }
    if findings.healthy_closed > 0 {
        let (healthy, closed) = (findings.healthy_closed, &findings.closed);
        faults.push(format!(
            "{healthy} connections closed that read at once; of all: {:?}",
            **closed
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(reason: &str, count: u64) -> Reasons {
        let mut reasons = Reasons::default();
        reasons.add(reason, count);
        reasons
    }

    fn five_dropped() -> Option<Reasons> {
        Some(reasons("outbox_full", 5))
    }

    /// 100 deliveries were expected, `missing` did not arrive; the server counted 5 as dropped, and `matched` and
    /// `lost` as given.
    fn check(missing: u64, matched: u64, lost: u64, closes: u64, in_kernel: i64, is_fault: bool) {
        let mut findings = Findings::default();
        findings.deliveries.expected = 100;
        findings.deliveries.received = 100 - missing;
        findings.deliveries.lost = missing;
        if closes > 0 {
            findings.closed.add("write timeout", closes);
        } else {
            findings.open_lost = missing;
        }
        let mut sent = Sent { dropped: five_dropped(), ..Sent::default() };
        sent.answers.ledger.replies = 1;
        sent.answers.ledger.matched = matched;
        let counted = Counted { lost, ..Counted::default() };
        let fate = Fate::of(&findings, &sent, Some(&counted), 1);
        assert_eq!(fate.in_kernel, Some(in_kernel), "{fate:?}");
        assert_eq!(!faults(&findings, &fate).is_empty(), is_fault, "{fate:?}");
    }

    #[test]
    fn missing_messages_must_match_the_counts_of_the_server() {
        check(5, 100, 0, 0, 0, false);
        check(6, 100, 0, 0, 1, true);
        check(4, 100, 0, 0, -1, true);
        check(25, 90, 10, 1, 0, false);
        check(28, 90, 10, 1, 3, false);
        check(20, 90, 10, 1, -5, true);
    }

    #[test]
    fn a_cut_connection_explains_only_its_own_missing_messages() {
        let check = |open_missing, healthy_closed, is_fault| {
            let closed = reasons("write timeout", 1);
            let findings = Findings { closed, healthy_closed, ..Findings::default() };
            let (dropped, lost) = (five_dropped(), Some(10));
            let fate = Fate {
                missing: 18,
                open_missing,
                dropped,
                lost,
                unexplained: 3,
                ..Fate::default()
            };
            assert_eq!(!faults(&findings, &fate).is_empty(), is_fault, "{fate:?}");
        };
        check(5, 0, false);
        check(6, 0, true);
        check(5, 1, true);
    }
}
