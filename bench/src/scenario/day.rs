//! `day`: a day in phases. Connections come in a storm, rooms of mixed sizes, keys and everybody are pushed to
//! at rates of their own, guests come and go, heartbeats run along, and many reconnect at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{
    COMET, dropped_by_reason, dropped_of_present, faults_beside_guests, pin, refusal, run_id,
};
use crate::Result;
use crate::args::{DayArgs, Phase};
use crate::clients::{Order, guests_max, kind};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, seconds_to_ns};
use crate::crew::{Brief, Crew};
use crate::crowd::{Crowd, Streams};
use crate::dial::ensure_descriptors;
use crate::findings::{Findings, GuestSums};
use crate::grpc::Address;
use crate::measure::turn_for;
use crate::outlet::{Manner, Sink};
use crate::process::Memory;
use crate::pushing::{await_all, push_all};
use crate::report::{Report, number, progress_bar, table};
use crate::sampler::Series;
use crate::sender::{Pattern, Plan, Progress, Sent};
use crate::stats::Percentiles;
use crate::target::Target;
use crate::visits::VisitSums;

/// Share of the guests that change their room.
const MOVES: f64 = 0.3;
/// How long those who lost their connection may take to be back.
const BACK_NS_MAX: u64 = 30 * SECOND_NS;

#[derive(Serialize)]
struct Results {
    /// One, in the form of turns.
    days: [Whole; 1],
    phases: Vec<Outcome>,
}

/// What is not of one phase alone.
#[derive(Serialize)]
struct Whole {
    subject: &'static str,
    round: u32,
    /// From before the first connection to the last delivery.
    series: Series,
}

/// What one phase gave.
#[derive(Serialize)]
struct Outcome {
    subject: &'static str,
    /// Its name; the rest of it is in the config.
    phase: String,
    /// Members that are connected at its end.
    connections: usize,
    guests: GuestSums,
    /// Of members and guests.
    handshake: Percentiles,
    pushes: u64,
    deliveries: VisitSums,
    dropped: BTreeMap<String, u64>,
    /// Keys that nobody held when they were pushed to.
    absent: u64,
    latency: Percentiles,
    heartbeats: u64,
    round_trip: Percentiles,
    elapsed_ns: u64,
    /// Share of one CPU that the server uses.
    cpu_share: Option<f64>,
    memory: Option<Memory>,
    faults: Vec<String>,
}

/// A day under way.
struct Day<'a> {
    args: &'a DayArgs,
    crowd: Crowd,
    target: Target,
    crew: Crew,
    progress: Arc<Progress>,
    /// Members that are to be connected.
    connected: usize,
}

/// Runs it; says whether every delivery was made or owned to, and nobody was thrown out.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &DayArgs) -> Result<bool> {
    let connections = args.dial.connections as usize;
    let args = args.clone().with_phases();
    let guests = args.phase.iter().map(|phase| guests_max(phase.arrivals, args.life)).max();
    // The old and the new connection of one that reconnects are there at once for a moment.
    ensure_descriptors(connections + guests.unwrap_or(0) as usize, args.dial.processes)?;
    pin(&args.host)?;
    let mut day = Day::begin(&args)?;
    let mut phases = Vec::new();
    for phase in &args.phase {
        phases.push(day.pass(phase)?);
    }
    let days = [Whole { subject: COMET, round: 1, series: day.crew.end_series()? }];
    let text = phases_table(&phases);
    let faults = phases.iter().flat_map(|phase| phase.faults.iter().cloned()).collect();
    Report::new("day", &args, Results { days, phases }, faults).finish(&text, &args.host)
}

impl<'a> Day<'a> {
    fn begin(args: &'a DayArgs) -> Result<Self> {
        let connections = args.dial.connections as usize;
        let crowd = Crowd {
            zipf: true,
            ..Crowd::of_server(&args.server, connections, args.rooms as usize, Streams::Rooms)
        };
        let target = Target::server(&args.server, &args.host)?;
        let brief = Brief {
            run: run_id(),
            operation: args.server.operation,
            size: args.size as usize,
            slow_buffer: None,
        };
        let progress = Arc::new(Progress::default());
        let mut crew = Crew::gather(brief, &target, &crowd, &args.dial, Arc::clone(&progress))?;
        crew.order(Order::Heartbeat(seconds_to_ns(args.heartbeat)))?;
        crew.start_series(target.gauge)?;
        Ok(Self { args, crowd, target, crew, progress, connected: 0 })
    }

    fn pass(&mut self, phase: &Phase) -> Result<Outcome> {
        let (run, size) = (run_id(), self.args.size as usize);
        let (started_ns, cpu_before) = (now_ns(), self.target.cpu()?);
        self.crew.order(Order::Begin { run, size, visitors: true })?;
        let dialed = self.connect(phase)?;
        // Those who have just come are there for all that follows.
        self.crew.order(Order::Begin { run, size, visitors: true })?;
        if phase.reconnect > 0.0 {
            self.crew.order(Order::Reconnect(phase.reconnect))?;
        }
        if phase.arrivals > 0.0 {
            self.crew.churn(phase.arrivals, self.args.life, MOVES, &self.crowd)?;
        }
        let bar = progress_bar(None, &phase.name);
        let pushes = self.pushes(phase, run)?;
        let ends_ns = now_ns() + seconds_to_ns(phase.seconds);
        let sent = push_all(&mut self.crew, pushes, &self.progress, |crew| {
            bar.set_position(crew.received());
            Ok(())
        })?;
        turn_for(&mut self.crew, ends_ns.saturating_sub(now_ns()))?;
        bar.finish_and_clear();
        let (ended_ns, cpu_after) = (now_ns(), self.target.cpu()?);
        let memory = self.target.memory()?;
        self.crew.order(Order::Calm)?;
        self.await_members()?;

        let dropped = dropped_of_present(&dropped_by_reason(&sent, 1));
        let messages = messages_by_kind(phase, &sent);
        let mut findings = await_all(&mut self.crew, &messages, dropped)?;
        findings.handshakes.add(&dialed.handshakes)?;
        let elapsed_ns = ended_ns - started_ns;
        let cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
        let cpu_share = cpu.map(|cpu| cpu.total_ns as f64 / elapsed_ns.max(1) as f64);
        Ok(Outcome { elapsed_ns, cpu_share, memory, ..self.outcome(phase, &findings, &sent) })
    }

    /// Members connect until there are as many as the phase wants.
    fn connect(&mut self, phase: &Phase) -> Result<Findings> {
        let share = phase.connect.clamp(0.0, 1.0);
        let wanted = (self.crowd.connections as f64 * share).round() as usize;
        if wanted > self.connected {
            let bar = progress_bar(Some(wanted as u64), &format!("{}: connecting", phase.name));
            self.crew.dial(self.connected..wanted, &bar)?;
            bar.finish_and_clear();
            self.connected = wanted;
        }
        self.crew.findings(&[])
    }

    /// What the phase pushes, and where; nothing for a rate of 0.
    fn pushes(&self, phase: &Phase, run: u32) -> Result<Vec<(Plan, Sink)>> {
        let crowd = &self.crowd;
        let mut pushes = Vec::new();
        for (kind, rate) in [
            (kind::ROOM, phase.room_rate),
            (kind::KEY, phase.key_rate),
            (kind::EVERYBODY, phase.broadcast_rate),
        ] {
            let Some(interval_ns) = Plan::interval_of(rate) else { continue };
            let (members, addresses): (Vec<u64>, Vec<Address>) = match kind {
                kind::ROOM => {
                    let rooms = (0..crowd.rooms).map(|room| Address::Room(crowd.room(room)));
                    (crowd.members(), rooms.collect())
                }
                kind::KEY => (0..crowd.connections)
                    .map(|connection| (1, Address::Keys(vec![crowd.key(connection)])))
                    .unzip(),
                _ => (vec![crowd.connections as u64], vec![Address::Everybody]),
            };
            let plan = Plan {
                run: run + kind,
                operation: self.args.server.operation,
                size: self.args.size as usize,
                batch: 1,
                members,
                pattern: Pattern::Rotating { first: 0 },
                interval_ns: Some(interval_ns),
                duration_ns: seconds_to_ns(phase.seconds),
                window: 1,
            };
            let grpc = self.target.grpc.clone().ok_or("no push API: name --grpc")?;
            pushes.push((
                plan,
                Sink::Server { grpc, addresses, manner: Manner::Calls { callers: 1 } },
            ));
        }
        Ok(pushes)
    }

    /// Waits for those who reconnect, and for the guests to be gone.
    fn await_members(&mut self) -> Result<()> {
        let deadline_ns = now_ns() + BACK_NS_MAX;
        while self.crew.live() != self.connected && now_ns() < deadline_ns {
            self.crew.turn(20 * MILLISECOND_NS)?;
        }
        Ok(())
    }

    fn outcome(&self, phase: &Phase, findings: &Findings, sent: &[Sent]) -> Outcome {
        let dropped = dropped_by_reason(sent, 1);
        let connections = self.crew.live();
        let mut faults = faults_beside_guests(findings, &dropped);
        faults.extend(sent.iter().filter_map(refusal));
        if connections != self.connected {
            faults.push(format!("{connections} of {} members are connected", self.connected));
        }
        Outcome {
            subject: COMET,
            phase: phase.name.clone(),
            connections,
            guests: findings.guests,
            handshake: Percentiles::of(&findings.handshakes),
            pushes: sent.iter().map(|sent| sent.pushes).sum(),
            deliveries: findings.visits,
            dropped,
            absent: sent.iter().map(|sent| sent.answers.ledger.absent).sum(),
            latency: Percentiles::of(&findings.latencies),
            heartbeats: findings.heartbeats_sent,
            round_trip: Percentiles::of(&findings.round_trips),
            elapsed_ns: 0,
            cpu_share: None,
            memory: None,
            faults: faults.into_iter().map(|fault| format!("{}: {fault}", phase.name)).collect(),
        }
    }
}

/// The messages of each stream, in the place of its kind; `sent` has only the kinds with a rate.
fn messages_by_kind(phase: &Phase, sent: &[Sent]) -> Vec<Vec<u64>> {
    let mut sent = sent.iter();
    let rates = [phase.room_rate, phase.key_rate, phase.broadcast_rate];
    let of_kind = rates.map(|rate| if rate > 0.0 { sent.next() } else { None });
    of_kind.map(|sent| sent.map(|sent| sent.messages.clone()).unwrap_or_default()).to_vec()
}

fn phases_table(phases: &[Outcome]) -> String {
    let headings = [
        "phase", "live", "guests", "shakes", "p99 us", "pushes", "received", "lost", "dropped",
        "absent", "p50 us", "p99 us", "max us", "beats", "p99 us", "CPU %", "RSS MB",
    ];
    let row = |is: &Outcome| {
        vec![
            is.phase.clone(),
            is.connections.to_string(),
            is.guests.arrived.to_string(),
            is.handshake.count.to_string(),
            number(Some(is.handshake.p99_us), 0),
            is.pushes.to_string(),
            is.deliveries.received.to_string(),
            is.deliveries.lost.to_string(),
            is.dropped.values().sum::<u64>().to_string(),
            is.absent.to_string(),
            number(Some(is.latency.p50_us), 0),
            number(Some(is.latency.p99_us), 0),
            number(Some(is.latency.max_us), 0),
            is.heartbeats.to_string(),
            number(Some(is.round_trip.p99_us), 0),
            number(is.cpu_share.map(|share| share * 100.0), 1),
            number(is.memory.map(|memory| memory.rss_bytes as f64 / 1e6), 2),
        ]
    };
    table(&headings, &phases.iter().map(row).collect::<Vec<_>>())
}
