//! `fanout`: pushes to rooms through the server's push API, in turns with the yardsticks.

use serde::Serialize;

use super::raw::{plan, ratio, turns_table, yardstick_turn};
use super::{COMET, pin};
use crate::Result;
use crate::args::FanoutArgs;
use crate::dial::{Crowd, Streams, ensure_descriptors};
use crate::grpc::Address;
use crate::measure::{Place, Turn, measure};
use crate::outlet::{Manner, Sink};
use crate::report::{Report, spread};
use crate::stats::Spread;
use crate::target::Target;
use crate::yardstick::Mode;

#[derive(Serialize)]
struct Results {
    turns: Vec<Turn>,
    /// CPU of a delivery, all threads, for one of the bare ring loop.
    comet_to_ring: Option<Spread>,
    /// The same for the bare send loop.
    comet_to_send: Option<Spread>,
    /// CPU of a delivery without the control thread, for one of the bare ring loop.
    comet_data_to_ring: Option<Spread>,
    /// The same for the bare send loop.
    comet_data_to_send: Option<Spread>,
}

/// Runs it; says whether every delivery was made or owned to.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let has_yardsticks = args.yardsticks.wanted(&args.server);
    let mut turns = Vec::new();
    for round in 1..=args.load.rounds {
        turns.push(comet_turn(args, round)?);
        let yardsticks: &[Mode] = if has_yardsticks { &[Mode::Ring, Mode::Send] } else { &[] };
        for &mode in yardsticks {
            turns.push(yardstick_turn(mode, round, &args.host, &args.dial, &args.load)?);
        }
    }
    let total = |turn: &Turn| turn.cpu_per_delivery_ns;
    let data = |turn: &Turn| turn.data_cpu_per_delivery_ns;
    let results = Results {
        comet_to_ring: ratio(&turns, COMET, "ring", total),
        comet_to_send: ratio(&turns, COMET, "send", total),
        comet_data_to_ring: ratio(&turns, COMET, "ring", data),
        comet_data_to_send: ratio(&turns, COMET, "send", data),
        turns,
    };
    let mut text = format!(
        "{}\nCPU of a delivery\n\
         comet / ring: {}; data cores alone: {}\n\
         comet / send: {}; data cores alone: {}\n",
        turns_table(&results.turns),
        spread(results.comet_to_ring, 2),
        spread(results.comet_data_to_ring, 2),
        spread(results.comet_to_send, 2),
        spread(results.comet_data_to_send, 2),
    );
    if args.load.rate <= 0.0 && args.load.window > 1 && has_yardsticks {
        text += &format!(
            "flat out: comet may put up to {} pushes into one write, a yardstick never does\n",
            args.load.window
        );
    }
    let faults = results.turns.iter().flat_map(Turn::faults).collect();
    Report::new("fanout", args, results, faults).finish(&text, &args.host)
}

fn comet_turn(args: &FanoutArgs, round: u32) -> Result<Turn> {
    let mut target = Target::server(&args.server, &args.host)?;
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let grpc = target.grpc.clone().ok_or("no push API: name --grpc")?;
    let addresses = (0..rooms).map(|room| Address::Room(crowd.room(room))).collect();
    let plan = plan(&args.load, args.server.operation, &crowd);
    let place = Place { subject: COMET, round };
    let manner = if args.stream { Manner::OneStream } else { Manner::Calls { callers: 1 } };
    let sink = Sink::Server { grpc, addresses, manner };
    measure(place, &mut target, sink, plan, &crowd, &args.dial)
}
