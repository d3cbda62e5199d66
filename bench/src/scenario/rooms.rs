//! `rooms`: connections that are in many rooms. It measures the cost of a join, and that of a push to a room whose
//! members are in many others, compared with the same push before they entered them.

use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::args::RoomsArgs;
use crate::clients::ClientCommand;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::crowd::Crowd;
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::report::{self, Table};
use crate::scrape::Counted;
use crate::subject::{COMET, Place, Subject};

/// Members of each room that gets pushes.
const MEMBERS: usize = 1_000;
/// How long to wait after a turn's last delivery for messages that should not arrive.
const AFTERMATH_NS: u64 = 50 * MILLISECOND_NS;
/// The subjects of the turns in a round.
const ONE_ROOM: &str = "one room";
const MANY_ROOMS: &str = "many rooms";

const FIGURES: &str = "expected, lost, dropped, CPU of a delivery, data CPU of a delivery, latency p50, latency p99, \
    joins, joins a second, joins a core second, heap of a pair, RSS of a pair";

/// Runs it; returns whether every join and every delivery was made.
pub(crate) fn run(args: &RoomsArgs) -> Result<bool> {
    prepare(&args.setup, 0)?;
    let rounds = each_turn(args.load.rounds, &[COMET], |place| {
        let connections = args.setup.dial.connections as usize;
        let crowd = Crowd::of(&args.setup, u32::try_from(connections.div_ceil(MEMBERS))?);
        let mut setup = args.setup.clone();
        setup.server.server_set.push(format!("clients.rooms={}", args.each));
        let crowd = in_further_rooms(crowd, args.each as usize - 1, args.rooms as usize);
        let mut subject = Subject::server(place, &setup, crowd)?;
        subject.connect()?;
        round(&mut subject, |subject| subject.plan_of(&args.load))
    })?;
    let turns: Vec<Value> = rounds.into_iter().flatten().collect();
    let text = Table::of_turns(&turns, FIGURES).text();
    report::finish("rooms", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// Adds `further` rooms for each connection, out of `further_of`.
pub(super) fn in_further_rooms(crowd: Crowd, further: usize, further_of: usize) -> Crowd {
    Crowd { further, further_of, ..crowd }
}

/// The turns of a round: pushes to members of one room each, and to the same members once they are in many; all are
/// connected.
pub(super) fn round(subject: &mut Subject, plan: impl Fn(&Subject) -> Plan) -> Result<[Value; 2]> {
    let place = subject.place;
    let turn = |subject: &mut Subject, name| {
        subject.place = Place { subject: name, ..place };
        let plan = plan(subject);
        subject.turn(plan, AFTERMATH_NS)
    };
    let one = turn(subject, ONE_ROOM)?;
    let (joins, faults) = enter(subject)?;
    let mut many = turn(subject, MANY_ROOMS)?;
    let faults = subject.place.name_faults(faults);
    many["joins"] = joins;
    if let Some(known) = many["faults"].as_array_mut() {
        known.extend(faults.into_iter().map(Value::from));
    }
    Ok([one, many])
}

/// Makes all connections enter their further rooms at once.
fn enter(subject: &mut Subject) -> Result<(Value, Vec<String>)> {
    let asked = (subject.crowd.connections * subject.crowd.further) as u64;
    subject.settle()?;
    let heap = |subject: &Subject| -> Result<Option<u64>> {
        let counted = subject.target.stat.map(Counted::of).transpose()?;
        Ok(counted.map(|counted| counted.heap_bytes))
    };
    let (heap_before, memory_before) = (heap(subject)?, subject.target.gauge.memory()?);
    let bench_before = subject.clients.cpu()?;
    let (before, started_ns) = (subject.mark()?, now_ns());
    subject.clients.execute(ClientCommand::EnterFurtherRooms)?;
    let findings = subject.await_joins(asked)?;
    let elapsed_ns = now_ns() - started_ns;
    let bench = subject.clients.cpu()?.since(&bench_before);
    subject.settle()?;
    let cpu = subject.since(&before)?.cpu;
    let grown = |before: Option<u64>, after: Option<u64>| {
        after.zip(before).map(|(after, before)| after as i64 - before as i64)
    };
    let memory_after = subject.target.gauge.memory()?;
    let rss = [memory_before, memory_after].map(|memory| memory.map(|memory| memory.rss_bytes));
    let mut faults: Vec<String> = close_fault(&findings.closed).into_iter().collect();
    if findings.joins.joined != asked {
        faults.push(format!("{} of {asked} joins were made", findings.joins.joined));
    }
    let joins = json!({
        "joined": findings.joins.joined,
        "refused": findings.joins.refused,
        "elapsed_ns": elapsed_ns,
        "cpu": cpu,
        "bench_cpu_share": bench.total_ns as f64 / elapsed_ns.max(1) as f64,
        "heap_bytes": grown(heap_before, heap(subject)?),
        "rss_bytes": grown(rss[0], rss[1]),
    });
    Ok((joins, faults))
}
