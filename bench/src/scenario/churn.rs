//! `churn`: guests arrive, change their room and leave, while pushes go to the rooms. Members that stay must not notice
//! any of it.

use serde_json::{Value, json};

use super::{delivery_faults, each_turn, prepare};
use crate::Result;
use crate::args::ChurnArgs;
use crate::clients::{ClientCommand, guests_max};
use crate::crowd::Crowd;
use crate::report::{self, Table};
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
    prepare(&args.setup, guests_max(args.arrivals, args.life))?;
    let turns = each_turn(args.load.rounds, &[COMET], |place| turn(place, args))?;
    let text = Table::of_turns(&turns, FIGURES).text();
    report::finish("churn", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// The results of one turn, explained in [`crate::figures`].
fn turn(place: Place, args: &ChurnArgs) -> Result<Value> {
    let crowd = Crowd::of(&args.setup, args.rooms);
    let mut subject = Subject::server(place, &args.setup, crowd)?;
    let plan = subject.plan_of(&args.load);
    subject.connect()?;
    let memory_before = subject.target.gauge.memory()?;

    subject.restart(plan.run, plan.size, false)?;
    let before = subject.mark()?;
    subject.clients.start_series(subject.target.gauge)?;
    subject.start_guests(args.arrivals, args.life, args.moves)?;
    let bar = place.bar(None, "delivering");
    let sent = subject.push(plan, &bar, |_| Ok(()))?;
    let used = subject.since(&before)?;
    bar.finish_and_clear();
    subject.clients.execute(ClientCommand::StopGuests)?;
    let messages = std::slice::from_ref(&sent.messages);
    let dropped = sent.dropped_of_present();
    let findings = subject.await_deliveries(messages, dropped)?;
    let series = subject.clients.end_series()?;
    subject.settle()?;

    let faults = delivery_faults(&findings, dropped).into_iter().chain(sent.refusal());
    Ok(json!({
        "subject": place.subject,
        "round": place.round,
        "guests": findings.guests,
        "handshake": Percentiles::of(&findings.handshakes),
        "deliveries": findings.deliveries,
        "visits": findings.visits,
        "sent": sent,
        "dropped": sent.dropped,
        "latency": Percentiles::of(&findings.latencies),
        "elapsed_ns": used.elapsed_ns,
        "cpu": used.cpu,
        "cpu_share": used.cpu_share(),
        "memory_before": memory_before,
        "memory_after": subject.target.gauge.memory()?,
        "series": series,
        "faults": place.name_faults(faults),
    }))
}
