//! A server or a yardstick with its connections, kept for many turns: connecting takes longer than a turn.

use std::sync::Arc;

use super::{NO_CPU, Record, Setup};
use crate::Result;
use crate::args::{DialArgs, HostArgs};
use crate::clients::Order;
use crate::clock::{MILLISECOND_NS, seconds_to_ns};
use crate::crew::{Brief, Crew};
use crate::crowd::{Crowd, Streams};
use crate::findings::{close_fault, silence_fault};
use crate::grpc::Address;
use crate::measure::{Place, Turn, await_replies, settle, take_turn};
use crate::outlet::{Manner, Sink};
use crate::report::progress_bar;
use crate::scenario::connect::{Storm, connect_all, idle_share};
use crate::scenario::run_id;
use crate::sender::{Pattern, Plan, Progress};
use crate::target::Target;
use crate::yardstick::{Feed, Mode};

/// The operation of all messages.
const OPERATION: i32 = 1000;
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

/// It runs; it has no connections before [`Stand::connect`] or [`Stand::storm`].
pub(super) struct Stand {
    subject: &'static str,
    target: Target,
    crowd: Crowd,
    crew: Crew,
    progress: Arc<Progress>,
    way: Way,
}

/// How its messages reach it.
enum Way {
    /// The push API, and the address of each stream.
    Calls { grpc: String, addresses: Vec<Address>, manner: Manner },
    /// None while a turn has it.
    Feed(Option<Feed>),
}

/// The connections a server is to have.
#[derive(Clone, Copy)]
pub(super) struct Members {
    pub connections: usize,
    pub rooms: usize,
    pub streams: Streams,
    /// Who take turns at each stream.
    pub callers: u64,
    pub websocket: bool,
}

impl Members {
    /// TCP connections that are all in one room.
    pub(super) const fn in_one_room(connections: usize) -> Self {
        Self { connections, rooms: 1, streams: Streams::Rooms, callers: 1, websocket: false }
    }

    fn crowd(self, setup: &Setup<'_>) -> Crowd {
        let Self { connections, rooms, streams, callers, websocket } = self;
        let mut crowd = Crowd::of_server(&setup.server, connections, rooms, streams);
        crowd.callers = callers;
        crowd.websocket_share = if websocket { 1.0 } else { 0.0 };
        crowd
    }
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
    mut stands: [&mut Stand; 2],
    plan: impl Fn(&Stand, usize) -> Plan,
    record: &mut Record,
) -> Result<[Figures; 2]> {
    let mut means = [const { Figures { all_threads: 0.0, data: 0.0 } }; 2];
    for at in 0..ALTERNATIONS {
        for (stand, mean) in stands.iter_mut().zip(&mut means) {
            let plan = Plan { duration_ns: SHORT_NS, ..plan(stand, at) };
            let turn = stand.turn(round, plan, record)?;
            // Each turn has as many deliveries.
            mean.all_threads += turn.cpu_ns()? / ALTERNATIONS as f64;
            mean.data += turn.data_cpu_ns()? / ALTERNATIONS as f64;
        }
    }
    Ok(means)
}

fn callers_of(crowd: &Crowd) -> Manner {
    Manner::Calls { callers: crowd.callers as usize }
}

impl Way {
    /// Calls of `target`, to the streams of `crowd`.
    fn calls(target: &Target, crowd: &Crowd) -> Self {
        let addresses = match crowd.streams {
            Streams::Rooms => (0..crowd.rooms).map(|at| Address::Room(crowd.room(at))).collect(),
            Streams::Keys(each) => {
                let keys: Vec<String> = (0..crowd.connections).map(|at| crowd.key(at)).collect();
                keys.chunks(each).map(|keys| Address::Keys(keys.to_vec())).collect()
            }
        };
        let grpc = target.grpc.clone().expect("what takes calls has a push API");
        Self::Calls { grpc, addresses, manner: callers_of(crowd) }
    }
}

impl Stand {
    /// Starts a comet on the CPUs of `host`.
    pub(super) fn comet(setup: &Setup<'_>, host: &HostArgs, members: Members) -> Result<Self> {
        let target = Target::server(&setup.server, host)?;
        let crowd = members.crowd(setup);
        let way = Way::calls(&target, &crowd);
        Self::new("comet", target, crowd, way)
    }

    /// Starts a bare gRPC server, which answers the calls of a server with `members` and has none.
    pub(super) fn bare_grpc(setup: &Setup<'_>, host: &HostArgs, members: Members) -> Result<Self> {
        let (target, _feed) = Target::yardstick(Mode::Grpc, 0, host)?;
        let crowd = members.crowd(setup);
        let way = Way::calls(&target, &crowd);
        Self::new("bare gRPC", target, crowd, way)
    }

    /// Starts a bare ring loop, which sends each message to all its connections.
    pub(super) fn ring(host: &HostArgs, connections: usize) -> Result<Self> {
        Self::yardstick(host, Crowd::of_yardstick(connections))
    }

    /// Starts a bare ring loop for the very connections that a comet would have, upgrades included.
    pub(super) fn ring_for(setup: &Setup<'_>, host: &HostArgs, members: Members) -> Result<Self> {
        Self::yardstick(host, members.crowd(setup))
    }

    /// Starts a bare ring loop that sends each message to one of its connections.
    pub(super) fn ring_of_streams(host: &HostArgs, connections: usize) -> Result<Self> {
        let mut crowd = Crowd::of_yardstick(connections);
        crowd.streams = Streams::Keys(1);
        Self::yardstick(host, crowd)
    }

    fn yardstick(host: &HostArgs, crowd: Crowd) -> Result<Self> {
        let (target, feed) = Target::yardstick(Mode::Ring, crowd.connections, host)?;
        Self::new("ring", target, crowd, Way::Feed(Some(feed)))
    }

    fn new(subject: &'static str, target: Target, crowd: Crowd, way: Way) -> Result<Self> {
        let brief = Brief { run: run_id(), operation: OPERATION, size: SIZE, slow_buffer: None };
        let dial = DialArgs {
            connections: u32::try_from(crowd.connections)?,
            in_flight: IN_FLIGHT,
            processes: 1,
            source: None,
        };
        let progress = Arc::new(Progress::default());
        let crew = Crew::gather(brief, &target, &crowd, &dial, Arc::clone(&progress))?;
        Ok(Self { subject, target, crowd, crew, progress, way })
    }

    /// Makes all connections.
    pub(super) fn connect(&mut self) -> Result<()> {
        let connections = self.crowd.connections;
        let bar = progress_bar(Some(connections as u64), &format!("{}: connecting", self.subject));
        self.crew.dial(0..connections, &bar)?;
        bar.finish_and_clear();
        settle(&mut self.crew, &mut self.target)
    }

    /// Makes all connections, and measures that. Those that are closed go to the findings.
    pub(super) fn storm(&mut self, round: u32, record: &mut Record) -> Result<Storm> {
        let place = Place { subject: self.subject, round };
        let storm = connect_all(place, &mut self.target, &self.crowd, &mut self.crew)?;
        record.faults.extend(storm.faults());
        record.storms.push(storm.clone());
        Ok(storm)
    }

    /// What a turn does, unless it is changed: single messages to every stream, ten times a second.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            run: run_id(),
            operation: OPERATION,
            size: SIZE,
            batch: 1,
            members: self.crowd.members(),
            pattern: Pattern::Every,
            interval_ns: Plan::interval_of(10.0),
            duration_ns: 1000 * MILLISECOND_NS,
            window: 1,
        }
    }

    /// Takes a turn. What goes wrong with deliveries goes to the findings.
    pub(super) fn turn(&mut self, round: u32, plan: Plan, record: &mut Record) -> Result<Turn> {
        self.crew.order(Order::Begin { run: plan.run, size: plan.size, visitors: false })?;
        // Tells the progress of it.
        self.crew.turn(0)?;
        let sink = match &mut self.way {
            Way::Calls { grpc, addresses, manner } => {
                Sink::Server { grpc: grpc.clone(), addresses: addresses.clone(), manner: *manner }
            }
            Way::Feed(feed) => Sink::Yardstick(feed.take().ok_or("the yardstick's feed is lost")?),
        };
        let place = Place { subject: self.subject, round };
        let (crew, target) = (&mut self.crew, &mut self.target);
        let progress = Arc::clone(&self.progress);
        let (turn, feed) = take_turn(place, target, crew, progress, (plan, sink), AFTERMATH_NS)?;
        if let Way::Feed(home) = &mut self.way {
            *home = feed;
        }
        record.add(&turn, matches!(self.subject, "comet" | "ring"));
        Ok(turn)
    }

    /// Whether the pushes to come go through one PushStream, instead of a call each.
    pub(super) fn push_through_one_stream(&mut self, yes: bool) {
        if let Way::Calls { manner, .. } = &mut self.way {
            *manner = if yes { Manner::OneStream } else { callers_of(&self.crowd) };
        }
    }

    /// From now on each connection sends a heartbeat every so many seconds, spread evenly.
    pub(super) fn beat(&mut self, seconds: f64) -> Result<()> {
        self.crew.order(Order::Begin { run: run_id(), size: SIZE, visitors: false })?;
        self.crew.order(Order::Heartbeat(seconds_to_ns(seconds)))
    }

    /// Ends the heartbeats. Those that were not answered since [`Stand::beat`], and connections that are closed,
    /// go to the findings.
    pub(super) fn calm(&mut self, record: &mut Record) -> Result<()> {
        let found = await_replies(&mut self.crew)?;
        let silence = silence_fault(found.unanswered());
        let faults = silence.into_iter().chain(close_fault(&found.closed));
        record.faults.extend(faults.map(|fault| format!("{}, idle: {fault}", self.subject)));
        Ok(())
    }

    /// The share of one CPU that it uses in so many seconds in which nothing is pushed.
    pub(super) fn idle(&mut self, seconds: f64) -> Result<f64> {
        let share = idle_share(&mut self.target, &mut self.crew, seconds)?;
        share.ok_or_else(|| NO_CPU.into())
    }
}
