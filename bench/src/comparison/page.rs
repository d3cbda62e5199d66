//! The comparisons as one page that needs nothing beside it.

use super::table::{OVERLAP, Table};
use super::{Comparison, Plot};

const STYLE: &str = "body{font:15px sans-serif;margin:2em;max-width:75em}\
table{border-collapse:collapse;margin:1em 0}\
th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
svg{max-width:100%;height:auto}.note{color:#a40}";

/// The page, with the plots in it.
pub(super) fn render(comparisons: &[Comparison]) -> String {
    let sections: String = comparisons.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>comet-bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{sections}</body>\n</html>\n"
    )
}

fn section(comparison: &Comparison) -> String {
    let note = |words: &String| format!("<p class=\"note\">{}</p>\n", escape(words));
    let notes: String = comparison.differences.iter().map(note).collect();
    let plots: String = comparison.plots.iter().map(figure).collect();
    let overlap = match comparison.figures.has_overlaps {
        true => format!("<p>{}</p>\n", escape(OVERLAP)),
        false => String::new(),
    };
    format!(
        "<h1>{}</h1>\n{}{notes}{}{overlap}{plots}",
        escape(comparison.scenario()),
        table(&Table::of_files(&comparison.files)),
        table(&comparison.figures),
    )
}

fn figure(plot: &Plot) -> String {
    let (svg, caption) = (&plot.svg, escape(plot.caption));
    format!("<figure>\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n")
}

fn table(table: &Table) -> String {
    let row = |tag: &str, cells: &[String]| {
        let cells: String =
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = table.rows.iter().map(|cells| row("td", cells)).collect();
    format!("<table>\n{}{rows}</table>\n", row("th", &table.headings))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::tests::result;
    use super::*;

    #[test]
    fn what_comes_from_a_file_is_text() {
        let file = result("<b>&", "<script>", &json!({"a<b": {"median": 1, "min": 1, "max": 1}}));
        let page = render(&[Comparison::of(vec![file])]);
        assert!(page.contains("<h1>&lt;script&gt;</h1>"), "{page}");
        assert!(page.contains("<th>&lt;b&gt;&amp;</th>"), "{page}");
        assert!(page.contains("<td>a&lt;b</td><td>1</td>"), "{page}");
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
    }
}
