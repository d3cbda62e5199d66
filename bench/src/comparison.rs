//! `report`: results side by side, as a table on the terminal and as a page with plots.

mod difference;
mod file;
mod plot;
mod table;

use std::fs;

use crate::Result;
use crate::args::ReportArgs;
use crate::report::Table;
use file::ResultFile;
use plot::Plot;

const STYLE: &str = "body{font:15px sans-serif;margin:2em;max-width:75em}\
table{border-collapse:collapse;margin:1em 0}\
th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
svg{max-width:100%;height:auto}.note{color:#a40}.legend{color:#555;font-size:13px}";

/// Prints the comparison of each scenario, and writes the page and the plots.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let scenarios = file::by_scenario(file::load(&args.files)?)?;
    let sections: Vec<Section> = scenarios.iter().map(|files| Section::of(files)).collect();
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
    fs::write(&page, render(&sections)).map_err(cannot)?;
    println!("written to {}", page.display());
    Ok(())
}

/// The comparison of the results of one scenario.
struct Section {
    scenario: String,
    results: Table,
    /// Other differences, as sentences.
    differences: Vec<String>,
    figures: Table,
    plots: Vec<Plot>,
}

impl Section {
    /// Compares results of one scenario.
    fn of(files: &[ResultFile]) -> Self {
        Self {
            scenario: files[0].scenario.clone(),
            results: table::of_files(files),
            differences: difference::between(files),
            figures: table::of_figures(files),
            plots: plot::plots(files),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.scenario, self.results.text());
        for difference in &self.differences {
            text += &format!("NOTE {difference}\n");
        }
        if !self.differences.is_empty() {
            text.push('\n');
        }
        text + &self.figures.text()
    }

    fn html(&self) -> String {
        let note = |words: &String| format!("<p class=\"note\">{}</p>\n", escape(words));
        let notes: String = self.differences.iter().map(note).collect();
        let plots: String =
            self.plots.iter().map(|plot| format!("<p>{}</p>\n", plot.svg)).collect();
        let (results, figures) = (table(&self.results), table(&self.figures));
        format!("<h1>{}</h1>\n{results}{notes}{figures}{plots}", escape(&self.scenario))
    }
}

/// The page, including the plots.
fn render(sections: &[Section]) -> String {
    let sections: String = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>comet-bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{sections}</body>\n</html>\n"
    )
}

fn table(table: &Table) -> String {
    let row = |tag: &str, cells: &[String]| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = table.rows.iter().map(|cells| row("td", cells)).collect();
    let legend: String = table.legend.iter().map(|line| escape(line) + "<br>\n").collect();
    let headings = row("th", &table.headings);
    format!("<table>\n{headings}{rows}</table>\n<p class=\"legend\">{legend}</p>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_result_file_is_escaped_in_html() {
        let cells = |cell: &str| vec![cell.to_owned()];
        let table = |heading| Table::new(&[heading], vec![cells("a<b")], &["<c>"]);
        let section = Section {
            scenario: "<script>".to_owned(),
            results: table("<b>&"),
            differences: cells("<i>"),
            figures: table("figure"),
            plots: Vec::new(),
        };
        let page = render(&[section]);
        for escaped in [
            "<h1>&lt;script&gt;</h1>",
            "<th>&lt;b&gt;&amp;</th>",
            "<td>a&lt;b</td>",
            "&lt;c&gt;<br>",
            "&lt;i&gt;",
        ] {
            assert!(page.contains(escaped), "{escaped}: {page}");
        }
    }
}
