//! The tables of a comparison, as cells, for the terminal and for the page.

use super::figures::{Figure, figures};
use super::file::ResultFile;
use crate::report::{Program, number, spread, table};
use crate::stats::Spread;

/// What the mark at a ratio means.
pub(super) const OVERLAP: &str = "~ the rounds of both results overlap: they may not differ at all";

/// Rows of cells under headings.
pub(super) struct Table {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Some ratio has the mark that [`OVERLAP`] explains.
    pub has_overlaps: bool,
}

impl Table {
    /// What each result is of.
    pub(super) fn of_files(files: &[ResultFile]) -> Self {
        let program = |program: &Program| match &program.commit {
            Some(commit) => format!("{} {}", program.version, short(commit)),
            None => program.version.clone(),
        };
        let row = |file: &ResultFile| {
            let finished = jiff::Timestamp::from_second(file.finished_unix_s);
            vec![
                file.name.clone(),
                finished.map_or_else(|_| "-".to_owned(), |time| time.to_string()),
                file.server.as_ref().map_or_else(|| "-".to_owned(), program),
                program(&file.bench),
                of_host(file, "name"),
                of_host(file, "kernel"),
                if file.faults.is_empty() { "yes".to_owned() } else { "NO".to_owned() },
            ]
        };
        let headings = ["result", "finished", "server", "bench", "host", "kernel", "passed"];
        Self {
            headings: headings.map(str::to_owned).to_vec(),
            rows: files.iter().map(row).collect(),
            has_overlaps: false,
        }
    }

    /// The figures of all results side by side, each with its ratio to that of the first result.
    pub(super) fn of_figures(files: &[ResultFile]) -> Self {
        let columns: Vec<Vec<Figure>> = files.iter().map(figures).collect();
        let mut headings = vec!["figure".to_owned(), files[0].name.clone()];
        for file in &files[1..] {
            headings.extend([file.name.clone(), format!("/ {}", files[0].name)]);
        }
        let mut has_overlaps = false;
        let rows = labels(&columns).into_iter().map(|label| {
            let mut cells = vec![label.to_owned()];
            let mut first = None;
            for (index, column) in columns.iter().enumerate() {
                let found = column.iter().find(|figure| figure.label == label);
                let found = found.map(|figure| figure.spread);
                cells.push(found.map_or_else(|| "-".to_owned(), cell));
                if index == 0 {
                    first = found;
                } else {
                    let (ratio, overlap) = ratio(found, first);
                    has_overlaps |= overlap;
                    cells.push(ratio);
                }
            }
            cells
        });
        let rows = rows.collect();
        Self { headings, rows, has_overlaps }
    }

    pub(super) fn text(&self) -> String {
        let headings: Vec<&str> = self.headings.iter().map(String::as_str).collect();
        table(&headings, &self.rows)
    }
}

/// The labels of all columns; one that the first has not stands behind its neighbour in the other.
fn labels(columns: &[Vec<Figure>]) -> Vec<&str> {
    let mut labels: Vec<&str> = Vec::new();
    for column in columns {
        let mut end = 0;
        for figure in column {
            match labels.iter().position(|label| *label == figure.label) {
                Some(found) => end = found + 1,
                None => {
                    labels.insert(end, &figure.label);
                    end += 1;
                }
            }
        }
    }
    labels
}

/// A figure with its extremes, where it has any.
fn cell(is: Spread) -> String {
    let decimals = match is.median.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    // Counts, which are nearly always none.
    let decimals = if [is.median, is.min, is.max].iter().all(|value| value.fract() == 0.0) {
        0
    } else {
        decimals
    };
    if is.min < is.max { spread(Some(is), decimals) } else { number(Some(is.median), decimals) }
}

/// How a figure relates to the first, and whether it is in doubt that it does.
fn ratio(is: Option<Spread>, first: Option<Spread>) -> (String, bool) {
    let pair = is.zip(first).filter(|(_, first)| first.median != 0.0);
    let Some((is, first)) = pair else { return ("-".to_owned(), false) };
    let spreads = is.min < is.max && first.min < first.max;
    let overlap = spreads && is.min <= first.max && first.min <= is.max;
    let mark = if overlap { " ~" } else { "" };
    (format!("{:.2}{mark}", is.median / first.median), overlap)
}

fn of_host(file: &ResultFile, key: &str) -> String {
    file.host.get(key).and_then(|value| value.as_str()).unwrap_or("-").to_owned()
}

/// A whole hash says no more than its first twelve digits; what `git describe` says is left as it is.
fn short(commit: &str) -> &str {
    let is_hash = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { &commit[..12] } else { commit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(min: f64, median: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn cells_have_three_digits_and_their_extremes() {
        assert_eq!(cell(of(1.0, 1.254, 2.0)), "1.25 (1.00 to 2.00)");
        assert_eq!(cell(of(95.0, 104.6, 120.0)), "105 (95 to 120)");
        assert_eq!(cell(of(12.34, 12.34, 12.34)), "12.3");
        assert_eq!(cell(of(0.0, 0.0, 0.0)), "0");
        assert_eq!(cell(of(0.0, 0.0, 3.0)), "0 (0 to 3)");
    }

    #[test]
    fn ratios_say_where_they_are_in_doubt() {
        let check = |is, first, expected: (&str, bool)| {
            assert_eq!(ratio(is, first), (expected.0.to_owned(), expected.1));
        };
        let first = Some(of(9.0, 10.0, 11.0));
        check(Some(of(4.0, 5.0, 6.0)), first, ("0.50", false));
        check(Some(of(4.0, 8.0, 9.0)), first, ("0.80 ~", true));
        check(Some(of(10.0, 10.0, 10.0)), first, ("1.00", false));
        check(None, first, ("-", false));
        check(first, None, ("-", false));
        check(first, Some(of(0.0, 0.0, 0.0)), ("-", false));
    }

    #[test]
    fn labels_keep_their_neighbours() {
        let column = |labels: &[&str]| {
            let figure =
                |label: &&str| Figure { label: (*label).to_owned(), spread: of(1.0, 1.0, 1.0) };
            labels.iter().map(figure).collect::<Vec<_>>()
        };
        let columns = [column(&["a", "c", "d"]), column(&["b", "c", "e", "d", "f"])];
        assert_eq!(labels(&columns), ["b", "a", "c", "e", "d", "f"]);
    }

    #[test]
    fn commits_are_shortened_where_they_are_hashes() {
        assert_eq!(short("2c797b43deadbeef00112233445566778899aabb"), "2c797b43dead");
        assert_eq!(short("v0.1.0-3-g2c797b43dead-dirty"), "v0.1.0-3-g2c797b43dead-dirty");
    }
}
