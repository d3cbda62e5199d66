//! The tables of a comparison.

use super::file::ResultFile;
use crate::figures;
use crate::measurements::groups;
use crate::report::{Program, Table, cell_of};
use crate::stats::Spread;

/// The meaning of the mark at a ratio.
const OVERLAP: &str = "~: the rounds of both results overlap, so that they may not differ at all";
const NOT_MEASURED: &str = "not measured";
const RESULT_LEGEND: [&str; 2] = [
    "server, bench: version and commit; unknown for a server that ran already",
    "passed: no delivery failed that the server did not report as dropped",
];

/// A figure of one result.
struct Row {
    /// Subject, name and unit: `comet: CPU of a delivery, ns`.
    label: String,
    spread: Spread,
    legend: Option<String>,
}

/// A table of where each result comes from.
pub(super) fn of_files(files: &[ResultFile]) -> Table {
    let unknown = || "unknown".to_owned();
    let program = |program: &Program| match &program.commit {
        Some(commit) => format!("{} {}", program.version, short(commit)),
        None => program.version.clone(),
    };
    let row = |file: &ResultFile| {
        let finished = jiff::Timestamp::from_second(file.finished_unix_s);
        let of_host = |key| file.host.get(key)?.as_str().map(str::to_owned);
        vec![
            file.name.clone(),
            finished.map_or_else(|_| unknown(), |time| time.to_string()),
            file.server.as_ref().map_or_else(unknown, program),
            program(&file.bench),
            of_host("name").unwrap_or_else(unknown),
            of_host("kernel").unwrap_or_else(unknown),
            if file.faults.is_empty() { "yes".to_owned() } else { "NO".to_owned() },
        ]
    };
    let headings = ["result", "finished", "server", "bench", "host", "kernel", "passed"];
    Table::new(&headings, files.iter().map(row).collect(), &RESULT_LEGEND)
}

/// The figures of all results side by side, each with its ratio to that of the first result.
pub(super) fn of_figures(files: &[ResultFile]) -> Table {
    let columns: Vec<Vec<Row>> = files.iter().map(rows).collect();
    let mut table = Table::new(&["figure"], Vec::new(), &[]);
    for (index, file) in files.iter().enumerate() {
        table.headings.push(file.name.clone());
        if index > 0 {
            table.headings.push(format!("{}/{}", file.name, files[0].name));
        }
    }
    for label in labels(&columns) {
        let mut cells = vec![label.to_owned()];
        let found = columns.iter().map(|rows| rows.iter().find(|row| row.label == label));
        let found: Vec<Option<&Row>> = found.collect();
        for (index, row) in found.iter().enumerate() {
            let spread = |row: &Option<&Row>| row.map(|row| row.spread);
            cells.push(row.map_or(NOT_MEASURED.to_owned(), |row| cell_of(Some(row.spread))));
            if index > 0 {
                cells.push(ratio(spread(row), spread(&found[0])));
            }
        }
        table.rows.push(cells);
        let legend = found.iter().flatten().find_map(|row| row.legend.clone());
        table.legend.extend(legend.filter(|line| !table.legend.contains(line)));
    }
    if table.rows.iter().flatten().any(|cell| cell.ends_with('~')) {
        table.legend.push(OVERLAP.to_owned());
    }
    table
}

/// All figures of a result: first those of the subjects, then those across subjects.
fn rows(file: &ResultFile) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for group in groups(&file.results) {
        for figure in figures::all() {
            let values = group.rounds.iter().filter_map(|round| figure.of(round));
            let Some(spread) = Spread::of(values) else { continue };
            let label = format!("{}: {}", group.subject, figure.label(", "));
            if rows.iter().all(|row| row.label != label) {
                rows.push(Row { label, spread, legend: figure.line() });
            }
        }
    }
    let summaries = figures::summaries(&file.results).chain(figures::lines(&file.results));
    rows.extend(summaries.map(|(label, spread)| Row { label, spread, legend: None }));
    rows
}

/// The labels of all columns; a label that the first column does not have is placed behind its neighbour in the other.
fn labels(columns: &[Vec<Row>]) -> Vec<&str> {
    let mut labels: Vec<&str> = Vec::new();
    for column in columns {
        let mut end = 0;
        for row in column {
            match labels.iter().position(|label| *label == row.label) {
                Some(found) => end = found + 1,
                None => {
                    labels.insert(end, &row.label);
                    end += 1;
                }
            }
        }
    }
    labels
}

/// The ratio of a figure to the first, with a mark if it is doubtful that they differ.
fn ratio(is: Option<Spread>, first: Option<Spread>) -> String {
    let pair = is.zip(first).filter(|(_, first)| first.median != 0.0);
    let Some((is, first)) = pair else { return String::new() };
    let spreads = is.min < is.max && first.min < first.max;
    let mark = if spreads && is.min <= first.max && first.min <= is.max { " ~" } else { "" };
    format!("{:.2}{mark}", is.median / first.median)
}

/// A full hash is cut to its first twelve digits; the output of `git describe` is left unchanged.
fn short(commit: &str) -> &str {
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &commit[..12] } else { commit }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::tests::result;
    use super::*;

    fn of(min: f64, median: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn figures_are_taken_over_the_rounds_of_a_subject() {
        let turn = |round: u32, cpu: f64| {
            json!({"subject": "comet", "round": round, "cpu_per_delivery_ns": cpu, "unknown": 3,
                "latency": {"count": 1, "p50_us": cpu}})
        };
        let results = json!({
            "turns": [turn(1, 5.0), turn(2, 4.0), turn(3, 9.0)],
            "p50_ratio": {"median": 2.0, "min": 1.0, "max": 3.0},
        });
        let rows = rows(&result("a", "any", &results));
        let rows: Vec<_> = rows.iter().map(|row| (row.label.as_str(), row.spread)).collect();
        let expected = [
            ("comet: CPU of a delivery, ns", of(4.0, 5.0, 9.0)),
            ("comet: latency p50, us", of(4.0, 5.0, 9.0)),
            ("p50, comet / ping-pong", of(1.0, 2.0, 3.0)),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn uncertain_ratios_are_marked() {
        let check = |is, first, expected| assert_eq!(ratio(is, first), expected);
        let first = Some(of(9.0, 10.0, 11.0));
        check(Some(of(4.0, 5.0, 6.0)), first, "0.50");
        check(Some(of(4.0, 8.0, 9.0)), first, "0.80 ~");
        check(Some(of(10.0, 10.0, 10.0)), first, "1.00");
        check(None, first, "");
        check(first, None, "");
        check(first, Some(of(0.0, 0.0, 0.0)), "");
    }

    #[test]
    fn labels_keep_their_neighbours() {
        let row = |label: &&str| Row {
            label: (*label).to_owned(),
            spread: of(1.0, 1.0, 1.0),
            legend: None,
        };
        let column = |labels: &[&str]| labels.iter().map(row).collect::<Vec<_>>();
        let columns = [column(&["a", "c", "d"]), column(&["b", "c", "e", "d", "f"])];
        assert_eq!(labels(&columns), ["b", "a", "c", "e", "d", "f"]);
    }

    #[test]
    fn commits_are_shortened_where_they_are_hashes() {
        assert_eq!(short("2c797b43deadbeef00112233445566778899aabb"), "2c797b43dead");
        assert_eq!(short("v0.1.0-3-g2c797b43dead-dirty"), "v0.1.0-3-g2c797b43dead-dirty");
    }
}
