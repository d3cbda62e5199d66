//! The alerts of `docs/prometheus`: they ask for metrics and labels that the servers have, and `promtool`,
//! where it is installed, sees each of them fire.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tonic::Code;

use crate::logic_rig::{Logic, request};
use crate::support::{To, get};
use crate::tls::Certificates;

/// Words of PromQL in the expressions.
const WORDS: [&str; 9] =
    ["changes", "ignoring", "increase", "max_over_time", "offset", "rate", "sum", "time", "unless"];
/// Labels that Prometheus adds.
const ADDED: [&str; 2] = ["job", "instance"];

fn document(name: &str) -> String {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A name and the labels in braces behind it, or a list of labels: `by (a, b)`.
#[derive(PartialEq, Debug)]
struct Word<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

fn names<'a>(word: &Word<'a>) -> BTreeSet<&'a str> {
    word.labels.iter().map(|(label, _)| *label).collect()
}

/// The words of an expression, or of a sample.
fn words(mut text: &str) -> Vec<Word<'_>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    while let Some(start) = text.find(is_part) {
        let end = text[start..].find(|c| !is_part(c)).map_or(text.len(), |len| start + len);
        let name = &text[start..end];
        text = &text[end..];
        let mut labels = Vec::new();
        if let Some(inside) = text.strip_prefix('{') {
            let (inside, rest) = inside.split_once('}').expect("a closing brace");
            text = rest;
            for matcher in inside.split(',') {
                let (label, value) = matcher.split_once('"').expect("a quoted value");
                let label = label.trim().trim_end_matches(['=', '!', '~']);
                labels.push((label, value.strip_suffix('"').expect("a quote at the end")));
            }
        } else if ["by", "ignoring"].contains(&name) {
            let (inside, rest) = text.split_once(')').expect("a closing parenthesis");
            text = rest;
            labels = inside.split(['(', ',']).skip(1).map(|label| (label.trim(), "")).collect();
        }
        // Numbers and durations aside.
        if !name.starts_with(|c: char| c.is_ascii_digit()) {
            words.push(Word { name, labels });
        }
    }
    words
}

#[test]
fn the_words_of_an_expression_are_found() {
    let word = |name, labels: &[_]| Word { name, labels: labels.to_vec() };
    assert_eq!(
        words(r#"sum by (job, rpc) (rate(a{x="1", y!~"2|3"}[5m])) > ignoring (x) 0.1 * b / 4e9"#),
        [
            word("sum", &[]),
            word("by", &[("job", ""), ("rpc", "")]),
            word("rate", &[]),
            word("a", &[("x", "1"), ("y", "2|3")]),
            word("ignoring", &[("x", "")]),
            word("b", &[]),
        ]
    );
}

/// The values of each label, by metric.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn exported() -> Exported {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates
        .server(&[r#"logic.addrs=["127.0.0.1:1"]"#, r#"nats.servers=["nats://127.0.0.1:1"]"#]);
    // Their families are there once discovery and an issuer of keys were asked.
    comet_ops::count_registration(true, false);
    comet_ops::count_key_fetch("https://issuer.example/keys", true);
    // `comet` shows it from its start on; this server is no process of its own.
    comet_ops::count_upgrades("done", 0);
    let logic = Logic::start(&[r#"logic_server.comets=["comet-1=127.0.0.1:1"]"#]);
    // These counts are there once there was a call, and a failure.
    server.push(To::All, 5, b"");
    let answer = request(logic.http(), "POST", "/goim/push/all?operation=5", b"");
    assert_eq!(answer["code"], -500, "{answer}");
    let codes = (0..=16).map(|code| format!("{:?}", Code::from(code)));
    let mut exported = Exported::new();
    for stat in [server.stat(), logic.stat()] {
        let (status, page) = get(stat, "/metrics");
        assert_eq!(status, 200, "{page}");
        for sample in page.lines().filter(|line| !line.starts_with('#')) {
            let Word { name, labels } = words(sample).swap_remove(0);
            let of_metric = exported.entry(name.to_owned()).or_default();
            for (label, value) in labels {
                of_metric.entry(label.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }
    exported.get_mut("comet_calls_total").unwrap().get_mut("code").unwrap().extend(codes);
    // Prometheus makes it.
    exported.insert("up".to_owned(), BTreeMap::new());
    exported
}

/// Checks the label of a metric. Of `reason`, `result`, `code` and `job` all values are known.
#[track_caller]
fn check_label(exported: &Exported, metric: &str, label: &str, values: &str) {
    let jobs = BTreeSet::from(["comet".to_owned(), "comet-logic".to_owned()]);
    let known = match label {
        "job" => &jobs,
        "instance" => return,
        label => {
            exported[metric].get(label).unwrap_or_else(|| panic!("{metric} has no label {label}"))
        }
    };
    if ["job", "reason", "result", "code"].contains(&label) {
        for value in values.split('|') {
            assert!(known.contains(value), "{metric} never has {label}=\"{value}\"");
        }
    }
}

#[test]
fn alerts_ask_for_what_the_servers_export() {
    let exported = exported();
    let rules = document("prometheus/rules.yml");
    let mut alerts = 0;
    for alert in rules.split("- alert: ").skip(1) {
        alerts += 1;
        let (_, expression) = alert.split_once("expr:").unwrap();
        // The keys behind it stand in lines of their own.
        let keys = ["\n        for:", "\n        labels:"];
        let end = keys.iter().filter_map(|key| expression.find(key)).min().unwrap();
        let (mut vectors, mut groups, mut ignored) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for word in words(&expression[..end]) {
            if let Some(of_metric) = exported.get(word.name) {
                for (label, values) in &word.labels {
                    check_label(&exported, word.name, label, values);
                }
                let of_metric = of_metric.keys().map(String::as_str);
                vectors.insert(of_metric.chain(ADDED).collect::<BTreeSet<_>>());
            } else if word.name == "by" {
                groups.insert(names(&word));
            } else if word.name == "ignoring" {
                ignored.extend(names(&word));
            } else {
                assert!(WORDS.contains(&word.name), "no server exports {}", word.name);
            }
        }
        for group in &groups {
            assert!(vectors.iter().all(|vector| vector.is_superset(group)), "{alert}");
        }
        // Vectors are compared sample by sample with the same labels: with others there is no result.
        let sides = if groups.is_empty() { vectors } else { groups };
        let mut sides: BTreeSet<BTreeSet<_>> = sides
            .into_iter()
            .map(|side| side.into_iter().filter(|label| !ignored.contains(label)).collect())
            .collect();
        let side = sides.pop_first().expect("an alert has a metric");
        assert!(sides.is_empty(), "the labels differ: {alert}");
        for used in alert.split("$labels.").skip(1) {
            let label = used.split(' ').next().unwrap();
            assert!(side.contains(label), "{alert}");
        }
    }
    assert!(alerts > 20, "{rules}");
}

#[test]
fn the_series_of_the_alerts_tests_have_the_labels_of_the_servers() {
    let exported = exported();
    let tests = document("prometheus/rules_test.yml");
    let series: Vec<_> =
        tests.lines().filter_map(|line| line.trim().strip_prefix("- series: ")).collect();
    assert!(series.len() > 50, "{series:?}");
    for series in series {
        let word = words(series).swap_remove(0);
        let name = word.name;
        let of_metric = exported.get(name).unwrap_or_else(|| panic!("no server exports {name}"));
        let has = names(&word);
        let expected = of_metric.keys().map(String::as_str).chain(ADDED).collect();
        assert_eq!(has, expected, "{series}");
        for (label, value) in word.labels {
            check_label(&exported, name, label, value);
        }
    }
}

#[test]
fn every_alert_is_tested_and_explained() {
    let [rules, tests, page] =
        ["prometheus/rules.yml", "prometheus/rules_test.yml", "OPERATIONS.md"].map(document);
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(tests.contains(&format!("{{alertname=\"{name}\"}}")), "{name} is not tested");
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in OPERATIONS.md");
    }
}

#[test]
fn promtool_sees_every_alert_fire() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/prometheus");
    for (task, file) in [("check", "rules.yml"), ("test", "rules_test.yml")] {
        let promtool =
            Command::new("promtool").args([task, "rules", file]).current_dir(folder).output();
        match promtool {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => eprintln!("SKIPPED: no promtool ({error})"),
        }
    }
}
