//! The books of a flood of pushes by frames at two hosts: each reaches the clients of both, or a counter says that it does not, or
//! its caller is told that the other host has not answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::comet::blocking_client::PushClient;
use comet_client::{Client, Options, PushTarget, Pusher};

use crate::logic_process::own_address;
use crate::support::{Metrics, PATIENCE, To, until, until_reaches};
use crate::two_hosts::TwoHosts;

const ROOM: &str = "live://flood";
/// Before the flood. After it each host pushes its own.
const BEGIN: &[u8] = b"begin";
const ENDS: [&[u8]; 2] = [b"end of a", b"end of b"];
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;

#[derive(Clone, Copy)]
struct Flood {
    /// Callers of each host.
    callers: u16,
    /// Of each caller.
    pushes: u32,
    /// Of these so many wait for their replies.
    window: u32,
    body: usize,
}

/// What callers are told.
#[derive(Default, Debug)]
struct Told {
    /// Pushes that were begun.
    made: u64,
    /// Those of them whose caller knows that the other host has not answered, or does not know what became of them.
    unanswered: u64,
}

/// Keeps a window of pushes under way. Each has the number of its caller, and its own.
fn call(address: SocketAddr, caller: u16, flood: Flood) -> Told {
    let mut pusher = Pusher::tcp(address, PATIENCE).unwrap();
    let (mut told, mut begun) = (Told::default(), 0);
    for _ in 0..flood.pushes {
        while begun < flood.pushes && pusher.under_way() < flood.window {
            let mut body = [&caller.to_be_bytes()[..], &begun.to_be_bytes()].concat();
            body.resize(flood.body, 0);
            pusher.begin(PushTarget::Room(ROOM), 5, &body);
            begun += 1;
        }
        pusher.flush().unwrap();
        match pusher.next().unwrap() {
            Ok(ledger) => {
                let dropped: u64 = ledger.dropped.iter().map(|(_, count)| count).sum();
                assert_eq!(ledger.matched, ledger.queued + dropped, "{ledger:?}");
                // The other host. Just after a connection has ended there may be one more.
                assert!(ledger.unanswered <= 2, "{ledger:?}");
                told.made += 1;
                told.unanswered += ledger.unanswered.min(1);
            }
            Err(refused) if refused.status == DEADLINE_EXCEEDED => {
                told.made += 1;
                told.unanswered += 1;
            }
            Err(refused) => assert_eq!(refused.status, RESOURCE_EXHAUSTED, "{refused}"),
        }
    }
    told
}

/// Counts the pushes up to the last one of each host. Also returns how often one of a caller came behind a later one. The client stays
/// connected.
fn count(mut client: Client) -> (u64, u64, Client) {
    let (mut pushes, mut swapped, mut ends) = (0, 0, [false; 2]);
    let mut last: HashMap<[u8; 2], u32> = HashMap::new();
    while ends != [true; 2] {
        let message = client.receive().unwrap().expect("the last push comes");
        if let Some(host) = ENDS.iter().position(|end| *end == &*message.body) {
            ends[host] = true;
        } else if &*message.body != BEGIN {
            let (caller, rest) = message.body.split_first_chunk().unwrap();
            let number = u32::from_be_bytes(*rest.first_chunk().unwrap());
            let before = last.insert(*caller, number);
            swapped += u64::from(before >= Some(number));
            pushes += 1;
        }
    }
    (pushes, swapped, client)
}

/// What a host says of pushes that its client did not get: on the way from NATS to the cores, and at the client.
fn losses(metrics: &Metrics) -> u64 {
    let sum = |family: &str| metrics.by_label(family).iter().map(|(_, n)| n).sum::<u64>();
    let refused = metrics.value("comet_cluster_refused_total");
    refused + sum("comet_cluster_dropped_total") + sum("comet_dropped_total")
}

/// Memory that a host uses, in MiB.
fn allocated(metrics: &Metrics) -> u64 {
    metrics.value("comet_heap_allocated_bytes") >> 20
}

/// What became of a flood.
struct Outcome {
    /// Pushes that callers know not to be answered by the other host.
    unanswered: u64,
    /// Pushes that were not published, because too much waited.
    not_published: u64,
    /// Connections to NATS that have ended.
    disconnects: u64,
    /// By how much memory of a host grew, in MiB.
    grown: u64,
}

/// `stalls`: NATS runs no more meanwhile.
fn check(flood: Flood, sets: &[&str], stalls: bool) -> Option<Outcome> {
    let frames = [own_address(), own_address()];
    let own = frames.map(|address| format!("push.frames=[\"{address}\"]"));
    let [a, b] = own.each_ref().map(|set| [&**set]);
    let two = TwoHosts::start_each(sets, [&a, &b])?;
    let callers =
        two.hosts.each_ref().map(|host| PushClient::connect(&host.grpc.to_string()).unwrap());
    let readers = two.hosts.each_ref().map(|host| {
        let token = format!("{{\"mid\":1,\"room_id\":{ROOM:?},\"accepts\":[5]}}");
        let options = Options::tcp(host.tcp.to_string(), token).timeout(PATIENCE);
        let client = options.connect().unwrap();
        thread::spawn(move || count(client))
    });
    for caller in &callers {
        until_reaches(2, caller, To::Room(ROOM), BEGIN);
    }
    let before = [0, 1].map(|host| two.metrics(host));
    two.nats.pause(stalls);
    let calls: Vec<_> = (0..2 * flood.callers)
        .map(|caller| {
            let address = frames[usize::from(caller % 2)];
            thread::spawn(move || call(address, caller, flood))
        })
        .collect();
    let mut grown = 0;
    while !calls.iter().all(JoinHandle::is_finished) {
        for (host, before) in before.iter().enumerate() {
            grown = grown.max(allocated(&two.metrics(host)).saturating_sub(allocated(before)));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let mut told = [Told::default(), Told::default()];
    for (caller, call) in calls.into_iter().enumerate() {
        let Told { made, unanswered } = call.join().unwrap();
        told[caller % 2].made += made;
        told[caller % 2].unanswered += unanswered;
    }
    two.nats.pause(false);
    for (host, (metrics, told)) in before.iter().zip(&told).enumerate() {
        until("the host to publish its pushes", || {
            let now = two.metrics(host);
            let rise = |name: &str| now.value(name) - metrics.value(name);
            // Without a connection none is published.
            let not_published = match rise("comet_cluster_disconnects_total") {
                0 => 0,
                _ => rise("comet_cluster_not_published_total"),
            };
            rise("comet_cluster_published_total") + not_published >= told.made
        });
    }
    for (caller, end) in callers.iter().zip(ENDS) {
        until_reaches(2, caller, To::Room(ROOM), end);
    }
    let now = [0, 1].map(|host| two.metrics(host));
    let rise = |host: usize, of: &dyn Fn(&Metrics) -> u64| of(&now[host]) - of(&before[host]);
    let not_published =
        [0, 1].map(|host| rise(host, &|at| at.value("comet_cluster_not_published_total")));
    let disconnects: u64 =
        (0..2).map(|host| rise(host, &|at| at.value("comet_cluster_disconnects_total"))).sum();
    for (host, reader) in readers.into_iter().enumerate() {
        let (got, swapped, _client) = reader.join().unwrap();
        let lost = rise(host, &losses) + not_published[1 - host];
        let (made, unanswered) = (told[0].made + told[1].made, told[1 - host].unanswered);
        let books = format!(
            "host {host}: of {made} pushes {got} came, {swapped} behind later ones, and {lost} are counted as lost; {unanswered} \
             named this host; {disconnects} disconnects; {not_published:?} not published"
        );
        eprintln!("{books}; {grown} MiB");
        let missing = made.checked_sub(got + lost).expect(&books);
        // What was on its way when a connection ended is lost, and named.
        let may_miss = if disconnects > 0 { unanswered } else { 0 };
        assert!(missing <= may_miss, "{books}");
        // NATS may read of two connections of a host at once.
        assert!(swapped == 0 || disconnects > 0, "{books}");
        assert!(not_published[1 - host] <= unanswered, "{books}");
        now[host].assert_balanced();
    }
    let unanswered = told.iter().map(|told| told.unanswered).sum();
    Some(Outcome { unanswered, not_published: not_published.iter().sum(), disconnects, grown })
}

#[test]
fn each_push_by_a_frame_of_a_flood_reaches_both_hosts_or_is_counted() {
    let flood = Flood { callers: 2, pushes: 5_000, window: 1_000, body: 16 };
    check(flood, &["push.timeout=\"10s\""], false);
}

/// More than may wait for NATS.
#[test]
fn callers_are_told_what_nats_does_not_take_and_memory_stays_bounded() {
    let flood = Flood { callers: 10, pushes: 2_000, window: 250, body: 64 << 10 };
    let sets = ["push.timeout=\"2s\"", "protocol.write_timeout=\"60s\""];
    let Some(outcome) = check(flood, &sets, true) else { return };
    let Outcome { unanswered, not_published, disconnects, grown } = outcome;
    assert!(not_published > 0 && unanswered > not_published, "{not_published} of {unanswered}");
    let pushed = (u64::from(flood.callers) * u64::from(flood.pushes) * flood.body as u64) >> 20;
    // 64 MiB wait for the client of NATS, as much in it, and 64 MiB on each of the two cores for control.
    // Hosts without a turn for so long that their connections end have more waiting between their cores.
    assert!(grown < pushed / 2 || disconnects > 0, "{grown} MiB of {pushed}");
}
