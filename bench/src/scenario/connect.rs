//! `connect`: a storm of connections, and their cost when idle, in turns with a bare ring that accepts, receives and
//! sends as often and the same bytes: once for a TCP client, twice for a WebSocket client.

use serde_json::json;

use super::{each_turn, prepare};
use crate::Result;
use crate::args::{ConnectArgs, SetupArgs};
use crate::crowd::Crowd;
use crate::report::{self, Table};
use crate::subject::{COMET, Subject};
use crate::yardstick::Mode;

const FIGURES: &str = "connections, connections a second, handshake p50, handshake p99, handshake max, CPU \
    of a connection, bench CPU, RSS of a connection, private of a connection, CPU while \
    idle";

/// Runs it; returns whether all connections stayed.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool> {
    let SetupArgs { dial, host, .. } = &args.setup;
    prepare(&args.setup, 0)?;
    let alone = !args.yardsticks.wanted(&args.setup);
    let subjects: &[_] = if alone { &[COMET] } else { &[COMET, "bare"] };
    let storms = each_turn(args.rounds, subjects, |place| {
        let crowd = Crowd::of(&args.setup, args.rooms);
        let mut subject = match place.subject {
            COMET => Subject::server(place, &args.setup, crowd)?,
            _ => Subject::yardstick(place, Mode::Ring, (host, dial), crowd)?,
        };
        subject.storm(Some(args.hold))
    })?;
    let text = Table::of_turns(&storms, FIGURES).text();
    report::finish("connect", args, args.setup.sides(), json!({ "storms": storms }), &text)
}
