//! What a run says to people: progress while it goes on, and tables.

use std::fmt::Write as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::stats::Spread;

/// How often a progress bar is drawn, in a second.
const DRAWN_HZ: u8 = 4;

/// A bar on the terminal, to an end that may not be known; nothing where standard error is none.
pub(crate) fn progress_bar(length: Option<u64>, label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {human_pos}/{human_len} {eta}");
    // Drawn seldom, for it is the receivers' thread that draws.
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(DRAWN_HZ))
        .with_style(style.expect("the template is well-formed"))
        .with_message(label.to_owned())
}

/// Columns of text under headings; all but the first aligned to the right.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
        cells.chain([width(headings[column])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(widest).collect();
    let mut text = String::new();
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        for (column, (cell, &widest)) in row.iter().zip(&widths).enumerate() {
            let padding = widest - width(cell);
            let (before, after) = if column == 0 { (0, padding) } else { (padding + 2, 0) };
            write!(text, "{:before$}{cell}{:after$}", "", "").expect("a String takes all");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A number with so many decimals, or a dash.
pub(crate) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// A figure over the rounds: its median, and its extremes.
pub(crate) fn spread(value: Option<Spread>, decimals: usize) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |is| format!("{:.decimals$} ({:.decimals$} to {:.decimals$})", is.median, is.min, is.max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["what", "ns"], &[row(["ring", "12345"]), row(["a longer one", "7"])]);
        let expected = "what             ns\n\
                        ring          12345\n\
                        a longer one      7\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn figures_say_their_spread() {
        let is = Spread { median: 1.254, min: 1.0, max: 2.0 };
        assert_eq!(spread(Some(is), 2), "1.25 (1.00 to 2.00)");
        assert_eq!(spread(None, 2), "-");
        assert_eq!(number(Some(2.5), 0), "2");
        assert_eq!(number(None, 1), "-");
    }
}
