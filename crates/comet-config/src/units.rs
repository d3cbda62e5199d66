//! Durations and sizes in their usual notation (`"500ms"`, `"4KiB"`), and how values are written back.
//!
//! The crates for this take other inputs. humantime and jiff take `1h 30m`, `5 sec`, and `M` for months, and
//! write 75 s as `1m 15s`. bytesize takes `5KB` for 5000 bytes. Here a value is a whole number and one unit.

use std::time::Duration;

use serde::Deserialize;
use toml::Value;

pub(crate) const ZERO: Duration = Duration::ZERO;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

const DURATION_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const SIZE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A whole number, as written in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Number(pub(crate) i64);

impl TryFrom<Value> for Number {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::Integer(number) => Ok(Self(number)),
            other => Err(format!("{other} is not a whole number")),
        }
    }
}

/// A duration, as written in the file: a whole number and a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Span(pub(crate) Duration);

impl TryFrom<Value> for Span {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let micros = value.as_str().and_then(|text| scaled(text, &DURATION_UNITS));
        micros.map(|micros| Self(Duration::from_micros(micros))).ok_or_else(|| {
            format!("{value} is not a duration: use a number and us, ms, s, m or h, like \"500ms\"")
        })
    }
}

/// A size in bytes, as written in the file: a whole number with a unit, or a number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Size(pub(crate) u64);

impl TryFrom<Value> for Size {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let bytes = match &value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => scaled(text, &SIZE_UNITS),
            _ => None,
        };
        bytes.map(Self).ok_or_else(|| {
            format!(
                "{value} is not a size: use bytes, or a number and KiB, MiB or GiB, like \"4KiB\""
            )
        })
    }
}

/// The number before a unit of `units`, times the unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// `value` in the largest unit that leaves a whole number.
fn in_units(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let (unit, scale) =
        units.iter().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale))?;
    Some(format!("{}{unit}", value / scale))
}

/// `duration` as text that [`Span`] reads.
pub(crate) fn duration_text(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).expect("read from microseconds in 64 bits");
    in_units(micros, &DURATION_UNITS).unwrap_or_else(|| "0s".to_owned())
}

/// `bytes` as text that [`Size`] reads, with a unit if one fits.
pub(crate) fn size_text(bytes: u64) -> String {
    in_units(bytes, &SIZE_UNITS).unwrap_or_else(|| bytes.to_string())
}

/// `duration` as TOML that [`Span`] reads.
pub(crate) fn duration_value(duration: Duration) -> Value {
    duration_text(duration).into()
}

/// `bytes` as TOML that [`Size`] reads.
pub(crate) fn size_value(bytes: u64) -> Value {
    match in_units(bytes, &SIZE_UNITS) {
        Some(text) => text.into(),
        None => Value::Integer(i64::try_from(bytes).expect("sizes in bytes are in 63 bits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn every_unit_of_time_is_read_and_written() {
        let check = |text: &str, expected: Duration, written: &str| {
            assert_eq!(Span::try_from(value(text)), Ok(Span(expected)), "{text}");
            assert_eq!(duration_text(expected), written, "{text}");
        };
        check("7us", Duration::from_micros(7), "7us");
        check("500ms", Duration::from_millis(500), "500ms");
        check("5s", Duration::from_secs(5), "5s");
        check("5m", Duration::from_secs(300), "5m");
        check("2h", Duration::from_secs(7200), "2h");
        check("0us", Duration::ZERO, "0s");
        check("60s", Duration::from_secs(60), "1m");
        check("90s", Duration::from_secs(90), "90s");
        check("1500us", Duration::from_micros(1500), "1500us");
    }

    #[test]
    fn every_unit_of_size_is_read_and_written() {
        let check = |value: Value, expected: u64, written: &str| {
            assert_eq!(Size::try_from(value.clone()), Ok(Size(expected)), "{value}");
            assert_eq!(size_text(expected), written, "{value}");
        };
        check(Value::Integer(0), 0, "0");
        check(Value::Integer(1000), 1000, "1000");
        check(Value::Integer(4096), 4096, "4KiB");
        check(value("4KiB"), 4096, "4KiB");
        check(value("1MiB"), 1 << 20, "1MiB");
        check(value("1024MiB"), 1 << 30, "1GiB");
        check(value("2GiB"), 2 << 30, "2GiB");
    }

    #[test]
    fn text_that_is_no_quantity_is_refused() {
        for text in ["", "5", "s", "5 s", " 5s", "-5s", "+5s", "1.5s", "5S", "5sec", "5s5s", "٥s"]
        {
            assert!(Span::try_from(value(text)).is_err(), "{text}");
        }
        assert!(Span::try_from(value("18446744073709551615h")).is_err());
        assert!(Span::try_from(Value::Integer(5)).is_err());
        for text in ["", "5", "KiB", "5KB", "5k", "5 KiB", "-5KiB", "0.5MiB", "5kib"] {
            assert!(Size::try_from(value(text)).is_err(), "{text}");
        }
        assert!(Size::try_from(value("18446744073709551615KiB")).is_err());
        assert!(Size::try_from(Value::Integer(-1)).is_err());
        assert!(Size::try_from(Value::Boolean(true)).is_err());
        assert!(Number::try_from(value("5")).is_err());
        assert_eq!(Number::try_from(Value::Integer(-5)), Ok(Number(-5)));
    }
}
