//! Full outboxes drop a share of the pushes to rooms with a history, and the clients recover them from it.

use serde_json::{Value, json};

use crate::Result;
use crate::clients::ClientCommand;
use crate::clock::{SECOND_NS, now_ns};
use crate::crowd::Crowd;
use crate::findings::close_fault;
use crate::plan::Plan;
use crate::scrape::Counted;
use crate::sink::PushMethod;
use crate::subject::Subject;

/// Pushes to each room per second, and the most in total, which is the number that the history of a room must keep.
const RATE: f64 = 100.0;
pub(super) const PUSHES_MAX: u32 = 5_000;
/// Receive buffer of a client, small so that the kernel holds little for it.
const RECEIVE_BUFFER: usize = 4096;

/// The settings of a server whose outboxes fill soon.
pub(super) fn settings() -> Vec<String> {
    vec![
        "protocol.svr_proto=64".to_owned(),
        "protocol.write_timeout=\"10m\"".to_owned(),
        "tcp.sndbuf=4608".to_owned(),
    ]
}

/// Clients that can be made to stop reading.
pub(super) fn crowd(crowd: Crowd) -> Crowd {
    Crowd { stalled_share: 1.0, slow_buffer: Some(RECEIVE_BUFFER), ..crowd }
}

/// No client reads until this `share` of the deliveries was dropped. Then all do, until everything has arrived.
pub(super) fn repair(subject: &mut Subject, size: u32, share: f64) -> Result<Value> {
    let (place, connections) = (subject.place, subject.crowd.connections);
    let stat = subject.target.stat.ok_or("resume needs the server's metrics: name --stat")?;
    subject.method = PushMethod::OneStream;
    subject.connect()?;
    let duration_ns = (f64::from(PUSHES_MAX) / RATE * SECOND_NS as f64) as u64;
    let plan = Plan { interval_ns: Plan::interval_of(RATE), duration_ns, ..subject.plan(size) };
    subject.restart(plan.run, plan.size, false)?;
    subject.clients.execute(ClientCommand::SlowDown(1))?;
    let before = Counted::of(stat)?;
    let share_dropped = |counted: &Counted| counted.dropped as f64 / counted.matched.max(1) as f64;
    let bar = place.bar(None, "pushing to those that do not read");
    let course = plan.course.clone();
    let sent = subject.push(plan, &bar, |_| {
        if share_dropped(&Counted::of(stat)?.since(&before)) >= share {
            course.end();
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    let pushed = Counted::of(stat)?.since(&before);

    let (mark, started_ns) = (subject.mark()?, now_ns());
    subject.clients.execute(ClientCommand::ReadNormally)?;
    let findings = subject.await_deliveries(std::slice::from_ref(&sent.messages), 0)?;
    let elapsed_ns = now_ns() - started_ns;
    subject.settle()?;
    let cpu = subject.since(&mark)?.cpu;
    let end = Counted::of(stat)?.since(&before);

    let deliveries = findings.deliveries;
    let mut faults = deliveries.faults(0);
    faults.extend(close_fault(&findings.closed));
    faults.extend(sent.refusal());
    if share_dropped(&pushed) < share {
        faults.push(format!("{} of {} deliveries were dropped", pushed.dropped, pushed.matched));
    }
    if end.repaired < pushed.dropped {
        faults.push(format!("{} were repaired of {} dropped", end.repaired, pushed.dropped));
    }
    Ok(json!({
        "subject": place.subject,
        "round": place.round,
        "connections": connections,
        "sent": sent,
        "dropped": sent.dropped,
        "share_dropped": share_dropped(&pushed),
        "repaired": end.repaired,
        "deliveries": deliveries,
        // From when they read again until everything has arrived.
        "elapsed_ns": elapsed_ns,
        "cpu": cpu,
        "repaired_cpu_ns": cpu.as_ref().map(|cpu| cpu.total_ns as f64 / end.repaired.max(1) as f64),
        "closed": findings.closed,
        "faults": place.name_faults(faults),
    }))
}
