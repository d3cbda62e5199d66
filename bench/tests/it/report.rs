//! Runs `comet-bench report` on results, good and bad.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{bench_in, folder};

/// The comparison of `side_by_side`, as it is printed.
const GOLDEN: &str = include_str!("../report.txt");

/// Reports `files` of a folder into the folder `out` beside them. Returns the output if it succeeds, and else the errors.
fn report(folder: &Path, files: &[&str]) -> Result<String, String> {
    let output = bench_in(folder, "report --out out", files);
    let [said, error] = [output.stdout, output.stderr].map(|is| String::from_utf8(is).unwrap());
    if output.status.success() { Ok(said) } else { Err(error) }
}

/// A turn that takes 2 s; `scale` makes one differ from another.
fn turn(subject: &str, round: u32, scale: f64) -> Value {
    let curve = json!([[0.0, 10.0 * scale], [50.0, 90.0 * scale], [99.0, 900.0], [100.0, 950.0]]);
    json!({
        "subject": subject,
        "round": round,
        "elapsed_ns": 2_000_000_000_u64,
        "deliveries": {"expected": 20_000, "received": 20_000, "lost": 0},
        "sent": {"ticks": 20, "dropped": 0},
        "cpu_per_delivery_ns": 4000.0 * scale,
        "data_cpu_per_delivery_ns": 3000.0 * scale,
        "memory": {"rss_bytes": 12_345_678},
        "latency": {
            "count": 20_000, "p50_us": 90.0 * scale, "p99_us": 900.0, "p999_us": 940.0,
            "max_us": 950.0, "curve": curve,
        },
        "series": {
            "at_us": [0, 500_000, 1_000_000, 2_000_000],
            "received": [0, 5_000, 10_000, 20_000],
            "cpu_us": [0, 20_000, 40_000, 80_000],
            "rss_bytes": [12_000_000, 12_100_000, 12_200_000, 12_345_678],
        },
    })
}

/// A result of `fanout` with a server and a yardstick; the server's cost is `scale` of the usual.
fn fanout(scale: f64) -> Value {
    let turns = [1, 2, 3].map(|round| {
        let drift = 1.0 + f64::from(round) / 100.0;
        [turn("comet", round, scale * drift), turn("ring", round, drift)]
    });
    json!({
        "schema": 3,
        "scenario": "fanout",
        "finished_unix_s": 1_700_000_000,
        "bench": {"version": "0.1.0", "commit": "v0.1.0-3-g0123456789ab"},
        "server": {"version": "0.1.0", "commit": "1111111111111111111111111111111111111111"},
        "host": {"name": "edge1", "kernel": "6.8.0", "cpus": 2},
        "pinning": {"server": "0", "control": "0", "yardsticks": "0", "bench": "1"},
        "config": {"load": {"rate": 10.0, "size": 64}, "host": {"json": "x"}},
        "results": {
            "turns": turns.concat(),
            "comet_to_ring": {"median": scale, "min": scale - 0.01, "max": scale + 0.01},
        },
        "passed": true,
        "faults": [],
    })
}

/// The same for a server that was running already, whose process was not named.
fn foreign() -> Value {
    let mut result = fanout(2.0);
    result["server"] = Value::Null;
    result["pinning"]["server"] = Value::Null;
    result["pinning"]["control"] = Value::Null;
    result["host"]["kernel"] = json!("6.9.0");
    result["config"]["load"]["rate"] = json!(20.0);
    result["passed"] = json!(false);
    result["faults"] = json!(["comet, round 1: 3 of 20000 deliveries lost"]);
    result["results"]["comet_to_ring"] = Value::Null;
    for turn in result["results"]["turns"].as_array_mut().expect("turns") {
        if turn["subject"] == "comet" {
            for key in ["cpu_per_delivery_ns", "data_cpu_per_delivery_ns", "memory"] {
                turn[key] = Value::Null;
            }
            turn["series"] = json!({"at_us": [0, 1_000_000, 2_000_000], "received": [0, 9, 20]});
        }
    }
    result
}

fn write(folder: &Path, name: &str, result: &Value) {
    fs::write(folder.join(name), result.to_string()).expect("a folder of the build");
}

#[test]
fn results_stand_side_by_side() {
    let folder = folder("side_by_side");
    write(&folder, "before.json", &fanout(1.5));
    write(&folder, "after.json", &fanout(1.2));
    write(&folder, "goim.json", &foreign());
    let said = report(&folder, &["before.json", "after.json", "goim.json"]).expect("they compare");
    let expected = format!("{GOLDEN}\nwritten to out/report.html\n");
    assert_eq!(said, expected, "is:\n{said}\nshould be:\n{expected}");

    let read = |name: &str| fs::read_to_string(folder.join("out").join(name)).expect(name);
    let page = read("report.html");
    for name in ["latency", "throughput", "memory"] {
        let svg = read(&format!("fanout-{name}.svg"));
        for label in ["before comet", "before ring", "after comet", "after ring", "goim ring"] {
            assert!(svg.lines().any(|text| text == label), "{name} has no {label}: {svg}");
        }
        let foreign = svg.lines().any(|text| text == "goim comet");
        assert_eq!(foreign, name != "memory", "{name}: {svg}");
        assert!(page.contains(&svg), "{name} is in the page");
    }
    assert!(read("fanout-latency.svg").contains("\n50 %\n"));
    assert!(page.contains("<td>comet: CPU of a delivery, ns</td>"), "{page}");
    assert!(!page.contains("src=") && !page.contains("href="), "it needs nothing beside it");
}

#[test]
fn results_that_cannot_be_compared_are_named() {
    let folder = folder("refused");
    write(&folder, "fanout.json", &fanout(1.5));
    let mut other = fanout(1.5);
    other["scenario"] = json!("latency");
    write(&folder, "latency.json", &other);
    for (name, schema) in
        [("newer.json", json!(99)), ("old.json", json!(2)), ("text.json", json!("1"))]
    {
        other["schema"] = schema;
        write(&folder, name, &other);
    }
    let mut damaged = fanout(1.5);
    damaged.as_object_mut().expect("an object").remove("host");
    write(&folder, "damaged.json", &damaged);
    write(&folder, "list.json", &json!([]));
    other.as_object_mut().expect("an object").remove("schema");
    write(&folder, "older.json", &other);
    write(&folder, "package.json", &json!({"name": "no result"}));
    fs::write(folder.join("table.txt"), "turn  deliv/s\n").expect("a folder of the build");
    let check = |files: &[&str], words: &[&str]| {
        let said = report(&folder, files).expect_err("they are refused");
        assert!(words.iter().all(|word| said.contains(word)), "{files:?} said {said:?}");
    };
    let pair = ["fanout.json", "latency.json"];
    check(&pair, &["fanout is a result of fanout", "latency of latency", "report it alone"]);
    check(
        &["fanout.json", "newer.json"],
        &["newer.json has schema 99", "reads 3", "version 0.1.0"],
    );
    check(&["old.json"], &["schema 2", "measure again"]);
    check(&["text.json"], &["has schema \"1\""]);
    check(&["damaged.json"], &["damaged", "missing field"]);
    check(&["list.json"], &["is no result", "--json"]);
    check(&["older.json"], &["older.json is of a comet-bench before", "measure again"]);
    check(&["package.json"], &["package.json is no result", "--json"]);
    check(&["table.txt"], &["table.txt is no JSON", "--json"]);
    check(&["nothing.json"], &["cannot read", "nothing.json"]);
    check(&[], &["Usage"]);
    fs::write(folder.join("out"), "a file").expect("a folder of the build");
    check(&["fanout.json"], &["cannot write to"]);
}
