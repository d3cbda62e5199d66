//! A flame graph as one SVG without scripts: callers above their callees, each as wide as its share of the samples. The
//! tooltip of a frame has its name and its numbers. Written here because inferno is under the CDDL, which is not among
//! the licenses that comet may link.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Pixels.
const WIDTH: f64 = 1_200.0;
const ROW: f64 = 17.0;
const HEADER: f64 = 30.0;
/// A frame narrower than this could not be pointed at and is left out.
const NARROWEST: f64 = 0.3;
/// Width of a letter, and of the space before the first one.
const LETTER: f64 = 7.0;
const INDENT: f64 = 3.0;

/// Samples summed up by their stacks.
#[derive(Default)]
pub(crate) struct FlameGraph {
    root: Frame,
}

#[derive(Default)]
struct Frame {
    samples: u64,
    callees: BTreeMap<String, Frame>,
}

/// The position of a frame.
#[derive(Clone, Copy)]
struct Place<'a> {
    left: f64,
    row: usize,
    unit: &'a str,
}

impl FlameGraph {
    /// Adds `samples` with the stack `stack`, outermost caller first.
    pub(crate) fn add(&mut self, stack: impl IntoIterator<Item = String>, samples: u64) {
        self.root.samples += samples;
        let mut frame = &mut self.root;
        for name in stack {
            frame = frame.callees.entry(name).or_default();
            frame.samples += samples;
        }
    }

    /// The graph of samples that are counted in `unit`.
    pub(crate) fn svg(&self, title: &str, unit: &str) -> String {
        let total = self.root.samples;
        let mut rows = 0;
        let mut frames = String::new();
        self.draw(&mut frames, &mut rows, ("all", &self.root), Place { left: 0.0, row: 0, unit });
        let height = HEADER + ROW * rows as f64;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"monospace\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n\
             <text x=\"{INDENT}\" y=\"19\">{}: {total} {unit}</text>\n{frames}</svg>\n",
            escape(title)
        )
    }

    fn draw(&self, page: &mut String, rows: &mut usize, named: (&str, &Frame), place: Place<'_>) {
        let (name, frame) = named;
        let per_sample = WIDTH / self.root.samples.max(1) as f64;
        let width = per_sample * frame.samples as f64;
        if width < NARROWEST {
            return;
        }
        *rows = (*rows).max(place.row + 1);
        let share = 100.0 * frame.samples as f64 / self.root.samples.max(1) as f64;
        let Place { left, row, unit } = place;
        let top = HEADER + ROW * row as f64;
        let (text, tooltip) = (escape(&shortened(name, width)), escape(name));
        let _ = writeln!(
            page,
            "<g><title>{tooltip}: {} {unit}, {share:.2}%</title>\
             <rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{text}</text></g>",
            frame.samples,
            ROW - 1.0,
            color(name),
            left + INDENT,
            top + 12.0,
        );
        let mut left = left;
        for (name, callee) in &frame.callees {
            self.draw(page, rows, (name, callee), Place { left, row: row + 1, unit });
            left += per_sample * callee.samples as f64;
        }
    }
}

/// As much of `name` as fits into `width`.
fn shortened(name: &str, width: f64) -> String {
    let letters = ((width - 2.0 * INDENT) / LETTER).max(0.0) as usize;
    if name.chars().count() <= letters {
        return name.to_owned();
    }
    match letters {
        0..3 => String::new(),
        _ => name.chars().take(letters - 1).chain(['…']).collect(),
    }
}

/// A warm color, always the same for a name.
fn color(name: &str) -> String {
    let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("hsl({},90%,{}%)", sum % 55, 62 + sum / 55 % 12)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn frames_are_as_wide_as_their_share_and_lie_below_their_callers() {
        let mut graph = FlameGraph::default();
        graph.add(stack(&["core", "run", "send<u8>"]), 6);
        graph.add(stack(&["core", "run"]), 2);
        graph.add(stack(&["control"]), 2);
        let svg = graph.svg("CPU & more", "samples");
        for part in [
            "CPU &amp; more: 10 samples",
            "<title>all: 10 samples, 100.00%</title><rect x=\"0.0\" y=\"30\" width=\"1200.0\"",
            "<title>control: 2 samples, 20.00%</title><rect x=\"0.0\" y=\"47\" width=\"240.0\"",
            "<title>core: 8 samples, 80.00%</title><rect x=\"240.0\" y=\"47\" width=\"960.0\"",
            "<title>run: 8 samples, 80.00%</title><rect x=\"240.0\" y=\"64\" width=\"960.0\"",
            "<title>send&lt;u8&gt;: 6 samples, 60.00%</title><rect x=\"240.0\" y=\"81\" width=\"720.0\"",
            "viewBox=\"0 0 1200 98\"",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }

    #[test]
    fn nothing_to_draw_is_an_empty_picture() {
        let svg = FlameGraph::default().svg("heap", "bytes");
        assert!(svg.contains("heap: 0 bytes") && !svg.contains("<g>"), "{svg}");
    }

    #[test]
    fn names_are_cut_to_their_room() {
        let check = |width, expected: &str| assert_eq!(shortened("abcdef", width), expected);
        check(48.0, "abcdef");
        check(47.0, "abcd…");
        check(27.0, "ab…");
        check(26.0, "");
        check(0.5, "");
    }
}
