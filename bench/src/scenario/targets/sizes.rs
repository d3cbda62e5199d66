//! Few connections and many: fan-out to both, and the cost of making, holding and idling a connection.

use super::rig::{self, alternate, in_one_room};
use super::{Record, goals};
use crate::Result;
use crate::args::TargetsArgs;
use crate::crowd::Crowd;
use crate::figures::figure;
use crate::plan::Plan;
use crate::subject::Subject;
use crate::yardstick::Mode;

const FEW: usize = 1_000;
const MANY: usize = 15_000;
/// Ticks per second, for about the same load with both numbers of connections.
const FEW_HZ: f64 = 40.0;
const MANY_HZ: f64 = 4.0;
/// Ticks per second with batches.
const BATCH_HZ: f64 = 20.0;
/// Frames in a batch, as goim's job makes them.
const BATCH: u64 = 20;
/// Time between heartbeats of an idle connection.
const HEARTBEAT_S: f64 = 60.0;
/// How long all are idle, in parts from which the spread is computed.
const IDLE_PARTS: u32 = 4;
const IDLE_PART_S: f64 = 5.0;

/// The cost of a server and that of the yardstick, in the current round.
struct Pair {
    comet_ns: f64,
    ring_ns: f64,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.comet_ns / self.ring_ns
    }

    /// The ratio for a ring that also had to pay a share of a bare gRPC server's calls.
    fn floor(&self, grpc_ns: f64) -> f64 {
        (self.ring_ns + grpc_ns) / self.ring_ns
    }
}

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let mut comet = rig::comet(args, &args.host, in_one_room(args, FEW))?;
    let mut ring = rig::yardstick(args, Mode::Ring, Crowd::of_yardstick(FEW))?;
    // No deliveries are expected from it.
    let mut grpc = rig::yardstick(args, Mode::Grpc, in_one_room(args, 1))?;
    comet.connect()?;
    ring.connect()?;
    for round in 1..=args.rounds {
        let plan = |of: &Subject, hertz, batch| Plan { batch, ..rig::plan(of, hertz) };
        let mut both = |hertz, batch, record: &mut Record| -> Result<Pair> {
            let plan = |of: &Subject, _| plan(of, hertz, batch);
            let [comet, ring] = alternate(round, [&mut comet, &mut ring], plan, record)?;
            Ok(Pair { comet_ns: comet.all_threads, ring_ns: ring.all_threads })
        };
        let few = both(FEW_HZ, 1, record)?;
        record.note(&goals::SINGLE_FEW, few.ratio());
        let batches = both(BATCH_HZ, BATCH, record)?;
        record.note(&goals::BATCHES, batches.ratio());
        for (pair, hertz, batch, goal) in [
            (&few, FEW_HZ, 1, &goals::SINGLE_FEW_FLOOR),
            (&batches, BATCH_HZ, BATCH, &goals::BATCHES_FLOOR),
        ] {
            let plan = plan(&grpc, hertz, batch);
            let calls = record.turn(&mut grpc, round, plan)?;
            let call_ns = figure(&calls, "CPU of a call")? * 1e3;
            record.note(goal, pair.floor(call_ns / (FEW as u64 * batch) as f64));
        }
        let many = many(args, round, record)?;
        record.note(&goals::SINGLE_MANY, many.ratio());
        record.note(&goals::GROWTH_CONNECTIONS, many.ratio() / few.ratio());
    }
    Ok(())
}

/// The part of a round with many connections, one server after the other: a process does not have enough descriptors
/// for both.
fn many(args: &TargetsArgs, round: u32, record: &mut Record) -> Result<Pair> {
    let host = &args.host;
    let each_tick_ns = |subject: &mut Subject, record: &mut Record| {
        let plan = rig::plan(subject, MANY_HZ);
        figure(&record.turn(subject, round, plan)?, "CPU of a delivery")
    };
    let crowd = in_one_room(args, MANY);
    let mut comet = rig::comet(args, host, crowd.clone())?;
    let tcp = record.storm(&mut comet, round)?;
    let comet_ns = each_tick_ns(&mut comet, record)?;
    drop(comet);
    let mut ring = rig::yardstick(args, Mode::Ring, crowd.clone())?;
    let bare_tcp = record.storm(&mut ring, round)?;
    let ring_ns = each_tick_ns(&mut ring, record)?;
    drop(ring);
    let crowd = Crowd { websocket_share: 1.0, ..crowd };
    let mut ring = rig::yardstick(args, Mode::Ring, crowd.clone())?;
    let bare_websocket = record.storm(&mut ring, round)?;
    drop(ring);
    let mut comet = rig::comet(args, host, crowd)?;
    let websocket = record.storm(&mut comet, round)?;

    for (storm, bare, rss, cpu, rate) in [
        (&tcp, &bare_tcp, &goals::RSS_TCP, &goals::CONNECT_TCP, &goals::CONNECT_RATE_TCP),
        (
            &websocket,
            &bare_websocket,
            &goals::RSS_WEBSOCKET,
            &goals::CONNECT_WEBSOCKET,
            &goals::CONNECT_RATE_WEBSOCKET,
        ),
    ] {
        let connection = "CPU of a connection";
        record.note(rate, figure(storm, "connections a second")?);
        record.note(cpu, figure(storm, connection)? / figure(bare, connection)?);
        record.note(rss, figure(storm, "RSS of a connection")?);
    }
    if round == args.rounds {
        for share in record.idle(&mut comet, HEARTBEAT_S, IDLE_PARTS, IDLE_PART_S)? {
            record.note(&goals::IDLE, 100.0 * share);
        }
    }
    Ok(Pair { comet_ns, ring_ns })
}
