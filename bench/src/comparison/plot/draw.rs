//! Draws lines on two axes, as SVG.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::Line;
use super::scale::Scale;

/// Pixels.
/// At least; a long legend takes more.
const HEIGHT: u32 = 360;
const CHART_WIDTH: u32 = 640;
/// The legend stands beside the chart, where it hides nothing.
const LEGEND_LINE: i32 = 32;
const LEGEND_ROW: i32 = 20;
/// An estimate, since nobody knows the font that it will be shown in.
const LETTER_WIDTH: u32 = 8;

const FONT: (&str, u32) = ("sans-serif", 16);
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
/// Dash and gap, result by result, none for a line that is whole: what is drawn later hides nothing.
const DASHES: [Option<(u32, u32)>; 4] = [None, Some((8, 5)), Some((2, 4)), Some((16, 4))];

/// What the axes say.
pub(super) struct Axes {
    pub x: &'static str,
    pub y: &'static str,
    pub x_scale: Scale,
    pub y_scale: Scale,
}

/// The lines on the axes, with a legend.
pub(super) fn svg(axes: &Axes, lines: &[Line]) -> String {
    let longest = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0);
    let longest = u32::try_from(longest).expect("a label is short");
    let rows = u32::try_from(lines.len() + 1).expect("there are few lines");
    let size = (
        CHART_WIDTH + 2 * LEGEND_LINE.unsigned_abs() + longest * LETTER_WIDTH,
        HEIGHT.max(rows * LEGEND_ROW.unsigned_abs()),
    );
    let mut svg = String::new();
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

fn draw_chart(area: &Area<'_>, axes: &Axes, lines: &[Line]) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = axes.x_scale.axis(points().map(|point| point.0));
    let y = axes.y_scale.axis(points().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        // Half of the last mark's label stands there.
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
    for line in lines {
        let place = |&(x, y): &(f64, f64)| (axes.x_scale.place(x), axes.y_scale.place(y));
        let (points, style) = (line.points.iter().map(place), colour(line).stroke_width(2));
        match dashes(line) {
            None => chart.draw_series(LineSeries::new(points, style))?,
            Some((dash, gap)) => {
                chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?
            }
        };
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, lines: &[Line]) -> Drawn {
    for (index, line) in lines.iter().enumerate() {
        let row = i32::try_from(index).expect("there are few lines");
        let y = LEGEND_ROW * (row + 1);
        let (ends, style) = ([(0, y), (LEGEND_LINE, y)], colour(line).stroke_width(2));
        match dashes(line) {
            None => area.draw(&PathElement::new(ends, style))?,
            Some((dash, gap)) => area.draw(&DashedPathElement::new(ends, dash, gap, style))?,
        }
        let place = (LEGEND_LINE + 6, y - LEGEND_ROW / 4);
        area.draw(&Text::new(line.label.clone(), place, FONT))?;
    }
    Ok(())
}

/// The same for a subject in all results.
fn colour(line: &Line) -> RGBColor {
    COLOURS[line.subject % COLOURS.len()]
}

/// The same for all subjects of a result, as far as there are colours for them.
fn dashes(line: &Line) -> Option<(u32, u32)> {
    DASHES[(line.result + line.subject / COLOURS.len()) % DASHES.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, subject: usize, result: usize) -> Line {
        Line { label: label.to_owned(), subject, result, points: vec![(0.0, 1.0), (1.0, 900.0)] }
    }

    fn stroke(line: &Line) -> String {
        let RGBColor(red, green, blue) = colour(line);
        format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"")
    }

    #[test]
    fn each_line_is_drawn_once_and_named_once() {
        let axes = |x_scale, y_scale| Axes { x: "seconds", y: "things", x_scale, y_scale };
        for scales in [(Scale::Time, Scale::Linear), (Scale::Percentile, Scale::Logarithmic)] {
            let lines = [line("first", 0, 0), line("a < b & \"c\"", 1, 0)];
            let svg = svg(&axes(scales.0, scales.1), &lines);
            assert_eq!(svg, super::svg(&axes(scales.0, scales.1), &lines), "it is always the same");
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
            for (line, label) in lines.iter().zip(["first", "a &lt; b &amp; &quot;c&quot;"]) {
                let drawn = svg.lines().filter(|tag| tag.contains(&stroke(line))).count();
                assert_eq!(drawn, 2, "once in the chart, once in the legend: {svg}");
                assert_eq!(svg.lines().filter(|text| *text == label).count(), 1, "{svg}");
            }
            assert!(svg.contains("\nseconds\n") && svg.contains("\nthings\n"), "{svg}");
        }
    }

    #[test]
    fn a_subject_has_its_colour_in_each_result_and_other_dashes() {
        let axes = Axes { x: "seconds", y: "things", x_scale: Scale::Time, y_scale: Scale::Linear };
        let lines = [line("a comet", 0, 0), line("b comet", 0, 1)];
        let strokes = |lines: &[Line]| {
            let svg = svg(&axes, lines);
            svg.lines().filter(|tag| tag.contains(&stroke(&lines[0]))).count()
        };
        assert_eq!(stroke(&lines[0]), stroke(&lines[1]));
        assert_eq!(strokes(&lines[..1]), 2);
        assert!(strokes(&lines[1..]) > 10, "it is dashed");
        assert_ne!(dashes(&line("", 0, 0)), dashes(&line("", COLOURS.len(), 0)));
    }

    #[test]
    fn a_long_legend_is_not_cut_off() {
        let axes = Axes { x: "seconds", y: "things", x_scale: Scale::Time, y_scale: Scale::Linear };
        let lines: Vec<Line> = (0..30).map(|index| line("one of many", index, 0)).collect();
        let svg = svg(&axes, &lines);
        let height = svg.split("height=\"").nth(1).and_then(|rest| rest.split('"').next());
        let height: i32 = height.unwrap().parse().unwrap();
        assert!(height > LEGEND_ROW * 30, "{height}");
    }
}
