//! `raw`: the yardsticks alone, which shows what the host can do.

use serde::Serialize;
use serde_json::{Value, json};

use super::{each_turn, prepare};
use crate::Result;
use crate::args::{DialArgs, HostArgs, LoadArgs, RawArgs};
use crate::clock::seconds_to_ns;
use crate::crowd::Crowd;
use crate::message::HEADER_LEN;
use crate::plan::Plan;
use crate::report::{self, Table};
use crate::stats::Percentiles;
use crate::subject::{OPERATION, Place, Subject};
use crate::target::Target;
use crate::yardstick::{Mode, ping_pong};

/// Of a turn of pushes.
pub(super) const FIGURES: &str = "expected, received, lost, late, doubled, dropped, deliveries a second, per core \
    second, CPU of a delivery, data CPU of a delivery, latency p50, latency p99, latency \
    max";

/// Runs it; returns whether every delivery was made.
pub(crate) fn run(args: &RawArgs) -> Result<bool> {
    prepare(&args.host, &args.dial, args.dial.connections as usize)?;
    let (mut turns, mut pings, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    each_turn(args.load.rounds, &["ring", "send", "ping-pong"], |place| {
        if place.subject == "ping-pong" {
            let size = HEADER_LEN + args.load.size as usize;
            let ping = echo_turn(size, None, args.load.seconds, &args.host)?.latency;
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

/// The turn of a bare loop: the same connections and bytes, and the same sender with the same schedule. All its
/// connections are one stream, where a server's divide into rooms.
pub(super) fn yardstick_turn(
    place: Place,
    host: &HostArgs,
    dial: &DialArgs,
    load: &LoadArgs,
) -> Result<Value> {
    let mode = if place.subject == "ring" { Mode::Ring } else { Mode::Send };
    let crowd = Crowd::of_yardstick(dial.connections as usize);
    let plan = Plan::of(load, OPERATION, &crowd);
    let mut subject = Subject::yardstick(place, mode, (host, dial), crowd)?;
    subject.only_turn(plan)
}

/// What a bare ping-pong gave.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PingPong {
    /// Of a round trip.
    pub latency: Percentiles,
    /// From the time it was due to its end, as latencies of pushes are measured.
    pub since_due: Percentiles,
    /// CPU time of the echoing side for one round trip.
    pub cpu_ns: f64,
}

/// The turn of a bare ping-pong.
pub(super) fn echo_turn(
    bytes: usize,
    interval_ns: Option<u64>,
    seconds: f64,
    host: &HostArgs,
) -> Result<PingPong> {
    let (mut target, _feed) = Target::yardstick(Mode::Echo, 1, host)?;
    let before = target.cpu()?;
    let (pongs, socket) =
        ping_pong(target.endpoints.tcp, bytes, interval_ns, seconds_to_ns(seconds))?;
    let cpu = target.cpu()?.zip(before).map(|(after, before)| after.since(&before).total_ns);
    // Only now: the yardstick ends with its connection.
    drop(socket);
    let latency = Percentiles::of(&pongs.round_trips);
    let since_due = Percentiles::of(&pongs.since_due);
    let cpu = cpu.expect("a yardstick's process is known");
    Ok(PingPong { cpu_ns: cpu as f64 / latency.count.max(1) as f64, latency, since_due })
}
