//! Every metric in the dashboard and in the page for operators is exported by `/metrics`, and the dashboard shows all
//! exported metrics. The alerts have a test of their own beside the server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use comet_core::Counters;
use serde_json::{Value, json};

use crate::logic;
use crate::text_format::parse;

/// Families that no panel shows, and why.
const NOT_SHOWN: [(&str, &str); 5] = [
    ("comet_build_info", "the variables of the dashboard are its labels"),
    ("comet_logic_discovery_up", "a metric of comet logic, which is another job"),
    (
        "comet_upgrades_total",
        "`comet upgrade` says what became of it, and each start has an annotation",
    ),
    ("process_start_time_seconds", "an annotation marks each start"),
    ("process_virtual_memory_bytes", "reserved addresses, of which most are never memory"),
];

/// The type of each family of a page, by name.
async fn families() -> BTreeMap<String, String> {
    // These families are exported only after discovery, a URL of keys, a collector of traces or an upgrade was used.
    comet_ops::count_registration(false, false);
    comet_ops::count_poll(false);
    comet_ops::set_collector(true);
    comet_ops::count_upgrades("done", 0);
    comet_ops::count_key_fetch("https://issuer.example/keys", false);
    // Some families are exported only with logic. No process answers at this address; that has a value, too.
    let fake = logic::start(&[], |logic| logic.addrs = vec!["127.0.0.1:1".to_owned()]);
    let counters = [Counters::default(), Counters::default()];
    let (_, page) = fake.metrics(&counters).await;
    parse(&page).unwrap();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The family with the sample `name`.
fn family_of<'a>(families: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let is_part = |part: &str| ["_bucket", "_sum", "_count"].contains(&part);
    let found = families.iter().find(|(family, kind)| match name.strip_prefix(family.as_str()) {
        Some("") => true,
        Some(part) => *kind == "histogram" && is_part(part),
        None => false,
    });
    found.map(|(family, _)| family.as_str())
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of `text` with the prefix of a metric.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("comet_") || word.starts_with("process_")).collect()
}

#[test]
fn names_are_found_in_queries() {
    let query = "sum by (core) (rate(comet_a_total{x=\"1\"}[5m])) / process_b > 0.5";
    assert_eq!(names(query), BTreeSet::from(["comet_a_total", "process_b"]));
}

#[tokio::test]
async fn the_dashboard_queries_only_exported_metrics() {
    let text = document("grafana.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20, "{queries:?}");
    let families = families().await;
    let mut shown = BTreeSet::new();
    for query in queries {
        let names = names(query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let family = family_of(&families, name);
            shown.insert(family.unwrap_or_else(|| panic!("{name} is not in /metrics: {query}")));
        }
    }
    let mut expected: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    for (name, why) in NOT_SHOWN {
        assert!(expected.remove(name), "{name} is not in /metrics: {why}");
    }
    let missing: Vec<_> = expected.difference(&shown).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    let needless: Vec<_> = shown.difference(&expected).collect();
    assert!(needless.is_empty(), "a panel shows {needless:?}");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
}

/// Both show a share of the wanted deliveries. Filtered and superseded deliveries do not count, since they would hide the
/// others.
#[test]
fn the_dashboard_counts_the_drops_that_the_alert_counts() {
    let plain = |text: &str| {
        let text = text.replace("job=\"$job\",instance=~\"$instance\"", "");
        let text = text.replace("$__rate_interval", "5m").replace("by (job, instance)", "");
        text.replace(",}", "}").replace("{}", "").replace(char::is_whitespace, "")
    };
    let dashboard: Value = serde_json::from_str(&document("grafana.json")).unwrap();
    let mut panels = dashboard["panels"].as_array().unwrap().iter();
    let panel = panels.find(|panel| panel["title"] == "Not delivered").unwrap();
    let (dropped, wanted) = panel["targets"][0]["expr"].as_str().unwrap().split_once('/').unwrap();
    let rules = document("prometheus/rules.yml");
    let (_, alert) = rules.split_once("- alert: CometPushesDropped").unwrap();
    let (_, alert) = alert.split_once("expr: |").unwrap();
    let (alert, _) = alert.split_once("for:").unwrap();
    let expected = format!("{}>0.01*{}", plain(dropped), plain(wanted));
    assert_eq!(plain(alert), expected);
}

/// Each query of the dashboard as a rule, which `promtool` checks if it is installed.
#[test]
fn the_queries_of_the_dashboard_are_promql() {
    let dashboard: Value = serde_json::from_str(&document("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let rules = targets.enumerate().map(|(number, target)| {
        let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
        json!({ "record": format!("query_{number}"), "expr": query })
    });
    // JSON is YAML, too.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    let promtool = Command::new("promtool")
        .args(["check", "rules", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match promtool {
        Ok(mut promtool) => {
            let mut input = promtool.stdin.take().unwrap();
            input.write_all(rules.to_string().as_bytes()).unwrap();
            drop(input);
            let output = promtool.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        Err(error) => eprintln!("SKIPPED: no promtool ({error})"),
    }
}

#[tokio::test]
async fn the_operations_guide_names_only_exported_metrics() {
    let families = families().await;
    let text = document("OPERATIONS.md");
    // A crate in an example of RUST_LOG, the files of packages, and a key of the configuration.
    let names: Vec<_> = names(&text)
        .into_iter()
        .filter(|name| !["comet_net", "comet_", "comet_token"].contains(name))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(family_of(&families, name).is_some(), "{name} of OPERATIONS.md is not in /metrics");
    }
}
