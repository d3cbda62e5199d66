//! Few connections and many: fan-out to both, what a connection costs to make, to hold and to leave idle.

use super::goal::{Goal, Reach};
use super::stand::{Guests, Stand, alternate};
use super::{Findings, NO_CPU, Setup};
use crate::Result;
use crate::measure::Turn;
use crate::sender::Plan;

const FEW: usize = 1_000;
const MANY: usize = 15_000;
/// Ticks a second, for about the same load with either number of connections.
const FEW_HZ: f64 = 40.0;
const MANY_HZ: f64 = 4.0;
/// Ticks a second of batches.
const BATCH_HZ: f64 = 20.0;
/// Frames in a batch, as goim's job makes them.
const BATCH: u64 = 20;
/// Time between heartbeats of an idle connection.
const HEARTBEAT_S: f64 = 60.0;
/// How long all idle, in parts that make the spread.
const IDLE_PARTS: u32 = 4;
const IDLE_PART_S: f64 = 5.0;

const SINGLE_FEW: Goal = Goal {
    target: 1,
    name: "single_1000",
    what: "single messages, 1,000 connections",
    reach: Some(Reach::AtMost(1.10)),
    unit: "",
    decimals: 2,
    compared: "CPU of a delivery, all threads / bare ring loop",
};
const SINGLE_FEW_FLOOR: Goal = Goal {
    name: "single_1000_floor",
    what: "  floor: the ring, and a bare gRPC server for the calls",
    reach: None,
    compared: "which has the CPU and its caches to itself",
    ..SINGLE_FEW
};
const SINGLE_MANY: Goal =
    Goal { name: "single_15000", what: "single messages, 15,000 connections", ..SINGLE_FEW };
const BATCHES: Goal = Goal {
    target: 2,
    name: "batch_1000",
    what: "batches of 20 frames, 1,000 connections",
    reach: Some(Reach::AtMost(1.15)),
    unit: "",
    decimals: 2,
    compared: "CPU of a message, all threads / bare ring loop sending the same bytes",
};
const BATCHES_FLOOR: Goal = Goal {
    name: "batch_1000_floor",
    what: SINGLE_FEW_FLOOR.what,
    reach: None,
    compared: SINGLE_FEW_FLOOR.compared,
    ..BATCHES
};
const RSS_TCP: Goal = Goal {
    target: 5,
    name: "rss_tcp",
    what: "memory of an idle TCP connection, 15,000",
    reach: Some(Reach::AtMost(512.0)),
    unit: "B",
    decimals: 0,
    compared: "growth of RSS from 200 connections on",
};
const RSS_WEBSOCKET: Goal = Goal {
    name: "rss_websocket",
    what: "memory of an idle WebSocket connection, 15,000",
    ..RSS_TCP
};
const IDLE: Goal = Goal {
    target: 6,
    name: "idle",
    what: "15,000 idle connections, heartbeat each 60 s",
    reach: Some(Reach::Below(1.0)),
    unit: "%",
    decimals: 2,
    compared: "share of one CPU, all threads",
};
const CONNECT_TCP: Goal = Goal {
    target: 7,
    name: "connect_tcp",
    what: "connect to registered, TCP",
    reach: Some(Reach::AtMost(1.5)),
    unit: "",
    decimals: 2,
    compared: "CPU of a connection, all threads / a bare ring's: accept, recv, send; WebSocket one more of both",
};
const CONNECT_WEBSOCKET: Goal =
    Goal { name: "connect_websocket", what: "connect to registered, WebSocket", ..CONNECT_TCP };
const CONNECT_RATE_TCP: Goal = Goal {
    target: 7,
    name: "connect_rate_tcp",
    what: "connections a second, TCP",
    reach: Some(Reach::AtLeast(20_000.0)),
    unit: "/s",
    decimals: 0,
    compared: "one data core, the bench on another CPU",
};
const CONNECT_RATE_WEBSOCKET: Goal = Goal {
    name: "connect_rate_websocket",
    what: "connections a second, WebSocket",
    ..CONNECT_RATE_TCP
};
const GROWTH: Goal = Goal {
    target: 11,
    name: "growth_connections",
    what: "cost growth, 1,000 to 15,000 connections",
    reach: Some(Reach::AtMost(1.25)),
    unit: "",
    decimals: 2,
    compared: "growth of CPU of a delivery / growth of the bare ring loop's",
};

pub(super) const GOALS: [Goal; 13] = [
    SINGLE_FEW,
    SINGLE_FEW_FLOOR,
    SINGLE_MANY,
    BATCHES,
    BATCHES_FLOOR,
    RSS_TCP,
    RSS_WEBSOCKET,
    IDLE,
    CONNECT_TCP,
    CONNECT_WEBSOCKET,
    CONNECT_RATE_TCP,
    CONNECT_RATE_WEBSOCKET,
    GROWTH,
];

/// What a server costs beside the yardstick, in the round that is under way.
struct Pair {
    comet_ns: f64,
    ring_ns: f64,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.comet_ns / self.ring_ns
    }

    /// The ratio of a ring that had a share of a bare gRPC server's calls to pay for, too.
    fn floor(&self, grpc_ns: f64) -> f64 {
        (self.ring_ns + grpc_ns) / self.ring_ns
    }
}

/// # Errors
///
/// A server or a yardstick did not start, or ended.
pub(super) fn measure(setup: &Setup<'_>, findings: &mut Findings) -> Result<()> {
    let host = &setup.args.host;
    let mut comet = Stand::comet(setup, host, Guests::in_one_room(FEW))?;
    let mut ring = Stand::ring(host, FEW)?;
    // Of which nobody expects deliveries.
    let mut grpc = Stand::bare_grpc(setup, host, Guests::in_one_room(1))?;
    comet.connect()?;
    ring.connect()?;
    for round in 1..=setup.args.rounds {
        let plan = |stand: &Stand, hertz, batch| {
            let interval_ns = Plan::interval_of(hertz);
            Plan { interval_ns, batch, ..stand.plan() }
        };
        let mut both = |hertz, batch, findings: &mut Findings| -> Result<Pair> {
            let plan = |stand: &Stand, _| plan(stand, hertz, batch);
            let [comet, ring] = alternate(round, [&mut comet, &mut ring], plan, findings)?;
            Ok(Pair { comet_ns: comet.all_threads, ring_ns: ring.all_threads })
        };
        let few = both(FEW_HZ, 1, findings)?;
        findings.note(&SINGLE_FEW, few.ratio());
        let batches = both(BATCH_HZ, BATCH, findings)?;
        findings.note(&BATCHES, batches.ratio());
        for (pair, hertz, batch, goal) in
            [(&few, FEW_HZ, 1, &SINGLE_FEW_FLOOR), (&batches, BATCH_HZ, BATCH, &BATCHES_FLOOR)]
        {
            let calls = grpc.turn(round, plan(&grpc, hertz, batch), findings)?;
            let call_ns = calls.cpu_us_of(calls.sent.pushes)? * 1e3;
            findings.note(goal, pair.floor(call_ns / (FEW as u64 * batch) as f64));
        }
        let many = many(setup, round, findings)?;
        findings.note(&SINGLE_MANY, many.ratio());
        findings.note(&GROWTH, many.ratio() / few.ratio());
    }
    Ok(())
}

/// The part of a round with many connections, one server after the other: a process has not descriptors
/// enough for both.
fn many(setup: &Setup<'_>, round: u32, findings: &mut Findings) -> Result<Pair> {
    let host = &setup.args.host;
    let each_tick = |stand: &mut Stand, findings: &mut Findings| -> Result<Turn> {
        let plan = Plan { interval_ns: Plan::interval_of(MANY_HZ), ..stand.plan() };
        stand.turn(round, plan, findings)
    };
    let guests = Guests::in_one_room(MANY);
    let mut comet = Stand::comet(setup, host, guests)?;
    let tcp = comet.storm(round, findings)?;
    let comet_ns = each_tick(&mut comet, findings)?.cpu_ns()?;
    drop(comet);
    let mut ring = Stand::ring_for(setup, host, guests)?;
    let bare_tcp = ring.storm(round, findings)?;
    let ring_ns = each_tick(&mut ring, findings)?.cpu_ns()?;
    drop(ring);
    let guests = Guests { websocket: true, ..guests };
    let bare_websocket = Stand::ring_for(setup, host, guests)?.storm(round, findings)?;
    let mut comet = Stand::comet(setup, host, guests)?;
    let websocket = comet.storm(round, findings)?;

    for (storm, bare, rss, cpu, rate) in [
        (&tcp, &bare_tcp, &RSS_TCP, &CONNECT_TCP, &CONNECT_RATE_TCP),
        (&websocket, &bare_websocket, &RSS_WEBSOCKET, &CONNECT_WEBSOCKET, &CONNECT_RATE_WEBSOCKET),
    ] {
        let bare_ns = bare.cpu_per_connection_ns.ok_or(NO_CPU)?;
        findings.note(rate, storm.per_second);
        findings.note(cpu, storm.cpu_per_connection_ns.ok_or(NO_CPU)? / bare_ns);
        findings.note(rss, storm.rss_per_connection_bytes.ok_or("no memory figures")?);
    }
    if round == setup.args.rounds {
        comet.beat(HEARTBEAT_S)?;
        for _ in 0..IDLE_PARTS {
            findings.note(&IDLE, 100.0 * comet.idle(IDLE_PART_S)?);
        }
        comet.calm(findings)?;
    }
    Ok(Pair { comet_ns, ring_ns })
}
