//! The sums of a flood: each push that a program publishes reaches the clients of both hosts, or a counter of the host counts
//! it as lost.

use std::thread;

use ::comet::blocking_client::PushClient;
use comet_client::{Client, Options};

use crate::support::{Metrics, PATIENCE, To, until, until_reaches};
use crate::two_hosts::TwoHosts;

const ROOM: &str = "live://flood";
/// The first and the last push.
const BEGIN: &[u8] = b"begin";
const END: &[u8] = b"end";

/// Counts the pushes between the first and the last, and checks their order. Returns the client, so that it stays connected.
fn count(mut client: Client) -> (u64, Client) {
    let (mut pushes, mut last) = (0, None);
    loop {
        let message = client.receive().unwrap().expect("the last push arrives");
        match &*message.body {
            BEGIN => {}
            END => return (pushes, client),
            number => {
                let number: u64 = str::from_utf8(number).unwrap().parse().unwrap();
                assert!(last < Some(number), "{number} comes after {last:?}");
                last = Some(number);
                pushes += 1;
            }
        }
    }
}

/// Pushes that did not reach the client of a host, by its counters: between NATS and the cores, and at the client.
fn losses(metrics: &Metrics) -> (u64, u64) {
    let refused = metrics.value("comet_cluster_refused_total");
    let [notices, in_client] = ["notices", "in_client"].map(|reason| {
        metrics.value(&format!("comet_cluster_dropped_total{{reason=\"{reason}\"}}"))
    });
    assert_eq!((notices, in_client), (0, 0), "no message between hosts was dropped");
    (refused + dropped_early(metrics), sum(metrics, "comet_dropped_total"))
}

/// Pushes that a host dropped before it could begin or refuse them.
fn dropped_early(metrics: &Metrics) -> u64 {
    sum(metrics, "comet_cluster_dropped_total")
}

fn sum(metrics: &Metrics, family: &str) -> u64 {
    metrics.by_label(family).iter().map(|(_, n)| n).sum()
}

/// Publishes `pushes` pushes to the room. With `holds` the hosts are stopped meanwhile, and then get all pushes at once.
fn check(pushes: u64, sets: &[&str], holds: bool) -> (u64, u64) {
    let Some(two) = TwoHosts::start(sets) else { return (0, 1) };
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
    let mut program = two.nats.program();
    if holds {
        (0..2).for_each(|host| two.pause(host, true));
    }
    program.flood(&format!("comet.room.{ROOM}"), pushes);
    if holds {
        (0..2).for_each(|host| two.pause(host, false));
    }
    for (host, before) in before.iter().enumerate() {
        let taken = |now: &Metrics| now.value("comet_cluster_received_total") + dropped_early(now);
        let mut last = taken(before);
        while last < taken(before) + pushes {
            let known = last;
            until("the host to take more of the pushes", || {
                last = taken(&two.metrics(host));
                last > known
            });
        }
        two.until(host, "comet_calls_under_way", 0);
    }
    until_reaches(2, &callers[0], To::Room(ROOM), END);
    let (mut lost, mut unreported) = (0, 0);
    for ((host, before), reader) in before.iter().enumerate().zip(readers) {
        let ((got, _client), now) = (reader.join().unwrap(), two.metrics(host));
        let (not_begun, dropped) = (losses(&now).0 - losses(before).0, losses(&now).1);
        let sums = format!(
            "host {host}: {got} came, {not_begun} did not reach the cores {:?}, {dropped} did not reach the client {:?}",
            now.by_label("comet_cluster_dropped_total"),
            now.by_label("comet_dropped_total")
        );
        eprintln!("{sums}");
        assert_eq!(got + not_begun + dropped, pushes, "{sums}");
        now.assert_balanced();
        lost += not_begun + dropped;
        unreported += now.value("comet_cluster_unreported_total");
    }
    (lost, unreported)
}

#[test]
fn each_push_of_a_flood_is_delivered_or_counted() {
    check(50_000, &[], false);
}

/// More pushes than the queue from NATS holds and than may be under way at once. Calls end before a core reports their pushes.
#[test]
fn pushes_lost_by_stopped_hosts_are_counted_once() {
    let (lost, unreported) = check(100_000, &["push.timeout=\"100ms\""], true);
    eprintln!("{lost} lost, {unreported} reported too late");
    assert!(lost + unreported > 0, "nothing was lost or late, so this run tested nothing");
}
