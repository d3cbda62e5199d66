//! `fanout`: pushes to rooms through the server's push API, in turns with the yardsticks.

use serde_json::json;

use super::raw::{FIGURES, ratio, yardstick_turn};
use super::{each_turn, prepare, turns_table};
use crate::Result;
use crate::args::FanoutArgs;
use crate::crowd::{Crowd, Streams};
use crate::plan::Plan;
use crate::report::{self, summary};
use crate::sink::PushMethod;
use crate::subject::{COMET, Place, Subject};
use crate::turn::Turn;

/// Runs it; returns whether every delivery was made or counted as dropped.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    prepare(&args.host, &args.dial, args.dial.connections as usize)?;
    let alone = !args.yardsticks.wanted(&args.server);
    let subjects: &[_] = if alone { &[COMET] } else { &[COMET, "ring", "send"] };
    let turns = each_turn(args.load.rounds, subjects, |place| match place.subject {
        COMET => comet_turn(place, args),
        _ => yardstick_turn(place, &args.host, &args.dial, &args.load),
    })?;
    let total = |turn: &Turn| turn.cpu_per_delivery_ns;
    let data = |turn: &Turn| turn.data_cpu_per_delivery_ns;
    let results = json!({
        "turns": turns,
        "comet_to_ring": ratio(&turns, COMET, "ring", total),
        "comet_to_send": ratio(&turns, COMET, "send", total),
        "comet_data_to_ring": ratio(&turns, COMET, "ring", data),
        "comet_data_to_send": ratio(&turns, COMET, "send", data),
    });
    let mut text = format!("{}\n{}", turns_table(&turns, FIGURES), summary(&results));
    if args.load.rate <= 0.0 && args.load.window > 1 && !alone {
        text += &format!(
            "flat out: comet may put up to {} pushes into one write, a yardstick never does\n",
            args.load.window
        );
    }
    let faults = turns.iter().flat_map(Turn::faults).collect();
    report::finish("fanout", args, (&args.host, Some(&args.server)), (results, faults), &text)
}

fn comet_turn(place: Place, args: &FanoutArgs) -> Result<Turn> {
    let (connections, rooms) = (args.dial.connections as usize, args.rooms as usize);
    let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
    let plan = Plan::of(&args.load, args.server.operation, &crowd);
    let mut subject = Subject::server(place, (&args.server, &args.host, &args.dial), crowd)?;
    if args.stream {
        subject.method = PushMethod::OneStream;
    }
    subject.only_turn(connections, plan)
}
