//! Pushes by key: what a call costs the whole server, and how long its message takes.

use super::goal::{Goal, RATIO, Reach, US};
use super::stand::{Members, Stand};
use super::{Record, Setup};
use crate::Result;
use crate::clock::MILLISECOND_NS;
use crate::crowd::Streams;
use crate::message::HEADER_LEN;
use crate::scenario::raw::echo_turn;
use crate::sender::{Pattern, Plan};

const CONNECTIONS: usize = 1_000;
const HZ: f64 = 2_000.0;
const PACED_S: f64 = 2.0;
const FLAT_OUT_NS: u64 = 1_000 * MILLISECOND_NS;
/// Calls under way when flat out.
const WINDOW: u64 = 256;
const KEYS: usize = 500;
/// Callers that overlap their calls to the same keys, as the routines of a job do.
const CALLERS: u64 = 8;
/// Calls with many keys under way: all that the callers may make.
const KEYS_WINDOW: u64 = CALLERS * (CONNECTIONS / KEYS) as u64;

const PACED: Goal =
    Goal::new(8, "key_paced", "push by key, 2,000 calls a second", Reach::AtMost(40.0), US)
        .compared("CPU of a call, all threads");
const PACED_GRPC: Goal =
    PACED.beside("key_paced_grpc_floor", "  floor: a bare gRPC server, the same calls");
const PACED_ECHO: Goal = PACED
    .beside("key_paced_echo_floor", "  floor: the ping-pong's server, 2,000 a second")
    .compared("CPU of a round trip");
const FLAT_OUT: Goal =
    PACED.like("key_flat_out", "push by key, at saturation").reach(Reach::AtMost(20.0));
const FLAT_OUT_GRPC: Goal =
    PACED.beside("key_flat_out_grpc_floor", "  floor: a bare gRPC server, at saturation");
const FLAT_OUT_ECHO: Goal = PACED_ECHO
    .beside("key_flat_out_echo_floor", "  floor: the ping-pong's server, one after the other");
const MANY: Goal = PACED
    .like("key_500_callers", "push to 500 keys a call, at saturation")
    .reach(Reach::AtMost(2.0))
    .unit(("us", 2))
    .compared("CPU of a key, all threads; 8 callers, each waits for its last answer");
const MANY_ONE: Goal = MANY
    .beside("key_500", "  the same, one caller")
    .compared("CPU of a key: a send each, as nothing is there to join with");
const STREAM: Goal = PACED
    .beside("key_stream", "push by key through one stream, at saturation")
    .compared("CPU of a push, all threads");
const P50: Goal =
    Goal::new(9, "key_p50", "push by key, p50, 2,000 a second", Reach::AtMost(4.0), RATIO)
        .compared("from due to received / round trip of the bare ping-pong, 2,000 a second");
const P99: Goal = P50
    .like("key_p99", "push by key, p99, 2,000 a second")
    .reach(Reach::AtMost(10.0))
    .compared("from due to received / from due to the end of the ping-pong's round trip");
const P50_US: Goal =
    P50.beside("key_p50_us", "  p50").unit(("us", 0)).compared("from due to received");
const P99_US: Goal = P50_US.beside("key_p99_us", "  p99");
const P99_ECHO_US: Goal = P50_US
    .beside("key_p99_echo_us", "  p99 of the ping-pong")
    .compared("from due to the end of its round trip");

pub(super) const GOALS: [Goal; 14] = [
    PACED,
    PACED_GRPC,
    PACED_ECHO,
    FLAT_OUT,
    FLAT_OUT_GRPC,
    FLAT_OUT_ECHO,
    MANY,
    MANY_ONE,
    STREAM,
    P50,
    P99,
    P50_US,
    P99_US,
    P99_ECHO_US,
];

pub(super) fn measure(setup: &Setup<'_>, record: &mut Record) -> Result<()> {
    let host = &setup.args.host;
    let members = |keys, callers| Members {
        streams: Streams::Keys(keys),
        callers,
        ..Members::in_one_room(CONNECTIONS)
    };
    let mut comet = Stand::comet(setup, host, members(1, 1))?;
    let mut comet_many = Stand::comet(setup, host, members(KEYS, CALLERS))?;
    let mut comet_one = Stand::comet(setup, host, members(KEYS, 1))?;
    let mut bare = Stand::bare_grpc(setup, host, members(1, 1))?;
    for stand in [&mut comet, &mut comet_many, &mut comet_one] {
        stand.connect()?;
    }
    let paced = |stand: &Stand| Plan {
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: Plan::interval_of(HZ),
        duration_ns: (PACED_S * 1e9) as u64,
        ..stand.plan()
    };
    let flat_out = |stand: &Stand, window| Plan {
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: None,
        duration_ns: FLAT_OUT_NS,
        window,
        ..stand.plan()
    };
    for round in 1..=setup.args.rounds {
        let bytes = HEADER_LEN + comet.plan().size;
        let echo = echo_turn(bytes, Plan::interval_of(HZ), PACED_S, host)?;
        let turn = comet.turn(round, paced(&comet), record)?;
        record.note(&PACED_ECHO, echo.cpu_ns / 1e3);
        record.note(&PACED, turn.cpu_us_of(turn.sent.pushes)?);
        record.note(&P50, turn.latency.p50_us / echo.latency.p50_us);
        record.note(&P99, turn.latency.p99_us / echo.since_due.p99_us);
        record.note(&P50_US, turn.latency.p50_us);
        record.note(&P99_US, turn.latency.p99_us);
        record.note(&P99_ECHO_US, echo.since_due.p99_us);
        let turn = bare.turn(round, paced(&bare), record)?;
        record.note(&PACED_GRPC, turn.cpu_us_of(turn.sent.pushes)?);

        let turn = comet.turn(round, flat_out(&comet, WINDOW), record)?;
        record.note(&FLAT_OUT, turn.cpu_us_of(turn.sent.pushes)?);
        let turn = bare.turn(round, flat_out(&bare, WINDOW), record)?;
        record.note(&FLAT_OUT_GRPC, turn.cpu_us_of(turn.sent.pushes)?);
        let echo = echo_turn(bytes, None, FLAT_OUT_NS as f64 / 1e9, host)?;
        record.note(&FLAT_OUT_ECHO, echo.cpu_ns / 1e3);

        let turn = comet_many.turn(round, flat_out(&comet_many, KEYS_WINDOW), record)?;
        record.note(&MANY, turn.cpu_us_of(turn.sent.deliveries)?);
        let turn = comet_one.turn(round, flat_out(&comet_one, KEYS_WINDOW), record)?;
        record.note(&MANY_ONE, turn.cpu_us_of(turn.sent.deliveries)?);
        comet.push_through_one_stream(true);
        let turn = comet.turn(round, flat_out(&comet, WINDOW), record)?;
        comet.push_through_one_stream(false);
        record.note(&STREAM, turn.cpu_us_of(turn.sent.pushes)?);
    }
    Ok(())
}
