//! `churn`: guests come, change their room and go, while pushes go to the rooms. Members that stay are to
//! notice nothing of it.

use serde_json::{Value, json};

use super::{Dropped, each_turn, prepare, turns_table};
use crate::Result;
use crate::args::ChurnArgs;
use crate::clients::{ChurnPlan, ClientCommand, guests_max};
use crate::crowd::{Crowd, Streams};
use crate::plan::Plan;
use crate::report;
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};

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
    let (turns, faults): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
    let (text, faults) = (turns_table(&turns, FIGURES), faults.concat());
    let results = json!({ "turns": turns });
    report::finish("churn", args, (&args.host, Some(&args.server)), (results, faults), &text)
}

/// What one turn gave, explained in [`crate::figures`], and its faults.
fn turn(place: Place, args: &ChurnArgs) -> Result<(Value, Vec<String>)> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let plan = Plan::of(&args.load, args.server.operation, &crowd);
    let mut subject = Subject::server(place, (&args.server, &args.host, &args.dial), crowd)?;
    let sink = subject.sink()?;
    subject.connect(connections)?;
    let memory_before = subject.target.gauge.memory()?;

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

    let faults = place.name_faults(dropped.faults(&findings).into_iter().chain(sent.refusal()));
    let turn = json!({
        "subject": place.subject,
        "round": place.round,
        "guests": findings.guests,
        "handshake": Percentiles::of(&findings.handshakes),
        "deliveries": findings.deliveries,
        "visits": findings.visits,
        "sent": sent,
        "dropped": dropped,
        "latency": Percentiles::of(&findings.latencies),
        "elapsed_ns": used.elapsed_ns,
        "cpu": used.cpu,
        "cpu_share": used.cpu_share(),
        "memory_before": memory_before,
        "memory_after": subject.target.gauge.memory()?,
        "series": series,
        "faults": faults,
    });
    Ok((turn, faults))
}
