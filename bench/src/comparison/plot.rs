//! The plots of a comparison: latency by percentile, and over time what came, who was connected, CPU
//! and memory. A line for each subject of each result.

mod draw;
mod scale;

use serde_json::Value;

use super::figures::{Group, groups, per_second, percentiles};
use super::file::ResultFile;
use crate::stats::Spread;
use draw::Axes;
use scale::Scale;

/// Throughput is taken over so long, since what is pushed in ticks comes in bursts.
const WINDOW_S: f64 = 0.5;

/// A plot, drawn.
pub(super) struct Plot {
    /// As its file is called.
    pub name: &'static str,
    /// What it shows, in words.
    pub caption: &'static str,
    pub svg: String,
}

type Points = Vec<(f64, f64)>;

/// Points under a name.
#[derive(PartialEq, Debug)]
struct Line {
    label: String,
    /// What it is about and of which result, by number: lines that share either look alike.
    subject: usize,
    result: usize,
    points: Points,
}

/// Those plots there are points for.
pub(super) fn plots(files: &[ResultFile]) -> Vec<Plot> {
    let latency = Axes {
        x: "percentile",
        y: "latency, microseconds",
        x_scale: Scale::Percentile,
        y_scale: Scale::Logarithmic,
    };
    let over_time = |y| Axes { x: "seconds", y, x_scale: Scale::Time, y_scale: Scale::Linear };
    let plot = |name, caption, axes: &Axes, lines: Vec<Line>| {
        (!lines.is_empty()).then(|| Plot { name, caption, svg: draw::svg(axes, &lines) })
    };
    let plots = [
        plot(
            "latency",
            "Latency by percentile, the median of the rounds at each point.",
            &latency,
            lines(files, latencies),
        ),
        plot(
            "throughput",
            "Deliveries a second over half a second each, in the round in the middle.",
            &over_time("deliveries a second"),
            lines(files, |group| rate(group, "received")),
        ),
        plot(
            "heartbeats",
            "Heartbeats answered a second over half a second each, in the round in the middle.",
            &over_time("heartbeats a second"),
            lines(files, |group| rate(group, "heartbeats")),
        ),
        plot(
            "connections",
            "Connections that are authenticated and open, in the round in the middle.",
            &over_time("connections"),
            lines(files, connections),
        ),
        plot(
            "cpu",
            "CPU time of all threads over half a second each, in the round in the middle.",
            &over_time("percent of a CPU"),
            lines(files, cpu),
        ),
        plot(
            "memory",
            "Resident memory, in the round in the middle.",
            &over_time("resident memory, megabytes"),
            lines(files, memory),
        ),
    ];
    plots.into_iter().flatten().collect()
}

/// The lines of every subject of every result, where `drawn` finds points; it names what it draws of a
/// subject, unless there is nothing else.
fn lines(files: &[ResultFile], drawn: impl Fn(&Group<'_>) -> Vec<(String, Points)>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut subjects: Vec<String> = Vec::new();
    for (result, file) in files.iter().enumerate() {
        for group in groups(&file.results) {
            for (name, points) in drawn(&group).into_iter().filter(|(_, points)| points.len() > 1) {
                let about = [&group.subject, " ", &name].concat().trim_end().to_owned();
                let label = if files.len() > 1 {
                    [&file.name, " ", &about].concat()
                } else {
                    about.clone()
                };
                let known = subjects.iter().position(|subject| *subject == about);
                let subject = known.unwrap_or(subjects.len());
                if known.is_none() {
                    subjects.push(about);
                }
                lines.push(Line { label, subject, result, points });
            }
        }
    }
    lines
}

/// The latencies of a subject; of one that has none what else it took the percentiles of, like handshakes.
fn latencies(group: &Group<'_>) -> Vec<(String, Points)> {
    const LATENCY: &str = "latency";
    let all: Vec<&str> = percentiles(group.rounds[0]).into_iter().map(|(name, _)| name).collect();
    let named: Vec<&str> = all.iter().copied().filter(|name| name.contains(LATENCY)).collect();
    let names = if named.is_empty() { all } else { named };
    let line = |name: &str| {
        let words = if name == LATENCY { String::new() } else { name.replace('_', " ") };
        (words, curve(group, name))
    };
    names.into_iter().map(line).collect()
}

/// Percent and microseconds, as far as all rounds reach; the maximum, which is no percentile, is left out.
fn curve(group: &Group<'_>, name: &str) -> Points {
    let curve = |round: &&Value| {
        let percentiles = percentiles(round);
        let (_, found) = percentiles.into_iter().find(|(other, _)| *other == name)?;
        pairs(found.get("curve")?)
    };
    let curves: Vec<Points> = group.rounds.iter().filter_map(curve).collect();
    let points = curves.first().map_or(&[][..], Vec::as_slice).iter();
    let median = points.filter(|(percent, _)| *percent < 100.0).map_while(|&(percent, _)| {
        let at = |curve: &Points| {
            curve.iter().find(|(other, _)| *other == percent).map(|(_, value)| *value)
        };
        let values: Option<Vec<f64>> = curves.iter().map(at).collect();
        Some((percent, Spread::of(values?)?.median))
    });
    median.collect()
}

/// A count of the time series as what it grew by in a second, where it grew.
fn rate(group: &Group<'_>, column: &str) -> Vec<(String, Points)> {
    let counts = series(group, column);
    // What came in a moment says nothing about a second.
    let shortest_s = (WINDOW_S / 2.0).min(counts.last().map_or(0.0, |last| last.0 / 2.0));
    let rates = counts.iter().enumerate().skip(1).filter_map(|(index, &(at, count))| {
        let begun = counts[..index].iter().rposition(|&(time, _)| time <= at - WINDOW_S);
        let (time, before) = counts[begun.unwrap_or(0)];
        (at - time >= shortest_s).then(|| (at, (count - before) / (at - time).max(1e-6)))
    });
    let rates: Points = rates.collect();
    let grows = rates.iter().any(|(_, rate)| *rate > 0.0);
    if grows { vec![(String::new(), rates)] } else { Vec::new() }
}

/// Who was connected, where that was not the same all the time.
fn connections(group: &Group<'_>) -> Vec<(String, Points)> {
    let points = series(group, "connections");
    let moves = points.iter().any(|(_, count)| *count != points[0].1);
    if moves { vec![(String::new(), points)] } else { Vec::new() }
}

/// CPU time as a share of one CPU, percent.
fn cpu(group: &Group<'_>) -> Vec<(String, Points)> {
    /// Microseconds a second that are one percent.
    const PERCENT: f64 = 1e4;
    let mut lines = rate(group, "cpu_us");
    for (_, share) in lines.iter_mut().flat_map(|(_, points)| points) {
        *share /= PERCENT;
    }
    lines
}

fn memory(group: &Group<'_>) -> Vec<(String, Points)> {
    let bytes = series(group, "rss_bytes").into_iter();
    vec![(String::new(), bytes.map(|(at, bytes)| (at, bytes / 1e6)).collect())]
}

/// Seconds and values of a column of the time series, of the round in the middle by its throughput.
fn series(group: &Group<'_>, column: &str) -> Points {
    let mut rounds: Vec<&Value> = group.rounds.clone();
    let rate = |round: &Value| per_second(round).unwrap_or(0.0);
    rounds.sort_by(|one, other| rate(one).total_cmp(&rate(other)));
    let middle = rounds[(rounds.len() - 1) / 2];
    let numbers = |column: &str| -> Option<Vec<f64>> {
        middle.get("series")?.get(column)?.as_array()?.iter().map(Value::as_f64).collect()
    };
    let (times, values) =
        (numbers("at_us").unwrap_or_default(), numbers(column).unwrap_or_default());
    times.into_iter().map(|us| us / 1e6).zip(values).collect()
}

fn pairs(value: &Value) -> Option<Points> {
    value
        .as_array()?
        .iter()
        .map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::tests::result;
    use super::*;

    fn turn(round: u32, per_second: f64, curve: &[(f64, f64)]) -> Value {
        json!({
            "subject": "comet", "round": round, "per_second": per_second,
            "latency": {"p50_us": 1.0, "curve": curve},
            "series": {
                "at_us": [0, 400_000, 800_000, 1_200_000],
                "received": [0.0, per_second, per_second, per_second * 3.0],
                "rss_bytes": [1e6, 2e6, 2e6, 3e6],
            },
        })
    }

    fn of(results: &Value, drawn: fn(&Group<'_>) -> Vec<(String, Points)>) -> Vec<Line> {
        lines(&[result("a", "fanout", results)], drawn)
    }

    fn throughput(group: &Group<'_>) -> Vec<(String, Points)> {
        rate(group, "received")
    }

    #[test]
    fn latencies_are_medians_as_far_as_all_rounds_reach() {
        let results = json!({"turns": [
            turn(1, 1.0, &[(0.0, 1.0), (50.0, 5.0), (90.0, 9.0), (100.0, 99.0)]),
            turn(2, 1.0, &[(0.0, 3.0), (50.0, 6.0), (100.0, 88.0)]),
        ]});
        let lines = of(&results, latencies);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].label.as_str(), &lines[0].points),
            ("comet", &vec![(0.0, 2.0), (50.0, 5.5)])
        );
    }

    #[test]
    fn handshakes_are_drawn_where_there_are_no_latencies() {
        let percentiles = json!({"p50_us": 1.0, "curve": [[0.0, 1.0], [50.0, 5.0]]});
        let mut storm = json!({"subject": "bare", "round": 1, "handshake": percentiles});
        let labels = |storm: &Value| {
            let lines = of(&json!({"storms": [storm]}), latencies);
            lines.into_iter().map(|line| line.label).collect::<Vec<_>>()
        };
        assert_eq!(labels(&storm), ["bare handshake"]);
        storm["impaired_latency"] = percentiles.clone();
        storm["latency"] = percentiles;
        assert_eq!(labels(&storm), ["bare impaired latency", "bare"]);
    }

    #[test]
    fn the_round_in_the_middle_is_drawn_over_time() {
        let results =
            json!({"turns": [turn(1, 10.0, &[]), turn(2, 40.0, &[]), turn(3, 20.0, &[])]});
        let rates = of(&results, throughput);
        let expected = [(0.4, 50.0), (0.8, 25.0), (1.2, 50.0)];
        assert_eq!(rates[0].points.len(), expected.len());
        for (is, expected) in rates[0].points.iter().zip(expected) {
            assert!(
                (is.0 - expected.0).abs() < 1e-9 && (is.1 - expected.1).abs() < 1e-6,
                "{rates:?}"
            );
        }
        let memories = of(&results, memory);
        assert_eq!(memories[0].points, [(0.0, 1.0), (0.4, 2.0), (0.8, 2.0), (1.2, 3.0)]);
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let bare = json!({"subject": "goim", "round": 1, "series": {"at_us": [0, 1, 2], "received": [0, 1, 2]}});
        let results = json!({"turns": [bare]});
        assert!(of(&results, memory).is_empty());
        assert!(of(&results, latencies).is_empty());
        let names: Vec<_> =
            plots(&[result("a", "fanout", &results)]).iter().map(|plot| plot.name).collect();
        assert_eq!(names, ["throughput"]);
    }

    #[test]
    fn each_scenario_has_the_plots_of_what_moves() {
        let check = |columns: Value, expected: &[&str]| {
            let mut series = json!({"at_us": [0, 300_000, 600_000], "rss_bytes": [1, 1, 1]});
            for (column, values) in columns.as_object().unwrap() {
                series[column] = values.clone();
            }
            let results = json!({"turns": [{"subject": "comet", "round": 1, "series": series}]});
            let plots = plots(&[result("a", "any", &results)]);
            let names: Vec<_> = plots.iter().map(|plot| plot.name).collect();
            assert_eq!(names, expected, "{columns}");
            for (name, axis) in [("throughput", "deliveries"), ("heartbeats", "heartbeats")] {
                let plot = plots.iter().find(|plot| plot.name == name);
                let says = format!("\n{axis} a second\n");
                assert!(plot.is_none_or(|plot| plot.svg.contains(&says)), "{name}");
            }
        };
        let (still, grows) = (json!([0, 0, 0]), json!([0, 4, 9]));
        check(
            json!({"received": grows, "heartbeats": still, "connections": [7, 7, 7]}),
            &["throughput", "memory"],
        );
        check(
            json!({"received": still, "heartbeats": grows, "connections": [7, 7, 7]}),
            &["heartbeats", "memory"],
        );
        check(
            json!({"received": still, "heartbeats": still, "connections": [7, 9, 9]}),
            &["connections", "memory"],
        );
        check(json!({"received": grows}), &["throughput", "memory"]);
        check(json!({"received": grows, "cpu_us": grows}), &["throughput", "cpu", "memory"]);
    }

    #[test]
    fn a_moment_makes_no_rate() {
        let series = json!({
            "at_us": [0, 1000, 300_000, 600_000], "received": [0, 1, 3, 6],
        });
        let results = json!({"turns": [{"subject": "comet", "round": 1, "series": series}]});
        let points = &of(&results, throughput)[0].points;
        assert_eq!(points.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0.3, 0.6]);
    }

    #[test]
    fn cpu_time_is_drawn_as_a_share() {
        let series = json!({"at_us": [0, 500_000, 1_000_000], "cpu_us": [70, 250_070, 250_070]});
        let results = json!({"turns": [{"subject": "comet", "round": 1, "series": series}]});
        assert_eq!(of(&results, cpu)[0].points, [(0.5, 50.0), (1.0, 0.0)]);
    }

    #[test]
    fn lines_of_several_results_are_told_apart() {
        let results = json!({"turns": [turn(1, 10.0, &[])]});
        let files = ["a", "b"].map(|name| result(name, "fanout", &results));
        let lines = lines(&files, memory);
        let looks: Vec<_> =
            lines.iter().map(|line| (line.label.as_str(), line.subject, line.result)).collect();
        assert_eq!(looks, [("a comet", 0, 0), ("b comet", 0, 1)]);
    }
}
