//! `idle`: connections that do nothing but send heartbeats, spread evenly.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{COMET, Growth, WARM_UP, pin, run_id};
use crate::Result;
use crate::args::IdleArgs;
use crate::clients::Order;
use crate::clock::{now_ns, seconds_to_ns};
use crate::crew::{Brief, Crew};
use crate::crowd::{Crowd, Streams};
use crate::dial::ensure_descriptors;
use crate::findings::{close_fault, silence_fault};
use crate::measure::{await_replies, settle, turn_for};
use crate::message::STAMP_LEN;
use crate::process::CpuUsed;
use crate::report::{Report, number, progress_bar, spread, table};
use crate::sampler::Series;
use crate::sender::Progress;
use crate::stats::{Percentiles, Spread};
use crate::target::Target;

#[derive(Serialize)]
struct Results {
    turns: Vec<Idle>,
    /// Share of one CPU that the server uses.
    cpu_share: Option<Spread>,
    /// CPU of a heartbeat, everything that the server does meanwhile included.
    cpu_per_heartbeat_ns: Option<Spread>,
    rss_bytes: Option<Spread>,
}

/// What one turn gave.
#[derive(Serialize)]
struct Idle {
    subject: &'static str,
    round: u32,
    connections: usize,
    elapsed_ns: u64,
    heartbeats: u64,
    /// Heartbeats whose reply has not come.
    unanswered: u64,
    /// From when a heartbeat was due to its reply.
    round_trip: Percentiles,
    cpu: Option<CpuUsed>,
    idle_cpu_share: Option<f64>,
    cpu_per_heartbeat_ns: Option<f64>,
    #[serde(flatten)]
    memory: Option<Growth>,
    /// From just before the first heartbeat until no more are sent.
    series: Series,
    closed: BTreeMap<String, u64>,
}

/// Runs it; says whether all connections stayed and were answered.
///
/// # Errors
///
/// The measurement could not be made, or a connection was refused.
pub(crate) fn run(args: &IdleArgs) -> Result<bool> {
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let mut turns = Vec::new();
    for round in 1..=args.rounds {
        turns.push(turn(round, args)?);
    }
    let over = |figure: fn(&Idle) -> Option<f64>| Spread::of(turns.iter().filter_map(figure));
    let results = Results {
        cpu_share: over(|turn| turn.idle_cpu_share),
        cpu_per_heartbeat_ns: over(|turn| turn.cpu_per_heartbeat_ns),
        rss_bytes: over(|turn| Some(turn.memory?.rss_per_connection_bytes)),
        turns,
    };
    let percent = results.cpu_share.map(|share| share.times(100.0));
    let text = format!(
        "{}\nCPU while idle: {} % of one core; of a heartbeat: {} us\nRSS of a connection: {} bytes\n",
        turns_table(&results.turns),
        spread(percent, 2),
        spread(results.cpu_per_heartbeat_ns.map(|ns| ns.times(1e-3)), 1),
        spread(results.rss_bytes, 0),
    );
    let faults = results.turns.iter().flat_map(Idle::faults).collect();
    Report::new("idle", args, results, faults).finish(&text, &args.host)
}

fn turn(round: u32, args: &IdleArgs) -> Result<Idle> {
    let connections = args.dial.connections as usize;
    let mut target = Target::server(&args.server, &args.host)?;
    let crowd = Crowd::of_server(&args.server, connections, args.rooms as usize, Streams::Rooms);
    let brief = Brief {
        run: run_id(),
        operation: args.server.operation,
        size: STAMP_LEN,
        slow_buffer: None,
    };
    let progress = Arc::new(Progress::default());
    let mut crew = Crew::gather(brief, &target, &crowd, &args.dial, progress)?;
    let bar = progress_bar(Some(u64::from(args.dial.connections)), &format!("{round}: connecting"));
    let first = WARM_UP.min(connections / 10);
    crew.dial(0..first, &bar)?;
    settle(&mut crew, &mut target)?;
    let before = target.memory()?;
    crew.dial(first..connections, &bar)?;
    bar.finish_and_clear();
    settle(&mut crew, &mut target)?;
    let memory = Growth::between(before, target.memory()?, connections - first);

    crew.order(Order::Begin { run: brief.run, size: brief.size, visitors: false })?;
    crew.start_series(target.gauge)?;
    crew.order(Order::Heartbeat(seconds_to_ns(args.heartbeat)))?;
    let (started_ns, cpu_before) = (now_ns(), target.cpu()?);
    turn_for(&mut crew, seconds_to_ns(args.seconds))?;
    let (ended_ns, cpu_after) = (now_ns(), target.cpu()?);
    let series = crew.end_series()?;
    let findings = await_replies(&mut crew)?;

    let elapsed_ns = ended_ns - started_ns;
    let heartbeats = findings.heartbeats_sent;
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    let total_ns = cpu.as_ref().map(|cpu| cpu.total_ns as f64);
    Ok(Idle {
        subject: COMET,
        round,
        connections,
        elapsed_ns,
        heartbeats,
        unanswered: findings.unanswered(),
        round_trip: Percentiles::of(&findings.round_trips),
        idle_cpu_share: total_ns.map(|ns| ns / elapsed_ns.max(1) as f64),
        cpu_per_heartbeat_ns: total_ns.filter(|_| heartbeats > 0).map(|ns| ns / heartbeats as f64),
        cpu,
        memory,
        series,
        closed: findings.closed,
    })
}

impl Idle {
    fn faults(&self) -> Vec<String> {
        let silence = silence_fault(self.unanswered);
        let faults = silence.into_iter().chain(close_fault(&self.closed));
        faults.map(|fault| format!("round {}: {fault}", self.round)).collect()
    }
}

fn turns_table(turns: &[Idle]) -> String {
    let headings = [
        "turn",
        "connections",
        "heartbeats",
        "CPU %",
        "CPU us/beat",
        "RSS B",
        "private B",
        "p50 us",
        "p99 us",
        "max us",
        "unanswered",
    ];
    let row = |turn: &Idle| {
        vec![
            turn.round.to_string(),
            turn.connections.to_string(),
            turn.heartbeats.to_string(),
            number(turn.idle_cpu_share.map(|share| share * 100.0), 2),
            number(turn.cpu_per_heartbeat_ns.map(|ns| ns / 1e3), 1),
            number(turn.memory.map(|memory| memory.rss_per_connection_bytes), 0),
            number(turn.memory.map(|memory| memory.anonymous_per_connection_bytes), 0),
            number(Some(turn.round_trip.p50_us), 0),
            number(Some(turn.round_trip.p99_us), 0),
            number(Some(turn.round_trip.max_us), 0),
            turn.unanswered.to_string(),
        ]
    };
    table(&headings, &turns.iter().map(row).collect::<Vec<_>>())
}
