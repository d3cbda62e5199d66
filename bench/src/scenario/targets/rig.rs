//! The subjects of a stage: a server or a yardstick with its connections, kept for many turns, since connecting takes
//! longer than a turn. A subject has no connections until it is connected, or a storm is measured.

use serde_json::Value;

use super::Record;
use crate::Result;
use crate::args::{DialArgs, HostArgs, ServerArgs, SetupArgs, TargetsArgs};
use crate::clock::MILLISECOND_NS;
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::plan::Plan;
use crate::subject::{COMET, Place, Subject};
use crate::yardstick::Mode;

/// Handshakes under way at once.
const IN_FLIGHT: u32 = 256;
/// Bytes of a body, unless a stage says otherwise.
pub(super) const SIZE: u32 = 128;
/// Instead of a number of pushes per second: as many as possible.
pub(super) const FLAT_OUT: f64 = 0.0;
/// How long to wait after a turn's last delivery for messages that should not arrive.
const AFTERMATH_NS: u64 = 50 * MILLISECOND_NS;
/// The number of turns for each of two alternating subjects, and the length of a turn. The figures of single turns vary
/// by a seventh, with batches by a quarter. If turns were half as long, a tenth of the measurement would be the first
/// pushes after the other's turn, which find the caches cold.
const ALTERNATIONS: usize = 5;
pub(super) const SHORT_NS: u64 = 1_000 * MILLISECOND_NS;

/// TCP connections of a server that are all in one room.
pub(super) fn in_one_room(args: &TargetsArgs, connections: usize) -> Crowd {
    Crowd::of_server(&args.server(), connections, 1)
}

/// A figure for all threads of a server, and the same for its data cores alone.
pub(super) struct Figures {
    pub all_threads: f64,
    pub data: f64,
}

/// Alternates between two subjects, in several short turns with the `plan` for each, and returns the mean CPU time of a
/// delivery for both, in ns. Other load on the host, and whether a CPU sleeps when it must be woken, change within
/// seconds; this way both subjects are equally affected.
pub(super) fn alternate(
    round: u32,
    mut subjects: [&mut Subject; 2],
    plan: impl Fn(&Subject, usize) -> Plan,
    record: &mut Record,
) -> Result<[Figures; 2]> {
    let mut means = [const { Figures { all_threads: 0.0, data: 0.0 } }; 2];
    for at in 0..ALTERNATIONS {
        for (subject, mean) in subjects.iter_mut().zip(&mut means) {
            let plan = Plan { duration_ns: SHORT_NS, ..plan(subject, at) };
            let turn = record.turn(subject, round, plan)?;
            // All turns have the same number of deliveries.
            mean.all_threads += figure(&turn, "CPU of a delivery")? / ALTERNATIONS as f64;
            mean.data += figure(&turn, "data CPU of a delivery")? / ALTERNATIONS as f64;
        }
    }
    Ok(means)
}

/// Starts a comet on the CPUs of `host`.
pub(super) fn comet(args: &TargetsArgs, host: &HostArgs, crowd: Crowd) -> Result<Subject> {
    start(args.server(), args, host, crowd)
}

/// The same, but pushed to with push frames.
pub(super) fn comet_with_frames(
    args: &TargetsArgs,
    host: &HostArgs,
    crowd: Crowd,
) -> Result<Subject> {
    start(ServerArgs { frames: true, ..args.server() }, args, host, crowd)
}

fn start(server: ServerArgs, args: &TargetsArgs, host: &HostArgs, crowd: Crowd) -> Result<Subject> {
    let setup = SetupArgs { dial: dial(&crowd)?, server, host: host.clone() };
    Subject::server(Place::of(COMET, args.rounds), &setup, crowd)
}

/// Starts a yardstick: a bare ring loop, which sends each message to all its connections, or to one if each has a
/// stream; or a bare gRPC server, which answers the calls meant for a server with these connections and has none
/// itself.
pub(super) fn yardstick(args: &TargetsArgs, mode: Mode, crowd: Crowd) -> Result<Subject> {
    let subject = match mode {
        Mode::Grpc => "bare gRPC",
        Mode::Fan => "ring of tens",
        Mode::FanGrpc => "gRPC and ring of tens",
        Mode::One => "ring that answers",
        _ => "ring",
    };
    let (place, dial) = (Place::of(subject, args.rounds), dial(&crowd)?);
    Subject::yardstick(place, mode, (&args.host, &dial), crowd)
}

fn dial(crowd: &Crowd) -> Result<DialArgs> {
    let connections = u32::try_from(crowd.connections)?;
    Ok(DialArgs { connections, in_flight: IN_FLIGHT, processes: 1, source: None })
}

/// The default plan of a turn: single messages to every stream, `hertz` times a second.
pub(super) fn plan(subject: &Subject, hertz: f64) -> Plan {
    let interval_ns = Plan::interval_of(hertz);
    Plan { interval_ns, ..subject.plan(SIZE) }
}

impl Record {
    /// Makes all connections, and measures that. Connections that were closed become faults.
    pub(super) fn storm(&mut self, subject: &mut Subject, round: u32) -> Result<Value> {
        subject.place.round = round;
        let storm = subject.storm(None)?;
        self.storms.push(storm.clone());
        Ok(storm)
    }

    /// Runs a turn. Problems with deliveries become faults.
    pub(super) fn turn(&mut self, subject: &mut Subject, round: u32, plan: Plan) -> Result<Value> {
        subject.place.round = round;
        let turn = subject.turn(plan, AFTERMATH_NS)?;
        self.turns.push(turn.clone());
        Ok(turn)
    }

    /// The share of one CPU that it uses in each of `parts` spans of `part_s` seconds, in which nothing is pushed and
    /// each connection sends heartbeats at the given interval, spread evenly. Unanswered heartbeats and closed
    /// connections become faults.
    pub(super) fn idle(
        &mut self,
        subject: &mut Subject,
        heartbeat_s: f64,
        parts: u32,
        part_s: f64,
    ) -> Result<Vec<f64>> {
        subject.begin_heartbeats(heartbeat_s)?;
        let share =
            |_| subject.idle_share(part_s)?.ok_or_else(|| "there are no CPU figures".into());
        let shares = (0..parts).map(share).collect::<Result<_>>()?;
        let found = subject.await_replies()?;
        self.faults.extend(found.idle_faults().map(|fault| format!("{COMET}, idle: {fault}")));
        Ok(shares)
    }
}
