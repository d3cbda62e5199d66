//! The output of a run for people: progress while it runs, and tables.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::figures;
use crate::stats::Spread;

/// How often a progress bar is drawn per second.
const DRAWN_HZ: u8 = 4;
/// Shown instead of a figure that was not measured.
pub(crate) const NOT_MEASURED: &str = "–";
/// The legend for it.
const DASH: &str = "–: not measured";

/// A bar on the terminal; its length may be unknown. It is not shown if standard error is no terminal.
pub(crate) fn progress_bar(length: Option<u64>, label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:36} {wide_bar} {human_pos}/{human_len} {eta}");
    // Drawn rarely, since the receivers' thread draws it.
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(DRAWN_HZ))
        .with_style(style.expect("the template is well-formed"))
        .with_message(label.to_owned())
}

/// Cells with headings, and the sentences that explain them.
#[derive(Debug)]
pub(crate) struct Table {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub legend: Vec<String>,
}

impl Table {
    /// A table of these cells.
    pub(crate) fn new(headings: &[&str], rows: Vec<Vec<String>>, legend: &[&str]) -> Self {
        let [headings, legend] =
            [headings, legend].map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
        Self { headings, rows, legend }
    }

    /// The figures `names`, separated by commas, of turns; each turn has a row named by its subject and its round.
    pub(crate) fn of_turns<'a>(turns: impl IntoIterator<Item = &'a Value>, names: &str) -> Self {
        let label = |turn: &Value| {
            format!("{} {}", turn["subject"].as_str().unwrap_or_default(), turn["round"])
        };
        let rows: Vec<_> = turns.into_iter().map(|turn| (label(turn), turn.clone())).collect();
        Self::of("turn", &rows, names)
    }

    /// The figures `names`, separated by commas, of measurements; each measurement has a row with the label in front of
    /// it. Panics if a name is not declared in [`figures`].
    pub(crate) fn of(heading: &str, rows: &[(String, Value)], names: &str) -> Self {
        let all = figures::all();
        let labels = rows.iter().map(|(label, _)| vec![label.clone()]);
        let mut table = Self::new(&[heading], labels.collect(), &[]);
        for name in names.split(", ") {
            let figure = all.iter().find(|is| is.name == name).expect("the figure is declared");
            table.headings.push(figure.label(" "));
            for (row, (_, measurement)) in table.rows.iter_mut().zip(rows) {
                let reasons = figure.reasons(measurement);
                row.push(reasons.unwrap_or_else(|| cell(figure.of(measurement))));
            }
            table.legend.extend(figure.line().filter(|line| !table.legend.contains(line)));
        }
        table.explain_dashes();
        table
    }

    /// The same table with figures as rows and measurements as columns.
    pub(crate) fn transposed(self) -> Self {
        let all: Vec<_> = std::iter::once(self.headings).chain(self.rows).collect();
        let column =
            |index: usize| all.iter().map(|row: &Vec<String>| row[index].clone()).collect();
        let mut columns: Vec<Vec<String>> = (0..all[0].len()).map(column).collect();
        Self { headings: columns.remove(0), rows: columns, legend: self.legend }
    }

    /// Explains dashes if there are any.
    pub(crate) fn explain_dashes(&mut self) {
        if self.rows.iter().flatten().any(|cell| cell == NOT_MEASURED) {
            self.legend.push(DASH.to_owned());
        }
    }

    /// Columns with headings of several lines, all but the first aligned to the right, followed by the legend.
    pub(crate) fn text(&self) -> String {
        let columns = 0..self.headings.len();
        let headings: Vec<Vec<String>> = (columns.clone())
            .map(|column| wrap(&self.headings[column], widest(&self.rows, column)))
            .collect();
        let height = headings.iter().map(Vec::len).max().unwrap_or(0);
        let heading = |line: usize| {
            let cell = |lines: &Vec<String>| {
                // Headings are aligned at the bottom, just above the cells.
                (line + lines.len()).checked_sub(height).map_or("", |at| &lines[at]).to_owned()
            };
            headings.iter().map(cell).collect::<Vec<_>>()
        };
        let rows: Vec<_> = (0..height).map(heading).chain(self.rows.iter().cloned()).collect();
        let widths: Vec<usize> = columns.map(|column| widest(&rows, column)).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") }
            });
            text += cells.collect::<String>().trim_end();
            text.push('\n');
        }
        for line in &self.legend {
            text += &format!("  {line}\n");
        }
        text
    }
}

/// Breaks a heading at spaces, so that it is no wider than the cells below it or than its longest word.
fn wrap(heading: &str, cells: usize) -> Vec<String> {
    let longest = heading.split(' ').map(width).max().unwrap_or(0).max(cells);
    let mut lines: Vec<String> = Vec::new();
    for word in heading.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= longest => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn widest(rows: &[Vec<String>], column: usize) -> usize {
    rows.iter().map(|row| width(&row[column])).max().unwrap_or(0)
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A figure with about three digits, or a dash.
fn cell(value: Option<f64>) -> String {
    let Some(value) = value else { return NOT_MEASURED.to_owned() };
    format!("{value:.*}", decimals(&[value]))
}

/// A figure over the rounds: its median, and its extremes if they differ.
pub(crate) fn cell_of(value: Option<Spread>) -> String {
    let Some(is) = value.filter(|is| is.min < is.max) else {
        return cell(value.map(|is| is.median));
    };
    let decimals = decimals(&[is.median, is.min, is.max]);
    format!("{:.decimals$} ({:.decimals$} to {:.decimals$})", is.median, is.min, is.max)
}

/// The number of decimals, by the size of the first value; none if all are counts.
fn decimals(values: &[f64]) -> usize {
    match values[0].abs() {
        _ if values.iter().all(|value| value.fract() == 0.0) => 0,
        1000.0.. => 0,
        100.0.. => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_align_wrap_and_explain() {
        let turn = |received: u64, us: f64| json!({"deliveries": {"received": received}, "handshake": {"p50_us": us, "p99_us": us}});
        let rows = [("ring".to_owned(), turn(12_345, 7.5)), ("a longer one".to_owned(), json!({}))];
        let table = Table::of("turn", &rows, "received, handshake p50, handshake p99");
        let expected = "                        handshake  handshake\n\
                        turn          received     p50 us     p99 us\n\
                        ring             12345       7.50       7.50\n\
                        a longer one         –          –          –\n\
                        \x20 received: deliveries that came, each counted once\n\
                        \x20 handshake: from connect, or when a guest was due, to the reply to the authentication\n\
                        \x20 –: not measured\n";
        assert_eq!(table.text(), expected);
        let turned = table.transposed();
        assert_eq!(turned.headings, ["turn", "ring", "a longer one"]);
        assert_eq!(turned.rows[0], ["received", "12345", "–"]);
    }

    #[test]
    fn reasons_are_named() {
        let closed = json!({"closed_by_server": {"replaced": 2, "slow_consumer": 1}});
        let table = Table::of("turn", &[(String::new(), closed)], "closed");
        assert_eq!(table.rows[0][1], "2 replaced, 1 slow_consumer");
    }

    #[test]
    fn figures_have_their_spread() {
        let of = |min, median, max| Some(Spread { median, min, max });
        assert_eq!(cell_of(of(1.0, 1.254, 2.0)), "1.25 (1.00 to 2.00)");
        assert_eq!(cell_of(of(995.0, 1004.6, 1120.0)), "1005 (995 to 1120)");
        assert_eq!(cell_of(of(112.34, 112.34, 112.34)), "112.3");
        assert_eq!(cell_of(of(0.0, 0.0, 0.0)), "0");
        assert_eq!(cell_of(of(0.0, 0.0, 3.0)), "0 (0 to 3)");
        assert_eq!(cell_of(None), "–");
    }
}
