//! Draws lines on two axes, as SVG.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::Line;

/// Pixels.
const HEIGHT: u32 = 360;
const CHART_WIDTH: u32 = 640;
/// The legend stands beside the chart, where it hides nothing.
const LEGEND_LINE: i32 = 20;
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
/// Steps of a linear axis, about.
const STEPS: f64 = 6.0;

/// What the axes say.
pub(super) struct Axes {
    pub x: &'static str,
    pub y: &'static str,
    pub x_scale: Scale,
    pub y_scale: Scale,
}

/// How an axis goes from its one end to the other.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// In powers of ten.
    Logarithmic,
    /// Percent, each nine as long as the one before it.
    Percentile,
}

/// An axis in its scale's own measure, from its start to its end, and where its marks are.
struct Axis {
    start: f64,
    end: f64,
    marks: Vec<f64>,
}

/// The lines on the axes, with a legend.
pub(super) fn svg(axes: &Axes, lines: &[Line]) -> String {
    let longest = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or(0);
    let longest = u32::try_from(longest).expect("a label is short");
    let size = (CHART_WIDTH + 2 * LEGEND_LINE.unsigned_abs() + longest * LETTER_WIDTH, HEIGHT);
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
    for (index, line) in lines.iter().enumerate() {
        let place = |&(x, y): &(f64, f64)| (axes.x_scale.place(x), axes.y_scale.place(y));
        let style = colour(index).stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().map(place), style))?;
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, lines: &[Line]) -> Drawn {
    for (index, line) in lines.iter().enumerate() {
        let row = i32::try_from(index).expect("there are few lines");
        let y = LEGEND_ROW * (row + 1);
        let style = colour(index).stroke_width(2);
        area.draw(&PathElement::new([(0, y), (LEGEND_LINE, y)], style))?;
        let place = (LEGEND_LINE + 6, y - LEGEND_ROW / 4);
        area.draw(&Text::new(line.label.clone(), place, FONT))?;
    }
    Ok(())
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

impl Scale {
    /// Where a value stands on the axis, in the axis's own measure.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.max(0.1).log10(),
            Self::Percentile => -(1.0 - value / 100.0).log10(),
        }
    }

    /// An axis that holds `values`.
    fn axis(self, values: impl Iterator<Item = f64>) -> Axis {
        let places = values.map(|value| self.place(value));
        let (least, most) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), place| {
                (least.min(place), most.max(place))
            });
        match self {
            Self::Linear => {
                let step = round_step(most / STEPS);
                let steps = (most / step).ceil().max(1.0) as u32;
                let marks = (0..=steps).map(|mark| f64::from(mark) * step).collect();
                Axis { start: 0.0, end: f64::from(steps) * step, marks }
            }
            Self::Logarithmic => {
                let (start, end) = (least.floor(), most.ceil().max(least.floor() + 1.0));
                let marks =
                    (0..=(end - start) as u32).map(|power| start + f64::from(power)).collect();
                Axis { start, end, marks }
            }
            Self::Percentile => {
                let end = most.max(1.0);
                let all = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
                let all = all.map(|percent| self.place(percent)).into_iter();
                let marks = all.filter(|place| *place <= end + 1e-3).collect();
                Axis { start: 0.0, end, marks }
            }
        }
    }

    /// What a mark says.
    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => short(place),
            Self::Logarithmic => short(10_f64.powf(place)),
            Self::Percentile => {
                let percent = 100.0 - 10_f64.powf(2.0 - place);
                format!("{} %", (percent * 1e3).round() / 1e3)
            }
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (place - self.start) / (self.end - self.start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.start..self.end
    }
}

/// The next of 1, 2, 5, 10, 20, ...
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A number with its thousands as letters.
fn short(value: f64) -> String {
    let (value, letter) = match value.abs() {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{letter}", (value * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_drawn_once_and_named_once() {
        let line =
            |label: &str| Line { label: label.to_owned(), points: vec![(0.0, 1.0), (1.0, 900.0)] };
        let axes = |x_scale, y_scale| Axes { x: "seconds", y: "things", x_scale, y_scale };
        for scales in [(Scale::Linear, Scale::Linear), (Scale::Percentile, Scale::Logarithmic)] {
            let lines = [line("first"), line("a < b & \"c\"")];
            let svg = svg(&axes(scales.0, scales.1), &lines);
            assert_eq!(svg, super::svg(&axes(scales.0, scales.1), &lines), "it is always the same");
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
            for (index, label) in ["first", "a &lt; b &amp; &quot;c&quot;"].into_iter().enumerate()
            {
                let RGBColor(red, green, blue) = colour(index);
                let stroke = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"");
                let drawn = svg.lines().filter(|tag| tag.contains(&stroke)).count();
                assert_eq!(drawn, 2, "once in the chart, once in the legend: {svg}");
                assert_eq!(svg.lines().filter(|text| *text == label).count(), 1, "{svg}");
            }
            assert!(svg.contains("\nseconds\n") && svg.contains("\nthings\n"), "{svg}");
        }
    }

    #[test]
    fn axes_are_marked_at_round_numbers() {
        let check = |scale: Scale, values: &[f64], expected: &[&str]| {
            let axis = scale.axis(values.iter().copied());
            let labels: Vec<String> = axis.marks.iter().map(|at| scale.label(*at)).collect();
            assert_eq!(labels, expected, "{values:?}");
            assert!(
                values.iter().all(|value| (axis.start..=axis.end).contains(&scale.place(*value)))
            );
        };
        check(Scale::Linear, &[0.0, 5.1], &["0", "1", "2", "3", "4", "5", "6"]);
        check(Scale::Linear, &[9500.0], &["0", "2k", "4k", "6k", "8k", "10k"]);
        check(Scale::Linear, &[0.0], &["0", "0"]);
        check(Scale::Logarithmic, &[7.0, 1200.0], &["1", "10", "100", "1k", "10k"]);
        check(Scale::Logarithmic, &[100.0], &["100", "1k"]);
        let all = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"];
        check(Scale::Percentile, &[0.0, 99.99], &all);
        check(Scale::Percentile, &[0.0, 95.0], &all[..3]);
    }
}
