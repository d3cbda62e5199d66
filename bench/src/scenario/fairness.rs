//! `fairness`: how long pushes, heartbeats and connects wait when there is a large room, the crowd. Times with and
//! without pushes to it alternate on one server.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::overload::{Assault, Attacker, BEGIN_NS_MAX, CROWD_BOUND_US};
use super::{delivery_faults, phase, prepare};
use crate::Result;
use crate::args::{Attack, FairnessArgs, Phase};
use crate::clients::{ClientCommand, guests_max};
use crate::clock::{SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::{Crowd, Streams};
use crate::message::STAMP_LEN;
use crate::report::{self, NOT_MEASURED, Table};
use crate::sender::Sent;
use crate::stats::{Percentiles, Spread};
use crate::subject::{COMET, Place, Subject};

/// Members of a small room.
const SMALL_ROOM: usize = 10;
/// Pushes a second to the smaller crowd.
const SMALL_CROWD_HZ: f64 = 10.0;
/// Time between two heartbeats of a client.
const HEARTBEAT_NS: u64 = SECOND_NS;
/// How long a client that connects stays.
const STAY_S: f64 = 0.5;

/// The lines of the table, each a percentile of what is measured.
const KEY: &str = "push by key";
const HEARTBEAT: &str = "heartbeat";
const ROOM: &str = "push to a room of 10";
const CONNECT: &str = "connect";
const SMALL_CROWD: &str = "push to the smaller crowd";
const LINES: [&str; 5] = [KEY, HEARTBEAT, ROOM, CONNECT, SMALL_CROWD];

const HEADINGS: [&str; 7] = [
    "what",
    "p50 quiet us",
    "p99 quiet us",
    "p50 beside us",
    "p99 beside us",
    "p99 later by us",
    "within",
];

/// Runs it; returns whether no client lost its connection or a message, and with --strict also whether all bounds
/// are reached.
pub(crate) fn run(args: &FairnessArgs) -> Result<bool> {
    prepare(&args.setup, u64::from(args.crowd) + guests_max(args.arrivals, STAY_S))?;
    let clients = args.setup.dial.connections as usize;
    let small_rooms = Crowd {
        rooms: clients.div_ceil(SMALL_ROOM),
        streams: Streams::Keys(1),
        websocket_share: 0.5,
        ..Crowd::of(&args.setup, 1)
    };
    let idle = Phase { seconds: args.seconds, ..Phase::idle() };
    let phases = [
        Phase { key_rate: args.rate, ..idle.clone() },
        Phase { room_rate: args.rate, ..idle.clone() },
        Phase { arrivals: args.arrivals, ..idle.clone() },
    ];
    let mut rounds = on_one_server(args, small_rooms, &phases)?;
    let small_crowd = Crowd {
        connections: args.small_crowd as usize,
        websocket_share: 0.5,
        ..Crowd::of(&args.setup, 1)
    };
    rounds.extend(on_one_server(
        args,
        small_crowd,
        &[Phase { room_rate: SMALL_CROWD_HZ, ..idle }],
    )?);
    let median = |when: &str, line: &str, percentile: &str| {
        Spread::of(rounds.iter().filter_map(|round| round[when][line][percentile].as_f64()))
            .map(|is| is.median)
    };
    let mut rows = Vec::new();
    let mut all_within = true;
    for line in LINES {
        let cell = |value: Option<f64>| {
            value.map_or_else(|| NOT_MEASURED.to_owned(), |is| format!("{is:.0}"))
        };
        let p99s = [median("quiet", line, "p99_us"), median("beside", line, "p99_us")];
        let later_us = p99s[1].zip(p99s[0]).map(|(beside, quiet)| beside - quiet);
        let is_within = later_us.is_some_and(|us| us <= CROWD_BOUND_US);
        all_within &= is_within;
        rows.push(vec![
            line.to_owned(),
            cell(median("quiet", line, "p50_us")),
            cell(p99s[0]),
            cell(median("beside", line, "p50_us")),
            cell(p99s[1]),
            cell(later_us),
            if is_within { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let cost = Spread::of(rounds.iter().filter_map(|round| round["crowd_ns"].as_f64()));
    let legend = [
        "quiet, beside: without and with a room beside it that is pushed to twice a second (--crowd); medians over the rounds",
        "push: from when it was due to its delivery; heartbeat and connect: from when it was due to the reply",
        "within: p99 is at most 6 ms later beside the crowd",
    ];
    let mut text = Table::new(&HEADINGS, rows, &legend).text();
    if let Some(Spread { median, min, max }) = cost {
        text += &format!(
            "\na delivery to the crowd, all threads, nothing else under way: {median:.0} ns ({min:.0} to {max:.0})\n"
        );
    }
    let mut faults = Vec::new();
    if args.strict && !all_within {
        faults.push("a p99 is beyond its bound beside the crowd");
    }
    let results =
        json!({ "rounds": rounds, "crowd_ns": cost, "reached": all_within, "faults": faults });
    report::finish("fairness", args, args.setup.sides(), results, &text)
}

/// Adds a room next to the clients of `subject`, pushed to twice a second by a thread of lower priority. Returns once
/// all its members are there.
pub(super) fn begin_crowd(subject: &mut Subject, members: usize) -> Result<Assault> {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let attacker = Attacker::of(subject, nowhere, [0, members])?;
    let crowd = Assault::begin(Attack::Crowd, attacker);
    let begun = subject.wait_for(BEGIN_NS_MAX, |_| crowd.is_under_way())?;
    begun.ok_or("the crowd does not get together")?;
    Ok(crowd)
}

/// The results of each round: all `phases` without and with the large room, and the CPU cost of a delivery to it.
fn on_one_server(args: &FairnessArgs, crowd: Crowd, phases: &[Phase]) -> Result<Vec<Value>> {
    let mut subject = Subject::server(Place::of(COMET, args.rounds), &args.setup, crowd)?;
    subject.connect()?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        subject.place.round = round;
        let mut faults = Vec::new();
        let quiet = measure_all(&mut subject, phases, &mut faults)?;
        let idle_ns = cpu_ns(&mut subject, args.seconds)?;
        let crowd = begin_crowd(&mut subject, args.crowd as usize)?;
        let beside = measure_all(&mut subject, phases, &mut faults)?;
        let pushes_before = crowd.crowd_pushes();
        let busy_ns = cpu_ns(&mut subject, args.seconds)?;
        let deliveries = (crowd.crowd_pushes() - pushes_before) * u64::from(args.crowd);
        crowd.end()?;
        subject.settle()?;
        // If the host is busy with other work, the crowd may have got no CPU time.
        let used_ns = busy_ns.zip(idle_ns).filter(|_| deliveries > 0);
        let crowd_ns = used_ns.map(|(busy, idle)| (busy - idle) / deliveries as f64);
        rounds.push(json!({
            "subject": COMET,
            "round": round,
            "quiet": quiet,
            "beside": beside,
            "crowd_ns": crowd_ns,
            "faults": subject.place.name_faults(faults),
        }));
    }
    Ok(rounds)
}

/// CPU time of all threads of the server, in `seconds` in which the bench requests nothing of it.
fn cpu_ns(subject: &mut Subject, seconds: f64) -> Result<Option<f64>> {
    Ok(subject.idle_share(seconds)?.map(|share| share * seconds * SECOND_NS as f64))
}

/// The percentiles of every phase, by the name of their line.
fn measure_all(subject: &mut Subject, phases: &[Phase], faults: &mut Vec<String>) -> Result<Value> {
    let mut lines = json!({});
    for phase in phases {
        measure(subject, phase, &mut lines, faults)?;
    }
    Ok(lines)
}

/// Measures one phase: its pushes, guests, and heartbeats next to pushes by key.
fn measure(
    subject: &mut Subject,
    phase: &Phase,
    lines: &mut Value,
    faults: &mut Vec<String>,
) -> Result<()> {
    let has_heartbeats = phase.key_rate > 0.0;
    let pushes = phase::begin(subject, phase, STAMP_LEN as u32, (STAY_S, 0.0))?;
    if has_heartbeats {
        subject.clients.execute(ClientCommand::Heartbeat(HEARTBEAT_NS))?;
    }
    let ends_ns = now_ns() + seconds_to_ns(phase.seconds);
    let bar = subject.place.bar(None, "measuring");
    let sent = subject.push_all(pushes, &bar, |_| Ok(()))?;
    subject.wait(ends_ns.saturating_sub(now_ns()))?;
    bar.finish_and_clear();
    subject.clients.execute(ClientCommand::StopGuests)?;
    let dropped = sent.iter().map(Sent::dropped_of_present).sum();
    let messages = phase::messages_by_kind(phase, &sent);
    let mut findings = subject.await_deliveries(&messages, dropped)?;
    if has_heartbeats {
        findings.round_trips = subject.await_replies()?.round_trips;
        lines[HEARTBEAT] = json!(Percentiles::of(&findings.round_trips));
    }
    faults.extend(delivery_faults(&findings, dropped));
    faults.extend(sent.iter().filter_map(Sent::refusal));
    if phase.arrivals > 0.0 {
        lines[CONNECT] = json!(Percentiles::of(&findings.handshakes));
    } else {
        let line = match subject.crowd.rooms {
            _ if has_heartbeats => KEY,
            1 => SMALL_CROWD,
            _ => ROOM,
        };
        lines[line] = json!(Percentiles::of(&findings.latencies));
    }
    Ok(())
}
