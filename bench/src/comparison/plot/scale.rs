//! Scales: the position of a value on an axis, the length of the axis, and the positions of its marks.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

/// The most marks of a linear axis: labels can be close below each other, but not beside each other.
const MARKS_MAX: usize = 8;
/// Space above the highest value of a linear axis, as a share of it.
const HEADROOM: f64 = 0.06;
/// Up to this many powers of ten, a logarithmic axis has marks in between.
const FINE_POWERS_MAX: f64 = 2.5;
/// More than the rounding error of a logarithm.
const EPSILON: f64 = 1e-9;

/// How values are placed along an axis.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// From 0 to above the highest value.
    Linear,
    /// In powers of ten.
    Logarithmic,
    /// Percent, where each further nine takes the same length.
    Percentile,
}

/// An axis in the units of its scale: its start and end, and the positions of its marks.
pub(super) struct Axis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Scale {
    /// The position of a value on the axis, in the units of its scale.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.max(0.1).log10(),
            Self::Percentile => -(1.0 - value / 100.0).log10(),
        }
    }

    /// An axis that holds `values`.
    pub(super) fn axis(self, values: impl Iterator<Item = f64>) -> Axis {
        let places = values.map(|value| self.place(value));
        let (least, most) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), place| {
                (least.min(place), most.max(place))
            });
        match self {
            Self::Linear => {
                let range = 0.0..if most > 0.0 { most * (1.0 + HEADROOM) } else { 1.0 };
                Axis { marks: RangedCoordf64::from(range.clone()).key_points(MARKS_MAX), range }
            }
            Self::Logarithmic => logarithmic(least, most),
            Self::Percentile => {
                let end = most.max(1.0);
                let all = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
                let marks = all.into_iter().map(|percent| self.place(percent));
                let marks = marks.filter(|place| *place <= end + 1e-3).collect();
                Axis { range: 0.0..end, marks }
            }
        }
    }

    /// The label of a mark.
    pub(super) fn label(self, place: f64) -> String {
        match self {
            Self::Linear => short(place),
            Self::Logarithmic => short(10_f64.powf(place)),
            Self::Percentile => format!("{} %", rounded(100.0 - 10_f64.powf(2.0 - place))),
        }
    }
}

/// From the last mark below `least` to the first above `most`.
fn logarithmic(least: f64, most: f64) -> Axis {
    let factors: &[f64] = if most - least <= FINE_POWERS_MAX { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = least.floor() as i32..=most.ceil() as i32 + 1;
    let all = powers.flat_map(|power| factors.iter().map(move |is| f64::from(power) + is.log10()));
    let all: Vec<f64> = all.collect();
    let start = all.iter().rposition(|mark| *mark <= least + EPSILON).unwrap_or(0);
    let end = all.iter().position(|mark| *mark >= most - EPSILON).unwrap_or(0).max(start + 1);
    Axis { range: all[start]..all[end], marks: all[start..=end].to_vec() }
}

/// A number with a letter for thousands, millions and so on.
fn short(value: f64) -> String {
    let (value, letter) = match value.abs() {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{letter}", rounded(value))
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_marked_at_round_numbers() {
        let check = |scale: Scale, values: &[f64], expected: &[&str]| {
            let Axis { range, marks } = scale.axis(values.iter().copied());
            let labels: Vec<String> = marks.iter().map(|at| scale.label(*at)).collect();
            assert_eq!(labels, expected, "{values:?}");
            let holds = |value: &f64| {
                let place = scale.place(*value);
                (range.start - EPSILON..=range.end + EPSILON).contains(&place)
            };
            assert!(values.iter().all(holds), "{values:?}");
        };
        check(Scale::Linear, &[0.0, 5.1], &["0", "1", "2", "3", "4", "5"]);
        check(Scale::Linear, &[9500.0], &["0", "2k", "4k", "6k", "8k", "10k"]);
        check(Scale::Linear, &[0.0], &["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        let fine = ["5", "10", "20", "50", "100", "200", "500", "1k"];
        check(Scale::Logarithmic, &[7.0, 900.0], &fine);
        check(Scale::Logarithmic, &[7.0, 12_000.0], &["1", "10", "100", "1k", "10k", "100k"]);
        check(Scale::Logarithmic, &[100.0], &["100", "200"]);
        check(Scale::Logarithmic, &[0.0, 500.0], &["0.1", "1", "10", "100", "1k"]);
        let all = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"];
        check(Scale::Percentile, &[0.0, 99.99], &all);
        check(Scale::Percentile, &[0.0, 95.0], &all[..3]);
    }
}
