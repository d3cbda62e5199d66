//! The sums of a flood of push frames at two hosts: each push reaches the clients of both, or a counter counts it as lost, or the
//! reply to its caller says that the other host has not answered.

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
/// The first push, and the last one of each host.
const BEGIN: &[u8] = b"begin";
const ENDS: [&[u8]; 2] = [b"end of a", b"end of b"];
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;

#[derive(Clone, Copy)]
struct Flood {
    /// Callers of each host.
    callers: u16,
    /// Pushes of each caller.
    pushes: u32,
    /// Pushes of each caller without a reply yet.
    window: u32,
    body: usize,
}

/// Pushes of callers by the replies to them.
#[derive(Default, Debug)]
struct Replies {
    /// Pushes that were begun.
    made: u64,
    /// The part of `made` whose reply names the other host as unanswered, or has no result.
    unanswered: u64,
}

/// Keeps a window of pushes under way. Each body has the number of the caller and the number of the push.
fn call(address: SocketAddr, caller: u16, flood: Flood) -> Replies {
    let mut pusher = Pusher::tcp(address, PATIENCE).unwrap();
    let (mut replies, mut begun) = (Replies::default(), 0);
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
                // The other host; shortly after the end of a connection to NATS there may be one more.
                assert!(ledger.unanswered <= 2, "{ledger:?}");
                replies.made += 1;
                replies.unanswered += ledger.unanswered.min(1);
            }
            Err(refused) if refused.status == DEADLINE_EXCEEDED => {
                replies.made += 1;
                replies.unanswered += 1;
            }
            Err(refused) => assert_eq!(refused.status, RESOURCE_EXHAUSTED, "{refused}"),
        }
    }
    replies
}

/// Counts the pushes up to the last one of each host. Also returns how many came after a later one of their caller, and the
/// client, so that it stays connected.
fn count(mut client: Client) -> (u64, u64, Client) {
    let (mut pushes, mut swapped, mut ends) = (0, 0, [false; 2]);
    let mut last: HashMap<[u8; 2], u32> = HashMap::new();
    while ends != [true; 2] {
        let message = client.receive().unwrap().expect("the last push arrives");
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

/// Pushes that did not reach the client of a host, by its counters: between NATS and the cores, and at the client.
fn losses(metrics: &Metrics) -> u64 {
    let sum = |family: &str| metrics.by_label(family).iter().map(|(_, n)| n).sum::<u64>();
    let refused = metrics.value("comet_cluster_refused_total");
    refused + sum("comet_cluster_dropped_total") + sum("comet_dropped_total")
}

/// Memory that a host uses, in MiB.
fn allocated(metrics: &Metrics) -> u64 {
    metrics.value("comet_heap_allocated_bytes") >> 20
}

/// The result of a flood.
struct Outcome {
    /// Pushes whose reply says that the other host has not answered.
    unanswered: u64,
    /// Pushes that were not published, because too much was queued.
    not_published: u64,
    /// Connections to NATS that were lost.
    disconnects: u64,
    /// The growth of a host's memory, in MiB.
    grown: u64,
}

/// With `stalls` NATS is stopped during the flood.
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
    let mut replies = [Replies::default(), Replies::default()];
    for (caller, call) in calls.into_iter().enumerate() {
        let Replies { made, unanswered } = call.join().unwrap();
        replies[caller % 2].made += made;
        replies[caller % 2].unanswered += unanswered;
    }
    two.nats.pause(false);
    for (host, (metrics, replies)) in before.iter().zip(&replies).enumerate() {
        until("the host to publish its pushes", || {
            let now = two.metrics(host);
            let rise = |name: &str| now.value(name) - metrics.value(name);
            // Without a connection to NATS the host does not publish.
            let not_published = match rise("comet_cluster_disconnects_total") {
                0 => 0,
                _ => rise("comet_cluster_not_published_total"),
            };
            rise("comet_cluster_published_total") + not_published >= replies.made
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
        let (made, unanswered) = (replies[0].made + replies[1].made, replies[1 - host].unanswered);
        let sums = format!(
            "host {host}: of {made} pushes {got} came, {swapped} after later ones, and {lost} are counted as lost; {unanswered} \
             named this host; {disconnects} disconnects; {not_published:?} not published"
        );
        eprintln!("{sums}; {grown} MiB");
        let missing = made.checked_sub(got + lost).expect(&sums);
        // Pushes in transit when a connection ended are lost, and the other host is named as unanswered.
        let may_miss = if disconnects > 0 { unanswered } else { 0 };
        assert!(missing <= may_miss, "{sums}");
        // NATS may read from two connections of a host at once.
        assert!(swapped == 0 || disconnects > 0, "{sums}");
        assert!(not_published[1 - host] <= unanswered, "{sums}");
        now[host].assert_balanced();
    }
    let unanswered = replies.iter().map(|replies| replies.unanswered).sum();
    Some(Outcome { unanswered, not_published: not_published.iter().sum(), disconnects, grown })
}

#[test]
fn each_push_frame_of_a_flood_reaches_both_hosts_or_is_counted() {
    let flood = Flood { callers: 2, pushes: 5_000, window: 1_000, body: 16 };
    check(flood, &["push.timeout=\"10s\""], false);
}

/// More pushes than may wait for NATS.
#[test]
fn with_nats_stopped_unpublished_pushes_are_reported_and_memory_bounded() {
    let flood = Flood { callers: 10, pushes: 2_000, window: 250, body: 64 << 10 };
    let sets = ["push.timeout=\"2s\"", "protocol.write_timeout=\"60s\""];
    let Some(outcome) = check(flood, &sets, true) else { return };
    let Outcome { unanswered, not_published, disconnects, grown } = outcome;
    assert!(not_published > 0 && unanswered > not_published, "{not_published} of {unanswered}");
    let pushed = (u64::from(flood.callers) * u64::from(flood.pushes) * flood.body as u64) >> 20;
    // 64 MiB wait for the client of NATS, as much in it, and 64 MiB on each of the two cores for control.
    // Hosts that get no CPU until their connections end have more waiting between their cores.
    assert!(grown < pushed / 2 || disconnects > 0, "{grown} MiB of {pushed}");
}
