//! `fanout`: pushes to rooms through the server's push API, in turns with the yardsticks.

use serde_json::{Value, json};

use super::raw::{FIGURES, yardstick_turn};
use super::{each_turn, prepare};
use crate::Result;
use crate::args::{FanoutArgs, SetupArgs};
use crate::plan::Plan;
use crate::report::{self, Table};
use crate::sink::PushMethod;
use crate::subject::{COMET, Place, Subject};

/// Runs it; returns whether every delivery was made or counted as dropped.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    let SetupArgs { dial, server, host } = &args.setup;
    prepare(host, dial, dial.connections as usize)?;
    let alone = !args.yardsticks.wanted(&args.setup);
    let subjects: &[_] = if alone { &[COMET] } else { &[COMET, "ring", "send"] };
    let turns = each_turn(args.load.rounds, subjects, |place| match place.subject {
        COMET => comet_turn(place, args),
        _ => yardstick_turn(place, host, dial, &args.load),
    })?;
    let mut text = Table::of_turns(&turns, FIGURES).text();
    if args.load.rate <= 0.0 && args.load.window > 1 && !alone {
        text += &format!(
            "\nflat out: comet may put up to {} pushes into one write, a yardstick never does\n",
            args.load.window
        );
    }
    report::finish("fanout", args, (host, Some(server)), json!({ "turns": turns }), &text)
}

fn comet_turn(place: Place, args: &FanoutArgs) -> Result<Value> {
    let crowd = args.setup.crowd(args.rooms);
    let plan = Plan::of(&args.load, args.setup.server.operation, &crowd);
    let mut subject = Subject::server(place, &args.setup, crowd)?;
    if args.stream {
        subject.method = PushMethod::OneStream;
    }
    subject.only_turn(plan)
}
