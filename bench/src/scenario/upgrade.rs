//! `upgrade`: live upgrades in a row of a server that is pushed to meanwhile. Clients are to notice a pause, and nothing
//! else: no connection is lost, and no message is lost, doubled or late.

mod line;

use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use self::line::{Line, Outcome};
use super::prepare;
use crate::Result;
use crate::accounting::{Deliveries, StreamId};
use crate::args::UpgradeArgs;
use crate::clients::ClientCommand;
use crate::clock::{MILLISECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::{Crowd, Streams};
use crate::findings::{Findings, close_fault};
use crate::plan::{Course, Pattern, Plan, run_id};
use crate::report::{self, Table};
use crate::sender::{self, Sent};
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};
use crate::yardstick::Feed;

const FIGURES: &str = "connections, pause p50, pause p99, pause max, server's pause, pause a connection, went on, \
    not moved, disconnected, lost, doubled, late, failed, RSS before, RSS after";

/// Two looks at what clients receive.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;
/// Pushes begin before the first measurement.
const WARM_UP_NS: u64 = 500 * MILLISECOND_NS;
/// Longer than any run: it is ended before.
const DURATION_S: f64 = 1e6;

/// Runs it; returns whether clients have noticed nothing but pauses.
pub(crate) fn run(args: &UpgradeArgs) -> Result<bool> {
    if args.rate <= 0.0 {
        return Err("upgrade needs a rate above 0".into());
    }
    let server = &args.setup.server;
    if server.addr.is_some() || server.frames || server.tls {
        return Err("upgrade starts its own server and pushes by gRPC: without --addr and --frames, and with \
                    --tls-share instead of --tls"
            .into());
    }
    prepare(&args.setup, 0)?;
    let mut under_way = UnderWay::begin(args)?;
    let mut turns = Vec::new();
    // The same measurement without an upgrade.
    turns.push(under_way.turn("quiet", 1)?);
    for round in 1..=args.upgrades {
        turns.push(under_way.turn("upgrade", round)?);
    }
    let whole = under_way.end()?;
    let text = Table::of_turns(&turns, FIGURES).text();
    let results = json!({ "turns": turns, "whole": whole, "faults": whole["faults"] });
    report::finish("upgrade", args, args.setup.sides(), results, &text)
}

/// Pushes to the streams of one kind.
struct Pushes {
    kind: u32,
    course: Arc<Course>,
    sender: JoinHandle<Result<(Sent, Option<Feed>)>>,
}

/// A server that is pushed to.
struct UnderWay<'a> {
    args: &'a UpgradeArgs,
    subject: Subject,
    line: Line,
    pushes: Vec<Pushes>,
    interval_ns: u64,
    /// What was found by the end of the last turn.
    before: Findings,
}

impl<'a> UnderWay<'a> {
    fn begin(args: &'a UpgradeArgs) -> Result<Self> {
        let (line, target) = Line::start(args)?;
        let crowd = Crowd { tls_share: args.tls_share, ..Crowd::of(&args.setup, args.rooms) };
        let mut subject =
            Subject::of_target(Place::of(COMET, 1), target, &args.setup, crowd.clone())?;
        subject.connect()?;
        let run = run_id();
        subject.restart(run, args.size as usize, true)?;
        let mut pushes = Vec::new();
        let room_rate = args.rate * f64::from(args.rooms);
        for (kind, streams, rate) in [
            (StreamId::ROOM, Streams::Rooms, room_rate),
            (StreamId::KEY, Streams::Keys(1), args.key_rate),
        ] {
            let Some(interval_ns) = Plan::interval_of(rate) else { continue };
            let crowd = Crowd { streams, ..crowd.clone() };
            let plan = Plan {
                run: run + kind,
                pattern: Pattern::Rotating { first: 0 },
                interval_ns: Some(interval_ns),
                duration_ns: seconds_to_ns(DURATION_S),
                ..Plan::new(subject.operation, args.size as usize, crowd.members())
            };
            let course = Arc::clone(&plan.course);
            let sink = subject.sink(&crowd)?;
            let sender = sender::start(plan, sink, subject.clients.watch_received());
            pushes.push(Pushes { kind, course, sender });
        }
        subject.wait(WARM_UP_NS)?;
        let interval_ns = Plan::interval_of(args.rate).expect("it is above 0");
        let before = subject.clients.findings(&[])?;
        Ok(Self { args, subject, line, pushes, interval_ns, before })
    }

    /// One upgrade, and the time after it; or as long without one.
    fn turn(&mut self, subject: &str, round: u32) -> Result<Value> {
        let memory_before = self.subject.target.gauge.memory()?;
        self.subject.clients.execute(ClientCommand::MeasurePauses(self.interval_ns))?;
        let upgrade = match subject {
            "quiet" => None,
            _ => Some(self.upgrade()?),
        };
        self.subject.wait(seconds_to_ns(self.args.rest))?;
        let failed = self.excuse_failed()?;
        let findings = self.subject.clients.findings(&[])?;
        let deliveries = findings.visits.since(&self.before.visits);
        let disconnected = findings.closed.total() - self.before.closed.total();
        let mut faults = deliveries.faults(0);
        if disconnected > 0 {
            faults.extend(close_fault(&findings.closed));
        }
        let connections = self.subject.clients.live();
        if let Some(Outcome { went_on, closed, .. }) = &upgrade
            && (*went_on != connections as u64 || *closed > 0)
        {
            let words = "connections went on, where";
            faults.push(format!("{went_on} {words} {connections} are open; {closed} were closed"));
        }
        let pause = Percentiles::of(&findings.pauses);
        self.before = findings;
        Ok(json!({
            "subject": subject,
            "round": round,
            "connections": connections,
            "pause": pause,
            "upgrade": upgrade,
            "disconnected": disconnected,
            "deliveries": deliveries,
            "failed_pushes": failed,
            "memory_before": memory_before,
            "memory_after": self.subject.target.gauge.memory()?,
            "faults": faults.into_iter().map(|fault| format!("{subject} {round}: {fault}")).collect::<Vec<_>>(),
        }))
    }

    /// Orders an upgrade, and receives meanwhile. Fails if the server goes on as before.
    fn upgrade(&mut self) -> Result<Outcome> {
        let order = self.line.order();
        while !order.is_finished() {
            self.subject.clients.turn(LOOK_NS)?;
        }
        let outcome = order.join().map_err(|_| "the order has panicked")??;
        self.line.go_on_as(outcome.pid, &mut self.subject.target)?;
        Ok(outcome)
    }

    /// No client needs to have what its caller was told had failed; returns how many pushes that were.
    fn excuse_failed(&mut self) -> Result<u64> {
        let mut all = Vec::new();
        for Pushes { kind, course, .. } in &self.pushes {
            let id = |number| StreamId { kind: *kind, number };
            let failed = course.take_failed().into_iter();
            all.extend(failed.map(|(stream, sequence)| (id(stream), sequence)));
        }
        let count = all.len() as u64;
        self.subject.clients.execute(ClientCommand::Excuse(all))?;
        Ok(count)
    }

    /// Ends the pushes, and accounts for all of them.
    fn end(mut self) -> Result<Value> {
        self.pushes.iter().for_each(|pushes| pushes.course.end());
        while !self.pushes.iter().all(|pushes| pushes.sender.is_finished()) {
            self.subject.clients.turn(LOOK_NS)?;
        }
        let failed = self.excuse_failed()?;
        let mut messages = vec![Vec::new(); StreamId::KINDS as usize];
        let (mut dropped, mut pushes, mut all_failed, mut refusals) = (0, 0, 0, Vec::new());
        for Pushes { kind, sender, .. } in self.pushes.drain(..) {
            let (sent, _) = sender.join().map_err(|_| "the sender panicked")??;
            dropped += sent.dropped_of_present();
            pushes += sent.pushes;
            all_failed += sent.answers.refused;
            refusals.extend(sent.answers.refusal);
            messages[kind as usize] = sent.messages;
        }
        let ended_ns = now_ns();
        let findings = self.subject.await_deliveries(&messages, dropped)?;
        let deliveries: Deliveries = findings.visits;
        let mut faults = deliveries.faults(dropped);
        faults.extend(close_fault(&findings.closed));
        let live = self.subject.clients.live();
        if live != self.subject.crowd.connections {
            faults.push(format!("{live} of {} clients are there", self.subject.crowd.connections));
        }
        Ok(json!({
            "pushes": pushes,
            "failed_pushes": all_failed,
            "failed_last": failed,
            "refusals": refusals,
            "deliveries": deliveries,
            "dropped": dropped,
            "latency": Percentiles::of(&findings.latencies),
            "waited_ns": now_ns() - ended_ns,
            "faults": faults,
        }))
    }
}
