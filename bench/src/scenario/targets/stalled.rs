//! A room in which half of the members do not read: the effect on the others, for each way in which the server can
//! treat a full outbox.

use super::Record;
use super::goal::Goal;
use super::goals;
use super::rig::{self, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::clients::ClientCommand;
use crate::clock::MILLISECOND_NS;
use crate::crowd::Crowd;
use crate::plan::Plan;
use crate::scenario::keeps_stalled;
use crate::sink::PushMethod;
use crate::stats::Percentiles;
use crate::subject::Subject;

const MEMBERS: usize = 4_000;
const STALLED: usize = MEMBERS / 2;
/// Their receive buffer.
const STALLED_BUFFER: usize = 4_096;
const SIZE: u32 = 1_024;
/// The values of `protocol.slow_consumer`. The first is the cheapest: nothing is done.
const POLICIES: [(&str, Goal); 3] = [
    ("drop-newest", goals::STALLED_DROP_NEWEST),
    ("drop-oldest", goals::STALLED_DROP_OLDEST),
    ("close", goals::STALLED_CLOSE),
];
/// Pushes per second, and the length of a turn.
const HZ: f64 = 25.0;
const TURN_NS: u64 = 2_500 * MILLISECOND_NS;
/// The pushes before the first turn: 600. For each member that does not read, the kernel holds about 50, and its outbox
/// 512 (`protocol.svr_proto`).
const FILL_HZ: f64 = 300.0;
const FILL_NS: u64 = 2_000 * MILLISECOND_NS;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let start = |(policy, _): (&str, Goal)| {
        let server_set = [args.server_set.clone(), keeps_stalled(policy)].concat();
        let args = TargetsArgs { server_set, ..args.clone() };
        let crowd = Crowd {
            stalled_share: STALLED as f64 / MEMBERS as f64,
            slow_buffer: Some(STALLED_BUFFER),
            ..in_one_room(&args, MEMBERS)
        };
        let mut comet = rig::comet(&args, &args.host, crowd)?;
        // While outboxes are being filled, pushes are sent faster than they are answered.
        comet.method = PushMethod::OneStream;
        comet.connect()?;
        comet.clients.execute(ClientCommand::SlowDown(0))?;
        Ok(comet)
    };
    let mut servers = POLICIES.into_iter().map(start).collect::<Result<Vec<Subject>>>()?;
    for comet in &mut servers {
        turn(comet, 0, FILL_HZ, FILL_NS, record)?;
    }
    for round in 1..=args.rounds {
        let mut p99s = Vec::new();
        for (comet, (_, goal)) in servers.iter_mut().zip(&POLICIES) {
            let p99_us = turn(comet, round, HZ, TURN_NS, record)?;
            record.note(goal, p99_us / 1e3);
            p99s.push(p99_us);
        }
        let worst = p99s.iter().copied().fold(0.0, f64::max);
        record.note(&goals::STALLED, worst / p99s[0]);
    }
    Ok(())
}

/// Pushes to the room, and returns the p99 of the members that read, in us. Messages that they miss become faults.
fn turn(
    comet: &mut Subject,
    round: u32,
    hertz: f64,
    duration_ns: u64,
    record: &mut Record,
) -> Result<f64> {
    comet.place.round = round;
    let interval_ns = Plan::interval_of(hertz);
    let plan = Plan { interval_ns, duration_ns, ..comet.plan(SIZE) };
    comet.restart(plan.run, plan.size, false)?;
    let bar = comet.place.bar(plan.expected(), "delivering");
    let sent = comet.push(plan, &bar, |_| Ok(()))?;
    bar.finish_and_clear();
    // The members that do not read miss all of it.
    let unread = sent.pushes * STALLED as u64;
    let findings = comet.await_deliveries(std::slice::from_ref(&sent.messages), unread)?;
    let mut faults = findings.deliveries.faults(findings.deliveries.lost);
    faults.extend(sent.refusal());
    let (lost, closed) = (findings.healthy_lost, findings.healthy_closed);
    if lost + closed > 0 {
        faults.push(format!("those that read miss {lost} deliveries, and {closed} are closed"));
    }
    let latency = Percentiles::of(&findings.latencies);
    let p99_us = latency.p99_us;
    record.turns.push(serde_json::json!({
        "subject": comet.place.subject,
        "round": round,
        "deliveries": findings.deliveries,
        "healthy_expected": findings.healthy_expected,
        "healthy_lost": lost,
        "healthy_latency": latency,
        "sent": sent,
        "closed": findings.closed,
        "faults": comet.place.name_faults(faults),
    }));
    Ok(p99_us)
}
