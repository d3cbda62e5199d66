//! `overload`: how attacks on the listeners and on the cores affect the connected clients. Quiet times and attacks
//! alternate on one server, and each latency is given as a ratio to that in the quiet time before it.

mod attack;
mod attacker;
mod flood;
mod trickle;

use std::net::Ipv4Addr;
use std::thread;

use clap::ValueEnum;
use serde_json::{Value, json};

pub(super) use self::attack::Assault;
use self::attack::settings;
pub(super) use self::attacker::Attacker;
use super::prepare;
use crate::Result;
use crate::args::{Attack, OverloadArgs};
use crate::clients::ClientCommand;
use crate::clock::{MILLISECOND_NS, SECOND_NS, seconds_to_ns};
use crate::crowd::{Crowd, Streams};
use crate::message::{HEADER_LEN, STAMP_LEN};
use crate::pingpong::PingPong;
use crate::plan::{Pattern, Plan};
use crate::report::{self, NOT_MEASURED, Table};
use crate::stats::{Percentiles, Spread};
use crate::subject::{COMET, Place, Subject};
use crate::target::free_ports;

/// The most that a latency under attack may be, as a multiple of its quiet value, or of the ping-pong's under the same
/// attack.
const BOUND: f64 = 2.0;
/// With a crowd, each latency may be at most this much longer.
pub(super) const CROWD_BOUND_US: f64 = 6_000.0;
/// Time between two heartbeats of a client.
const HEARTBEAT_NS: u64 = SECOND_NS;
/// Time between two round trips of the ping-pong.
const PING_NS: u64 = 2 * MILLISECOND_NS;
/// How long an attack, which has the lowest priority, may take to get under way.
pub(super) const BEGIN_NS_MAX: u64 = 240 * SECOND_NS;

const HEADINGS: [&str; 11] = [
    "attack",
    "done",
    "push p99 quiet us",
    "attacked us",
    "ratio",
    "heartbeat p99 quiet us",
    "attacked us",
    "ratio",
    "ping-pong p99 quiet us",
    "attacked us",
    "within",
];

/// Runs it; returns whether no client lost its connection or a message, and with --strict also whether all bounds
/// are reached.
pub(crate) fn run(args: &OverloadArgs) -> Result<bool> {
    if args.setup.server.addr.is_some() {
        return Err(
            "overload starts its servers itself: each attack needs settings of its own".into()
        );
    }
    prepare(&args.setup, u64::from(args.stalled.max(args.half_open)))?;
    let mut attacks = Vec::new();
    let mut rows = Vec::new();
    for &attack in Attack::value_variants().iter().filter(|attack| args.asks(**attack)) {
        let found = under(attack, args).map_err(|error| format!("{attack:?}: {error}"))?;
        let row = row(&found);
        println!("{}", row.join("  "));
        rows.push(row);
        attacks.push(found);
    }
    let legend = [
        "p99 of a push by key and of a heartbeat of the clients that stay; medians over the rounds",
        "ping-pong: a bare echo on the server's CPUs at the same time: what the attack costs there whatever the server does",
        "within: both are at most twice their quiet value, or twice the ping-pong under the same attack; beside a crowd, at most 6 ms longer than their quiet value",
        "done: what the attackers got done in all rounds: connections, frames or handshakes",
    ];
    let text = Table::new(&HEADINGS, rows, &legend).text();
    let results = json!({ "attacks": attacks });
    report::finish("overload", args, args.setup.sides(), results, &text)
}

/// The effect of one attack on the clients of a separate server.
fn under(attack: Attack, args: &OverloadArgs) -> Result<Value> {
    let [api] = free_ports(Ipv4Addr::LOCALHOST)?;
    let mut setup = args.setup.clone();
    setup.server.tls = attack.is_of_tls();
    setup.server.server_set.extend(settings(attack, args, api));
    let crowd = Crowd { streams: Streams::Keys(1), websocket_share: 0.5, ..Crowd::of(&setup, 1) };
    let mut subject = Subject::server(Place::of(COMET, args.rounds), &setup, crowd)?;
    subject.connect()?;
    let (mut quiet, mut attacked, mut done) = (Vec::new(), Vec::new(), 0);
    let mut faults = Vec::new();
    for _ in 0..args.rounds {
        let was = measure(&mut subject, args)?;
        let numbers = [args.half_open as usize, args.stalled as usize];
        let attacker = Attacker::of(&subject, api, numbers)?;
        let assault = Assault::begin(attack, attacker);
        let begun = subject.wait_for(BEGIN_NS_MAX, |_| assault.is_under_way())?;
        begun.ok_or("the attack does not get under way")?;
        let is = measure(&mut subject, args)?;
        done += assault.end()?;
        subject.settle()?;
        for measured in [&was, &is] {
            let found = measured["faults"].as_array().into_iter().flatten();
            faults.extend(
                found.filter_map(Value::as_str).map(|fault| format!("{attack:?}: {fault}")),
            );
        }
        quiet.push(was);
        attacked.push(is);
    }
    let ratio = |name: &str| {
        let p99 = |of: &Value| of[name]["p99_us"].as_f64();
        let ratios = quiet.iter().zip(&attacked).filter_map(|(was, is)| Some(p99(is)? / p99(was)?));
        Spread::of(ratios)
    };
    let (push_ratio, heartbeat_ratio) = (ratio("latency"), ratio("round_trip"));
    let is_reached = ["latency", "round_trip"].iter().all(|name| {
        let (was, is) = (median_p99(&quiet, name), median_p99(&attacked, name));
        let bare = median_p99(&attacked, "ping_pong");
        is.zip(was.zip(bare)).is_some_and(|(is, (was, bare))| match attack {
            Attack::Crowd => is <= was + CROWD_BOUND_US,
            _ => is <= BOUND * was.max(bare),
        })
    });
    if args.strict && !is_reached {
        faults.push(format!("{attack:?}: a latency is beyond its bound"));
    }
    Ok(json!({
        "attack": format!("{attack:?}"),
        "done": done,
        "quiet": quiet,
        "attacked": attacked,
        "push_ratio": push_ratio,
        "heartbeat_ratio": heartbeat_ratio,
        "reached": is_reached,
        "faults": faults,
    }))
}

/// Makes pushes by key and heartbeats for a while, next to a bare ping-pong; returns the latencies of all three.
fn measure(subject: &mut Subject, args: &OverloadArgs) -> Result<Value> {
    let ping_pong = {
        let (host, seconds) = (args.setup.host.clone(), args.seconds);
        thread::spawn(move || {
            PingPong::measure(HEADER_LEN, Some(PING_NS), seconds, &host)
                .map_err(|error| error.to_string())
        })
    };
    let plan = Plan {
        pattern: Pattern::Rotating { first: 0 },
        interval_ns: Plan::interval_of(args.rate),
        duration_ns: seconds_to_ns(args.seconds),
        ..subject.plan(STAMP_LEN as u32)
    };
    let closed_before = subject.clients.findings(&[])?.closed.total();
    subject.restart(plan.run, plan.size, false)?;
    subject.clients.execute(ClientCommand::Heartbeat(HEARTBEAT_NS))?;
    let bar = subject.place.bar(plan.expected(), "pushing");
    let sent = subject.push(plan, &bar, |_| Ok(()))?;
    bar.finish_and_clear();
    let findings =
        subject.await_deliveries(std::slice::from_ref(&sent.messages), sent.dropped())?;
    let replies = subject.await_replies()?;
    let ping_pong = ping_pong.join().map_err(|_| "the ping-pong panicked")??;
    let mut faults = findings.deliveries.faults(sent.dropped());
    faults.extend(sent.refusal());
    let closed = replies.closed.total() - closed_before;
    if closed > 0 {
        faults.push(format!("{closed} clients closed: {:?}", *replies.closed));
    }
    if replies.unanswered() > 0 {
        faults.push(format!("{} heartbeats unanswered", replies.unanswered()));
    }
    Ok(json!({
        "latency": Percentiles::of(&findings.latencies),
        "round_trip": Percentiles::of(&replies.round_trips),
        "ping_pong": ping_pong.since_due,
        "faults": faults,
    }))
}

/// The median of a p99 over the rounds, in us.
fn median_p99(rounds: &[Value], name: &str) -> Option<f64> {
    Spread::of(rounds.iter().filter_map(|round| round[name]["p99_us"].as_f64()))
        .map(|p99| p99.median)
}

/// The cells for an attack, in the order of [`HEADINGS`].
fn row(found: &Value) -> Vec<String> {
    let cell = |value: Option<f64>, decimals: usize| {
        value.map_or_else(|| NOT_MEASURED.to_owned(), |value| format!("{value:.decimals$}"))
    };
    let p99 = |when: &str, name| {
        cell(median_p99(found[when].as_array().expect("it has rounds"), name), 0)
    };
    let ratio = |name: &str| cell(found[name]["median"].as_f64(), 2);
    vec![
        found["attack"].as_str().unwrap_or_default().to_owned(),
        found["done"].to_string(),
        p99("quiet", "latency"),
        p99("attacked", "latency"),
        ratio("push_ratio"),
        p99("quiet", "round_trip"),
        p99("attacked", "round_trip"),
        ratio("heartbeat_ratio"),
        p99("quiet", "ping_pong"),
        p99("attacked", "ping_pong"),
        if found["reached"] == true { "yes" } else { "no" }.to_owned(),
    ]
}
