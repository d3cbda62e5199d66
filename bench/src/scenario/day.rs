//! `day`: phases one after the other, each with the rates of its own: a storm of connections, pushes to rooms, to
//! keys and to everybody, guests, heartbeats, a reconnect storm.

use serde_json::{Value, json};

use super::{delivery_faults, prepare};
use crate::Result;
use crate::accounting::StreamId;
use crate::args::{DayArgs, Phase, SetupArgs};
use crate::clients::{ChurnPlan, ClientCommand, guests_max};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::{Crowd, Streams};
use crate::findings::Findings;
use crate::plan::{Pattern, Plan, run_id};
use crate::report::{self, Table};
use crate::sender::Sent;
use crate::sink::Sink;
use crate::stats::Percentiles;
use crate::subject::{COMET, Place, Subject};

/// Share of the guests that change their room.
const MOVES: f64 = 0.3;
/// How long reconnecting members may take.
const BACK_NS_MAX: u64 = 30 * SECOND_NS;

const FIGURES: &str = "connections, guests, handshakes, handshake p99, pushes, received, lost, dropped, \
    absent, latency p50, latency p99, latency max, heartbeats, round trip p99, CPU, RSS";

/// A day under way.
struct Day<'a> {
    args: &'a DayArgs,
    subject: Subject,
    /// Members that are to be connected.
    connected: usize,
}

/// Runs it; returns whether every delivery was made or counted as dropped, and no connection was closed.
pub(crate) fn run(args: &DayArgs) -> Result<bool> {
    let args = args.clone().with_phases();
    let SetupArgs { dial, server, host } = &args.setup;
    let guests = args.phase.iter().map(|phase| guests_max(phase.arrivals, args.life)).max();
    // The old and the new connection of one that reconnects are there at once for a moment.
    prepare(host, dial, dial.connections as usize + guests.unwrap_or(0) as usize)?;
    let mut day = Day::begin(&args)?;
    let started_ns = now_ns();
    // By the clock of the series.
    let since_start_s = || (now_ns() - started_ns) as f64 / SECOND_NS as f64;
    let (mut phases, mut spans) = (Vec::new(), Vec::new());
    for phase in &args.phase {
        let start_s = since_start_s();
        day.subject.place.turn += 1;
        phases.push((phase.name.clone(), day.pass(phase)?));
        let end_s = since_start_s();
        spans.push(json!({ "name": phase.name, "start_s": start_s, "end_s": end_s }));
    }
    let series = day.subject.clients.end_series()?;
    // What is not of one phase alone, in the form of turns.
    let day = json!({ "subject": COMET, "round": 1, "series": series, "phases": spans });
    let text = Table::of("phase", &phases, FIGURES).transposed().text();
    let phases: Vec<Value> = phases.into_iter().map(|(_, outcome)| outcome).collect();
    let results = json!({ "days": [day], "phases": phases });
    report::finish("day", &args, (host, Some(server)), results, &text)
}

impl<'a> Day<'a> {
    fn begin(args: &'a DayArgs) -> Result<Self> {
        let crowd = Crowd { zipf: true, ..Crowd::of(&args.setup, args.rooms) };
        let turns = args.phase.len() as u32;
        let place = Place { subject: COMET, round: 1, rounds: 1, turn: 0, turns };
        let mut subject = Subject::server(place, &args.setup, crowd)?;
        subject.clients.execute(ClientCommand::Heartbeat(seconds_to_ns(args.heartbeat)))?;
        subject.clients.start_series(subject.target.gauge)?;
        Ok(Self { args, subject, connected: 0 })
    }

    /// What one phase gave, explained in [`crate::figures`].
    fn pass(&mut self, phase: &Phase) -> Result<Value> {
        let (run, size) = (run_id(), self.args.size as usize);
        let before = self.subject.mark()?;
        let restart = ClientCommand::Restart { run, size, all_streams: true };
        self.subject.clients.execute(restart.clone())?;
        let dialed = self.connect(phase)?;
        // Members that have just connected are there for all that follows.
        self.subject.clients.execute(restart)?;
        if phase.reconnect > 0.0 {
            self.subject.clients.execute(ClientCommand::Reconnect(phase.reconnect))?;
        }
        if phase.arrivals > 0.0 {
            let members = self.subject.crowd.connections;
            let guests = ChurnPlan::of(phase.arrivals, self.args.life, MOVES, members);
            self.subject.clients.execute(ClientCommand::StartGuests(guests))?;
        }
        let bar = self.subject.place.bar(None, &phase.name);
        let message = (self.args.setup.server.operation, size, run);
        let pushes = pushes(&mut self.subject, phase, message)?;
        let ends_ns = now_ns() + seconds_to_ns(phase.seconds);
        let sent = self.subject.push_all(pushes, &bar, |_| Ok(()))?;
        self.subject.wait(ends_ns.saturating_sub(now_ns()))?;
        bar.finish_and_clear();
        let used = self.subject.since(&before)?;
        let memory = self.subject.target.gauge.memory()?;
        self.subject.clients.execute(ClientCommand::StopGuests)?;
        self.await_members()?;

        let dropped = sent.iter().map(Sent::dropped_of_present).sum();
        let messages = messages_by_kind(phase, &sent);
        let mut findings = self.subject.await_deliveries(&messages, dropped)?;
        findings.handshakes += dialed.handshakes;
        let connections = self.subject.clients.live();
        let mut faults = delivery_faults(&findings, dropped);
        faults.extend(sent.iter().filter_map(Sent::refusal));
        if connections != self.connected {
            faults.push(format!("{connections} of {} members are connected", self.connected));
        }
        let faults: Vec<_> =
            faults.into_iter().map(|fault| format!("{}: {fault}", phase.name)).collect();
        let by_reason =
            sent.iter().filter_map(|sent| sent.dropped.clone()).reduce(|mut all, more| {
                all += more;
                all
            });
        let absent: u64 = sent.iter().map(|sent| sent.answers.ledger.absent).sum();
        Ok(json!({
            "subject": COMET,
            // The rest of the phase is in the config.
            "phase": phase.name,
            // Members that are connected at its end.
            "connections": connections,
            "guests": findings.guests,
            // Of members and guests.
            "handshake": Percentiles::of(&findings.handshakes),
            "pushes": sent.iter().map(|sent| sent.pushes).sum::<u64>(),
            "deliveries": findings.visits,
            "dropped": by_reason,
            "absent": by_reason.is_some().then_some(absent),
            "latency": Percentiles::of(&findings.latencies),
            "heartbeats": findings.heartbeats_sent,
            "round_trip": Percentiles::of(&findings.round_trips),
            "elapsed_ns": used.elapsed_ns,
            "cpu_share": used.cpu_share(),
            "memory": memory,
            "faults": faults,
        }))
    }

    /// Members connect until there are as many as the phase wants.
    fn connect(&mut self, phase: &Phase) -> Result<Findings> {
        let share = phase.connect.clamp(0.0, 1.0);
        let wanted = (self.subject.crowd.connections as f64 * share).round() as usize;
        if wanted > self.connected {
            let doing = format!("{}, connecting", phase.name);
            let bar = self.subject.place.bar(Some(wanted as u64), &doing);
            self.subject.clients.dial(self.connected..wanted, &bar)?;
            bar.finish_and_clear();
            self.connected = wanted;
        }
        self.subject.clients.findings(&[])
    }

    /// Waits for the members that reconnect, and for the guests to be gone.
    fn await_members(&mut self) -> Result<()> {
        let deadline_ns = now_ns() + BACK_NS_MAX;
        while self.subject.clients.live() != self.connected && now_ns() < deadline_ns {
            self.subject.clients.turn(20 * MILLISECOND_NS)?;
        }
        Ok(())
    }
}

/// What the phase pushes, and where; nothing for a rate of 0. The messages have `operation`, `size` bytes and the
/// numbers from `run` on.
pub(super) fn pushes(
    subject: &mut Subject,
    phase: &Phase,
    (operation, size, run): (i32, usize, u32),
) -> Result<Vec<(Plan, Sink)>> {
    let mut pushes = Vec::new();
    for (kind, streams, rate) in rates(phase) {
        let Some(interval_ns) = Plan::interval_of(rate) else { continue };
        let crowd = Crowd { streams, ..subject.crowd.clone() };
        let plan = Plan {
            run: run + kind,
            pattern: Pattern::Rotating { first: 0 },
            interval_ns: Some(interval_ns),
            duration_ns: seconds_to_ns(phase.seconds),
            ..Plan::new(operation, size, crowd.members())
        };
        pushes.push((plan, subject.sink(&crowd)?));
    }
    Ok(pushes)
}

/// How often the phase pushes to the streams of each kind.
fn rates(phase: &Phase) -> [(u32, Streams, f64); StreamId::KINDS as usize] {
    [
        (StreamId::ROOM, Streams::Rooms, phase.room_rate),
        (StreamId::KEY, Streams::Keys(1), phase.key_rate),
        (StreamId::BROADCAST, Streams::Everybody, phase.broadcast_rate),
    ]
}

/// The messages of each stream, in the place of its kind; `sent` has only the kinds with a rate.
pub(super) fn messages_by_kind(phase: &Phase, sent: &[Sent]) -> Vec<Vec<u64>> {
    let mut sent = sent.iter();
    let of_kind = rates(phase).map(|(_, _, rate)| if rate > 0.0 { sent.next() } else { None });
    of_kind.map(|sent| sent.map(|sent| sent.messages.clone()).unwrap_or_default()).to_vec()
}
