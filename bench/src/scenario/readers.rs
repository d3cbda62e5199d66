//! `readers`: some read slowly or not at all; the others are not to suffer, and what the slow miss is to be
//! exactly what the server says it dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::raw::plan;
use super::{COMET, dropped_by_reason, pin, refusal};
use crate::Result;
use crate::accounting::Deliveries;
use crate::args::ReadersArgs;
use crate::clients::Order;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crew::{Brief, Crew};
use crate::crowd::{Crowd, Streams};
use crate::dial::ensure_descriptors;
use crate::findings::Findings;
use crate::grpc::Address;
use crate::measure::{settle, turn_for};
use crate::outlet::{Manner, Sink};
use crate::process::{CpuUsed, Memory};
use crate::pushing::{await_all, push_all};
use crate::report::{Report, number, progress_bar, table};
use crate::sampler::Series;
use crate::scrape::Counted;
use crate::sender::{Progress, Sent};
use crate::stats::Percentiles;
use crate::target::Target;

/// Time between two looks at the server's memory.
const MEMORY_NS: u64 = 200 * MILLISECOND_NS;
/// How long the server may take to be rid of what waits, once all read again.
const WAITING_NS_MAX: u64 = 10 * SECOND_NS;

#[derive(Serialize)]
struct Results {
    turns: Vec<Read>,
}

/// What one turn gave.
#[derive(Serialize)]
struct Read {
    subject: &'static str,
    round: u32,
    deliveries: Deliveries,
    /// What those who read at once were to receive, and did not.
    healthy_expected: u64,
    healthy_lost: u64,
    /// Of those who read at once.
    healthy_latency: Percentiles,
    /// Of the others, as far as they read.
    impaired_latency: Percentiles,
    sent: Sent,
    fate: Fate,
    cpu: Option<CpuUsed>,
    cpu_per_delivery_ns: Option<f64>,
    memory_before: Option<Memory>,
    memory_peak: Option<Memory>,
    /// From when the first ones read slowly to the last delivery.
    series: Series,
    /// Connections closed, as the clients saw it, and as the server counted it.
    closed: BTreeMap<String, u64>,
    closed_by_server: BTreeMap<String, u64>,
    faults: Vec<String>,
}

/// What became of the deliveries that did not come.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
struct Fate {
    missing: u64,
    /// Of these: missing at connections that are open to the end, and can only have been dropped or superseded.
    open_missing: u64,
    /// Of these: pushed when the connection was closed already.
    closed_before: u64,
    /// Not queued, by reason.
    dropped: BTreeMap<String, u64>,
    /// Queued, and taken out again for a newer one.
    superseded: u64,
    /// Queued, and lost with the connection.
    lost: u64,
    /// Handed to the kernel for a connection that was cut before it had read them. Below 0 the server has
    /// owned to more than is missing.
    in_kernel: i64,
}

/// Runs it; says whether everything that is missing was owned to.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &ReadersArgs) -> Result<bool> {
    if args.load.rate <= 0.0 {
        return Err("readers needs a rate above 0".into());
    }
    if args.slow + args.stalled > 1.0 {
        return Err("the shares of slow and stalled readers are more than all".into());
    }
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let mut turns = Vec::new();
    for round in 1..=args.load.rounds {
        turns.push(turn(round, args)?);
    }
    let text = format!("{}\n{}", turns_table(&turns), fates_table(&turns));
    let faults = turns.iter().flat_map(|turn| turn.faults.iter().cloned()).collect();
    Report::new("readers", args, Results { turns }, faults).finish(&text, &args.host)
}

fn turn(round: u32, args: &ReadersArgs) -> Result<Read> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let mut target = Target::server(&args.server, &args.host)?;
    let grpc = target.grpc.clone().ok_or("no push API: name --grpc")?;
    let crowd = Crowd {
        slow_share: args.slow,
        stalled_share: args.stalled,
        ..Crowd::of_server(&args.server, connections, rooms, Streams::Rooms)
    };
    let plan = plan(&args.load, args.server.operation, &crowd);
    let brief = Brief {
        run: plan.run,
        operation: plan.operation,
        size: plan.size,
        slow_buffer: Some(args.receive_buffer as usize),
    };
    let progress = Arc::new(Progress::default());
    let mut crew = Crew::gather(brief, &target, &crowd, &args.dial, Arc::clone(&progress))?;
    let bar = progress_bar(Some(connections as u64), &format!("readers {round}: connecting"));
    crew.dial(0..connections, &bar)?;
    bar.finish_and_clear();
    settle(&mut crew, &mut target)?;
    let memory_before = target.memory()?;
    let counted_before = target.stat.map(Counted::of).transpose()?;

    crew.start_series(target.gauge)?;
    crew.order(Order::Impede(args.slow_rate))?;
    let bar = progress_bar(plan.expected(), &format!("readers {round}: delivering"));
    let addresses = (0..rooms).map(|room| Address::Room(crowd.room(room))).collect();
    let sink = Sink::Server { grpc, addresses, manner: Manner::Calls { callers: 1 } };
    let cpu_before = target.cpu()?;
    let mut memory_peak = memory_before;
    let mut look_ns = now_ns();
    let sent = push_all(&mut crew, vec![(plan, sink)], &progress, |crew| {
        bar.set_position(crew.received());
        if now_ns() >= look_ns {
            look_ns = now_ns() + MEMORY_NS;
            memory_peak = memory_peak.max(target.memory()?);
        }
        Ok(())
    })?;
    let cpu_after = target.cpu()?;
    bar.finish_and_clear();
    let sent = sent.into_iter().next().expect("one plan, one result");

    crew.order(Order::Release)?;
    let counted = count_when_done(&mut crew, target.stat, counted_before)?;
    let batch = u64::from(args.load.batch);
    let dropped = dropped_by_reason([&sent], batch);
    let owned = dropped.values().sum::<u64>() + (counted.lost + counted.superseded) * batch;
    let messages = std::slice::from_ref(&sent.messages);
    let findings = await_all(&mut crew, messages, owned)?;
    let series = crew.end_series()?;
    let fate = Fate::of(&findings, &sent, &counted, dropped, batch);
    let mut faults = faults(&findings, &fate);
    faults.extend(refusal(&sent));
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    let received = findings.deliveries.received.max(1) as f64;
    Ok(Read {
        subject: COMET,
        round,
        deliveries: findings.deliveries,
        healthy_expected: findings.healthy_expected,
        healthy_lost: findings.healthy_lost,
        healthy_latency: Percentiles::of(&findings.latencies),
        impaired_latency: Percentiles::of(&findings.impaired_latencies),
        sent,
        fate,
        cpu_per_delivery_ns: cpu.as_ref().map(|cpu| cpu.total_ns as f64 / received),
        cpu,
        memory_before,
        memory_peak,
        series,
        closed: findings.closed,
        closed_by_server: counted.closed,
        faults: faults.into_iter().map(|fault| format!("round {round}: {fault}")).collect(),
    })
}

/// What the server has counted in this turn, when nothing waits any more.
fn count_when_done(
    crew: &mut Crew,
    stat: Option<std::net::SocketAddr>,
    before: Option<Counted>,
) -> Result<Counted> {
    let Some((stat, before)) = stat.zip(before) else { return Ok(Counted::default()) };
    let deadline_ns = now_ns() + WAITING_NS_MAX;
    loop {
        turn_for(crew, MEMORY_NS)?;
        let counted = Counted::of(stat)?.since(&before);
        if counted.waiting == 0 || now_ns() > deadline_ns {
            return Ok(counted);
        }
    }
}

impl Fate {
    fn of(
        findings: &Findings,
        sent: &Sent,
        counted: &Counted,
        dropped: BTreeMap<String, u64>,
        batch: u64,
    ) -> Self {
        let is = &findings.deliveries;
        let ledger = &sent.answers.ledger;
        // Without a ledger nobody knows whom a push was for.
        let matched = if ledger.replies > 0 { ledger.matched * batch } else { is.expected };
        let closed_before = is.expected.saturating_sub(matched);
        let (superseded, lost) = (counted.superseded * batch, counted.lost * batch);
        let owned = closed_before + dropped.values().sum::<u64>() + superseded + lost;
        let in_kernel = is.lost as i64 - owned as i64;
        let open_missing = findings.open_lost;
        Self { missing: is.lost, open_missing, closed_before, dropped, superseded, lost, in_kernel }
    }
}

fn faults(findings: &Findings, fate: &Fate) -> Vec<String> {
    let is = &findings.deliveries;
    // Lost ones are looked at by their fate.
    let mut faults = is.faults(is.lost);
    if fate.in_kernel < 0 {
        faults.push(format!(
            "{} of {} deliveries missing, and the server owned to {} more",
            fate.missing, is.expected, -fate.in_kernel
        ));
    }
    let owned = fate.dropped.values().sum::<u64>() + fate.superseded;
    if fate.open_missing > owned {
        faults.push(format!(
            "{} deliveries missing at connections that are open, where the server owned to {owned}",
            fate.open_missing
        ));
    }
    if findings.healthy_closed > 0 {
        let (healthy, closed) = (findings.healthy_closed, &findings.closed);
        faults.push(format!("{healthy} connections closed that read at once; of all: {closed:?}"));
    }
    faults
}

fn turns_table(turns: &[Read]) -> String {
    let headings = [
        "turn",
        "healthy",
        "lost",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "all",
        "missing",
        "CPU ns",
        "RSS before",
        "peak MB",
    ];
    let megabytes = |memory: Option<Memory>| memory.map(|is| is.rss_bytes as f64 / 1e6);
    let row = |turn: &Read| {
        vec![
            turn.round.to_string(),
            turn.healthy_expected.to_string(),
            turn.healthy_lost.to_string(),
            number(Some(turn.healthy_latency.p50_us), 0),
            number(Some(turn.healthy_latency.p99_us), 0),
            number(Some(turn.healthy_latency.p999_us), 0),
            number(Some(turn.healthy_latency.max_us), 0),
            turn.deliveries.expected.to_string(),
            turn.fate.missing.to_string(),
            number(turn.cpu_per_delivery_ns, 0),
            number(megabytes(turn.memory_before), 2),
            number(megabytes(turn.memory_peak), 2),
        ]
    };
    table(&headings, &turns.iter().map(row).collect::<Vec<_>>())
}

fn fates_table(turns: &[Read]) -> String {
    let headings = [
        "missing of turn",
        "dropped",
        "superseded",
        "lost",
        "closed before",
        "in kernel",
        "closed",
    ];
    let row = |turn: &Read| {
        vec![
            turn.round.to_string(),
            turn.fate.dropped.values().sum::<u64>().to_string(),
            turn.fate.superseded.to_string(),
            turn.fate.lost.to_string(),
            turn.fate.closed_before.to_string(),
            turn.fate.in_kernel.to_string(),
            words(&turn.closed_by_server),
        ]
    };
    table(&headings, &turns.iter().map(row).collect::<Vec<_>>())
}

fn words(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> =
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 were to come, `missing` did not; the server owns to 5 dropped, and to so many matched and lost.
    fn check(missing: u64, matched: u64, lost: u64, closes: u64, in_kernel: i64, is_fault: bool) {
        let mut findings = Findings::default();
        findings.deliveries.expected = 100;
        findings.deliveries.received = 100 - missing;
        findings.deliveries.lost = missing;
        if closes > 0 {
            findings.closed.insert("write timeout".to_owned(), closes);
        } else {
            findings.open_lost = missing;
        }
        let mut sent = Sent::default();
        sent.answers.ledger.replies = 1;
        sent.answers.ledger.matched = matched;
        let counted = Counted { lost, ..Counted::default() };
        let dropped = BTreeMap::from([("outbox_full".to_owned(), 5)]);
        let fate = Fate::of(&findings, &sent, &counted, dropped, 1);
        assert_eq!(fate.in_kernel, in_kernel, "{fate:?}");
        assert_eq!(!faults(&findings, &fate).is_empty(), is_fault, "{fate:?}");
    }

    #[test]
    fn what_is_missing_has_to_be_owned_to() {
        check(5, 100, 0, 0, 0, false);
        check(6, 100, 0, 0, 1, true);
        check(4, 100, 0, 0, -1, true);
        check(25, 90, 10, 1, 0, false);
        check(28, 90, 10, 1, 3, false);
        check(20, 90, 10, 1, -5, true);
    }

    #[test]
    fn a_cut_connection_explains_what_it_misses_and_no_more() {
        let check = |open_missing, healthy_closed, is_fault| {
            let closed = BTreeMap::from([("write timeout".to_owned(), 1)]);
            let findings = Findings { closed, healthy_closed, ..Findings::default() };
            let dropped = BTreeMap::from([("outbox_full".to_owned(), 5)]);
            let fate = Fate {
                missing: 18,
                open_missing,
                dropped,
                lost: 10,
                in_kernel: 3,
                ..Fate::default()
            };
            assert_eq!(!faults(&findings, &fate).is_empty(), is_fault, "{fate:?}");
        };
        check(5, 0, false);
        check(6, 0, true);
        check(5, 1, true);
    }
}
