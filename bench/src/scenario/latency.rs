//! `latency`: pushes to one key after the other at a rate, in turns with a bare ping-pong of that rate.

use serde::Serialize;

use super::raw::{echo_turn, turns_table};
use super::{pin, run_id};
use crate::Result;
use crate::args::LatencyArgs;
use crate::clock::seconds_to_ns;
use crate::dial::{Crowd, Streams, ensure_descriptors};
use crate::grpc::Address;
use crate::measure::{Place, Turn, measure};
use crate::message::HEADER_LEN;
use crate::outlet::Sink;
use crate::report::{Report, spread, table};
use crate::sender::{Pattern, Plan};
use crate::stats::{Percentiles, Spread};
use crate::target::Target;

#[derive(Serialize)]
struct Results {
    turns: Vec<Turn>,
    /// The bare ping-pong of each round.
    ping_pong: Vec<Percentiles>,
    /// The median of comet for the median of the ping-pong.
    p50_ratio: Option<Spread>,
    /// The same at 99 %.
    p99_ratio: Option<Spread>,
}

/// Runs it; says whether every delivery was made or owned to.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &LatencyArgs) -> Result<bool> {
    let interval_ns = Plan::interval_of(args.rate).ok_or("latency needs a rate above 0")?;
    ensure_descriptors(args.dial.connections as usize)?;
    pin(&args.host)?;
    let mut turns = Vec::new();
    let mut pings = Vec::new();
    for round in 1..=args.rounds {
        let bytes = HEADER_LEN + args.size as usize;
        pings.push(echo_turn(bytes, Some(interval_ns), args.seconds, &args.host)?);
        turns.push(comet_turn(args, interval_ns, round)?);
    }
    let ratio = |figure: fn(&Percentiles) -> f64| {
        let pairs = turns.iter().zip(&pings);
        Spread::of(pairs.map(|(turn, ping)| figure(&turn.latency) / figure(ping)))
    };
    let p50_ratio = ratio(|is| is.p50_us);
    let p99_ratio = ratio(|is| is.p99_us);
    let text = format!(
        "{}\n{}\ncomet / ping-pong: p50 {}, p99 {}\n",
        turns_table(&turns),
        percentiles_table(&turns, &pings),
        spread(p50_ratio, 2),
        spread(p99_ratio, 2),
    );
    let faults = turns.iter().flat_map(Turn::faults).collect();
    let results = Results { turns, ping_pong: pings, p50_ratio, p99_ratio };
    Report::new("latency", args, results, faults).finish(&text, &args.host)
}

fn comet_turn(args: &LatencyArgs, interval_ns: u64, round: u32) -> Result<Turn> {
    let mut target = Target::server(&args.server, &args.host)?;
    let connections = args.dial.connections as usize;
    let crowd = Crowd::of_server(&args.server, connections, 1, Streams::Keys);
    let grpc = target.grpc.clone().ok_or("no push API: name --grpc")?;
    let addresses = (0..connections).map(|index| Address::Key(crowd.key(index))).collect();
    let plan = Plan {
        run: run_id(),
        operation: args.server.operation,
        size: args.size as usize,
        batch: 1,
        members: crowd.members(),
        pattern: Pattern::Rotating,
        interval_ns: Some(interval_ns),
        duration_ns: seconds_to_ns(args.seconds),
        window: 1,
    };
    let place = Place { subject: "comet", round };
    let sink = Sink::Server { grpc, addresses };
    measure(place, &mut target, sink, plan, &crowd, args.dial.in_flight as usize)
}

fn percentiles_table(turns: &[Turn], pings: &[Percentiles]) -> String {
    let headings = ["latency in us", "p50", "p90", "p99", "p99.9", "max", "sender behind"];
    let row = |label: &str, is: &Percentiles, behind: String| {
        let mut cells = vec![label.to_owned()];
        let figures = [is.p50_us, is.p90_us, is.p99_us, is.p999_us, is.max_us];
        cells.extend(figures.map(|figure| format!("{figure:.1}")));
        cells.push(behind);
        cells
    };
    let rows: Vec<Vec<String>> = turns
        .iter()
        .zip(pings)
        .flat_map(|(turn, ping)| {
            let behind = format!("{:.1}", turn.sent.behind_ns_max as f64 / 1e3);
            [
                row(&format!("ping-pong {}", turn.round), ping, "-".to_owned()),
                row(&format!("comet {}", turn.round), &turn.latency, behind),
            ]
        })
        .collect();
    table(&headings, &rows)
}
