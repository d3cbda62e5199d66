//! `report`: results side by side, as a table on the terminal and as a page with plots.

mod difference;
mod figures;
mod file;
mod page;
mod plot;
mod table;

use std::fs;

use crate::Result;
use crate::args::ReportArgs;

use file::ResultFile;
use plot::Plot;
use table::Table;

/// Results of one scenario.
struct Comparison {
    files: Vec<ResultFile>,
    /// What else is not the same, in words.
    differences: Vec<String>,
    figures: Table,
    plots: Vec<Plot>,
}

/// Prints the comparison of each scenario, and writes the page and the plots.
///
/// # Errors
///
/// A file is no result that can be compared, or the folder cannot be written.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let comparisons: Vec<Comparison> =
        file::by_scenario(file::load(&args.files)?)?.into_iter().map(Comparison::of).collect();
    for comparison in &comparisons {
        println!("{}", comparison.text());
    }
    let cannot = |error| format!("cannot write to {}: {error}", args.out.display());
    fs::create_dir_all(&args.out).map_err(cannot)?;
    for comparison in &comparisons {
        for plot in &comparison.plots {
            let name = format!("{}-{}.svg", comparison.scenario(), plot.name);
            fs::write(args.out.join(name), &plot.svg).map_err(cannot)?;
        }
    }
    let page = args.out.join("report.html");
    fs::write(&page, page::render(&comparisons)).map_err(cannot)?;
    println!("written to {}", page.display());
    Ok(())
}

impl Comparison {
    fn of(files: Vec<ResultFile>) -> Self {
        Self {
            differences: difference::between(&files),
            figures: Table::of_figures(&files),
            plots: plot::plots(&files),
            files,
        }
    }

    fn scenario(&self) -> &str {
        &self.files[0].scenario
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.scenario(), Table::of_files(&self.files).text());
        for difference in &self.differences {
            text += &format!("NOTE {difference}\n");
        }
        if !self.differences.is_empty() {
            text.push('\n');
        }
        text += &self.figures.text();
        if self.figures.has_overlaps {
            text += &format!("{}\n", table::OVERLAP);
        }
        text
    }
}
