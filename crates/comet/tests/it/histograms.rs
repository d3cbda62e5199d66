//! The histograms of a running server.

use std::collections::BTreeMap;

use crate::logic_rig::Logic;
use crate::support::{BOTH, Server, To, get, received, until};

/// Each histogram by name, with the counts of its buckets one after the other, and its count.
type Histograms = BTreeMap<String, (Vec<u64>, u64)>;

/// Those of the page, summed over their labels.
fn histograms(page: &str) -> Histograms {
    let mut histograms = Histograms::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        if let Some(name) = name.strip_suffix("_bucket") {
            let (_, bound) = labels.split_once("le=\"").expect("a bucket has a bound");
            let (buckets, _) = histograms.entry(name.to_owned()).or_default();
            let count: u64 = value.parse().unwrap();
            // A bucket has the ones before it, those of the same labels.
            let below = if bound.starts_with("0.000004") { 0 } else { buckets.pop().unwrap() };
            buckets.extend([count - below, count]);
            if bound.starts_with("+Inf") {
                buckets.pop();
            }
        } else if let Some(name) = name.strip_suffix("_count") {
            histograms.entry(name.to_owned()).or_default().1 += value.parse::<u64>().unwrap();
        }
    }
    histograms
}

#[test]
fn a_push_moves_every_histogram() {
    let logic = Logic::start(&[]);
    let server = Server::start(&[&format!(r#"logic.addrs=["{}"]"#, logic.grpc())]);
    until("logic to be there", || {
        let (_, page) = get(server.stat(), "/metrics");
        page.lines().any(|line| line.starts_with("comet_logic_up{") && line.ends_with(" 1"))
    });
    let mut client = server.client(BOTH[0], "42");
    client.join("r").unwrap();
    server.push(To::Room("r"), 5, b"hello");
    assert_eq!(received(&mut client), b"hello");
    let moved = [
        "comet_call_seconds",
        "comet_handshake_seconds",
        "comet_logic_call_seconds",
        "comet_push_queue_seconds",
        "comet_turn_seconds",
    ];
    // The turn of the push may end after the client has it.
    until("each to have a count", || {
        let histograms = histograms(&get(server.stat(), "/metrics").1);
        assert!(histograms.keys().eq(moved), "{histograms:?}");
        for (name, (buckets, count)) in &histograms {
            assert_eq!(buckets.iter().sum::<u64>(), *count, "{name}");
        }
        histograms.values().all(|(_, count)| *count > 0)
    });
}
