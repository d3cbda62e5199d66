//! `idle`: connections that only send heartbeats, spread evenly, in turns with a bare ring that receives and answers as
//! many.

use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::args::{IdleArgs, SetupArgs};
use crate::clock::seconds_to_ns;
use crate::crowd::Crowd;
use crate::report::{self, Table};
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};
use crate::yardstick::Mode;

const FIGURES: &str = "connections, heartbeats, heartbeats a second, CPU while idle, CPU of a heartbeat, \
    heartbeats a core second, bench CPU, RSS of a connection, \
    private of a connection, round trip p50, round trip p99, round trip max, unanswered";

/// Runs it; returns whether all connections stayed and were answered.
pub(crate) fn run(args: &IdleArgs) -> Result<bool> {
    prepare(&args.setup, 0)?;
    let alone = !args.yardsticks.wanted(&args.setup);
    let subjects: &[_] = if alone { &[COMET] } else { &[COMET, "ring"] };
    let turns = each_turn(args.rounds, subjects, |place| turn(place, args))?;
    let text = Table::of_turns(&turns, FIGURES).text();
    report::finish("idle", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// The results of one turn, explained in [`crate::figures`].
fn turn(place: Place, args: &IdleArgs) -> Result<Value> {
    let SetupArgs { dial, host, .. } = &args.setup;
    let crowd = Crowd::of(&args.setup, args.rooms);
    let connections = crowd.connections;
    let mut subject = match place.subject {
        COMET => Subject::server(place, &args.setup, crowd)?,
        _ => Subject::yardstick(place, Mode::Answer, (host, dial), crowd)?,
    };
    let storm = subject.storm(None)?;

    subject.begin_heartbeats(args.heartbeat)?;
    subject.clients.start_series(subject.target.gauge)?;
    let (before, bench_before) = (subject.mark()?, subject.clients.cpu()?);
    subject.wait(seconds_to_ns(args.seconds))?;
    let used = subject.since(&before)?;
    let bench = subject.clients.cpu()?.since(&bench_before);
    let series = subject.clients.end_series()?;
    let findings = subject.await_replies()?;

    let heartbeats = findings.heartbeats_sent;
    let total_ns = used.cpu.as_ref().map(|cpu| cpu.total_ns as f64);
    Ok(json!({
        "subject": place.subject,
        "round": place.round,
        "connections": connections,
        "elapsed_ns": used.elapsed_ns,
        "heartbeats": heartbeats,
        "bench_cpu_share": bench.total_ns as f64 / used.elapsed_ns.max(1) as f64,
        "unanswered": findings.unanswered(),
        "round_trip": Percentiles::of(&findings.round_trips),
        "cpu": used.cpu,
        "idle_cpu_share": used.cpu_share(),
        "cpu_per_heartbeat_ns":
            total_ns.filter(|_| heartbeats > 0).map(|ns| ns / heartbeats as f64),
        "rss_per_connection_bytes": storm["rss_per_connection_bytes"],
        "anonymous_per_connection_bytes": storm["anonymous_per_connection_bytes"],
        "series": series,
        "closed": findings.closed,
        "faults": place.name_faults(findings.idle_faults()),
    }))
}
