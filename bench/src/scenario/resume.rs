//! `resume`: all connections are cut off at once, their keys are pushed to while they are away, and then all come back. With parked
//! sessions they get everything; beside that stands the same return to a server that parks nothing.

use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::accounting::Deliveries;
use crate::args::ResumeArgs;
use crate::clients::ClientCommand;
use crate::clock::{SECOND_NS, now_ns};
use crate::crowd::{Crowd, Streams};
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::report::{self, Table};
use crate::scrape::Counted;
use crate::sink::PushMethod;
use crate::stats::Percentiles;
use crate::subject::{COMET, Subject};

/// What a server's figures stand under that parks nothing.
pub(crate) const PLAIN: &str = "plain";

/// The server may take so long to notice that all connections are gone.
const GONE_NS_MAX: u64 = 30 * SECOND_NS;

const FIGURES: &str = "connections, parked, resumed, absent, dropped, received, lost, doubled, late, \
    connections a second, CPU of a connection, handshake p50, handshake p99, heap of one away, heap of a session, heap of a parked push";

/// Runs it; returns whether each push came once and in order, or was counted.
pub(crate) fn run(args: &ResumeArgs) -> Result<bool> {
    prepare(&args.setup, 0)?;
    let mut plain = None;
    let turns = each_turn(args.rounds, &[PLAIN, COMET], |place| {
        let mut setup = args.setup.clone();
        if place.subject == COMET {
            setup.server.server_set.extend(parking(args.messages.unwrap_or(args.pushes)));
        }
        let crowd = crowd(Crowd::of(&setup, 0));
        let mut turn =
            absence(&mut Subject::server(place, &setup, crowd)?, args.pushes, args.size)?;
        let heap = turn["away_heap_bytes"].as_f64();
        if place.subject == PLAIN {
            plain = heap;
        } else {
            // A server keeps its tables when connections go, with sessions and without.
            turn["session_heap_bytes"] = json!(heap.zip(plain).map(|(kept, plain)| kept - plain));
        }
        Ok(turn)
    })?;
    let text = Table::of_turns(&turns, FIGURES).text();
    report::finish("resume", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// The settings of a server that parks so many pushes for each session.
pub(super) fn parking(messages: u32) -> Vec<String> {
    vec![
        "resume.window=\"10m\"".to_owned(),
        "resume.all=true".to_owned(),
        "resume.memory=\"4GiB\"".to_owned(),
        format!("resume.messages={messages}"),
    ]
}

/// The connections, each with a stream of its own.
pub(super) fn crowd(crowd: Crowd) -> Crowd {
    Crowd { rooms: 0, streams: Streams::Keys(1), ..crowd }
}

/// Connects all, cuts them off, pushes `pushes` times to each key, and has them come back.
pub(super) fn absence(subject: &mut Subject, pushes: u32, size: u32) -> Result<Value> {
    let (place, connections) = (subject.place, subject.crowd.connections);
    let each = |bytes: f64| bytes / connections.max(1) as f64;
    subject.method = PushMethod::OneStream;
    let at_first = counted(subject)?;
    subject.connect()?;
    subject.clients.execute(ClientCommand::CutOff)?;
    let are_gone = |is: &mut Subject| Ok((counted(is)?.connections == 0).then_some(()));
    subject
        .wait_for(GONE_NS_MAX, are_gone)?
        .ok_or("the server keeps connections that are cut off")?;
    subject.settle()?;
    let away = counted(subject)?;

    let interval_ns = Plan::interval_of(f64::from(pushes));
    let plan = Plan { interval_ns, ..subject.plan(size) };
    subject.restart(plan.run, plan.size, false)?;
    let bar = place.bar(None, "pushing to those that are away");
    let sent = subject.push(plan, &bar, |_| Ok(()))?;
    bar.finish_and_clear();
    subject.settle()?;
    let pushed = counted(subject)?;

    let bar = place.bar(Some(connections as u64), "coming back");
    let (before, started_ns) = (subject.mark()?, now_ns());
    subject.clients.dial(0..connections, &bar)?;
    let elapsed_ns = now_ns() - started_ns;
    bar.finish_and_clear();
    let dropped = sent.dropped();
    let is_parking = pushed.parked > 0;
    let missing = if is_parking { dropped } else { sent.deliveries };
    // The connections that were cut off miss everything, too.
    let findings = subject
        .await_deliveries(std::slice::from_ref(&sent.messages), sent.deliveries + missing)?;
    subject.settle()?;
    let cpu = subject.since(&before)?.cpu;
    let end = counted(subject)?;

    let (expected, lost) = (sent.deliveries, findings.open_lost);
    let deliveries = Deliveries { expected, lost, ..findings.deliveries };
    let mut faults = deliveries.faults(missing);
    faults.extend(close_fault(&findings.closed));
    faults.extend(sent.refusal());
    let parked = pushed.parked;
    let absent = sent.answers.ledger.absent;
    if parked + absent + dropped != expected {
        faults
            .push(format!("{parked} parked, {absent} absent and {dropped} dropped of {expected}"));
    }
    if end.resumed != parked {
        faults.push(format!("{} of {parked} parked pushes went out", end.resumed));
    }
    let grown = |now: u64, was: u64| now as f64 - was as f64;
    let heap_of_pushes = grown(pushed.heap_bytes, away.heap_bytes);
    Ok(json!({
        "subject": place.subject,
        "round": place.round,
        "connections": connections,
        "parked": parked,
        "resumed": end.resumed,
        "absent": absent,
        "sent": sent,
        "dropped": sent.dropped,
        "deliveries": deliveries,
        "elapsed_ns": elapsed_ns,
        "per_second": connections as f64 * 1e9 / elapsed_ns.max(1) as f64,
        "handshake": Percentiles::of(&findings.handshakes),
        // Until all has come and the server has settled.
        "cpu_per_connection_ns": cpu.as_ref().map(|cpu| each(cpu.total_ns as f64)),
        "cpu": cpu,
        "away_heap_bytes": each(grown(away.heap_bytes, at_first.heap_bytes)),
        "parked_heap_bytes": is_parking.then(|| heap_of_pushes / parked as f64),
        "closed": findings.closed,
        "faults": place.name_faults(faults),
    }))
}

fn counted(subject: &Subject) -> Result<Counted> {
    Counted::of(subject.target.stat.ok_or("resume needs the server's metrics: name --stat")?)
}
