//! `fanout`: pushes to rooms through the server's push API, in turns with the yardsticks. `raw`: only the yardsticks,
//! to show what the host can do.

use serde_json::{Value, json};

use super::{each_turn, pin, prepare};
use crate::Result;
use crate::args::{DialArgs, FanoutArgs, HostArgs, LoadArgs, RawArgs, SetupArgs};
use crate::crowd::Crowd;
use crate::dial::ensure_descriptors;
use crate::message::HEADER_LEN;
use crate::pingpong::PingPong;
use crate::report::{self, Table};
use crate::sink::PushMethod;
use crate::subject::{COALESCED, COMET, Place, Subject};
use crate::yardstick::Mode;

/// Of a turn of pushes.
const FIGURES: &str = "expected, received, lost, late, doubled, dropped, deliveries a second, per core \
    second, CPU of a delivery, data CPU of a delivery, bytes of a delivery, latency p50, latency p99, latency \
    max";

/// Runs `fanout`; returns whether every delivery was made or counted as dropped.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    let SetupArgs { dial, host, .. } = &args.setup;
    prepare(&args.setup, 0)?;
    let alone = !args.yardsticks.wanted(&args.setup);
    let mut subjects = vec![COMET];
    subjects.extend(args.coalesce.map(|_| COALESCED));
    if !alone {
        subjects.extend(["ring", "send"]);
    }
    let turns = each_turn(args.load.rounds, &subjects, |place| match place.subject {
        COMET => comet_turn(place, args, &args.setup),
        COALESCED => comet_turn(place, args, &coalescing(args)),
        _ => yardstick_turn(place, host, dial, &args.load),
    })?;
    let mut text = Table::of_turns(&turns, FIGURES).text();
    if args.load.rate <= 0.0 && args.load.window > 1 && !alone {
        text += &format!(
            "\nflat out: comet may put up to {} pushes into one write, a yardstick never does\n",
            args.load.window
        );
    }
    report::finish("fanout", args, args.setup.sides(), json!({ "turns": turns }), &text)
}

/// Runs `raw`; returns whether every delivery was made.
pub(crate) fn run_raw(args: &RawArgs) -> Result<bool> {
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let (mut turns, mut pings, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    each_turn(args.load.rounds, &["ring", "send", "ping-pong"], |place| {
        if place.subject == "ping-pong" {
            let size = HEADER_LEN + args.load.size as usize;
            let ping = PingPong::measure(size, None, args.load.seconds, &args.host)?.latency;
            rows.push((format!("ping-pong {}", place.round), json!(ping)));
            pings.push(ping);
        } else {
            turns.push(yardstick_turn(place, &args.host, &args.dial, &args.load)?);
        }
        Ok(())
    })?;
    let pongs = Table::of("turn", &rows, "latency p50, latency p99, latency max").text();
    let text = format!("{}\n{pongs}", Table::of_turns(&turns, FIGURES).text());
    let results = json!({ "turns": turns, "ping_pong": pings });
    report::finish("raw", args, (&args.host, None), results, &text)
}

/// Settings for a server that coalesces pushes to all rooms.
fn coalescing(args: &FanoutArgs) -> SetupArgs {
    let mut setup = args.setup.clone();
    let rule =
        args.coalesce.map(|ms| format!("coalesce.rules=[{{ rooms = \"\", window = \"{ms}ms\" }}]"));
    setup.server.server_set.extend(rule);
    setup
}

fn comet_turn(place: Place, args: &FanoutArgs, setup: &SetupArgs) -> Result<Value> {
    let crowd = Crowd::of(setup, args.rooms);
    let mut subject = Subject::server(place, setup, crowd)?;
    if args.stream {
        subject.method = PushMethod::OneStream;
    }
    subject.only_turn(subject.plan_of(&args.load))
}

/// A turn of a bare loop: the same connections and bytes, and the same sender with the same schedule. All its
/// connections are one stream, whereas those of a server divide into rooms.
fn yardstick_turn(
    place: Place,
    host: &HostArgs,
    dial: &DialArgs,
    load: &LoadArgs,
) -> Result<Value> {
    let mode = if place.subject == "ring" { Mode::Ring } else { Mode::Send };
    let crowd = Crowd::of_yardstick(dial.connections as usize);
    let mut subject = Subject::yardstick(place, mode, (host, dial), crowd)?;
    subject.only_turn(subject.plan_of(load))
}
