//! `connect`: a storm of connections, and what they cost when they idle, in turns with a bare ring that
//! accepts, receives and sends as often for each, the same bytes: once for a TCP client, twice for a
//! WebSocket client.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{WARM_UP, pin, run_id};
use crate::Result;
use crate::args::ConnectArgs;
use crate::clock::{now_ns, seconds_to_ns};
use crate::crew::{Brief, Crew};
use crate::dial::{Crowd, Streams, ensure_descriptors};
use crate::findings::close_fault;
use crate::measure::{Place, settle, turn_for};
use crate::message::STAMP_LEN;
use crate::process::CpuUsed;
use crate::report::{Report, number, progress_bar, spread, table};
use crate::sampler::Series;
use crate::sender::Progress;
use crate::stats::{Percentiles, Spread};
use crate::target::Target;
use crate::yardstick::Mode;

#[derive(Serialize)]
struct Results {
    storms: Vec<Storm>,
    /// CPU of a handshake for that of the bare accept, receives and sends.
    comet_to_bare: Option<Spread>,
    /// Resident memory of an idle connection, in bytes.
    comet_rss_bytes: Option<Spread>,
    /// The private part of it.
    comet_anonymous_bytes: Option<Spread>,
}

/// What one storm gave.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storm {
    subject: &'static str,
    round: u32,
    connections: usize,
    elapsed_ns: u64,
    pub per_second: f64,
    /// From connect(2) to the reply to the authentication.
    handshake: Percentiles,
    cpu: Option<CpuUsed>,
    pub cpu_per_connection_ns: Option<f64>,
    /// Share of one CPU that the bench used, all its processes: near the number of its CPUs it was the bench that
    /// set the pace.
    bench_cpu_share: f64,
    pub rss_per_connection_bytes: Option<f64>,
    anonymous_per_connection_bytes: Option<f64>,
    /// Share of one CPU that the server uses while all idle.
    idle_cpu_share: Option<f64>,
    /// From just before the first of these connections to when the server has settled.
    series: Series,
    closed: BTreeMap<String, u64>,
}

/// Runs it; says whether all connections stayed.
///
/// # Errors
///
/// The measurement could not be made, or a connection was refused.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool> {
    let connections = args.dial.connections as usize;
    ensure_descriptors(connections, args.dial.processes)?;
    pin(&args.host)?;
    let mut storms = Vec::new();
    for round in 1..=args.rounds {
        let mut target = Target::server(&args.server, &args.host)?;
        let rooms = args.rooms as usize;
        let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
        storms.push(storm("comet", round, &mut target, &crowd, args)?);
        drop(target);
        let (mut target, _feed) = Target::yardstick(Mode::Ring, connections, &args.host)?;
        storms.push(storm("bare", round, &mut target, &crowd, args)?);
    }
    let results = Results {
        comet_to_bare: Spread::of(storms.chunks(2).filter_map(|pair| {
            let [comet, bare] = pair else { return None };
            Some(comet.cpu_per_connection_ns? / bare.cpu_per_connection_ns?)
        })),
        comet_rss_bytes: of_comet(&storms, |storm| storm.rss_per_connection_bytes),
        comet_anonymous_bytes: of_comet(&storms, |storm| storm.anonymous_per_connection_bytes),
        storms,
    };
    let text = format!(
        "{}\nCPU of a connection, comet / bare: {}\n\
         RSS of an idle {}connection of comet: {} bytes; private: {} bytes\n",
        storms_table(&results.storms),
        spread(results.comet_to_bare, 2),
        if args.server.tls { "TLS " } else { "" },
        spread(results.comet_rss_bytes, 0),
        spread(results.comet_anonymous_bytes, 0),
    );
    let faults = results.storms.iter().flat_map(Storm::faults).collect();
    Report::new("connect", args, results, faults).finish(&text, &args.host)
}

/// A storm and what follows: all idle for a while.
fn storm(
    subject: &'static str,
    round: u32,
    target: &mut Target,
    crowd: &Crowd,
    args: &ConnectArgs,
) -> Result<Storm> {
    let brief = Brief {
        run: run_id(),
        operation: args.server.operation,
        size: STAMP_LEN,
        slow_buffer: None,
    };
    let mut crew = Crew::gather(brief, target, crowd, &args.dial, Arc::new(Progress::default()))?;
    let mut storm = connect_all(Place { subject, round }, target, crowd, &mut crew)?;
    storm.idle_cpu_share = idle_share(target, &mut crew, args.hold)?;
    storm.closed = crew.findings(&[])?.closed;
    Ok(storm)
}

/// Makes all connections of `crowd`, and measures what that takes.
///
/// # Errors
///
/// The target ended, or a connection was refused.
pub(super) fn connect_all(
    place: Place,
    target: &mut Target,
    crowd: &Crowd,
    crew: &mut Crew,
) -> Result<Storm> {
    let Place { subject, round } = place;
    let label = format!("{subject} {round}: connecting");
    let bar = progress_bar(Some(crowd.connections as u64), &label);
    let first = WARM_UP.min(crowd.connections / 10);
    crew.dial(0..first, &bar)?;
    settle(crew, target)?;
    let (memory_before, cpu_before) = (target.memory()?, target.cpu()?);
    let bench_before = crew.cpu()?;
    crew.start_series(target.gauge)?;
    let started_ns = now_ns();
    crew.dial(first..crowd.connections, &bar)?;
    let elapsed_ns = now_ns() - started_ns;
    let bench = crew.cpu()?.since(&bench_before);
    bar.finish_and_clear();
    settle(crew, target)?;
    let (memory_after, cpu_after) = (target.memory()?, target.cpu()?);
    let series = crew.end_series()?;

    let findings = crew.findings(&[])?;
    let connections = crowd.connections - first;
    let each = |total: f64| total / connections as f64;
    let grown = memory_after.zip(memory_before);
    let growth = |now: u64, before: u64| each(now as f64 - before as f64);
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    Ok(Storm {
        subject,
        round,
        connections,
        elapsed_ns,
        per_second: connections as f64 * 1e9 / elapsed_ns.max(1) as f64,
        handshake: Percentiles::of(&findings.handshakes),
        cpu_per_connection_ns: cpu.as_ref().map(|cpu| each(cpu.total_ns as f64)),
        bench_cpu_share: bench.total_ns as f64 / elapsed_ns.max(1) as f64,
        cpu,
        rss_per_connection_bytes: grown.map(|(now, then)| growth(now.rss_bytes, then.rss_bytes)),
        anonymous_per_connection_bytes: grown
            .map(|(now, then)| growth(now.anonymous_bytes, then.anonymous_bytes)),
        idle_cpu_share: None,
        series,
        closed: findings.closed,
    })
}

/// The share of one CPU that the target uses in so many seconds in which nothing is asked of it.
///
/// # Errors
///
/// The target ended.
pub(super) fn idle_share(
    target: &mut Target,
    crew: &mut Crew,
    seconds: f64,
) -> Result<Option<f64>> {
    let (before, started_ns) = (target.cpu()?, now_ns());
    turn_for(crew, seconds_to_ns(seconds))?;
    let used = target.cpu()?.zip(before).map(|(after, before)| after.since(&before));
    let elapsed_ns = (now_ns() - started_ns).max(1);
    Ok(used.map(|used| used.total_ns as f64 / elapsed_ns as f64))
}

impl Storm {
    /// What went wrong, in words.
    pub(super) fn faults(&self) -> Option<String> {
        let fault = close_fault(&self.closed)?;
        Some(format!("{}, round {}: {fault}", self.subject, self.round))
    }
}

fn of_comet(storms: &[Storm], figure: fn(&Storm) -> Option<f64>) -> Option<Spread> {
    Spread::of(storms.iter().filter(|storm| storm.subject == "comet").filter_map(figure))
}

fn storms_table(storms: &[Storm]) -> String {
    let headings = [
        "turn",
        "connections",
        "conn/s",
        "p50 us",
        "p99 us",
        "max us",
        "CPU us",
        "bench CPU %",
        "RSS B",
        "private B",
        "idle CPU %",
    ];
    let row = |storm: &Storm| {
        vec![
            format!("{} {}", storm.subject, storm.round),
            storm.connections.to_string(),
            number(Some(storm.per_second), 0),
            number(Some(storm.handshake.p50_us), 0),
            number(Some(storm.handshake.p99_us), 0),
            number(Some(storm.handshake.max_us), 0),
            number(storm.cpu_per_connection_ns.map(|ns| ns / 1e3), 1),
            number(Some(storm.bench_cpu_share * 100.0), 0),
            number(storm.rss_per_connection_bytes, 0),
            number(storm.anonymous_per_connection_bytes, 0),
            number(storm.idle_cpu_share.map(|share| share * 100.0), 2),
        ]
    };
    table(&headings, &storms.iter().map(row).collect::<Vec<_>>())
}
