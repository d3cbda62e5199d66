//! Pushes by key: the cost of a call for the whole server, and how long its message takes.

use super::Record;
use super::goals;
use super::rig::{self, FLAT_OUT, SIZE, in_one_room};
use crate::Result;
use crate::args::TargetsArgs;
use crate::clock::MILLISECOND_NS;
use crate::crowd::{Crowd, Streams};
use crate::figures::figure;
use crate::message::HEADER_LEN;
use crate::pingpong::PingPong;
use crate::plan::{Pattern, Plan};
use crate::sink::PushMethod;
use crate::subject::Subject;
use crate::yardstick::Mode;

const CONNECTIONS: usize = 1_000;
const HZ: f64 = 2_000.0;
const PACED_S: f64 = 2.0;
const FLAT_OUT_NS: u64 = 1_000 * MILLISECOND_NS;
/// Calls under way when flat out.
const WINDOW: u64 = 256;
const KEYS: usize = 500;
/// Callers whose calls to the same keys overlap, like those of the goroutines of goim's job.
const CALLERS: u64 = 8;
/// Calls with many keys under way: the most that the callers may make.
const KEYS_WINDOW: u64 = CALLERS * (CONNECTIONS / KEYS) as u64;

pub(super) fn measure(args: &TargetsArgs, record: &mut Record) -> Result<()> {
    let host = &args.host;
    let crowd = |keys, callers| {
        let streams = Streams::Keys(keys);
        Crowd { streams, callers, ..in_one_room(args, CONNECTIONS) }
    };
    let mut comet = rig::comet(args, host, crowd(1, 1))?;
    let mut comet_many = rig::comet(args, host, crowd(KEYS, CALLERS))?;
    let mut comet_one = rig::comet(args, host, crowd(KEYS, 1))?;
    let mut bare = rig::yardstick(args, Mode::Grpc, crowd(1, 1))?;
    for comet in [&mut comet, &mut comet_many, &mut comet_one] {
        comet.connect()?;
    }
    let pattern = Pattern::Rotating { first: 0 };
    let paced = |subject: &Subject| Plan {
        pattern,
        duration_ns: (PACED_S * 1e9) as u64,
        ..rig::plan(subject, HZ)
    };
    let flat_out = |subject: &Subject, window| Plan {
        pattern,
        duration_ns: FLAT_OUT_NS,
        window,
        ..rig::plan(subject, FLAT_OUT)
    };
    for round in 1..=args.rounds {
        let bytes = HEADER_LEN + SIZE as usize;
        let echo = PingPong::measure(bytes, Plan::interval_of(HZ), PACED_S, host)?;
        let plan = paced(&comet);
        let turn = record.turn(&mut comet, round, plan)?;
        record.note(&goals::PACED_ECHO, echo.cpu_ns / 1e3);
        record.note(&goals::PACED, figure(&turn, "CPU of a call")?);
        record.note(&goals::P50, figure(&turn, "latency p50")? / echo.latency.p50_us);
        record.note(&goals::P99, figure(&turn, "latency p99")? / echo.since_due.p99_us);
        record.note(&goals::P50_US, figure(&turn, "latency p50")?);
        record.note(&goals::P99_US, figure(&turn, "latency p99")?);
        record.note(&goals::P99_ECHO_US, echo.since_due.p99_us);
        let plan = paced(&bare);
        let turn = record.turn(&mut bare, round, plan)?;
        record.note(&goals::PACED_GRPC, figure(&turn, "CPU of a call")?);

        let plan = flat_out(&comet, WINDOW);
        let turn = record.turn(&mut comet, round, plan)?;
        record.note(&goals::FLAT_OUT, figure(&turn, "CPU of a call")?);
        let plan = flat_out(&bare, WINDOW);
        let turn = record.turn(&mut bare, round, plan)?;
        record.note(&goals::FLAT_OUT_GRPC, figure(&turn, "CPU of a call")?);
        let echo = PingPong::measure(bytes, None, FLAT_OUT_NS as f64 / 1e9, host)?;
        record.note(&goals::FLAT_OUT_ECHO, echo.cpu_ns / 1e3);

        let plan = flat_out(&comet_many, KEYS_WINDOW);
        let turn = record.turn(&mut comet_many, round, plan)?;
        record.note(&goals::MANY, figure(&turn, "CPU of a key")?);
        let plan = flat_out(&comet_one, KEYS_WINDOW);
        let turn = record.turn(&mut comet_one, round, plan)?;
        record.note(&goals::MANY_ONE, figure(&turn, "CPU of a key")?);
        comet.method = PushMethod::OneStream;
        let plan = flat_out(&comet, WINDOW);
        let turn = record.turn(&mut comet, round, plan)?;
        comet.method = PushMethod::Calls { callers: 1 };
        record.note(&goals::STREAM, figure(&turn, "CPU of a call")?);
    }
    Ok(())
}
