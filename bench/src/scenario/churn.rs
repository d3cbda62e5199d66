//! `churn`: guests come, change their room and go, while pushes go to the rooms; members who stay are to
//! notice nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::raw::plan;
use super::{COMET, dropped_by_reason, dropped_of_present, faults_beside_guests, pin, refusal};
use crate::Result;
use crate::accounting::Deliveries;
use crate::args::ChurnArgs;
use crate::clients::{Order, guests_max};
use crate::clock::now_ns;
use crate::crew::{Brief, Crew};
use crate::crowd::{Crowd, Streams};
use crate::dial::ensure_descriptors;
use crate::findings::GuestSums;
use crate::grpc::Address;
use crate::measure::settle;
use crate::outlet::{Manner, Sink};
use crate::process::{CpuUsed, Memory};
use crate::pushing::{await_all, push_all};
use crate::report::{Report, number, progress_bar, table};
use crate::sampler::Series;
use crate::sender::{Progress, Sent};
use crate::stats::Percentiles;
use crate::target::Target;
use crate::visits::VisitSums;

#[derive(Serialize)]
struct Results {
    turns: Vec<Churned>,
}

/// What one turn gave.
#[derive(Serialize)]
struct Churned {
    subject: &'static str,
    round: u32,
    guests: GuestSums,
    /// From when a guest was due to the reply to its authentication.
    handshake: Percentiles,
    /// To the members, who are there all the time.
    deliveries: Deliveries,
    /// To the guests, as far as that is known.
    visits: VisitSums,
    sent: Sent,
    dropped: BTreeMap<String, u64>,
    latency: Percentiles,
    elapsed_ns: u64,
    cpu: Option<CpuUsed>,
    /// Share of one CPU that the server uses.
    cpu_share: Option<f64>,
    /// With the members alone, before the first guest and after the last.
    memory_before: Option<Memory>,
    memory_after: Option<Memory>,
    /// From just before the first guest to the last delivery.
    series: Series,
    faults: Vec<String>,
}

/// Runs it; says whether every delivery was made or owned to, and nobody was thrown out.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &ChurnArgs) -> Result<bool> {
    if args.load.rate <= 0.0 {
        return Err("churn needs a rate above 0".into());
    }
    let most = args.dial.connections as usize + guests_max(args.arrivals, args.life) as usize;
    ensure_descriptors(most, args.dial.processes)?;
    pin(&args.host)?;
    let mut turns = Vec::new();
    for round in 1..=args.load.rounds {
        turns.push(turn(round, args)?);
    }
    let text = turns_table(&turns);
    let faults = turns.iter().flat_map(|turn| turn.faults.iter().cloned()).collect();
    Report::new("churn", args, Results { turns }, faults).finish(&text, &args.host)
}

fn turn(round: u32, args: &ChurnArgs) -> Result<Churned> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let mut target = Target::server(&args.server, &args.host)?;
    let grpc = target.grpc.clone().ok_or("no push API: name --grpc")?;
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let plan = plan(&args.load, args.server.operation, &crowd);
    let brief =
        Brief { run: plan.run, operation: plan.operation, size: plan.size, slow_buffer: None };
    let progress = Arc::new(Progress::default());
    let mut crew = Crew::gather(brief, &target, &crowd, &args.dial, Arc::clone(&progress))?;
    let bar = progress_bar(Some(connections as u64), &format!("churn {round}: connecting"));
    crew.dial(0..connections, &bar)?;
    bar.finish_and_clear();
    settle(&mut crew, &mut target)?;
    let memory_before = target.memory()?;

    crew.order(Order::Begin { run: plan.run, size: plan.size, visitors: false })?;
    let (started_ns, cpu_before) = (now_ns(), target.cpu()?);
    crew.start_series(target.gauge)?;
    crew.churn(args.arrivals, args.life, args.moves, &crowd)?;
    let bar = progress_bar(None, &format!("churn {round}: delivering"));
    let addresses = (0..rooms).map(|room| Address::Room(crowd.room(room))).collect();
    let sink = Sink::Server { grpc, addresses, manner: Manner::Calls { callers: 1 } };
    let sent = push_all(&mut crew, vec![(plan, sink)], &progress, |crew| {
        bar.set_position(crew.received());
        Ok(())
    })?;
    let (ended_ns, cpu_after) = (now_ns(), target.cpu()?);
    bar.finish_and_clear();
    crew.order(Order::Calm)?;
    let sent = sent.into_iter().next().expect("one plan, one result");
    let messages = std::slice::from_ref(&sent.messages);
    let dropped = dropped_by_reason([&sent], u64::from(args.load.batch));
    let findings = await_all(&mut crew, messages, dropped_of_present(&dropped))?;
    let series = crew.end_series()?;
    settle(&mut crew, &mut target)?;

    let mut faults = faults_beside_guests(&findings, &dropped);
    faults.extend(refusal(&sent));
    let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    let elapsed_ns = ended_ns - started_ns;
    Ok(Churned {
        subject: COMET,
        round,
        guests: findings.guests,
        handshake: Percentiles::of(&findings.handshakes),
        deliveries: findings.deliveries,
        visits: findings.visits,
        sent,
        dropped,
        latency: Percentiles::of(&findings.latencies),
        elapsed_ns,
        cpu_share: cpu.as_ref().map(|cpu| cpu.total_ns as f64 / elapsed_ns.max(1) as f64),
        cpu,
        memory_before,
        memory_after: target.memory()?,
        series,
        faults: faults.into_iter().map(|fault| format!("churn, round {round}: {fault}")).collect(),
    })
}

fn turns_table(turns: &[Churned]) -> String {
    let headings = [
        "turn",
        "guests",
        "gave up",
        "moved",
        "at once",
        "shake p50",
        "p99",
        "max us",
        "expected",
        "lost",
        "to guests",
        "lost",
        "dropped",
        "p50 us",
        "p99 us",
        "CPU %",
        "RSS before",
        "after MB",
    ];
    let megabytes = |memory: Option<Memory>| memory.map(|is| is.rss_bytes as f64 / 1e6);
    let row = |turn: &Churned| {
        vec![
            turn.round.to_string(),
            turn.guests.arrived.to_string(),
            turn.guests.gave_up.to_string(),
            turn.guests.moved.to_string(),
            turn.guests.present_max.to_string(),
            number(Some(turn.handshake.p50_us), 0),
            number(Some(turn.handshake.p99_us), 0),
            number(Some(turn.handshake.max_us), 0),
            turn.deliveries.expected.to_string(),
            turn.deliveries.lost.to_string(),
            turn.visits.received.to_string(),
            turn.visits.lost.to_string(),
            turn.dropped.values().sum::<u64>().to_string(),
            number(Some(turn.latency.p50_us), 0),
            number(Some(turn.latency.p99_us), 0),
            number(turn.cpu_share.map(|share| share * 100.0), 1),
            number(megabytes(turn.memory_before), 2),
            number(megabytes(turn.memory_after), 2),
        ]
    };
    table(&headings, &turns.iter().map(row).collect::<Vec<_>>())
}
