//! `churn`: guests come, change their room and go, while pushes go to the rooms. Members that stay are to
//! notice nothing of it.

use serde::Serialize;
use serde_json::json;

use super::parts::{Dropped, each_turn, prepare, turns_table};
use crate::Result;
use crate::accounting::Deliveries;
use crate::args::ChurnArgs;
use crate::clients::{ChurnPlan, ClientCommand, guests_max};
use crate::crowd::{Crowd, Streams};
use crate::findings::GuestSums;
use crate::plan::Plan;
use crate::process::{CpuUsed, Memory};
use crate::report;
use crate::sampler::Series;
use crate::sender::Sent;
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};

/// What one turn gave. The figures are explained in [`crate::figures`].
#[derive(Serialize)]
struct ChurnTurn {
    #[serde(flatten)]
    place: Place,
    guests: GuestSums,
    handshake: Percentiles,
    deliveries: Deliveries,
    visits: Deliveries,
    sent: Sent,
    dropped: Dropped,
    latency: Percentiles,
    elapsed_ns: u64,
    cpu: Option<CpuUsed>,
    cpu_share: Option<f64>,
    memory_before: Option<Memory>,
    memory_after: Option<Memory>,
    series: Series,
    faults: Vec<String>,
}

const FIGURES: &str = "guests, gave up, moved, guests at once, handshake p50, handshake p99, handshake max, \
    expected, lost, to guests, lost to guests, dropped, latency p50, latency p99, CPU, \
    RSS before, RSS after";

/// Runs it; returns whether every delivery was made or counted as dropped, and no connection was closed.
pub(crate) fn run(args: &ChurnArgs) -> Result<bool> {
    if args.load.rate <= 0.0 {
        return Err("churn needs a rate above 0".into());
    }
    let most = args.dial.connections as usize + guests_max(args.arrivals, args.life) as usize;
    prepare(&args.host, &args.dial, most)?;
    let turns = each_turn(args.load.rounds, &[COMET], |place| turn(place, args))?;
    let text = turns_table(&turns, FIGURES);
    let faults = turns.iter().flat_map(|turn| turn.faults.iter().cloned()).collect();
    let results = json!({ "turns": turns });
    report::finish("churn", args, (&args.host, Some(&args.server)), (results, faults), &text)
}

fn turn(place: Place, args: &ChurnArgs) -> Result<ChurnTurn> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let plan = Plan::of(&args.load, args.server.operation, &crowd);
    let mut subject = Subject::server(place, (&args.server, &args.host, &args.dial), crowd)?;
    let sink = subject.sink()?;
    subject.connect(connections)?;
    let memory_before = subject.target.memory()?;

    subject.restart(&plan)?;
    let before = subject.mark()?;
    subject.clients.start_series(subject.target.gauge)?;
    let guests = ChurnPlan::of(args.arrivals, args.life, args.moves, connections);
    subject.clients.execute(ClientCommand::StartGuests(guests))?;
    let bar = place.bar(None, "delivering");
    let sent = subject.push(vec![(plan, sink)], |clients, _| {
        bar.set_position(clients.received());
        Ok(())
    })?;
    let used = subject.since(&before)?;
    bar.finish_and_clear();
    subject.clients.execute(ClientCommand::StopGuests)?;
    let (sent, _) = sent.into_iter().next().expect("one plan, one result");
    let messages = std::slice::from_ref(&sent.messages);
    let dropped = Dropped::of([&sent], u64::from(args.load.batch));
    let findings = subject.await_deliveries(messages, dropped.of_present())?;
    let series = subject.clients.end_series()?;
    subject.settle()?;

    let faults = dropped.faults(&findings).into_iter().chain(sent.refusal());
    Ok(ChurnTurn {
        place,
        guests: findings.guests,
        handshake: Percentiles::of(&findings.handshakes),
        deliveries: findings.deliveries,
        visits: findings.visits,
        dropped,
        latency: Percentiles::of(&findings.latencies),
        elapsed_ns: used.elapsed_ns,
        cpu_share: used.cpu_share(),
        cpu: used.cpu,
        memory_before,
        memory_after: subject.target.memory()?,
        series,
        faults: place.name_faults(faults),
        sent,
    })
}
