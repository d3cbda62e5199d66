//! `latency`: pushes by key at a rate or flat out, in turns with a bare ping-pong at the same rate and a bare gRPC
//! server that gets the same calls. These show the cost of the kernel alone, and of gRPC alone.

use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::args::{LatencyArgs, SetupArgs};
use crate::clock::seconds_to_ns;
use crate::crowd::{Crowd, Streams};
use crate::message::HEADER_LEN;
use crate::pingpong::PingPong;
use crate::plan::{Pattern, Plan};
use crate::report::{self, Table};
use crate::sink::PushMethod;
use crate::subject::{COMET, Place, Subject};
use crate::yardstick::Mode;

const PING_PONG: &str = "ping-pong";
const BARE_GRPC: &str = "bare gRPC";

const CALLS: &str = "calls, calls a second, received, lost, late, doubled, dropped, CPU of a call, data \
    CPU of a call, CPU of a key, data CPU of a key";
const LATENCIES: &str =
    "latency p50, latency p90, latency p99, latency p99.9, latency max, sender behind";

/// Runs it; returns whether every delivery was made or counted as dropped.
pub(crate) fn run(args: &LatencyArgs) -> Result<bool> {
    prepare(&args.setup, 0)?;
    let subjects: &[_] = match args.stream {
        _ if !args.yardsticks.wanted(&args.setup) => &[COMET],
        true => &[PING_PONG, COMET],
        false => &[PING_PONG, BARE_GRPC, COMET],
    };
    let (mut turns, mut pings, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut latencies: Vec<(String, Value)> = Vec::new();
    each_turn(args.rounds, subjects, |place| {
        let label = format!("{} {}", place.subject, place.round);
        match place.subject {
            PING_PONG => {
                let bytes = HEADER_LEN + args.size as usize;
                let ping = PingPong::measure(
                    bytes,
                    Plan::interval_of(args.rate),
                    args.seconds,
                    &args.setup.host,
                )?;
                latencies.push((label, json!(ping.latency)));
                latencies.push(("  from due".to_owned(), json!(ping.since_due)));
                pings.push(ping);
            }
            BARE_GRPC => bare.push(turn(place, args)?),
            _ => {
                let turn = turn(place, args)?;
                latencies.push((label, turn.clone()));
                turns.push(turn);
            }
        }
        Ok(())
    })?;
    let calls = Table::of_turns(bare.iter().chain(&turns), CALLS).text();
    let text = format!("{calls}\n{}", Table::of("turn", &latencies, LATENCIES).text());
    let results = json!({ "turns": turns, "ping_pong": pings, "bare_grpc": bare });
    report::finish("latency", args, args.setup.sides(), results, &text)
}

/// Calls the server, or the bare gRPC server, which has no connections: it answers that everything was dropped.
fn turn(place: Place, args: &LatencyArgs) -> Result<Value> {
    let SetupArgs { dial, host, .. } = &args.setup;
    let streams = Streams::Keys(args.keys_per_call as usize);
    let crowd = Crowd { streams, callers: u64::from(args.callers), ..Crowd::of(&args.setup, 1) };
    let mut subject = match place.subject {
        BARE_GRPC => Subject::yardstick(place, Mode::Grpc, (host, dial), crowd)?,
        _ => Subject::server(place, &args.setup, crowd)?,
    };
    if args.stream {
        subject.method = PushMethod::OneStream;
    }
    subject.only_turn(Plan {
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: Plan::interval_of(args.rate),
        duration_ns: seconds_to_ns(args.seconds),
        window: u64::from(args.window),
        ..subject.plan(args.size)
    })
}
