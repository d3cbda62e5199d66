//! `idle`: connections that do nothing but send heartbeats, spread evenly.

use serde_json::{Value, json};

use super::{each_turn, prepare, turns_table};
use crate::Result;
use crate::args::IdleArgs;
use crate::clients::ClientCommand;
use crate::clock::seconds_to_ns;
use crate::crowd::{Crowd, Streams};
use crate::findings::{close_fault, silence_fault};
use crate::message::STAMP_LEN;
use crate::plan::run_id;
use crate::report::{self, summary};
use crate::stats::{Percentiles, Spread};
use crate::subject::{COMET, Place, Subject};

const FIGURES: &str = "connections, heartbeats, CPU while idle, CPU of a heartbeat, RSS of a connection, \
    private of a connection, round trip p50, round trip p99, round trip max, unanswered";

/// Runs it; returns whether all connections stayed and were answered.
pub(crate) fn run(args: &IdleArgs) -> Result<bool> {
    prepare(&args.host, &args.dial, args.dial.connections as usize)?;
    let turns = each_turn(args.rounds, &[COMET], |place| turn(place, args))?;
    let (turns, faults): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
    let over = |key: &str| Spread::of(turns.iter().filter_map(|turn: &Value| turn[key].as_f64()));
    let results = json!({
        "turns": turns,
        "cpu_share": over("idle_cpu_share"),
        "cpu_per_heartbeat_ns": over("cpu_per_heartbeat_ns"),
        "rss_bytes": over("rss_per_connection_bytes"),
    });
    let text = format!("{}\n{}", turns_table(&turns, FIGURES), summary(&results));
    let results = (results, faults.concat());
    report::finish("idle", args, (&args.host, Some(&args.server)), results, &text)
}

/// What one turn gave, explained in [`crate::figures`], and its faults.
fn turn(place: Place, args: &IdleArgs) -> Result<(Value, Vec<String>)> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let mut subject = Subject::server(place, (&args.server, &args.host, &args.dial), crowd)?;
    let storm = subject.storm()?;

    let restart = ClientCommand::Restart { run: run_id(), size: STAMP_LEN, all_streams: false };
    subject.clients.execute(restart)?;
    subject.clients.start_series(subject.target.gauge)?;
    subject.clients.execute(ClientCommand::Heartbeat(seconds_to_ns(args.heartbeat)))?;
    let before = subject.mark()?;
    subject.wait(seconds_to_ns(args.seconds))?;
    let used = subject.since(&before)?;
    let series = subject.clients.end_series()?;
    let findings = subject.await_replies()?;

    let heartbeats = findings.heartbeats_sent;
    let total_ns = used.cpu.as_ref().map(|cpu| cpu.total_ns as f64);
    let turn = json!({
        "subject": place.subject,
        "round": place.round,
        "connections": connections,
        "elapsed_ns": used.elapsed_ns,
        "heartbeats": heartbeats,
        "unanswered": findings.unanswered(),
        "round_trip": Percentiles::of(&findings.round_trips),
        "cpu": used.cpu,
        "idle_cpu_share": used.cpu_share(),
        "cpu_per_heartbeat_ns":
            total_ns.filter(|_| heartbeats > 0).map(|ns| ns / heartbeats as f64),
        "rss_per_connection_bytes": storm.rss_per_connection_bytes,
        "anonymous_per_connection_bytes": storm.anonymous_per_connection_bytes,
        "series": series,
        "closed": findings.closed,
    });
    let silence = silence_fault(findings.unanswered());
    let faults = silence.into_iter().chain(close_fault(&findings.closed));
    Ok((turn, place.name_faults(faults)))
}
