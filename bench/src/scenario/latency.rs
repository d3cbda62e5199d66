//! `latency`: pushes by key at a rate or flat out, in turns with a bare ping-pong of that rate and a bare
//! gRPC server that gets the same calls: what the kernel alone, and what gRPC alone costs.

use serde_json::{Value, json};

use super::raw::{PingPong, echo_turn};
use super::{each_turn, figures_table, prepare, turns_table};
use crate::Result;
use crate::args::LatencyArgs;
use crate::clock::seconds_to_ns;
use crate::crowd::{Crowd, Streams};
use crate::message::HEADER_LEN;
use crate::plan::{Pattern, Plan};
use crate::report::{self, summary};
use crate::sink::PushMethod;
use crate::stats::{Percentiles, Spread};
use crate::subject::{COMET, Place, Subject};
use crate::turn::Turn;
use crate::yardstick::Mode;

const PING_PONG: &str = "ping-pong";
const BARE_GRPC: &str = "bare gRPC";

const CALLS: &str = "calls, calls a second, received, lost, late, doubled, dropped, CPU of a call, data \
    CPU of a call, CPU of a key, data CPU of a key";
const LATENCIES: &str =
    "latency p50, latency p90, latency p99, latency p99.9, latency max, sender behind";

/// Runs it; returns whether every delivery was made or counted as dropped.
pub(crate) fn run(args: &LatencyArgs) -> Result<bool> {
    prepare(&args.host, &args.dial, args.dial.connections as usize)?;
    let subjects: &[_] = match args.stream {
        _ if !args.yardsticks.wanted(&args.server) => &[COMET],
        true => &[PING_PONG, COMET],
        false => &[PING_PONG, BARE_GRPC, COMET],
    };
    let (mut turns, mut pings, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    each_turn(args.rounds, subjects, |place| {
        match place.subject {
            PING_PONG => {
                let bytes = HEADER_LEN + args.size as usize;
                let interval_ns = Plan::interval_of(args.rate);
                pings.push(echo_turn(bytes, interval_ns, args.seconds, &args.host)?);
            }
            BARE_GRPC => bare.push(turn(place, args)?),
            _ => turns.push(turn(place, args)?),
        }
        Ok(())
    })?;
    let ratio = |figure: fn(&Percentiles) -> f64, of: fn(&PingPong) -> &Percentiles| {
        let pairs = turns.iter().zip(&pings);
        Spread::of(pairs.map(|(turn, ping)| figure(&turn.latency) / figure(of(ping))))
    };
    let cpu = |turns: &[Turn], count: fn(&Turn) -> u64, figure: fn((f64, f64)) -> f64| {
        let each = turns.iter().filter_map(|turn| turn.cpu_for_each(count(turn)));
        Spread::of(each.map(|cpu| figure(cpu) / 1e3))
    };
    let calls: fn(&Turn) -> u64 = |turn| turn.sent.pushes;
    let keys: fn(&Turn) -> u64 = |turn| turn.sent.deliveries;
    let results = json!({
        "turns": turns,
        "ping_pong": pings,
        "bare_grpc": bare,
        "p50_ratio": ratio(|is| is.p50_us, |ping| &ping.latency),
        // From the time the ping-pong was due: a stall of the host is charged to every push that it delays, so it is
        // to both.
        "p99_ratio": ratio(|is| is.p99_us, |ping| &ping.since_due),
        "cpu_per_call_us": cpu(&turns, calls, |(all, _)| all),
        "cpu_per_key_us": cpu(&turns, keys, |(all, _)| all),
        "data_cpu_per_call_us": cpu(&turns, calls, |(_, data)| data),
        "data_cpu_per_key_us": cpu(&turns, keys, |(_, data)| data),
        "bare_grpc_cpu_per_call_us": cpu(&bare, calls, |(all, _)| all),
        "ping_pong_cpu_us": Spread::of(pings.iter().map(|ping| ping.cpu_ns / 1e3)),
    });
    let mut latencies: Vec<(String, Value)> = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        if let Some(ping) = pings.get(index) {
            latencies.push((format!("{PING_PONG} {}", turn.place.round), json!(ping.latency)));
            latencies.push(("  from due".to_owned(), json!(ping.since_due)));
        }
        latencies.push((format!("{COMET} {}", turn.place.round), json!(turn)));
    }
    let faults = turns.iter().flat_map(Turn::faults).collect();
    let calls = turns_table(&bare.iter().chain(&turns).collect::<Vec<_>>(), CALLS);
    let latencies = figures_table("turn", &latencies, LATENCIES).text();
    let text = format!("{calls}\n{latencies}\n{}", summary(&results));
    report::finish("latency", args, (&args.host, Some(&args.server)), (results, faults), &text)
}

/// Calls the server, or the bare gRPC server, which has no connections: it answers that all was dropped.
fn turn(place: Place, args: &LatencyArgs) -> Result<Turn> {
    let connections = args.dial.connections as usize;
    let streams = Streams::Keys(args.keys_per_call as usize);
    let mut crowd = Crowd::of_server(&args.server, connections, 1, streams);
    crowd.callers = u64::from(args.callers);
    let plan = Plan {
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: Plan::interval_of(args.rate),
        duration_ns: seconds_to_ns(args.seconds),
        window: u64::from(args.window),
        ..Plan::new(args.server.operation, args.size as usize, crowd.members())
    };
    let (server, host, dial) = (&args.server, &args.host, &args.dial);
    if place.subject == BARE_GRPC {
        return Subject::yardstick(place, Mode::Grpc, (host, dial), crowd)?.only_turn(0, plan);
    }
    let mut comet = Subject::server(place, (server, host, dial), crowd)?;
    if args.stream {
        comet.method = PushMethod::OneStream;
    }
    comet.only_turn(connections, plan)
}
