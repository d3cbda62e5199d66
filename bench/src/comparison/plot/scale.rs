//! Scales: where a value stands on an axis, how far the axis goes, and where its marks are.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// Steps of a linear axis, about: labels stand close below each other, but not beside each other.
const STEPS: f64 = 6.0;
const TIME_STEPS: f64 = 8.0;
/// A line nearer to the end of its axis than this share of a step would lie on the frame.
const HEADROOM: f64 = 0.05;
/// Up to so many powers of ten a logarithmic axis has marks in between.
const FINE_POWERS_MAX: f64 = 2.5;
/// Below what rounding does to a logarithm.
const EPSILON: f64 = 1e-9;

/// How an axis goes from its one end to the other.
#[derive(Clone, Copy)]
pub(in super::super) enum Scale {
    /// From 0 to a round number.
    Linear,
    /// From 0 to where the last line ends.
    Time,
    /// In powers of ten.
    Logarithmic,
    /// Percent, each nine as long as the one before it.
    Percentile,
}

/// An axis in its scale's own measure, from its start to its end, and where its marks are.
pub(super) struct Axis {
    start: f64,
    end: f64,
    marks: Vec<f64>,
}

impl Scale {
    /// Where a value stands on the axis, in the axis's own measure.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear | Self::Time => value,
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
                let most = if most > 0.0 { most } else { 1.0 };
                let step = round_step(most / STEPS);
                let marks = steps((most / step + HEADROOM).ceil(), step);
                Axis { start: 0.0, end: marks[marks.len() - 1], marks }
            }
            Self::Time => {
                let end = if most > 0.0 { most } else { 1.0 };
                let step = round_step(end / TIME_STEPS);
                Axis { start: 0.0, end, marks: steps((end / step).floor(), step) }
            }
            Self::Logarithmic => Axis::logarithmic(least, most),
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
    pub(super) fn label(self, place: f64) -> String {
        match self {
            Self::Linear | Self::Time => short(place),
            Self::Logarithmic => short(10_f64.powf(place)),
            Self::Percentile => {
                let percent = 100.0 - 10_f64.powf(2.0 - place);
                format!("{} %", (percent * 1e3).round() / 1e3)
            }
        }
    }
}

impl Axis {
    /// From the last mark below `least` to the first above `most`.
    fn logarithmic(least: f64, most: f64) -> Self {
        let factors: &[f64] =
            if most - least <= FINE_POWERS_MAX { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = least.floor() as i32..=most.ceil() as i32 + 1;
        let all: Vec<f64> = powers
            .flat_map(|power| factors.iter().map(move |factor| f64::from(power) + factor.log10()))
            .collect();
        let start = all.iter().rposition(|mark| *mark <= least + EPSILON).unwrap_or(0);
        let end = all.iter().position(|mark| *mark >= most - EPSILON).unwrap_or(0).max(start + 1);
        Self { start: all[start], end: all[end], marks: all[start..=end].to_vec() }
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

fn steps(count: f64, step: f64) -> Vec<f64> {
    (0..=count as u32).map(|mark| f64::from(mark) * step).collect()
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
    fn axes_are_marked_at_round_numbers() {
        let check = |scale: Scale, values: &[f64], expected: &[&str]| {
            let axis = scale.axis(values.iter().copied());
            let labels: Vec<String> = axis.marks.iter().map(|at| scale.label(*at)).collect();
            assert_eq!(labels, expected, "{values:?}");
            let holds = |value: &f64| {
                let place = scale.place(*value);
                (axis.start - EPSILON..=axis.end + EPSILON).contains(&place)
            };
            assert!(values.iter().all(holds), "{values:?}");
        };
        check(Scale::Linear, &[0.0, 5.1], &["0", "1", "2", "3", "4", "5", "6"]);
        check(Scale::Linear, &[9500.0], &["0", "2k", "4k", "6k", "8k", "10k"]);
        check(Scale::Linear, &[300.0], &["0", "50", "100", "150", "200", "250", "300", "350"]);
        check(Scale::Linear, &[0.0], &["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2"]);
        check(Scale::Time, &[0.0, 3.05], &["0", "0.5", "1", "1.5", "2", "2.5", "3"]);
        check(Scale::Time, &[2.0], &["0", "0.5", "1", "1.5", "2"]);
        check(
            Scale::Logarithmic,
            &[7.0, 900.0],
            &["5", "10", "20", "50", "100", "200", "500", "1k"],
        );
        check(Scale::Logarithmic, &[7.0, 12_000.0], &["1", "10", "100", "1k", "10k", "100k"]);
        check(Scale::Logarithmic, &[100.0], &["100", "200"]);
        check(Scale::Logarithmic, &[0.0, 500.0], &["0.1", "1", "10", "100", "1k"]);
        let all = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"];
        check(Scale::Percentile, &[0.0, 99.99], &all);
        check(Scale::Percentile, &[0.0, 95.0], &all[..3]);
    }
}
