//! `raw`: the yardsticks alone, which says what the host can do.

use serde::Serialize;

use super::{pin, run_id};
use crate::Result;
use crate::args::{DialArgs, HostArgs, LoadArgs, RawArgs};
use crate::clock::seconds_to_ns;
use crate::dial::{Crowd, ensure_descriptors};
use crate::measure::{Place, Turn, measure};
use crate::message::HEADER_LEN;
use crate::outlet::Sink;
use crate::report::{Report, number, spread, table};
use crate::sender::{Pattern, Plan};
use crate::stats::{Percentiles, Spread};
use crate::target::Target;
use crate::yardstick::{Mode, ping_pong};

/// The operation of a yardstick's messages; nobody looks at it.
const OPERATION: i32 = 1000;

#[derive(Serialize)]
struct Results {
    turns: Vec<Turn>,
    /// CPU of a delivery by the ring, for one by send(2), over the rounds.
    ring_to_send: Option<Spread>,
    /// Round trips one after the other.
    ping_pong: Vec<Percentiles>,
}

/// Runs it; says whether every delivery was made.
///
/// # Errors
///
/// The measurement could not be made.
pub(crate) fn run(args: &RawArgs) -> Result<bool> {
    ensure_descriptors(args.dial.connections as usize, args.dial.processes)?;
    pin(&args.host)?;
    let mut turns = Vec::new();
    let mut pings = Vec::new();
    for round in 1..=args.load.rounds {
        for mode in [Mode::Ring, Mode::Send] {
            turns.push(yardstick_turn(mode, round, &args.host, &args.dial, &args.load)?);
        }
        let size = HEADER_LEN + args.load.size as usize;
        pings.push(echo_turn(size, None, args.load.seconds, &args.host)?.latency);
    }
    let ring_to_send = ratio(&turns, "ring", "send", |turn| turn.cpu_per_delivery_ns);
    let mut text = turns_table(&turns);
    text += &format!("\nring / send: {}\n", spread(ring_to_send, 2));
    for (round, ping) in pings.iter().enumerate() {
        let (p50, p99, max) = (ping.p50_us, ping.p99_us, ping.max_us);
        let round = round + 1;
        text += &format!("ping-pong {round}: p50 {p50:.1} us, p99 {p99:.1} us, max {max:.1} us\n");
    }
    let faults = turns.iter().flat_map(Turn::faults).collect();
    let results = Results { turns, ring_to_send, ping_pong: pings };
    Report::new("raw", args, results, faults).finish(&text, &args.host)
}

/// A yardstick's turn: the same connections and bytes, and the same sender with the same schedule. All its
/// connections are one stream, where a server's divide into rooms.
///
/// # Errors
///
/// The measurement could not be made.
pub(super) fn yardstick_turn(
    mode: Mode,
    round: u32,
    host: &HostArgs,
    dial: &DialArgs,
    load: &LoadArgs,
) -> Result<Turn> {
    let subject = match mode {
        Mode::Ring => "ring",
        Mode::Send => "send",
        Mode::Echo => "echo",
        Mode::Grpc => "gRPC",
    };
    let crowd = Crowd::of_yardstick(dial.connections as usize);
    let (mut target, feed) = Target::yardstick(mode, crowd.connections, host)?;
    let plan = plan(load, OPERATION, &crowd);
    let place = Place { subject, round };
    measure(place, &mut target, Sink::Yardstick(feed), plan, &crowd, dial)
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

/// A bare ping-pong's turn.
///
/// # Errors
///
/// The measurement could not be made.
pub(super) fn echo_turn(
    bytes: usize,
    interval_ns: Option<u64>,
    seconds: f64,
    host: &HostArgs,
) -> Result<PingPong> {
    let (mut target, _feed) = Target::yardstick(Mode::Echo, 1, host)?;
    let before = target.cpu()?;
    let (pongs, socket) = ping_pong(target.doors.tcp, bytes, interval_ns, seconds_to_ns(seconds))?;
    let cpu = target.cpu()?.zip(before).map(|(after, before)| after.since(&before).total_ns);
    // Only now: the yardstick ends with its connection.
    drop(socket);
    let latency = Percentiles::of(&pongs.round_trips);
    let since_due = Percentiles::of(&pongs.since_due);
    let cpu = cpu.expect("a yardstick's process is known");
    Ok(PingPong { cpu_ns: cpu as f64 / latency.count.max(1) as f64, latency, since_due })
}

/// What `load` asks for, pushed to all streams of `crowd`.
pub(super) fn plan(load: &LoadArgs, operation: i32, crowd: &Crowd) -> Plan {
    Plan {
        run: run_id(),
        operation,
        size: load.size as usize,
        batch: u64::from(load.batch),
        members: crowd.members(),
        pattern: Pattern::Every,
        interval_ns: Plan::interval_of(load.rate),
        duration_ns: seconds_to_ns(load.seconds),
        window: u64::from(load.window),
    }
}

/// `figure` of one subject over that of another in the same round, over the rounds.
pub(super) fn ratio(
    turns: &[Turn],
    subject: &str,
    to: &str,
    figure: fn(&Turn) -> Option<f64>,
) -> Option<Spread> {
    let of = |subject: &str, round| {
        let turn = turns.iter().find(|turn| turn.subject == subject && turn.round == round)?;
        figure(turn)
    };
    let rounds = turns.iter().filter(|turn| turn.subject == to).map(|turn| turn.round);
    Spread::of(rounds.filter_map(|round| Some(of(subject, round)? / of(to, round)?)))
}

/// A row for each turn.
pub(super) fn turns_table(turns: &[Turn]) -> String {
    let headings = [
        "turn",
        "expected",
        "received",
        "lost",
        "late",
        "double",
        "dropped",
        "deliv/s",
        "per core s",
        "CPU ns",
        "data ns",
        "p50 us",
        "p99 us",
        "max us",
    ];
    // Bodies too small for a time have no latency.
    let latency = |turn: &Turn, us: fn(&Percentiles) -> f64| {
        number((turn.latency.count > 0).then(|| us(&turn.latency)), 0)
    };
    let row = |turn: &Turn| {
        let is = &turn.deliveries;
        vec![
            format!("{} {}", turn.subject, turn.round),
            is.expected.to_string(),
            is.received.to_string(),
            is.lost.to_string(),
            is.out_of_order.to_string(),
            is.duplicate.to_string(),
            turn.sent.dropped.to_string(),
            number(Some(turn.per_second()), 0),
            number(turn.per_core_second(), 0),
            number(turn.cpu_per_delivery_ns, 1),
            number(turn.data_cpu_per_delivery_ns, 1),
            latency(turn, |is| is.p50_us),
            latency(turn, |is| is.p99_us),
            latency(turn, |is| is.max_us),
        ]
    };
    table(&headings, &turns.iter().map(row).collect::<Vec<_>>())
}
