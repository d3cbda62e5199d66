//! The yardsticks alone, and what cannot be measured at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{bench, json, result_file};

#[test]
fn fifty_bare_connections_get_everything() {
    let file = result_file("raw");
    let path = file.to_str().expect("a path of the build");
    let output = bench(&[
        "raw",
        "-n",
        "50",
        "--rate",
        "50",
        "--seconds",
        "0.2",
        "--batch",
        "3",
        "--rounds",
        "1",
        "--json",
        path,
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let result = json(&file);
    assert_eq!(result["passed"], true);
    let turns = result["results"]["turns"].as_array().expect("turns");
    assert_eq!(turns.len(), 2);
    for turn in turns {
        // 10 ticks, 3 messages each, 50 connections.
        assert_eq!(turn["deliveries"]["received"], 1500, "{turn}");
        assert_eq!(turn["deliveries"]["lost"], 0, "{turn}");
        assert!(turn["cpu_per_delivery_ns"].as_f64().expect("a figure") > 0.0, "{turn}");
    }
    assert!(result["results"]["ping_pong"][0]["count"].as_u64().expect("a count") > 0);
}

#[test]
fn processes_and_sources_share_the_connections() {
    let file = result_file("shared");
    let path = file.to_str().expect("a path of the build");
    let output = bench(&[
        "raw",
        "-n",
        "30",
        "--rate",
        "50",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--processes",
        "3",
        "--source",
        "127.0.0.5-127.0.0.6",
        "--json",
        path,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for turn in json(&file)["results"]["turns"].as_array().expect("turns") {
        // 10 ticks, 30 connections.
        assert_eq!(turn["deliveries"]["received"], 300, "{turn}");
        assert_eq!(turn["latency"]["count"], 300, "{turn}");
    }
}

#[test]
fn flat_out_loses_nothing() {
    let file = result_file("flat");
    let path = file.to_str().expect("a path of the build");
    let output = bench(&[
        "raw",
        "-n",
        "20",
        "--rate",
        "0",
        "--seconds",
        "0.1",
        "--size",
        "20000",
        "--rounds",
        "1",
        "--json",
        path,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for turn in json(&file)["results"]["turns"].as_array().expect("turns") {
        assert!(turn["deliveries"]["received"].as_u64().expect("a count") > 0, "{turn}");
        assert_eq!(turn["deliveries"]["expected"], turn["deliveries"]["received"], "{turn}");
    }
}

#[test]
fn a_server_without_a_folder_is_the_one_that_is_here() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("here");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder of the build");
    symlink("/bin/false", folder.join("no-comet")).expect("it is empty");
    let mut fanout = Command::new(env!("CARGO_BIN_EXE_comet-bench"));
    fanout.args(["fanout", "--server", "no-comet"]).current_dir(&folder);
    let output = fanout.output().expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the server ended") && !said.contains("cannot run"), "{said}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let check = |arguments: &[&str], words: &str| {
        let output = bench(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?} passed");
        assert!(said.contains(words), "{arguments:?} said {said:?}");
    };
    check(&["fanout", "--server", "/nowhere/comet"], "no server at /nowhere/comet");
    check(&["fanout", "--server", "/bin/false"], "the server ended");
    check(&["connect", "--tls", "--server", "/bin/false"], "the server ended");
    check(&["connect", "--tls", "--addr", "127.0.0.1:1"], "cannot be used with");
    check(&["latency", "--keys-per-call", "0"], "0 is not in 1..");
    check(&["latency", "--callers", "2", "--stream"], "cannot be used with");
    check(&["raw", "--server-core", "1000"], "cannot run on CPU 1000");
    check(&["churn", "--rate", "0"], "rate above 0");
    check(&["readers", "--slow", "0.6", "--stalled", "0.6"], "more than all");
    check(&["day", "/nowhere/day.toml"], "cannot read /nowhere/day.toml");
}
