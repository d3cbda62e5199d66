//! The yardsticks alone, and runs that cannot be measured.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::support::{bench, bench_in, check_series, count, folder, last, passed, result_file};

/// Runs `raw` and gives its results.
#[track_caller]
fn raw(name: &str, flags: &str) -> Value {
    let result = passed(name, &format!("raw {flags} --rounds 1"), &[]);
    assert_eq!(result["schema"], 3);
    assert!(result["bench"]["commit"].is_string() && result["pinning"]["yardsticks"].is_string());
    assert!(result["server"].is_null() && result["pinning"]["server"].is_null(), "it has none");
    assert_eq!(result["results"]["turns"].as_array().map(Vec::len), Some(2));
    result["results"].clone()
}

fn turns(results: &Value) -> impl Iterator<Item = &Value> {
    results["turns"].as_array().expect("turns").iter()
}

#[test]
fn fifty_bare_connections_get_everything() {
    let results = raw("raw", "-n 50 --rate 50 --seconds 0.2 --batch 3");
    for turn in turns(&results) {
        // 10 ticks, 3 messages each, 50 connections.
        assert_eq!(turn["deliveries"]["received"], 1500, "{turn}");
        assert_eq!(turn["deliveries"]["lost"], 0, "{turn}");
        assert!(turn["sent"]["dropped"].is_null(), "a yardstick counts nothing: {turn}");
        assert!(turn["cpu_per_delivery_ns"].as_f64().expect("a figure") > 0.0, "{turn}");
    }
    assert!(count(&results["ping_pong"][0]["count"]) > 0);
}

#[test]
fn a_run_of_today_can_be_reported() {
    for turn in turns(&raw("today", "-n 10 --rate 100 --seconds 0.3")) {
        let plots = ["latency", "throughput", "cpu", "memory"];
        check_series("today", turn, &["received"], &plots);
        assert_eq!(last(turn, "received"), count(&turn["deliveries"]["received"]));
        assert!(turn["latency"]["curve"].as_array().expect("a curve").len() > 20, "{turn}");
    }
    let file = result_file("today");
    let text = fs::read_to_string(&file).expect("a result");
    assert!(text.lines().count() < 300, "a list is on one line:\n{text}");

    let file = file.to_str().expect("a path of the build");
    let output = bench_in(&folder("today"), "report --out out", &[file, file]);
    let said = String::from_utf8_lossy(&output.stdout);
    for words in [
        "ring: CPU of a delivery, ns",
        "ping-pong: latency p50, us",
        "CPU of a delivery, ring / send",
    ] {
        assert!(said.lines().any(|line| line.starts_with(words)), "{words}: {said}");
    }
    assert!(!said.contains("NOTE"), "a result does not differ from itself: {said}");
}

#[test]
fn processes_and_sources_share_the_connections() {
    let flags = "-n 30 --rate 50 --seconds 0.2 --processes 3 --source 127.0.0.5-127.0.0.6";
    for turn in turns(&raw("shared", flags)) {
        // 10 ticks, 30 connections.
        assert_eq!(turn["deliveries"]["received"], 300, "{turn}");
        assert_eq!(turn["latency"]["count"], 300, "{turn}");
    }
}

#[test]
fn flat_out_loses_nothing() {
    for turn in turns(&raw("flat", "-n 20 --rate 0 --seconds 0.1 --size 20000")) {
        assert!(count(&turn["deliveries"]["received"]) > 0, "{turn}");
        assert_eq!(turn["deliveries"]["expected"], turn["deliveries"]["received"], "{turn}");
    }
}

#[test]
fn a_server_without_a_folder_is_the_one_that_is_here() {
    let folder = folder("here");
    symlink("/bin/false", folder.join("no-comet")).expect("it is empty");
    let output = bench_in(&folder, "fanout --server no-comet", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the server ended") && !said.contains("cannot run"), "{said}");
}

#[test]
fn errors_name_why_a_run_cannot_be_measured() {
    for (line, words) in [
        ("fanout --server /nowhere/comet", "no server at /nowhere/comet"),
        ("fanout --server /bin/false", "the server ended"),
        ("connect --tls --server /bin/false", "the server ended"),
        ("connect --tls --addr 127.0.0.1:1", "cannot be used with"),
        ("latency --keys-per-call 0", "0 is not in 1.."),
        ("latency --callers 2 --stream", "cannot be used with"),
        ("raw --server-core 1000", "cannot run on CPU 1000"),
        ("churn --rate 0", "rate above 0"),
        ("readers --slow 0.6 --stalled 0.6", "more than all"),
        ("day /nowhere/day.toml", "cannot read /nowhere/day.toml"),
    ] {
        let output = bench(line, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{line}: {said:?}");
    }
}
