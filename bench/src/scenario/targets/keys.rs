//! Pushes by key: what a call costs the whole server, and how long its message takes.

use super::goal::{Goal, Reach};
use super::stand::{Guests, Stand};
use super::{Findings, Setup};
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

const PACED: Goal = Goal {
    target: 8,
    name: "key_paced",
    what: "push by key, 2,000 calls a second",
    reach: Some(Reach::AtMost(40.0)),
    unit: "us",
    decimals: 1,
    compared: "CPU of a call, all threads",
};
const PACED_GRPC: Goal = Goal {
    name: "key_paced_grpc_floor",
    what: "  floor: a bare gRPC server, the same calls",
    reach: None,
    ..PACED
};
const PACED_ECHO: Goal = Goal {
    name: "key_paced_echo_floor",
    what: "  floor: the ping-pong's server, 2,000 a second",
    reach: None,
    compared: "CPU of a round trip",
    ..PACED
};
const FLAT_OUT: Goal = Goal {
    name: "key_flat_out",
    what: "push by key, at saturation",
    reach: Some(Reach::AtMost(20.0)),
    ..PACED
};
const FLAT_OUT_GRPC: Goal = Goal { name: "key_flat_out_grpc_floor", ..PACED_GRPC };
const FLAT_OUT_ECHO: Goal = Goal {
    name: "key_flat_out_echo_floor",
    what: "  floor: the ping-pong's server, one after the other",
    ..PACED_ECHO
};
const MANY: Goal = Goal {
    name: "key_500_callers",
    what: "push to 500 keys a call, at saturation",
    reach: Some(Reach::AtMost(2.0)),
    decimals: 2,
    compared: "CPU of a key, all threads; 8 callers, each waits for its last answer",
    ..PACED
};
const MANY_ONE: Goal = Goal {
    name: "key_500",
    what: "  the same, one caller",
    reach: None,
    compared: "CPU of a key: a send each, as nothing is there to join with",
    ..MANY
};
const STREAM: Goal = Goal {
    name: "key_stream",
    what: "push by key through one stream, at saturation",
    reach: None,
    compared: "CPU of a push, all threads",
    ..PACED
};
const P50: Goal = Goal {
    target: 9,
    name: "key_p50",
    what: "push by key, p50, 2,000 a second",
    reach: Some(Reach::AtMost(4.0)),
    unit: "",
    decimals: 2,
    compared: "from due to received / round trip of the bare ping-pong, 2,000 a second",
};
const P99: Goal = Goal {
    name: "key_p99",
    what: "push by key, p99, 2,000 a second",
    reach: Some(Reach::AtMost(10.0)),
    compared: "from due to received / from due to the end of the ping-pong's round trip",
    ..P50
};
const P50_US: Goal = Goal {
    name: "key_p50_us",
    what: "  p50",
    reach: None,
    unit: "us",
    decimals: 0,
    compared: "from due to received",
    ..P50
};
const P99_US: Goal = Goal { name: "key_p99_us", what: "  p99", ..P50_US };
const P99_ECHO_US: Goal = Goal {
    name: "key_p99_echo_us",
    what: "  p99 of the ping-pong",
    compared: "from due to the end of its round trip",
    ..P50_US
};

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

/// # Errors
///
/// A server or a yardstick did not start, or ended.
pub(super) fn measure(setup: &Setup<'_>, findings: &mut Findings) -> Result<()> {
    let host = &setup.args.host;
    let guests = |keys, callers| Guests {
        streams: Streams::Keys(keys),
        callers,
        ..Guests::in_one_room(CONNECTIONS)
    };
    let mut comet = Stand::comet(setup, host, guests(1, 1))?;
    let mut comet_many = Stand::comet(setup, host, guests(KEYS, CALLERS))?;
    let mut comet_one = Stand::comet(setup, host, guests(KEYS, 1))?;
    let mut bare = Stand::bare_grpc(setup, host, guests(1, 1))?;
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
        let turn = comet.turn(round, paced(&comet), findings)?;
        findings.note(&PACED_ECHO, echo.cpu_ns / 1e3);
        findings.note(&PACED, turn.cpu_us_of(turn.sent.pushes)?);
        findings.note(&P50, turn.latency.p50_us / echo.latency.p50_us);
        findings.note(&P99, turn.latency.p99_us / echo.since_due.p99_us);
        findings.note(&P50_US, turn.latency.p50_us);
        findings.note(&P99_US, turn.latency.p99_us);
        findings.note(&P99_ECHO_US, echo.since_due.p99_us);
        let turn = bare.turn(round, paced(&bare), findings)?;
        findings.note(&PACED_GRPC, turn.cpu_us_of(turn.sent.pushes)?);

        let turn = comet.turn(round, flat_out(&comet, WINDOW), findings)?;
        findings.note(&FLAT_OUT, turn.cpu_us_of(turn.sent.pushes)?);
        let turn = bare.turn(round, flat_out(&bare, WINDOW), findings)?;
        findings.note(&FLAT_OUT_GRPC, turn.cpu_us_of(turn.sent.pushes)?);
        let echo = echo_turn(bytes, None, FLAT_OUT_NS as f64 / 1e9, host)?;
        findings.note(&FLAT_OUT_ECHO, echo.cpu_ns / 1e3);

        let turn = comet_many.turn(round, flat_out(&comet_many, KEYS_WINDOW), findings)?;
        findings.note(&MANY, turn.cpu_us_of(turn.sent.deliveries)?);
        let turn = comet_one.turn(round, flat_out(&comet_one, KEYS_WINDOW), findings)?;
        findings.note(&MANY_ONE, turn.cpu_us_of(turn.sent.deliveries)?);
        comet.push_through_one_stream(true);
        let turn = comet.turn(round, flat_out(&comet, WINDOW), findings)?;
        comet.push_through_one_stream(false);
        findings.note(&STREAM, turn.cpu_us_of(turn.sent.pushes)?);
    }
    Ok(())
}
