//! `connect`: a storm of connections, and what they cost when they idle, in turns with a bare ring that
//! accepts, receives and sends as often for each, the same bytes: once for a TCP client, twice for a
//! WebSocket client.

use serde_json::json;

use super::{each_turn, prepare, turns_table};
use crate::Result;
use crate::args::ConnectArgs;
use crate::crowd::{Crowd, Streams};
use crate::report::{self, summary};
use crate::stats::Spread;
use crate::storm::Storm;
use crate::subject::{COMET, Subject};
use crate::yardstick::Mode;

const FIGURES: &str = "connections, connections a second, handshake p50, handshake p99, handshake max, CPU \
    of a connection, bench CPU, RSS of a connection, private of a connection, CPU while \
    idle";

/// Runs it; returns whether all connections stayed.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool> {
    let connections = args.dial.connections as usize;
    prepare(&args.host, &args.dial, connections)?;
    let alone = !args.yardsticks.wanted(&args.server);
    let subjects: &[_] = if alone { &[COMET] } else { &[COMET, "bare"] };
    let storms = each_turn(args.rounds, subjects, |place| {
        let rooms = args.rooms as usize;
        let crowd = Crowd::of_server(&args.server, connections, rooms, Streams::Rooms);
        let (server, host, dial) = (&args.server, &args.host, &args.dial);
        let mut subject = match place.subject {
            COMET => Subject::server(place, (server, host, dial), crowd)?,
            _ => Subject::yardstick(place, Mode::Ring, (host, dial), crowd)?,
        };
        let mut storm = subject.storm()?;
        storm.idle_cpu_share = subject.idle_share(args.hold)?;
        storm.closed = subject.clients.findings(&[])?.closed;
        Ok(storm)
    })?;
    let of = |subject: &'static str| storms.iter().filter(move |is| is.place.subject == subject);
    let over = |figure: fn(&Storm) -> Option<f64>| Spread::of(of(COMET).filter_map(figure));
    let comet_to_bare = of(COMET).zip(of("bare")).filter_map(|(comet, bare)| {
        Some(comet.cpu_per_connection_ns? / bare.cpu_per_connection_ns?)
    });
    let results = json!({
        "storms": storms,
        "comet_to_bare": Spread::of(comet_to_bare),
        "comet_rss_bytes": over(|storm| storm.rss_per_connection_bytes),
        "comet_anonymous_bytes": over(|storm| storm.anonymous_per_connection_bytes),
    });
    let text = format!("{}\n{}", turns_table(&storms, FIGURES), summary(&results));
    let faults = storms.iter().flat_map(Storm::faults).collect();
    report::finish("connect", args, (&args.host, Some(&args.server)), (results, faults), &text)
}
