//! `day`: phases one after the other, each with its own rates: a storm of connections, pushes to rooms, to keys and to
//! everybody, guests, heartbeats, a reconnect storm.

use serde_json::{Value, json};

use super::{delivery_faults, phase, prepare};
use crate::Result;
use crate::args::{DayArgs, Phase};
use crate::clients::{ClientCommand, guests_max};
use crate::clock::{SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::Crowd;
use crate::findings::Findings;
use crate::plan::run_id;
use crate::report::{self, Table};
use crate::sender::Sent;
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
    /// Members that should be connected.
    connected: usize,
}

/// Runs it; returns whether every delivery was made or counted as dropped, and no connection was closed.
pub(crate) fn run(args: &DayArgs) -> Result<bool> {
    let args = args.clone().with_phases();
    let guests = args.phase.iter().map(|phase| guests_max(phase.arrivals, args.life)).max();
    // For a moment, a member that reconnects has its old and its new connection.
    prepare(&args.setup, guests.unwrap_or(0))?;
    let mut day = Day::begin(&args)?;
    let started_ns = now_ns();
    // On the clock of the series.
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
    // What spans all phases, in the form of turns.
    let day = json!({ "subject": COMET, "round": 1, "series": series, "phases": spans });
    let text = Table::of("phase", &phases, FIGURES).transposed().text();
    let phases: Vec<Value> = phases.into_iter().map(|(_, outcome)| outcome).collect();
    let results = json!({ "days": [day], "phases": phases });
    report::finish("day", &args, args.setup.sides(), results, &text)
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

    /// The results of one phase, explained in [`crate::figures`].
    fn pass(&mut self, phase: &Phase) -> Result<Value> {
        let before = self.subject.mark()?;
        let dialed = self.connect(phase)?;
        let guests = (self.args.life, MOVES);
        let pushes = phase::begin(&mut self.subject, phase, self.args.size, guests)?;
        let bar = self.subject.place.bar(None, &phase.name);
        let ends_ns = now_ns() + seconds_to_ns(phase.seconds);
        let sent = self.subject.push_all(pushes, &bar, |_| Ok(()))?;
        self.subject.wait(ends_ns.saturating_sub(now_ns()))?;
        bar.finish_and_clear();
        let used = self.subject.since(&before)?;
        let memory = self.subject.target.gauge.memory()?;
        self.subject.clients.execute(ClientCommand::StopGuests)?;
        // Reconnecting members return, and guests leave.
        let members = self.connected;
        self.subject
            .wait_for(BACK_NS_MAX, |is| Ok((is.clients.live() == members).then_some(())))?;

        let dropped = sent.iter().map(Sent::dropped_of_present).sum();
        let messages = phase::messages_by_kind(phase, &sent);
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
            // Members connected at its end.
            "connections": connections,
            "guests": findings.guests,
            // Handshakes of members and guests.
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

    /// Connects members until there are as many as the phase wants; returns the findings.
    fn connect(&mut self, phase: &Phase) -> Result<Findings> {
        self.subject.restart(run_id(), self.args.size as usize, true)?;
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
}
