//! The plots of a comparison: latency by percentile; and, over time, messages received, open connections, CPU and
//! memory. There is one line for each subject of each result.

mod draw;
mod scale;

use serde::Deserialize;
use serde_json::Value;

use self::draw::{Axes, Line, Mark, Points};
use self::scale::Scale;
use super::file::ResultFile;
use crate::figures::figure;
use crate::measurements::{Group, groups, percentiles};
use crate::stats::Spread;

/// Rates are averaged over this time, since pushes in ticks arrive in bursts.
const WINDOW_S: f64 = 0.5;

/// A plot, drawn.
pub(super) struct Plot {
    /// The name of its file.
    pub name: &'static str,
    pub svg: String,
}

/// A kind of plot.
struct Kind {
    name: &'static str,
    title: &'static str,
    /// Label of the y axis.
    unit: &'static str,
    shows: Shows,
}

/// The content of a plot; the last three are columns of the time series, times a factor.
enum Shows {
    Percentiles,
    /// The growth of a count in a second, if it grew.
    Rate(&'static str, f64),
    /// Values, if they change at all.
    Moves(&'static str, f64),
    Values(&'static str, f64),
}

const LATENCY: &str = "latency";
#[rustfmt::skip]
const KINDS: [Kind; 6] = [
    Kind { name: LATENCY, title: "latency by percentile, median of the rounds", unit: "latency, us", shows: Shows::Percentiles },
    Kind { name: "throughput", title: "deliveries, round in the middle", unit: "deliveries a second", shows: Shows::Rate("received", 1.0) },
    Kind { name: "heartbeats", title: "answered heartbeats, round in the middle", unit: "heartbeats a second", shows: Shows::Rate("heartbeats", 1.0) },
    Kind { name: "connections", title: "open connections, round in the middle", unit: "connections", shows: Shows::Moves("connections", 1.0) },
    // From microseconds in a second to percent.
    Kind { name: "cpu", title: "CPU time of all threads, round in the middle", unit: "% of one CPU", shows: Shows::Rate("cpu_us", 1e-4) },
    Kind { name: "memory", title: "resident memory, round in the middle", unit: "resident memory, MB", shows: Shows::Values("rss_bytes", 1e-6) },
];

/// The plots for which there are points.
pub(super) fn plots(files: &[ResultFile]) -> Vec<Plot> {
    let marks = phases(&files[0]);
    let plot = |kind: &Kind| {
        let lines = lines(files, &kind.shows);
        let over_time = kind.name != LATENCY;
        let axes = Axes {
            title: format!("{}: {}", files[0].scenario, kind.title),
            x: if over_time { "time, s" } else { "percentile" },
            y: kind.unit,
            x_scale: if over_time { Scale::Linear } else { Scale::Percentile },
            y_scale: if over_time { Scale::Linear } else { Scale::Logarithmic },
            marks: if over_time { &marks } else { &[] },
        };
        (!lines.is_empty()).then(|| Plot { name: kind.name, svg: draw::svg(&axes, &lines) })
    };
    KINDS.iter().filter_map(plot).collect()
}

/// The beginnings of the phases of a day; empty for other results.
fn phases(file: &ResultFile) -> Vec<Mark> {
    let phases = file.results.pointer("/days/0/phases");
    phases.and_then(|phases| Vec::deserialize(phases).ok()).unwrap_or_default()
}

/// The lines for each subject of each result, if there are points.
fn lines(files: &[ResultFile], shows: &Shows) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut subjects: Vec<String> = Vec::new();
    for (result, file) in files.iter().enumerate() {
        for group in groups(&file.results) {
            let shown = shown(&group, shows).into_iter();
            for (name, points) in shown.filter(|(_, points)| points.len() > 1) {
                let about = [&group.subject, " ", &name].concat().trim_end().to_owned();
                let label = match files.len() {
                    1 => about.clone(),
                    _ => [&file.name, " ", &about].concat(),
                };
                let subject = subjects.iter().position(|is| *is == about).unwrap_or_else(|| {
                    subjects.push(about);
                    subjects.len() - 1
                });
                lines.push(Line { label, subject, result, points });
            }
        }
    }
    lines
}

/// The points of a subject, each set with the name of the quantity; the name is empty if the plot shows only one.
fn shown(group: &Group<'_>, shows: &Shows) -> Vec<(String, Points)> {
    let points = match *shows {
        Shows::Percentiles => return latencies(group),
        Shows::Rate(column, factor) => rate(&series(group, column, factor)),
        Shows::Moves(column, factor) | Shows::Values(column, factor) => {
            series(group, column, factor)
        }
    };
    let still = points.iter().all(|(_, value)| *value == points[0].1);
    let grows = points.iter().any(|(_, value)| *value > 0.0);
    let is_shown = match shows {
        Shows::Rate(..) => grows,
        Shows::Moves(..) => !still,
        _ => true,
    };
    if is_shown { vec![(String::new(), points)] } else { Vec::new() }
}

/// The latencies of a subject; if it has none, other percentiles that it has, like those of handshakes.
fn latencies(group: &Group<'_>) -> Vec<(String, Points)> {
    let all: Vec<&str> = percentiles(group.rounds[0]).into_iter().map(|(name, _)| name).collect();
    let has_latency = all.iter().any(|name| name.contains(LATENCY));
    let names = all.into_iter().filter(|name| !has_latency || name.contains(LATENCY));
    let line = |name: &str| {
        let words = if name == LATENCY { String::new() } else { name.replace('_', " ") };
        (words, curve(group, name))
    };
    names.map(line).collect()
}

/// Percent and microseconds, up to where all rounds reach; the maximum, which is not a percentile, is left out.
fn curve(group: &Group<'_>, name: &str) -> Points {
    let curve = |round: &&Value| -> Option<Points> {
        let percentiles = percentiles(round);
        let (_, found) = percentiles.into_iter().find(|(other, _)| *other == name)?;
        serde_json::from_value(found.get("curve")?.clone()).ok()
    };
    let curves: Vec<Points> = group.rounds.iter().filter_map(curve).collect();
    let points = curves.first().into_iter().flatten();
    let median = points.filter(|(percent, _)| *percent < 100.0).map_while(|&(percent, _)| {
        let at = |curve: &Points| Some(curve.iter().find(|(other, _)| *other == percent)?.1);
        let values: Option<Vec<f64>> = curves.iter().map(at).collect();
        Some((percent, Spread::of(values?)?.median))
    });
    median.collect()
}

/// The growth of a count in a second.
fn rate(counts: &Points) -> Points {
    // The count over a very short time says nothing about a second.
    let shortest_s = (WINDOW_S / 2.0).min(counts.last().map_or(0.0, |last| last.0 / 2.0));
    let rates = counts.iter().enumerate().skip(1).filter_map(|(index, &(at, count))| {
        let begun = counts[..index].iter().rposition(|&(time, _)| time <= at - WINDOW_S);
        let (time, before) = counts[begun.unwrap_or(0)];
        (at - time >= shortest_s).then_some((at, (count - before) / (at - time).max(1e-6)))
    });
    rates.collect()
}

/// Seconds and values of a column of the time series, for the round with the median throughput.
fn series(group: &Group<'_>, column: &str, factor: f64) -> Points {
    let rate = |round: &Value| {
        let names = ["connections a second", "deliveries a second"];
        names.iter().find_map(|name| figure(round, name).ok()).unwrap_or(0.0)
    };
    let mut rounds: Vec<&Value> = group.rounds.clone();
    rounds.sort_by(|one, other| rate(one).total_cmp(&rate(other)));
    let middle = rounds[(rounds.len() - 1) / 2];
    let numbers = |column: &str| -> Option<Vec<f64>> {
        serde_json::from_value(middle.get("series")?.get(column)?.clone()).ok()
    };
    let times = numbers("at_us").unwrap_or_default().into_iter().map(|us| us / 1e6);
    let values = numbers(column).unwrap_or_default().into_iter();
    times.zip(values.map(|value| value * factor)).collect()
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
                "cpu_us": [0, 0, 0, 40_000],
                "rss_bytes": [1e6, 2e6, 2e6, 3e6],
            },
        })
    }

    /// The lines of one kind of plot for `turns`.
    fn of(name: &str, turns: &Value) -> Vec<Line> {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        lines(&[result("a", "fanout", &json!({"turns": turns}))], &kind.shows)
    }

    fn names(columns: &Value) -> Vec<&'static str> {
        let results = json!({"turns": [{"subject": "comet", "round": 1, "series": columns}]});
        plots(&[result("a", "any", &results)]).iter().map(|plot| plot.name).collect()
    }

    #[test]
    fn latencies_are_medians_as_far_as_all_rounds_reach() {
        let turns = json!([
            turn(1, 1.0, &[(0.0, 1.0), (50.0, 5.0), (90.0, 9.0), (100.0, 99.0)]),
            turn(2, 1.0, &[(0.0, 3.0), (50.0, 6.0), (100.0, 88.0)]),
        ]);
        let lines = of("latency", &turns);
        assert_eq!((lines.len(), lines[0].label.as_str()), (1, "comet"));
        assert_eq!(lines[0].points, [(0.0, 2.0), (50.0, 5.5)]);
    }

    #[test]
    fn handshakes_are_drawn_where_there_are_no_latencies() {
        let percentiles = json!({"p50_us": 1.0, "curve": [[0.0, 1.0], [50.0, 5.0]]});
        let mut storm = json!({"subject": "bare", "round": 1, "handshake": percentiles});
        let labels = |storm: &Value| {
            let lines = of("latency", &json!([storm])).into_iter();
            lines.map(|line| line.label).collect::<Vec<_>>()
        };
        assert_eq!(labels(&storm), ["bare handshake"]);
        storm["impaired_latency"] = percentiles.clone();
        storm["latency"] = percentiles;
        assert_eq!(labels(&storm), ["bare impaired latency", "bare"]);
    }

    #[test]
    fn the_round_in_the_middle_is_drawn_over_time() {
        let turns = json!([turn(1, 10.0, &[]), turn(2, 40.0, &[]), turn(3, 20.0, &[])]);
        let check = |name, expected: &[(f64, f64)]| {
            let lines = of(name, &turns);
            let near = |(is, expected): (&(f64, f64), &(f64, f64))| {
                (is.0 - expected.0).abs() < 1e-9 && (is.1 - expected.1).abs() < 1e-6
            };
            assert_eq!(lines[0].points.len(), expected.len(), "{name}");
            assert!(
                lines[0].points.iter().zip(expected).all(near),
                "{name}: {:?}",
                lines[0].points
            );
        };
        check("throughput", &[(0.4, 50.0), (0.8, 25.0), (1.2, 50.0)]);
        check("cpu", &[(0.4, 0.0), (0.8, 0.0), (1.2, 5.0)]);
        check("memory", &[(0.0, 1.0), (0.4, 2.0), (0.8, 2.0), (1.2, 3.0)]);
    }

    #[test]
    fn only_series_that_change_are_plotted() {
        let at_us = [0, 300_000, 600_000];
        let (still, grows) = (json!([0, 0, 0]), json!([0, 4, 9]));
        let check = |received: &Value, heartbeats: &Value, connections, expected: &[&str]| {
            let columns = json!({
                "at_us": at_us, "received": received, "heartbeats": heartbeats,
                "connections": connections, "rss_bytes": [1, 1, 1],
            });
            assert_eq!(names(&columns), expected, "{columns}");
        };
        check(&grows, &still, [7, 7, 7], &["throughput", "memory"]);
        check(&still, &grows, [7, 7, 7], &["heartbeats", "memory"]);
        check(&still, &still, [7, 9, 9], &["connections", "memory"]);
        assert_eq!(names(&json!({"at_us": at_us, "cpu_us": grows})), ["cpu"]);
        assert!(names(&json!({"at_us": at_us})).is_empty());
    }

    #[test]
    fn a_moment_makes_no_rate() {
        let series = json!({"at_us": [0, 1000, 300_000, 600_000], "received": [0, 1, 3, 6]});
        let points =
            &of("throughput", &json!([{"subject": "comet", "round": 1, "series": series}]))[0]
                .points;
        assert_eq!(points.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0.3, 0.6]);
    }

    #[test]
    fn lines_of_several_results_are_distinguished() {
        let results = json!({"turns": [turn(1, 10.0, &[])]});
        let files = ["a", "b"].map(|name| result(name, "fanout", &results));
        let lines = lines(&files, &Shows::Values("rss_bytes", 1e-6));
        let looks: Vec<_> =
            lines.iter().map(|line| (line.label.as_str(), line.subject, line.result)).collect();
        assert_eq!(looks, [("a comet", 0, 0), ("b comet", 0, 1)]);
    }

    #[test]
    fn phases_are_marked_and_named_in_plots_over_time() {
        let day = json!({"days": [{
            "subject": "comet", "round": 1,
            "series": {"at_us": [0, 500_000, 1_000_000], "cpu_us": [0, 9, 99]},
            "phases": [{"name": "dawn", "start_s": 0.0, "end_s": 0.4}, {"name": "noon", "start_s": 0.4, "end_s": 1.0}],
        }]});
        let plots = plots(&[result("a", "day", &day)]);
        let svg = &plots[0].svg;
        for words in [
            "dawn",
            "noon",
            "day: CPU time of all threads, round in the middle",
            "time, s",
            "% of one CPU",
        ] {
            assert!(svg.lines().any(|line| line == words), "{words}: {svg}");
        }
    }
}
