//! `report`: results side by side, as a table on the terminal and as a page with plots.

mod difference;
mod file;
mod page;
mod plot;
mod table;

use std::fs;

use crate::Result;
use crate::args::ReportArgs;
use file::ResultFile;
use page::Section;

/// Prints the comparison of each scenario, and writes the page and the plots.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let scenarios = file::by_scenario(file::load(&args.files)?)?;
    let sections: Vec<Section> = scenarios.iter().map(|files| compare(files)).collect();
    for section in &sections {
        println!("{}", section.text());
    }
    let cannot = |error| format!("cannot write to {}: {error}", args.out.display());
    fs::create_dir_all(&args.out).map_err(cannot)?;
    for section in &sections {
        for plot in &section.plots {
            let name = format!("{}-{}.svg", section.scenario, plot.name);
            fs::write(args.out.join(name), &plot.svg).map_err(cannot)?;
        }
    }
    let page = args.out.join("report.html");
    fs::write(&page, page::render(&sections)).map_err(cannot)?;
    println!("written to {}", page.display());
    Ok(())
}

/// Compares results of one scenario.
fn compare(files: &[ResultFile]) -> Section {
    Section {
        scenario: files[0].scenario.clone(),
        results: table::of_files(files),
        differences: difference::between(files),
        figures: table::of_figures(files),
        plots: plot::plots(files),
    }
}
