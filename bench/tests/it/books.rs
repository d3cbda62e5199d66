//! The books of a small run over three hosts: a client that stalls, a host that is killed and comes back, and NATS that restarts.

use std::env;

use crate::support::{count, measured};

#[test]
fn each_push_over_three_hosts_is_delivered_or_reported() {
    let folders = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&folders).any(|folder| folder.join("nats-server").is_file()) {
        eprintln!("SKIPPED: there is no nats-server, so nothing is tested with one");
        return;
    }
    let line = "books --pushes 3000 --seconds 6 --callers 64 --seed 1";
    let results = measured("books", line);
    let rows = results["rows"].as_array().expect("rows");
    let total = |class: &str| rows.iter().map(|row| count(&row[class])).sum::<u64>();
    assert_eq!((total("pushes"), total("unexplained")), (3000, 0), "{results}");
    for row in rows {
        assert!(count(&row["pushes"]) > 0 && count(&row["live"]) > 0, "{row}");
        // Some calls were made while host c or NATS was away.
        assert!(count(&row["told_to_the_caller"]) > 0, "{row}");
    }
    // One client does not accept pushes by key, and those of host c come back to the room with a history.
    assert!(total("dropped") > 0 && total("recovered") + total("told_as_a_gap") > 0, "{results}");
    let phases: Vec<_> =
        results["phases"].as_array().expect("phases").iter().map(|is| &is["during"]).collect();
    assert_eq!(phases.len(), 6, "{phases:?}");
}
