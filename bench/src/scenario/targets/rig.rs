//! The test rig of a stage: a server or a yardstick with its connections, kept for many turns, since connecting takes
//! longer than a turn.

use serde_json::Value;

use super::Record;
use crate::Result;
use crate::args::{DialArgs, HostArgs, SetupArgs, TargetsArgs};
use crate::clients::ClientCommand;
use crate::clock::{MILLISECOND_NS, seconds_to_ns};
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::plan::{Plan, run_id};
use crate::sink::PushMethod;
use crate::subject::{COMET, OPERATION, Place, Subject};
use crate::yardstick::Mode;

/// Handshakes under way at once.
const IN_FLIGHT: u32 = 256;
/// Bytes of a body, unless a stage says otherwise.
const SIZE: usize = 128;
/// After a turn's last delivery, so long for what should not come.
const AFTERMATH_NS: u64 = 50 * MILLISECOND_NS;
/// Turns of each where two alternate, and how long one takes. One turn's figure varies by a seventh, with batches
/// by a quarter. Half as long, the first pushes after the other's turn, which find nothing of theirs in the
/// caches, were a tenth of what is measured.
const ALTERNATIONS: usize = 5;
pub(super) const SHORT_NS: u64 = 1_000 * MILLISECOND_NS;

/// It runs, and has no connections before [`Rig::connect`] or [`Rig::storm`].
pub(super) struct Rig(Subject);

/// Connections of a server over TCP that are all in one room.
pub(super) fn in_one_room(args: &TargetsArgs, connections: usize) -> Crowd {
    Crowd::of_server(&args.server(), connections, 1)
}

/// A figure of all threads of a server, and the same of its data cores alone.
pub(super) struct Figures {
    pub all_threads: f64,
    pub data: f64,
}

/// Lets two take turns, several and short ones as `plan` says for each, and gives the CPU of a delivery of both
/// over all of them, ns. What the host does besides, and whether a CPU sleeps when it is to be woken, comes and
/// goes within seconds; so both have their share of it.
pub(super) fn alternate(
    round: u32,
    mut rigs: [&mut Rig; 2],
    plan: impl Fn(&Rig, usize) -> Plan,
    record: &mut Record,
) -> Result<[Figures; 2]> {
    let mut means = [const { Figures { all_threads: 0.0, data: 0.0 } }; 2];
    for at in 0..ALTERNATIONS {
        for (rig, mean) in rigs.iter_mut().zip(&mut means) {
            let plan = Plan { duration_ns: SHORT_NS, ..plan(rig, at) };
            let turn = rig.turn(round, plan, record)?;
            // Each turn has as many deliveries.
            mean.all_threads += figure(&turn, "CPU of a delivery")? / ALTERNATIONS as f64;
            mean.data += figure(&turn, "data CPU of a delivery")? / ALTERNATIONS as f64;
        }
    }
    Ok(means)
}

impl Rig {
    /// Starts a comet on the CPUs of `host`.
    pub(super) fn comet(args: &TargetsArgs, host: &HostArgs, crowd: Crowd) -> Result<Self> {
        let setup = SetupArgs { dial: dial(&crowd)?, server: args.server(), host: host.clone() };
        Ok(Self(Subject::server(Place::of(COMET, args.rounds), &setup, crowd)?))
    }

    /// Starts a yardstick: a bare ring loop, which sends each message to all its connections, or to one where each has
    /// a stream; or a bare gRPC server, which answers the calls of a server with these connections and has none.
    pub(super) fn yardstick(args: &TargetsArgs, mode: Mode, crowd: Crowd) -> Result<Self> {
        let subject = if mode == Mode::Grpc { "bare gRPC" } else { "ring" };
        let (place, dial) = (Place::of(subject, args.rounds), dial(&crowd)?);
        Ok(Self(Subject::yardstick(place, mode, (&args.host, &dial), crowd)?))
    }

    /// Makes all connections.
    pub(super) fn connect(&mut self) -> Result<()> {
        self.0.connect()
    }

    /// Makes all connections, and measures that. Those that are closed go to the findings.
    pub(super) fn storm(&mut self, round: u32, record: &mut Record) -> Result<Value> {
        self.0.place.round = round;
        let storm = self.0.storm(None)?;
        record.storms.push(storm.clone());
        Ok(storm)
    }

    /// What a turn does, unless it is changed: single messages to every stream, ten times a second.
    pub(super) fn plan(&self) -> Plan {
        let interval_ns = Plan::interval_of(10.0);
        Plan { interval_ns, ..Plan::new(OPERATION, SIZE, self.0.crowd.members()) }
    }

    /// Takes a turn. What goes wrong with deliveries goes to the findings.
    pub(super) fn turn(&mut self, round: u32, plan: Plan, record: &mut Record) -> Result<Value> {
        self.0.place.round = round;
        let turn = self.0.turn(plan, AFTERMATH_NS)?;
        record.turns.push(turn.clone());
        Ok(turn)
    }

    /// Whether the pushes to come go through one PushStream, instead of a call each.
    pub(super) fn push_through_one_stream(&mut self, yes: bool) {
        let callers = self.0.crowd.callers as usize;
        self.0.method = if yes { PushMethod::OneStream } else { PushMethod::Calls { callers } };
    }

    /// The shares of one CPU that it uses in `parts` spans of `part_s` seconds, in which nothing is pushed and each
    /// connection sends a heartbeat every so many seconds, spread evenly. Heartbeats that were not answered and
    /// connections that are closed go to the findings.
    pub(super) fn idle(
        &mut self,
        heartbeat_s: f64,
        parts: u32,
        part_s: f64,
        record: &mut Record,
    ) -> Result<Vec<f64>> {
        let restart = ClientCommand::Restart { run: run_id(), size: SIZE, all_streams: false };
        self.0.clients.execute(restart)?;
        self.0.clients.execute(ClientCommand::Heartbeat(seconds_to_ns(heartbeat_s)))?;
        let share = |_| self.0.idle_share(part_s)?.ok_or_else(|| "there are no CPU figures".into());
        let shares = (0..parts).map(share).collect::<Result<_>>()?;
        let found = self.0.await_replies()?;
        record.faults.extend(found.idle_faults().map(|fault| format!("{COMET}, idle: {fault}")));
        Ok(shares)
    }
}

fn dial(crowd: &Crowd) -> Result<DialArgs> {
    let connections = u32::try_from(crowd.connections)?;
    Ok(DialArgs { connections, in_flight: IN_FLIGHT, processes: 1, source: None })
}
