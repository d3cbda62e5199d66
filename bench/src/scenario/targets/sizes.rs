//! Few connections and many: fan-out to both, what a connection costs to make, to hold and to leave idle.

use super::goals::{
    BATCHES, BATCHES_FLOOR, CONNECT_RATE_TCP, CONNECT_RATE_WEBSOCKET, CONNECT_TCP,
    CONNECT_WEBSOCKET, GROWTH_CONNECTIONS, IDLE, RSS_TCP, RSS_WEBSOCKET, SINGLE_FEW,
    SINGLE_FEW_FLOOR, SINGLE_MANY,
};
use super::stand::{Members, Stand, alternate};
use super::{NO_CPU, Record, Setup};
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

pub(super) fn measure(setup: &Setup<'_>, record: &mut Record) -> Result<()> {
    let host = &setup.args.host;
    let mut comet = Stand::comet(setup, host, Members::in_one_room(FEW))?;
    let mut ring = Stand::ring(host, FEW)?;
    // Of which nobody expects deliveries.
    let mut grpc = Stand::bare_grpc(setup, host, Members::in_one_room(1))?;
    comet.connect()?;
    ring.connect()?;
    for round in 1..=setup.args.rounds {
        let plan = |stand: &Stand, hertz, batch| {
            let interval_ns = Plan::interval_of(hertz);
            Plan { interval_ns, batch, ..stand.plan() }
        };
        let mut both = |hertz, batch, record: &mut Record| -> Result<Pair> {
            let plan = |stand: &Stand, _| plan(stand, hertz, batch);
            let [comet, ring] = alternate(round, [&mut comet, &mut ring], plan, record)?;
            Ok(Pair { comet_ns: comet.all_threads, ring_ns: ring.all_threads })
        };
        let few = both(FEW_HZ, 1, record)?;
        record.note(&SINGLE_FEW, few.ratio());
        let batches = both(BATCH_HZ, BATCH, record)?;
        record.note(&BATCHES, batches.ratio());
        for (pair, hertz, batch, goal) in
            [(&few, FEW_HZ, 1, &SINGLE_FEW_FLOOR), (&batches, BATCH_HZ, BATCH, &BATCHES_FLOOR)]
        {
            let calls = grpc.turn(round, plan(&grpc, hertz, batch), record)?;
            let call_ns = calls.cpu_us_of(calls.sent.pushes)? * 1e3;
            record.note(goal, pair.floor(call_ns / (FEW as u64 * batch) as f64));
        }
        let many = many(setup, round, record)?;
        record.note(&SINGLE_MANY, many.ratio());
        record.note(&GROWTH_CONNECTIONS, many.ratio() / few.ratio());
    }
    Ok(())
}

/// The part of a round with many connections, one server after the other: a process has not descriptors
/// enough for both.
fn many(setup: &Setup<'_>, round: u32, record: &mut Record) -> Result<Pair> {
    let host = &setup.args.host;
    let each_tick = |stand: &mut Stand, record: &mut Record| -> Result<Turn> {
        let plan = Plan { interval_ns: Plan::interval_of(MANY_HZ), ..stand.plan() };
        stand.turn(round, plan, record)
    };
    let members = Members::in_one_room(MANY);
    let mut comet = Stand::comet(setup, host, members)?;
    let tcp = comet.storm(round, record)?;
    let comet_ns = each_tick(&mut comet, record)?.cpu_ns()?;
    drop(comet);
    let mut ring = Stand::ring_for(setup, host, members)?;
    let bare_tcp = ring.storm(round, record)?;
    let ring_ns = each_tick(&mut ring, record)?.cpu_ns()?;
    drop(ring);
    let members = Members { websocket: true, ..members };
    let bare_websocket = Stand::ring_for(setup, host, members)?.storm(round, record)?;
    let mut comet = Stand::comet(setup, host, members)?;
    let websocket = comet.storm(round, record)?;

    for (storm, bare, rss, cpu, rate) in [
        (&tcp, &bare_tcp, &RSS_TCP, &CONNECT_TCP, &CONNECT_RATE_TCP),
        (&websocket, &bare_websocket, &RSS_WEBSOCKET, &CONNECT_WEBSOCKET, &CONNECT_RATE_WEBSOCKET),
    ] {
        let bare_ns = bare.cpu_per_connection_ns.ok_or(NO_CPU)?;
        record.note(rate, storm.per_second);
        record.note(cpu, storm.cpu_per_connection_ns.ok_or(NO_CPU)? / bare_ns);
        record.note(rss, storm.rss_per_connection_bytes.ok_or("no memory figures")?);
    }
    if round == setup.args.rounds {
        comet.beat(HEARTBEAT_S)?;
        for _ in 0..IDLE_PARTS {
            record.note(&IDLE, 100.0 * comet.idle(IDLE_PART_S)?);
        }
        comet.calm(record)?;
    }
    Ok(Pair { comet_ns, ring_ns })
}
