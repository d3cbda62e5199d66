//! Runs the program itself, against its own yardsticks.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_comet-bench")).args(arguments).output();
    output.expect("the program can be run")
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("a result is written")).expect("it is JSON")
}

#[test]
fn fifty_bare_connections_get_everything() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("raw.json");
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
fn flat_out_loses_nothing() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flat.json");
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
    check(&["latency", "--rate", "0"], "rate above 0");
    check(&["raw", "--server-core", "1000"], "cannot run on CPU 1000");
}
