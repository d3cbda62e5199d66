//! `upgrade`: live upgrades in a row of a server under load: it gets pushes, clients send messages to logic, enter and
//! leave rooms, and some read nothing. Clients must notice a pause, and nothing else: no connection is lost, and no
//! message is lost, doubled or out of order.

mod books;

use std::net::Ipv4Addr;
use std::path;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::tempfile;

use self::books::Books;
use super::{keeps_stalled, prepare};
use crate::Result;
use crate::accounting::StreamId;
use crate::args::{SetupArgs, UpgradeArgs};
use crate::clients::{ClientCommand, VisitPlan};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::{Crowd, Streams};
use crate::findings::{Findings, close_fault};
use crate::logic::{LogicBooks, Said};
use crate::plan::{Course, Pattern, Plan, run_id};
use crate::report::{self, Table};
use crate::sender::{self, Sent};
use crate::sink::PushMethod;
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};
use crate::succession::{Outcome, Succession};
use crate::target::{Endpoints, Target, free_ports, list};
use crate::tls::Certificate;
use crate::yardstick::Feed;

const FIGURES: &str = "connections, pause p50, pause p99, pause max, server's pause, pause a connection, went on, \
    not moved, disconnected, lost, doubled, late, failed, RSS before, RSS after";

/// Time between two checks of what clients receive.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;
/// How long pushes run before the first measurement.
const WARM_UP_NS: u64 = 500 * MILLISECOND_NS;
/// Longer than any run, which is ended explicitly.
const DURATION_S: f64 = 1e6;
/// The number of rooms that are visited, and pushes to each per second.
const FURTHER_ROOMS: usize = 20;
const FURTHER_RATE: f64 = 5.0;
/// How long a visitor stays.
const STAY_NS: u64 = 3 * SECOND_NS;
/// The most unanswered pushes of a caller that pushes flat out.
const UNANSWERED_MAX: u64 = 64;
/// How long the last answers to messages and requests of clients may take at the end.
const ANSWERS_NS: u64 = 60 * SECOND_NS;
/// Kernel receive buffer of a client that reads nothing.
const STALLED_BUFFER: usize = 4096;

/// Runs it; returns whether clients noticed nothing but pauses.
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
    // First the same measurement without an upgrade.
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

/// A server that gets pushes.
struct UnderWay<'a> {
    args: &'a UpgradeArgs,
    subject: Subject,
    succession: Succession,
    /// Each process reads its files.
    _certificate: Certificate,
    logic: LogicBooks,
    pushes: Vec<Pushes>,
    interval_ns: u64,
    /// The findings at the end of the last turn; and the server's counts at the beginning of the run and at that time.
    before: Findings,
    at_first: Books,
    at_last: Books,
}

impl<'a> UnderWay<'a> {
    fn begin(args: &'a UpgradeArgs) -> Result<Self> {
        let logic = LogicBooks::start()?;
        let mut settings = vec![list("logic.addrs", logic.address)];
        if args.stalled > 0.0 {
            settings.extend(keeps_stalled("drop-newest"));
        }
        let (target, certificate) = start(args, settings)?;
        let pid = target.gauge.pid.expect("the bench has started it");
        let program = path::absolute(args.setup.server.program()?)?;
        let succession = Succession::of(program, pid)?;
        let visits = !args.flat_out && args.visits > 0.0;
        let crowd = Crowd {
            tls_share: args.tls_share,
            stalled_share: args.stalled,
            slow_buffer: Some(STALLED_BUFFER),
            further: usize::from(visits),
            further_of: if visits { FURTHER_ROOMS } else { 0 },
            ..Crowd::of(&args.setup, args.rooms)
        };
        let mut subject =
            Subject::of_target(Place::of(COMET, 1), target, &args.setup, crowd.clone())?;
        subject.await_logic()?;
        subject.connect()?;
        let run = run_id();
        subject.restart(run, args.size as usize, true)?;
        let stat = subject.target.stat.expect("it was started here");
        let [at_first, at_last] = [Books::of(stat)?, Books::of(stat)?];
        subject.clients.execute(ClientCommand::SlowDown(1))?;
        if let Some(interval_ns) = Plan::interval_of(args.talk) {
            subject.clients.execute(ClientCommand::Talk(interval_ns))?;
        }
        if let Some(interval_ns) = Plan::interval_of(args.visits).filter(|_| visits) {
            let rooms = FURTHER_RATE * FURTHER_ROOMS as f64;
            let each_ns = Plan::interval_of(rooms).expect("it is above 0");
            let period_ns = each_ns * FURTHER_ROOMS as u64;
            let plan = VisitPlan { interval_ns, stay_ns: STAY_NS, period_ns };
            subject.clients.execute(ClientCommand::Visit(plan))?;
        }
        let pushes = start_pushes(args, &mut subject, run, visits)?;
        subject.wait(WARM_UP_NS)?;
        // When flat out, there is no fixed interval between the pushes to a room.
        let interval_ns = if args.flat_out { 0 } else { interval_of(args.rate) };
        let before = subject.clients.findings(&[])?;
        Ok(Self {
            args,
            subject,
            succession,
            _certificate: certificate,
            logic,
            pushes,
            interval_ns,
            before,
            at_first,
            at_last,
        })
    }

    /// Runs one upgrade and the time after it, or the same time without one.
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
        // If pushes are flat out, the number dropped is only checked in the books of the whole run.
        let dropped = if self.args.flat_out { deliveries.lost } else { 0 };
        let mut faults = deliveries.faults(dropped);
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
        let stat = self.subject.target.stat.expect("it was started here");
        let books = Books::of(stat)?;
        faults.extend(books.fallen(&self.at_last));
        self.at_last = books;
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

    /// Orders an upgrade, and receives in the meantime. Fails if the upgrade is not made.
    fn upgrade(&mut self) -> Result<Outcome> {
        let order = self.succession.order();
        while !order.is_finished() {
            self.subject.clients.turn(LOOK_NS)?;
        }
        let outcome = order.join().map_err(|_| "the order has panicked")??;
        self.succession.go_on_as(outcome.pid)?;
        self.subject.target.go_on_as(outcome.pid);
        Ok(outcome)
    }

    /// Excuses clients from the pushes whose callers were told that they failed; returns the number of these pushes.
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

    /// Ends the pushes, makes all clients read again, and accounts for everything.
    fn end(mut self) -> Result<Value> {
        self.subject.clients.execute(ClientCommand::StopTalkAndVisits)?;
        self.pushes.iter().for_each(|pushes| pushes.course.end());
        while !self.pushes.iter().all(|pushes| pushes.sender.is_finished()) {
            self.subject.clients.turn(LOOK_NS)?;
        }
        let failed = self.excuse_failed()?;
        let mut messages = vec![Vec::new(); StreamId::KINDS as usize];
        let mut sums = Sent::default();
        let mut dropped = 0;
        for Pushes { kind, sender, .. } in self.pushes.drain(..) {
            let (sent, _) = sender.join().map_err(|_| "the sender panicked")??;
            dropped += sent.dropped_of_present();
            sums.pushes += sent.pushes;
            let (all, of_kind) = (&mut sums.answers, sent.answers);
            all.refused += of_kind.refused;
            all.refusal = all.refusal.take().or(of_kind.refusal);
            all.ledger.matched += of_kind.ledger.matched;
            all.ledger.queued += of_kind.ledger.queued;
            messages[kind as usize] = sent.messages;
        }
        // Visitors need not receive the messages up to the last.
        messages[StreamId::FURTHER as usize].clear();
        self.subject.clients.execute(ClientCommand::ReadNormally)?;
        let ended_ns = now_ns();
        let findings = self.subject.await_deliveries(&messages, dropped)?;
        let waited_ns = now_ns() - ended_ns;
        let answered = self.subject.wait_for(ANSWERS_NS, |subject| {
            let Findings { talk, joins, .. } = subject.clients.findings(&[])?;
            let answers = joins.joined + joins.refused + joins.left;
            Ok((talk.answered == talk.sent && answers == joins.asked).then_some(()))
        })?;
        let Findings { talk, joins, closed, .. } = self.subject.clients.findings(&[])?;
        let deliveries = findings.visits;
        let mut faults = deliveries.faults(dropped);
        faults.extend(close_fault(&closed));
        if answered.is_none() {
            faults.push(format!("answers are missing: {talk:?}, {joins:?}"));
        }
        if joins.refused > 0 {
            faults.push(format!("{} requests to enter a room were refused", joins.refused));
        }
        let live = self.subject.clients.live();
        if live != self.subject.crowd.connections {
            faults.push(format!("{live} of {} clients are there", self.subject.crowd.connections));
        }
        let stat = self.subject.target.stat.expect("it was started here");
        let books = Books::of(stat)?;
        let audit = books.audit(&self.at_first);
        faults.extend(audit.faults.clone());
        let (matched, queued) = (sums.answers.ledger.matched, sums.answers.ledger.queued);
        // A push that failed may still have been made.
        let is_known = sums.answers.refused == 0;
        if matched > audit.matched
            || (is_known && (matched, queued) != (audit.matched, audit.queued))
        {
            faults.push(format!(
                "callers were told {matched} matched and {queued} queued; the server counted {} and {}",
                audit.matched, audit.queued
            ));
        }
        let said = self.logic.said();
        let talk_fault = talk_fault(&said, talk.sent, audit.received);
        faults.extend(talk_fault.map(|fault| format!("{fault}; failed: {}", books.failed_calls())));
        Ok(json!({
            "pushes": sums.pushes,
            "failed_pushes": sums.answers.refused,
            "failed_last": failed,
            "refusals": sums.answers.refusal,
            "deliveries": deliveries,
            "dropped": dropped,
            "talk": talk,
            "said": said,
            "joins": joins,
            "server": audit,
            "latency": Percentiles::of(&findings.latencies),
            "stalled_latency": Percentiles::of(&findings.impaired_latencies),
            "waited_ns": waited_ns,
            "faults": faults,
        }))
    }
}

/// Starts the first process, with further addresses for clients inside TLS, and with settings `more`.
fn start(args: &UpgradeArgs, more: Vec<String>) -> Result<(Target, Certificate)> {
    let SetupArgs { server, host, .. } = &args.setup;
    let certificate = Certificate::make()?;
    let [tcp, websocket] = free_ports(Ipv4Addr::LOCALHOST)?;
    let settings = [
        list("tls.certificates", certificate.certificate().display()),
        list("tls.keys", certificate.key().display()),
        list("tcp.tls_bind", tcp),
        list("websocket.tls_bind", websocket),
    ];
    let arguments: Vec<_> = settings
        .into_iter()
        .chain(more)
        .flat_map(|setting| ["--set".to_owned(), setting])
        .collect();
    let mut target = Target::start(server, host, &arguments, tempfile()?)?;
    target.endpoints.inside_tls = Some(Box::new(Endpoints {
        tcp,
        websocket: Some(websocket),
        tls: Some(certificate.trust.clone()),
        inside_tls: None,
    }));
    Ok((target, certificate))
}

fn interval_of(rate: f64) -> u64 {
    Plan::interval_of(rate).expect("it is above 0")
}

/// Begins to push to rooms, keys, and visited rooms.
fn start_pushes(
    args: &UpgradeArgs,
    subject: &mut Subject,
    run: u32,
    visits: bool,
) -> Result<Vec<Pushes>> {
    let further_rate = if visits { FURTHER_RATE * FURTHER_ROOMS as f64 } else { 0.0 };
    let kinds = [
        (StreamId::ROOM, Streams::Rooms, args.rate * f64::from(args.rooms)),
        (StreamId::KEY, Streams::Keys(1), args.key_rate),
        (StreamId::FURTHER, Streams::FurtherRooms, further_rate),
    ];
    let mut pushes = Vec::new();
    for (kind, streams, rate) in kinds {
        let Some(interval_ns) = Plan::interval_of(rate) else { continue };
        let crowd = Crowd { streams, ..subject.crowd.clone() };
        let is_flat_out = args.flat_out && kind == StreamId::ROOM;
        let plan = Plan {
            run: run + kind,
            pattern: Pattern::Rotating { first: 0 },
            interval_ns: Some(interval_ns).filter(|_| !is_flat_out),
            unanswered_max: Some(UNANSWERED_MAX),
            duration_ns: seconds_to_ns(DURATION_S),
            ..Plan::new(subject.operation, args.size as usize, crowd.members())
        };
        let course = Arc::clone(&plan.course);
        let method = subject.method;
        if is_flat_out {
            subject.method = PushMethod::MovingStream;
        }
        let sink = subject.sink(&crowd)?;
        subject.method = method;
        let sender = sender::start(plan, sink, subject.clients.watch_received());
        pushes.push(Pushes { kind, course, sender });
    }
    Ok(pushes)
}

/// The fault in the messages of clients, of which the server has counted `counted`.
fn talk_fault(said: &Said, sent: u64, counted: u64) -> Option<String> {
    let Said { received, doubled, out_of_order, lost, foreign, disconnects } = *said;
    let wrong = [doubled, out_of_order, lost, foreign, disconnects];
    if received == sent && counted == sent && wrong == [0; 5] {
        return None;
    }
    Some(format!(
        "clients sent {sent} messages, the server counted {counted}, and logic got {said:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_of_a_client_must_be_received_once() {
        let said = Said { received: 5, ..Said::default() };
        assert!(talk_fault(&said, 5, 5).is_none());
        assert!(talk_fault(&said, 6, 5).is_some());
        assert!(talk_fault(&said, 5, 6).is_some());
        assert!(talk_fault(&Said { doubled: 1, ..said }, 5, 5).is_some());
        assert!(talk_fault(&Said { disconnects: 1, ..said }, 5, 5).is_some());
    }
}
