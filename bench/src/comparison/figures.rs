//! The figures of a result, found by their form, so that a new scenario needs nothing here: lists of
//! measurements that name a subject and a round, and spreads over the rounds.

use serde_json::Value;

use super::file::ResultFile;
use crate::stats::Spread;

/// A figure of one result.
#[derive(PartialEq, Debug)]
pub(super) struct Figure {
    /// What it is about, and what it says: `comet: CPU of a delivery, ns`.
    pub label: String,
    pub spread: Spread,
}

/// The measurements of one subject, one for each round.
pub(super) struct Group<'a> {
    pub subject: String,
    pub rounds: Vec<&'a Value>,
}

/// Figures with words of their own, in the order of the table: label, place in a measurement, factor.
const KNOWN: [(&str, &str, f64); 15] = [
    ("a second", "/per_second", 1.0),
    ("CPU of a delivery, ns", "/cpu_per_delivery_ns", 1.0),
    ("data CPU of a delivery, ns", "/data_cpu_per_delivery_ns", 1.0),
    ("CPU of a connection, us", "/cpu_per_connection_ns", 1e-3),
    ("CPU of a round trip, us", "/cpu_ns", 1e-3),
    ("CPU while idle, %", "/idle_cpu_share", 100.0),
    ("CPU, % of one", "/cpu_share", 100.0),
    ("RSS, B", "/memory/rss_bytes", 1.0),
    ("RSS before, B", "/memory_before/rss_bytes", 1.0),
    ("RSS at most, B", "/memory_peak/rss_bytes", 1.0),
    ("RSS after, B", "/memory_after/rss_bytes", 1.0),
    ("RSS of a connection, B", "/rss_per_connection_bytes", 1.0),
    ("private of a connection, B", "/anonymous_per_connection_bytes", 1.0),
    ("lost", "/deliveries/lost", 1.0),
    ("dropped", "/sent/dropped", 1.0),
];
/// Numbers of a measurement that are no figures.
const NO_FIGURES: [&str; 3] = ["round", "elapsed_ns", "connections"];
/// The percentiles of the table.
const PERCENTILES: [(&str, &str); 4] =
    [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us"), ("max", "max_us")];
/// The subject of measurements that have a round and name none; it stands first.
const SERVER: &str = "comet";

/// All figures of a result: those of the subjects, then those over subjects.
pub(super) fn figures(file: &ResultFile) -> Vec<Figure> {
    let mut figures = Vec::new();
    for group in groups(&file.results) {
        let rounds: Vec<_> = group.rounds.iter().map(|round| of_measurement(round)).collect();
        let mut labels: Vec<&str> = Vec::new();
        for (label, _) in rounds.iter().flatten() {
            if !labels.contains(&label.as_str()) {
                labels.push(label);
            }
        }
        for label in labels {
            let values = rounds.iter().flatten().filter(|(other, _)| other == label);
            let spread = Spread::of(values.map(|(_, value)| *value));
            let spread = spread.expect("the label comes from a round");
            figures.push(Figure { label: format!("{}: {label}", group.subject), spread });
        }
    }
    figures.extend(spreads(&file.results));
    figures
}

/// The subjects of a result. Where a list has several measurements of one subject and round, they were made
/// under different conditions, and no median may be taken over them: it is left out.
pub(super) fn groups(results: &Value) -> Vec<Group<'_>> {
    let mut groups = Vec::new();
    for (key, list) in results.as_object().into_iter().flatten() {
        let of_list = groups_of_list(key, list.as_array().map_or(&[], Vec::as_slice));
        groups.extend(of_list.into_iter().filter(|group| {
            let rounds: Vec<_> =
                group.rounds.iter().filter_map(|round| round.get("round")).collect();
            rounds.iter().enumerate().all(|(index, round)| !rounds[..index].contains(round))
        }));
    }
    groups.sort_by_key(|group| !group.subject.starts_with(SERVER));
    groups
}

/// The percentiles in a measurement, by name; it may be percentiles itself.
pub(super) fn percentiles(measurement: &Value) -> Vec<(&str, &Value)> {
    let is_one = |value: &Value| value.get("p50_us").is_some_and(Value::is_number);
    if is_one(measurement) {
        return vec![("latency", measurement)];
    }
    let members = measurement.as_object().into_iter().flatten();
    members.filter(|(_, value)| is_one(value)).map(|(name, value)| (name.as_str(), value)).collect()
}

/// Deliveries a second of a measurement, or what else it counts.
pub(super) fn per_second(measurement: &Value) -> Option<f64> {
    if let Some(per_second) = measurement.get("per_second") {
        return per_second.as_f64();
    }
    let received = measurement.pointer("/deliveries/received")?.as_f64()?;
    Some(received * 1e9 / measurement.get("elapsed_ns")?.as_f64()?.max(1.0))
}

fn groups_of_list<'a>(key: &str, list: &'a [Value]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for measurement in list {
        let Some(subject) = subject(key, measurement) else { continue };
        match groups.iter_mut().find(|group| group.subject == subject) {
            Some(group) => group.rounds.push(measurement),
            None => groups.push(Group { subject, rounds: vec![measurement] }),
        }
    }
    groups
}

/// What a measurement in the list `key` is about; none where it is no measurement.
fn subject(key: &str, measurement: &Value) -> Option<String> {
    let text = |place| measurement.pointer(place).and_then(Value::as_str);
    let phase = text("/phase").or_else(|| text("/phase/name"));
    let round = measurement.get("round").map(|_| SERVER);
    let named = text("/subject").or(round).into_iter().chain(phase).collect::<Vec<_>>().join(" ");
    if !named.is_empty() {
        return Some(named);
    }
    (!percentiles(measurement).is_empty()).then(|| key.replace('_', "-"))
}

fn of_measurement(measurement: &Value) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    let is_turn = measurement.get("deliveries").is_some();
    if let Some(per_second) = per_second(measurement).filter(|_| is_turn) {
        found.push(("deliveries a second".to_owned(), per_second));
    }
    for (label, place, factor) in KNOWN {
        if let Some(value) = measurement.pointer(place).and_then(Value::as_f64) {
            found.push((label.to_owned(), value * factor));
        }
    }
    for (name, percentiles) in percentiles(measurement) {
        for (label, key) in PERCENTILES {
            if let Some(value) = percentiles.get(key).and_then(Value::as_f64) {
                found.push((format!("{} {label}, us", name.replace('_', " ")), value));
            }
        }
    }
    if measurement.get("p50_us").is_some() {
        return found;
    }
    for (key, value) in measurement.as_object().into_iter().flatten() {
        let is_known = KNOWN.iter().any(|(_, place, _)| place[1..] == **key);
        let Some(value) = value.as_f64() else { continue };
        if !is_known && !NO_FIGURES.contains(&key.as_str()) {
            found.push((key.replace('_', " "), value));
        }
    }
    found
}

/// Figures that a scenario itself has taken over the rounds: members of the results, or of a list whose
/// items name what is `measured`.
fn spreads(results: &Value) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (key, value) in results.as_object().into_iter().flatten() {
        if let Some(spread) = spread(value) {
            figures.push(Figure { label: key.replace('_', " "), spread });
        }
        for item in value.as_array().into_iter().flatten() {
            let name = item.get("name").and_then(Value::as_str);
            let measured = item.get("measured").and_then(spread);
            if let Some((name, spread)) = name.zip(measured) {
                figures.push(Figure { label: name.replace('_', " "), spread });
            }
        }
    }
    figures
}

fn spread(value: &Value) -> Option<Spread> {
    let part = |name| value.get(name)?.as_f64();
    Some(Spread { median: part("median")?, min: part("min")?, max: part("max")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::tests::result;
    use super::*;

    fn check(results: &Value, expected: &[(&str, [f64; 3])]) {
        let found = figures(&result("a", "any", results));
        let found: Vec<_> = found
            .iter()
            .map(|is| (is.label.as_str(), [is.spread.median, is.spread.min, is.spread.max]))
            .collect();
        assert_eq!(found, expected, "{results}");
    }

    #[test]
    fn figures_of_a_subject_are_taken_over_its_rounds() {
        let turn = |subject: &str, round: u32, received: u64, cpu_ns: f64| {
            json!({
                "subject": subject, "round": round, "elapsed_ns": 2_000_000_000_u64,
                "deliveries": {"received": received, "lost": 0},
                "cpu_per_delivery_ns": cpu_ns,
            })
        };
        let turns = json!({"turns": [
            turn("ring", 1, 10, 3.0),
            turn("comet", 1, 20, 5.0),
            turn("comet", 2, 40, 4.0),
            turn("comet", 3, 30, 9.0),
        ]});
        let expected = [
            ("comet: deliveries a second", [15.0, 10.0, 20.0]),
            ("comet: CPU of a delivery, ns", [5.0, 4.0, 9.0]),
            ("comet: lost", [0.0, 0.0, 0.0]),
            ("ring: deliveries a second", [5.0, 5.0, 5.0]),
            ("ring: CPU of a delivery, ns", [3.0, 3.0, 3.0]),
            ("ring: lost", [0.0, 0.0, 0.0]),
        ];
        check(&turns, &expected);
    }

    #[test]
    fn what_is_not_known_is_called_as_in_the_file() {
        let storm = json!({
            "subject": "comet", "phase": "dawn", "round": 1, "per_second": 7.0, "moved_rooms": 3,
            "handshake": {"p50_us": 1.0, "p99_us": 2.0, "count": 9},
        });
        let expected = [
            ("comet dawn: a second", [7.0; 3]),
            ("comet dawn: handshake p50, us", [1.0; 3]),
            ("comet dawn: handshake p99, us", [2.0; 3]),
            ("comet dawn: moved rooms", [3.0; 3]),
        ];
        check(&json!({"storms": [storm]}), &expected);
    }

    #[test]
    fn measurements_without_a_subject_are_of_the_server_or_of_their_phase() {
        let idle = json!({"round": 1, "cpu_share": 0.005, "memory": {"rss_bytes": 407.0}});
        let expected = [("comet: CPU, % of one", [0.5; 3]), ("comet: RSS, B", [407.0; 3])];
        check(&json!({"turns": [idle]}), &expected);
        let phase = |name: &str, pushes: u32| json!({"phase": {"name": name}, "pushes": pushes});
        let expected = [("morning: pushes", [1.0; 3]), ("noon: pushes", [2.0; 3])];
        check(&json!({"phases": [phase("morning", 1), phase("noon", 2)]}), &expected);
    }

    #[test]
    fn percentiles_alone_are_a_subject_and_spreads_are_figures() {
        let results = json!({
            "ping_pong": [{"p50_us": 4.0}, {"p50_us": 6.0}],
            "p50_ratio": {"median": 2.0, "min": 1.0, "max": 3.0},
            "not_measured": null,
            "lines": [
                {"name": "fan_out", "measured": {"median": 1.1, "min": 1.0, "max": 1.2}},
                {"name": "failed", "measured": null},
            ],
        });
        let expected = [
            ("ping-pong: latency p50, us", [5.0, 4.0, 6.0]),
            ("fan out", [1.1, 1.0, 1.2]),
            ("p50 ratio", [2.0, 1.0, 3.0]),
        ];
        check(&results, &expected);
    }

    #[test]
    fn rounds_that_come_twice_are_not_mixed() {
        let turn = |cpu: f64| json!({"subject": "comet", "round": 1, "cpu_per_delivery_ns": cpu});
        check(&json!({"turns": [turn(1.0), turn(2.0)]}), &[]);
    }
}
