//! `cluster`: two comets and one NATS server. It measures the latency that a hop over NATS adds to a push, next to a
//! bare message through the same server; the cost of pushes to a room for a third host without members; and a flood of
//! pushes to two hosts.

pub(super) mod hosts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::runtime;

use self::hosts::{Hosts, ROOM, Reader, Received, until};
use super::pin;
use crate::Result;
use crate::args::ClusterArgs;
use crate::clock::{SECOND_NS, Timer, now_ns, seconds_to_ns, sleep_until};
use crate::grpc::{Address, Push, PushStream};
use crate::message::Stamp;
use crate::nats::NatsClient;
use crate::plan::run_id;
use crate::report::{self, NOT_MEASURED, Table};
use crate::stats::{Percentiles, Spread};
use crate::subject::COMET;

/// The latency that a hop may add, as a multiple of a bare message's.
const HOP_BOUND: f64 = 1.5;
/// Subject of bare messages.
const BARE: &str = "bench.bare";
/// Hosts ask others about a room until they know for certain, which takes this long after a host has joined.
const SETTLE_NS: u64 = 6 * SECOND_NS;
/// Writes per second in a flood.
const FLOOD_TICKS: u64 = 500;

/// Runs it; returns whether all deliveries were made.
pub(crate) fn run(args: &ClusterArgs) -> Result<bool> {
    if args.server.addr.is_some() {
        return Err("cluster starts its own servers: without --addr".into());
    }
    pin(&args.host)?;
    let rounds = (1..=args.rounds).map(|round| measure(round, args)).collect::<Result<Vec<_>>>()?;
    let spread = |of: &dyn Fn(&Value) -> Option<f64>| Spread::of(rounds.iter().filter_map(of));
    let cell = |is: Option<Spread>, digits: usize| {
        is.map_or_else(
            || NOT_MEASURED.to_owned(),
            |Spread { median, min, max }| {
                format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
            },
        )
    };
    let mut rows = Vec::new();
    for percentile in ["p50_us", "p99_us"] {
        let us = |what: &'static str| spread(&|round| round[what][percentile].as_f64());
        let name = percentile.trim_end_matches("_us");
        rows.push(vec![format!("bare message, {name}, us"), cell(us("bare"), 0), String::new()]);
        for (what, near, far) in [("key", "key_near", "key_far"), ("room", "room_near", "room_far")]
        {
            rows.push(vec![
                format!("push by {what}, own host, {name}, us"),
                cell(us(near), 0),
                String::new(),
            ]);
            rows.push(vec![
                format!("push by {what}, other host, {name}, us"),
                cell(us(far), 0),
                String::new(),
            ]);
            let ratio = spread(&|round| {
                let at = |what: &str| round[what][percentile].as_f64();
                Some((at(far)? - at(near)?) / at("bare")?)
            });
            let is_reached = ratio.is_some_and(|is| is.median <= HOP_BOUND);
            rows.push(vec![
                format!("added by the hop, {what}, {name}, of a bare message"),
                cell(ratio, 2),
                format!("{HOP_BOUND}: {}", if is_reached { "yes" } else { "no" }),
            ]);
        }
    }
    for (label, name, digits) in [
        ("CPU of a push to a room, host without members, ns", "idle_host_ns", 0),
        ("the same while nothing is pushed, CPU of a host, %", "idle_percent", 2),
        ("flood, pushes a second", "flood_hz", 0),
        ("flood, lost", "flood_lost", 0),
        ("flood, lost and not counted by the server", "flood_unexplained", 0),
    ] {
        rows.push(vec![
            label.to_owned(),
            cell(spread(&|round| round[name].as_f64()), digits),
            String::new(),
        ]);
    }
    let legend = [
        "latency from when a push was due to the client; own host, other host: of the client, from the host that is called",
        "bare message: from publisher to subscriber through the same nats-server; medians of the rounds and their range",
    ];
    let text = Table::new(&["what", "figure", "reach"], rows, &legend).text();
    let results = json!({ "rounds": rounds });
    report::finish("cluster", args, (&args.host, Some(&args.server)), results, &text)
}

fn measure(round: u32, args: &ClusterArgs) -> Result<Value> {
    let mut hosts = Hosts::start(args)?;
    let readers = [
        Reader::of_client(&hosts.targets[0], 1, "near")?,
        Reader::of_client(&hosts.targets[1], 2, "far")?,
    ];
    let [near, far] = &readers;
    let mut publisher = hosts.nats.connect()?;
    let subject = format!("comet.room.{ROOM}");
    until("a message to the room arrives", || {
        publisher.publish(&subject, [&b"probe"[..]])?;
        Ok(readers.iter().all(|reader| reader.received().probes > 0))
    })?;

    sleep_until(now_ns() + SETTLE_NS);

    let mut subscriber = hosts.nats.connect()?;
    subscriber.subscribe(BARE)?;
    let bare = Reader::of_nats(subscriber);
    let mut faults = Vec::new();
    let mut check = |what: &str, received: &Received, sent: u64| {
        if received.messages != sent || received.out_of_order > 0 {
            let Received { messages, out_of_order, .. } = received;
            faults.push(format!(
                "{what}, round {round}: {messages} of {sent} came, {out_of_order} out of order"
            ));
        }
        json!(Percentiles::of(&received.latencies))
    };

    let begin = |readers: &[&Reader]| {
        let run = run_id();
        readers.iter().for_each(|reader| reader.restart(run));
        run
    };
    let run = begin(&[&bare]);
    let sent = publish(&mut publisher, BARE, run, (args.rate, 1), args)?;
    let bare = check("bare messages", &bare.await_messages(sent), sent);

    let grpc = hosts.targets[0].grpc.clone().expect("a server that was started has a push API");
    let push = |to: Address, run| push(&grpc, &to, run, args);
    let run = begin(&[near]);
    let sent = push(Address::Keys(vec!["near".to_owned()]), run)?;
    let key_near = check("pushes by key to the own host", &near.await_messages(sent), sent);
    let run = begin(&[far]);
    let sent = push(Address::Keys(vec!["far".to_owned()]), run)?;
    let key_far = check("pushes by key to the other host", &far.await_messages(sent), sent);

    let run = begin(&[near, far]);
    let sent = push(Address::Room(ROOM.to_owned()), run)?;
    let room_near = check("pushes to the room, own host", &near.await_messages(sent), sent);
    let room_far = check("pushes to the room, other host", &far.await_messages(sent), sent);

    // A third host has no members of the room. Only the difference to what it does in any case is measured. It joins
    // late, because on one core it would take CPU time from the hop.
    hosts.add("c", args)?;
    sleep_until(now_ns() + SETTLE_NS);
    let other = &mut hosts.targets[2];
    let before = other.cpu()?;
    sleep_until(now_ns() + seconds_to_ns(args.seconds));
    let between = other.cpu()?;
    let run = begin(&[near, far]);
    let sent = push(Address::Room(ROOM.to_owned()), run)?;
    let after = other.cpu()?;
    let used = |now: Option<_>, before: Option<&_>| {
        let (now, before): (crate::process::CpuSample, &_) = now.zip(before)?;
        Some(now.since(before).total_ns as f64)
    };
    let idle_ns = used(between.clone(), before.as_ref());
    let busy_ns = used(after, between.as_ref());
    let idle_host_ns = busy_ns.zip(idle_ns).map(|(busy, idle)| (busy - idle) / sent.max(1) as f64);
    let idle_percent = idle_ns.map(|ns| ns / seconds_to_ns(args.seconds) as f64 * 100.0);
    for reader in &readers {
        check("pushes to the room beside a third host", &reader.await_messages(sent), sent);
    }

    let losses_before = hosts.losses()?;
    let run = begin(&[near, far]);
    let began_ns = now_ns();
    let each_tick = (args.flood / FLOOD_TICKS).max(1);
    let sent = publish(&mut publisher, &subject, run, (FLOOD_TICKS as f64, each_tick), args)?;
    let flood_hz = sent as f64 * SECOND_NS as f64 / (now_ns() - began_ns) as f64;
    let mut flood_latencies = Vec::new();
    let flooded = readers.each_ref().map(|reader| reader.await_messages(sent));
    let flood_lost: u64 =
        flooded.iter().map(|received| sent.saturating_sub(received.messages)).sum();
    let mut dropped = hosts.losses()?;
    dropped.iter_mut().for_each(|(name, count)| *count -= losses_before.get(name).unwrap_or(&0));
    dropped.retain(|_, count| *count > 0);
    let flood_dropped: u64 = dropped.values().sum();
    let flood_unexplained = flood_lost.abs_diff(flood_dropped);
    for (received, host) in flooded.iter().zip(["a", "b"]) {
        let Received { messages, latencies, .. } = received;
        // What the server dropped and counted is not a fault, but it makes gaps in the order.
        if flood_unexplained > 0 || flood_dropped == 0 && received.out_of_order > 0 {
            faults.push(format!(
                "a flood into host {host}, round {round}: {messages} of {sent} came, {flood_unexplained} of both are not accounted for"
            ));
        }
        flood_latencies.push(json!(Percentiles::of(latencies)));
    }
    Ok(json!({
        "subject": COMET,
        "round": round,
        "bare": bare,
        "key_near": key_near,
        "key_far": key_far,
        "room_near": room_near,
        "room_far": room_far,
        "idle_host_ns": idle_host_ns,
        "idle_percent": idle_percent,
        "flood_sent": sent,
        "flood_hz": flood_hz,
        "flood_lost": flood_lost,
        "flood_dropped": flood_dropped,
        "flood_dropped_by": dropped,
        "flood_unexplained": flood_unexplained,
        "flood_latencies": flood_latencies,
        "faults": faults,
    }))
}

/// A body of the run.
fn body(run: u32, sequence: u64, due_ns: u64, args: &ClusterArgs) -> Vec<u8> {
    let mut body = Vec::new();
    let stamp = Stamp { run, stream: 0, sequence, intended_ns: Some(due_ns) };
    stamp.append_body(args.size as usize, &mut body);
    body
}

/// Publishes so many messages in each tick, at so many ticks a second; returns the number of messages.
fn publish(
    publisher: &mut NatsClient,
    subject: &str,
    run: u32,
    (hertz, each_tick): (f64, u64),
    args: &ClusterArgs,
) -> Result<u64> {
    let (interval_ns, start_ns) = ((SECOND_NS as f64 / hertz) as u64, now_ns());
    let ticks = seconds_to_ns(args.seconds) / interval_ns;
    for tick in 0..ticks {
        let due_ns = start_ns + tick * interval_ns;
        sleep_until(due_ns);
        let numbers = tick * each_tick..(tick + 1) * each_tick;
        let bodies: Vec<_> = numbers.map(|number| body(run, number, due_ns, args)).collect();
        publisher.publish(subject, bodies.iter().map(Vec::as_slice))?;
    }
    publisher.sync()?;
    Ok(ticks * each_tick)
}

/// Pushes at the rate through one stream of calls; returns the number of pushes. Fails if one is refused, or not all
/// are answered.
fn push(grpc: &str, to: &Address, run: u32, args: &ClusterArgs) -> Result<u64> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let refused = Arc::new(AtomicU64::new(0));
    let count_refused = Arc::clone(&refused);
    let sent = runtime.block_on(async {
        let take = move |answers: Vec<crate::grpc::Answer>| {
            let unanswered = |ledger: &crate::grpc::Ledger| !ledger.unanswered.is_empty();
            let is_bad = |answer: &&crate::grpc::Answer| {
                answer.as_ref().map_or(true, |ledger| ledger.as_ref().is_some_and(unanswered))
            };
            count_refused.fetch_add(answers.iter().filter(is_bad).count() as u64, Relaxed);
        };
        let mut stream = PushStream::open(grpc, take).await?;
        let timer = Timer::new()?;
        let (interval_ns, start_ns) = ((SECOND_NS as f64 / args.rate) as u64, now_ns());
        let pushes = seconds_to_ns(args.seconds) / interval_ns;
        for number in 0..pushes {
            let due_ns = start_ns + number * interval_ns;
            timer.until(due_ns).await?;
            let body = body(run, number, due_ns, args);
            stream.push(Push::new(to.clone(), args.server.operation, body));
            // This thread also runs the stream.
            tokio::task::yield_now().await;
        }
        stream.end().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(pushes)
    })?;
    match refused.load(Relaxed) {
        0 => Ok(sent),
        refused => {
            Err(format!("{refused} pushes were refused, or not answered by all hosts").into())
        }
    }
}
