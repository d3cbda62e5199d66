//! Numbers, sizes and durations, each in a range.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use super::{Bare, Check, Facts, Kind};
use crate::units::{Number, Size, Span, duration_text, duration_value, size_text, size_value};

/// A whole number in a range, which has to fit the type of the field.
pub(crate) struct Numbers {
    range: RangeInclusive<i64>,
    is_power_of_two: bool,
}

pub(crate) fn number(range: RangeInclusive<i64>) -> Numbers {
    Numbers { range, is_power_of_two: false }
}

pub(crate) fn power_of_two(range: RangeInclusive<i64>) -> Numbers {
    Numbers { range, is_power_of_two: true }
}

impl<T: TryFrom<i64> + TryInto<i64> + Copy> Kind<T> for Numbers {
    type Raw = Number;

    fn facts(&self) -> Facts {
        let (least, most) = (self.range.start(), self.range.end());
        let limits = if self.is_power_of_two {
            format!("A power of two from {least} to {most}.")
        } else {
            from_to(&(*least).into(), &(*most).into())
        };
        Facts { limits, ..Facts::new("number") }
    }

    fn check(&self, Number(number): Number, check: &mut Check<'_>) -> Option<T> {
        let (least, most) = (self.range.start(), self.range.end());
        if self.is_power_of_two {
            if !self.range.contains(&number) || number.count_ones() != 1 {
                let what = format!("{number} is not a power of two from {least} to {most}");
                return check.refuse(what);
            }
        } else if !self.range.contains(&number) {
            return check.out_of_range([number, *least, *most].map(|number| number.to_string()));
        }
        Some(fit(number))
    }

    fn write(&self, value: &T) -> Value {
        let number: i64 = (*value).try_into().ok().expect("read from 64 bits");
        number.into()
    }
}

/// `value` as the type of the field.
fn fit<S, T: TryFrom<S>>(value: S) -> T {
    T::try_from(value).ok().expect("every range fits the type it is for")
}

/// A size in bytes.
pub(crate) struct Sizes(RangeInclusive<u64>);

pub(crate) fn size(range: RangeInclusive<u64>) -> Sizes {
    Sizes(range)
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Kind<T> for Sizes {
    type Raw = Size;

    fn facts(&self) -> Facts {
        let limits = from_to(&size_value(*self.0.start()), &size_value(*self.0.end()));
        Facts { limits, bare: Bare::NumberOrText, ..Facts::new("size") }
    }

    fn check(&self, Size(size): Size, check: &mut Check<'_>) -> Option<T> {
        if !self.0.contains(&size) {
            return check.out_of_range([size, *self.0.start(), *self.0.end()].map(size_text));
        }
        Some(fit(size))
    }

    fn write(&self, value: &T) -> Value {
        size_value((*value).try_into().ok().expect("a size fits 64 bits"))
    }
}

/// A duration.
pub(crate) struct Durations {
    range: RangeInclusive<Duration>,
    /// Whether the kernel accepts only whole seconds.
    in_seconds: bool,
    /// Whether zero is allowed below the range, with a meaning of its own.
    or_zero: bool,
}

pub(crate) fn duration(range: RangeInclusive<Duration>) -> Durations {
    Durations { range, in_seconds: false, or_zero: false }
}

pub(crate) fn whole_seconds(range: RangeInclusive<Duration>) -> Durations {
    Durations { in_seconds: true, ..duration(range) }
}

pub(crate) fn zero_or(range: RangeInclusive<Duration>) -> Durations {
    Durations { or_zero: true, ..duration(range) }
}

impl Kind<Duration> for Durations {
    type Raw = Span;

    fn facts(&self) -> Facts {
        let [least, most] = [self.range.start(), self.range.end()].map(|end| duration_value(*end));
        let limits = match (self.in_seconds, self.or_zero) {
            (true, _) => format!("Whole seconds from {least} to {most}."),
            (false, true) => format!("\"0s\", or from {least} to {most}."),
            (false, false) => from_to(&least, &most),
        };
        Facts { limits, bare: Bare::Text, ..Facts::new("duration") }
    }

    fn check(&self, Span(duration): Span, check: &mut Check<'_>) -> Option<Duration> {
        let is_zero = self.or_zero && duration == Duration::ZERO;
        if !is_zero && !self.range.contains(&duration) {
            let (least, most) = (*self.range.start(), *self.range.end());
            return check.out_of_range([duration, least, most].map(duration_text));
        }
        if self.in_seconds && duration.subsec_nanos() != 0 {
            let text = duration_text(duration);
            return check.refuse(format!("{text} is not a whole number of seconds"));
        }
        Some(duration)
    }

    fn write(&self, value: &Duration) -> Value {
        duration_value(*value)
    }
}

/// Limits as a sentence.
fn from_to(least: &Value, most: &Value) -> String {
    format!("From {least} to {most}.")
}
