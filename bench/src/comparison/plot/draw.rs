//! Draws lines on two axes, as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged as _;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use serde::Deserialize;

use super::scale::Scale;

/// Pixels; a long legend takes more height.
const HEIGHT: u32 = 400;
const CHART_WIDTH: u32 = 640;
/// The legend is beside the chart, where it covers nothing.
const LEGEND_LINE: i32 = 32;
const LEGEND_ROW: i32 = 20;
/// An estimate: the font of the viewer is not known.
const LETTER_WIDTH: u32 = 8;

const TITLE_FONT: (&str, u32) = ("sans-serif", 19);
const FONT: (&str, u32) = ("sans-serif", 16);
const MARK_FONT: (&str, u32) = ("sans-serif", 13);
/// Names of marks close to each other are placed in rows below each other.
const MARK_ROWS: usize = 4;
const GREY: RGBColor = RGBColor(136, 136, 136);
/// Colours that the colour-blind can tell apart (Okabe and Ito), without the yellow.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
/// Dash and gap for each result, so that lines drawn later do not cover the earlier ones; the first line is solid.
const DASHES: [(u32, u32); 4] = [(1_000_000, 1), (8, 5), (2, 4), (16, 4)];

pub(super) type Points = Vec<(f64, f64)>;

/// Points with a name.
#[derive(PartialEq, Debug)]
pub(super) struct Line {
    pub label: String,
    /// The numbers of its subject and of its result: lines that share one of them look alike.
    pub subject: usize,
    pub result: usize,
    pub points: Points,
}

/// A time with a name: the beginning of a phase.
#[derive(Deserialize)]
pub(super) struct Mark {
    pub start_s: f64,
    pub name: String,
}

/// The labels of the axes, and the title above.
pub(super) struct Axes<'a> {
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub marks: &'a [Mark],
}

/// The lines on the axes, with a legend.
pub(super) fn svg(axes: &Axes<'_>, lines: &[Line]) -> String {
    let longest = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0) as u32;
    let rows = lines.len() as u32 + 1;
    let width = CHART_WIDTH + 2 * LEGEND_LINE as u32 + longest * LETTER_WIDTH;
    let mut svg = String::new();
    let size = (width, HEIGHT.max(rows * LEGEND_ROW as u32));
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = root.fill(&WHITE).and_then(|()| {
        let (chart, legend) = root.split_horizontally(CHART_WIDTH);
        draw_chart(&chart, axes, lines)?;
        draw_legend(&legend, lines)?;
        root.present()
    });
    drawn.expect("a String takes all");
    drop(root);
    svg
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw_chart(area: &Area<'_>, axes: &Axes<'_>, lines: &[Line]) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = axes.x_scale.axis(points().map(|point| point.0));
    let y = axes.y_scale.axis(points().map(|point| point.1));
    let top = y.range().end;
    let mut chart = ChartBuilder::on(area)
        .caption(&axes.title, TITLE_FONT)
        .margin(12)
        // Room for half of the last mark's label.
        .margin_right(36)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .label_style(FONT)
        .light_line_style(TRANSPARENT)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|at| axes.x_scale.label(*at))
        .y_label_formatter(&|at| axes.y_scale.label(*at))
        .draw()?;
    for (index, mark) in axes.marks.iter().enumerate() {
        let ends = [(mark.start_s, 0.0), (mark.start_s, top)];
        chart.draw_series([PathElement::new(ends, GREY)])?;
        let row = (index % MARK_ROWS) as i32;
        let name = Text::new(mark.name.clone(), (3, row * 14), MARK_FONT.into_font().color(&GREY));
        chart.draw_series([EmptyElement::at((mark.start_s, top)) + name])?;
    }
    for line in lines {
        let place = |&(x, y): &(f64, f64)| (axes.x_scale.place(x), axes.y_scale.place(y));
        let (points, (dash, gap)) = (line.points.iter().map(place), dashes(line));
        let style = colour(line).stroke_width(2);
        chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, lines: &[Line]) -> Drawn {
    for (line, y) in lines.iter().zip((LEGEND_ROW..).step_by(LEGEND_ROW as usize)) {
        let (ends, (dash, gap)) = ([(0, y), (LEGEND_LINE, y)], dashes(line));
        area.draw(&DashedPathElement::new(ends, dash, gap, colour(line).stroke_width(2)))?;
        let place = (LEGEND_LINE + 6, y - LEGEND_ROW / 4);
        area.draw(&Text::new(line.label.clone(), place, FONT))?;
    }
    Ok(())
}

/// The colour, the same for a subject in all results.
fn colour(line: &Line) -> RGBColor {
    COLOURS[line.subject % COLOURS.len()]
}

/// The dashes, the same for all subjects of a result, as long as there are enough colours.
fn dashes(line: &Line) -> (u32, u32) {
    DASHES[(line.result + line.subject / COLOURS.len()) % DASHES.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, subject: usize, result: usize) -> Line {
        Line { label: label.to_owned(), subject, result, points: vec![(0.0, 1.0), (1.0, 900.0)] }
    }

    fn drawn(x_scale: Scale, y_scale: Scale, lines: &[Line]) -> String {
        let title = "a title".to_owned();
        svg(&Axes { title, x: "seconds", y: "things", x_scale, y_scale, marks: &[] }, lines)
    }

    /// Tags in the colour of a line.
    fn strokes(svg: &str, line: &Line) -> usize {
        let RGBColor(red, green, blue) = colour(line);
        let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"");
        svg.lines().filter(|tag| tag.contains(&stroke)).count()
    }

    #[test]
    fn each_line_is_drawn_once_and_named_once() {
        for scales in [(Scale::Linear, Scale::Linear), (Scale::Percentile, Scale::Logarithmic)] {
            let lines = [line("first", 0, 0), line("a < b & \"c\"", 1, 0)];
            let svg = drawn(scales.0, scales.1, &lines);
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
            for line in &lines {
                assert_eq!(strokes(&svg, line), 2, "once in the chart, once in the legend: {svg}");
            }
            for words in ["first", "a &lt; b &amp; &quot;c&quot;", "a title", "seconds", "things"] {
                assert_eq!(svg.lines().filter(|text| *text == words).count(), 1, "{words}: {svg}");
            }
        }
    }

    #[test]
    fn a_subject_has_its_colour_in_each_result_and_other_dashes() {
        let of = |result| {
            let line = line("comet", 0, result);
            strokes(&drawn(Scale::Linear, Scale::Linear, std::slice::from_ref(&line)), &line)
        };
        assert_eq!(of(0), 2);
        assert!(of(1) > 10, "it is dashed");
        assert_ne!(dashes(&line("", 0, 0)), dashes(&line("", COLOURS.len(), 0)));
    }

    #[test]
    fn a_long_legend_is_not_cut_off() {
        let lines: Vec<Line> = (0..30).map(|index| line("one of many", index, 0)).collect();
        let svg = drawn(Scale::Linear, Scale::Linear, &lines);
        let height = svg.split("height=\"").nth(1).and_then(|rest| rest.split('"').next());
        assert!(height.unwrap().parse::<i32>().unwrap() > LEGEND_ROW * 30, "{svg}");
    }
}
