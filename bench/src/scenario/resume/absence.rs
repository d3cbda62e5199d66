//! All connections are cut off at once, are pushed to while they are away, and return.

use serde_json::{Value, json};

use crate::Result;
use crate::accounting::Deliveries;
use crate::clients::ClientCommand;
use crate::clock::{SECOND_NS, now_ns};
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::scrape::Counted;
use crate::sink::PushMethod;
use crate::stats::Percentiles;
use crate::subject::Subject;

/// How long the server may take to notice that all connections are gone.
const GONE_NS_MAX: u64 = 60 * SECOND_NS;

/// What happens while all are away.
pub(in crate::scenario) struct Absence {
    /// The number of pushes to each stream.
    pub pushes: u32,
    pub size: u32,
    /// Whether the server keeps them.
    pub is_kept: bool,
    /// Whether it uses a logic service.
    pub has_logic: bool,
}

/// Connects all, cuts them off, pushes to each stream, and reconnects them.
pub(in crate::scenario) fn absence(subject: &mut Subject, absence: &Absence) -> Result<Value> {
    let Absence { pushes, size, is_kept, has_logic } = *absence;
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

    // Exactly that many pushes, in a second.
    let interval_ns = (SECOND_NS / u64::from(pushes.max(1))).max(1);
    let duration_ns = interval_ns * u64::from(pushes);
    let plan = Plan { interval_ns: Some(interval_ns), duration_ns, ..subject.plan(size) };
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
    let missing = if is_kept { dropped } else { sent.deliveries };
    // The connections that were cut off also miss everything.
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
    let (parked, absent) = (pushed.parked, sent.answers.ledger.absent);
    if subject.crowd.rooms == 0 && parked + absent + dropped != expected {
        faults
            .push(format!("{parked} parked, {absent} absent and {dropped} dropped of {expected}"));
    }
    if end.resumed != parked {
        faults.push(format!("{} of {parked} parked pushes went out", end.resumed));
    }
    let calls = end.since(&pushed).logic_calls;
    if has_logic
        && calls.iter().any(|(rpc, count)| rpc != "Connect" || *count != connections as u64)
    {
        faults.push(format!("calls to logic beside those of a return: {calls:?}"));
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
        // Until everything has arrived and the server has settled.
        "cpu_per_connection_ns": cpu.as_ref().map(|cpu| each(cpu.total_ns as f64)),
        "cpu": cpu,
        "logic_calls": calls,
        "away_heap_bytes": each(grown(away.heap_bytes, at_first.heap_bytes)),
        "parked_heap_bytes": (parked > 0).then(|| heap_of_pushes / parked as f64),
        "closed": findings.closed,
        "faults": place.name_faults(faults),
    }))
}

pub(super) fn counted(subject: &Subject) -> Result<Counted> {
    Counted::of(subject.target.stat.ok_or("resume needs the server's metrics: name --stat")?)
}
