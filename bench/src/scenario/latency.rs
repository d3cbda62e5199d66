//! `latency`: pushes by key at a rate or flat out, in turns with a bare ping-pong of that rate and a bare
//! gRPC server that gets the same calls: what the kernel alone, and what gRPC alone costs.

use serde::Serialize;

use super::raw::{PingPong, echo_turn};
use super::{pin, run_id};
use crate::Result;
use crate::args::LatencyArgs;
use crate::clock::seconds_to_ns;
use crate::dial::{Crowd, Streams, ensure_descriptors};
use crate::grpc::Address;
use crate::measure::{Place, Turn, measure};
use crate::message::HEADER_LEN;
use crate::outlet::{Manner, Sink};
use crate::report::{Report, number, spread, table};
use crate::sender::{Pattern, Plan};
use crate::stats::{Percentiles, Spread};
use crate::target::Target;
use crate::yardstick::Mode;

#[derive(Serialize)]
struct Results {
    turns: Vec<Turn>,
    /// The bare ping-pong of each round.
    ping_pong: Vec<PingPong>,
    /// The bare gRPC server of each round; none with `--stream`.
    bare_grpc: Vec<Turn>,
    /// The median of comet for the median of the ping-pong.
    p50_ratio: Option<Spread>,
    /// The same at 99 %, but from the time the ping-pong was due: a stall of the host is charged to every push
    /// that it delays, so it is to both.
    p99_ratio: Option<Spread>,
    /// CPU time of all threads of comet.
    cpu_per_call_us: Option<Spread>,
    cpu_per_key_us: Option<Spread>,
    /// Of these, what its data cores spent.
    data_cpu_per_call_us: Option<Spread>,
    data_cpu_per_key_us: Option<Spread>,
    /// The same of the bare gRPC server, and of the bare ping-pong for a round trip.
    bare_grpc_cpu_per_call_us: Option<Spread>,
    ping_pong_cpu_us: Option<Spread>,
}

/// Runs it; says whether every delivery was made or owned to.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &LatencyArgs) -> Result<bool> {
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let (mut turns, mut pings, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let interval_ns = Plan::interval_of(args.rate);
    for round in 1..=args.rounds {
        let bytes = HEADER_LEN + args.size as usize;
        pings.push(echo_turn(bytes, interval_ns, args.seconds, &args.host)?);
        if !args.stream {
            let (target, _feed) = Target::yardstick(Mode::Grpc, 0, &args.host)?;
            bare.push(turn("bare gRPC", target, args, round)?);
        }
        turns.push(turn("comet", Target::server(&args.server, &args.host)?, args, round)?);
    }
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
    let results = Results {
        p50_ratio: ratio(|is| is.p50_us, |ping| &ping.latency),
        p99_ratio: ratio(|is| is.p99_us, |ping| &ping.since_due),
        cpu_per_call_us: cpu(&turns, calls, |(all, _)| all),
        cpu_per_key_us: cpu(&turns, keys, |(all, _)| all),
        data_cpu_per_call_us: cpu(&turns, calls, |(_, data)| data),
        data_cpu_per_key_us: cpu(&turns, keys, |(_, data)| data),
        bare_grpc_cpu_per_call_us: cpu(&bare, calls, |(all, _)| all),
        ping_pong_cpu_us: Spread::of(pings.iter().map(|ping| ping.cpu_ns / 1e3)),
        turns,
        ping_pong: pings,
        bare_grpc: bare,
    };
    let faults = results.turns.iter().flat_map(Turn::faults).collect();
    let text = results.text();
    Report::new("latency", args, results, faults).finish(&text, &args.host)
}

/// Calls `target`. Nobody connects to the bare gRPC server: whatever it is pushed it owns to have dropped.
fn turn(subject: &'static str, mut target: Target, args: &LatencyArgs, round: u32) -> Result<Turn> {
    let connections = args.dial.connections as usize;
    let each = args.keys_per_call as usize;
    let mut crowd = Crowd::of_server(&args.server, connections, 1, Streams::Keys(each));
    crowd.callers = u64::from(args.callers);
    let members = crowd.members();
    let grpc = target.grpc.clone().ok_or("no push API: name --grpc")?;
    let keys: Vec<String> = (0..connections).map(|index| crowd.key(index)).collect();
    let addresses = keys.chunks(each).map(|keys| Address::Keys(keys.to_vec())).collect();
    let plan = Plan {
        run: run_id(),
        operation: args.server.operation,
        size: args.size as usize,
        batch: 1,
        members,
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: Plan::interval_of(args.rate),
        duration_ns: seconds_to_ns(args.seconds),
        window: u64::from(args.window),
    };
    if subject != "comet" {
        crowd.connections = 0;
    }
    let place = Place { subject, round };
    let manner = match args.stream {
        true => Manner::OneStream,
        false => Manner::Calls { callers: args.callers as usize },
    };
    let sink = Sink::Server { grpc, addresses, manner };
    measure(place, &mut target, sink, plan, &crowd, &args.dial)
}

impl Results {
    fn text(&self) -> String {
        format!(
            "{}\n{}\ncomet / ping-pong: p50 {}, p99 {}\n\
             CPU in us: a call {}, of that data {}; a key {}, of that data {}\n\
             the floor: a bare gRPC call {}; a round trip of the bare ping-pong {}\n",
            self.calls_table(),
            self.percentiles_table(),
            spread(self.p50_ratio, 2),
            spread(self.p99_ratio, 2),
            spread(self.cpu_per_call_us, 1),
            spread(self.data_cpu_per_call_us, 1),
            spread(self.cpu_per_key_us, 2),
            spread(self.data_cpu_per_key_us, 2),
            spread(self.bare_grpc_cpu_per_call_us, 1),
            spread(self.ping_pong_cpu_us, 1),
        )
    }

    fn calls_table(&self) -> String {
        let headings = [
            "turn", "calls", "calls/s", "received", "lost", "late", "double", "dropped", "us/call",
            "data", "us/key", "data",
        ];
        let row = |turn: &Turn| {
            let is = &turn.deliveries;
            let per_call = turn.cpu_for_each(turn.sent.pushes).unzip();
            let per_key = turn.cpu_for_each(turn.sent.deliveries).unzip();
            let us = |ns: Option<f64>, decimals| number(ns.map(|ns| ns / 1e3), decimals);
            let seconds = turn.sent.elapsed_ns.max(1) as f64 / 1e9;
            vec![
                format!("{} {}", turn.subject, turn.round),
                turn.sent.pushes.to_string(),
                number(Some(turn.sent.pushes as f64 / seconds), 0),
                is.received.to_string(),
                is.lost.to_string(),
                is.out_of_order.to_string(),
                is.duplicate.to_string(),
                turn.sent.dropped.to_string(),
                us(per_call.0, 1),
                us(per_call.1, 1),
                us(per_key.0, 2),
                us(per_key.1, 2),
            ]
        };
        let turns = self.bare_grpc.iter().chain(&self.turns);
        table(&headings, &turns.map(row).collect::<Vec<_>>())
    }

    fn percentiles_table(&self) -> String {
        let headings = ["latency in us", "p50", "p90", "p99", "p99.9", "max", "sender behind"];
        let row = |label: &str, is: &Percentiles, behind: String| {
            let mut cells = vec![label.to_owned()];
            let figures = [is.p50_us, is.p90_us, is.p99_us, is.p999_us, is.max_us];
            cells.extend(figures.map(|figure| format!("{figure:.1}")));
            cells.push(behind);
            cells
        };
        let rounds = self.turns.iter().zip(&self.ping_pong);
        let rows = rounds.flat_map(|(turn, ping)| {
            let behind = format!("{:.1}", turn.sent.behind_ns_max as f64 / 1e3);
            [
                row(&format!("ping-pong {}", turn.round), &ping.latency, "-".to_owned()),
                row("  from due", &ping.since_due, "-".to_owned()),
                row(&format!("comet {}", turn.round), &turn.latency, behind),
            ]
        });
        table(&headings, &rows.collect::<Vec<_>>())
    }
}
