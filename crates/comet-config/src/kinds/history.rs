//! Rules of history: tables, each of which is a rule.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::rules::check_rules;
use super::{Check, Facts, Kind};
use crate::units::{Number, Size, Span, duration_text, duration_value, size_text, size_value};

/// A rule for rooms that keep their last pushes, for clients that come back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryRule {
    /// Rooms whose id begins with this.
    pub rooms: String,
    /// Pushes that a room keeps.
    pub pushes: u32,
    /// Bytes that a room keeps.
    pub bytes: u32,
    /// How long a push is kept; whole milliseconds.
    pub age: Duration,
}

/// Most rules: each push to a room is compared with them.
const RULES_MAX: usize = 64;
const PUSHES: RangeInclusive<i64> = 1..=100_000;
const PUSHES_DEFAULT: u32 = 100;
/// Bounded because a client gets all missed pushes in one push.
const BYTES: RangeInclusive<u64> = 1 << 10..=1 << 20;
const BYTES_DEFAULT: u32 = 256 << 10;
/// The longest time for which a rule may have a room keep a push.
pub const HISTORY_AGE_MAX: Duration = Duration::from_hours(24);
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=HISTORY_AGE_MAX;
const AGE_DEFAULT: Duration = Duration::from_mins(5);

/// Any number of rules.
pub(crate) struct HistoryRules;

/// A rule as written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    rooms: String,
    pushes: Option<Number>,
    bytes: Option<Size>,
    age: Option<Span>,
}

impl Kind<Vec<HistoryRule>> for HistoryRules {
    type Raw = Vec<Spanned<RawRule>>;

    fn facts(&self) -> Facts {
        let limits = format!(
            "Up to {RULES_MAX}. Pushes from {} to {}, {PUSHES_DEFAULT} if not given; bytes from \"{}\" to \"{}\", \"{}\" if \
             not given; age from \"{}\" to \"{}\", \"{}\" if not given.",
            PUSHES.start(),
            PUSHES.end(),
            size_text(*BYTES.start()),
            size_text(*BYTES.end()),
            size_text(BYTES_DEFAULT.into()),
            duration_text(*AGE.start()),
            duration_text(*AGE.end()),
            duration_text(AGE_DEFAULT),
        );
        Facts { limits, ..Facts::new(Facts::TABLES) }
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<HistoryRule>> {
        check_rules(raw, RULES_MAX, check, rule)
    }

    fn write(&self, value: &Vec<HistoryRule>) -> Value {
        Value::Array(value.iter().map(|rule| Value::Table(table(rule))).collect())
    }
}

fn rule(raw: RawRule) -> Result<HistoryRule, String> {
    let RawRule { rooms, pushes, bytes, age } = raw;
    let pushes = pushes.map_or(PUSHES_DEFAULT.into(), |Number(pushes)| pushes);
    if !PUSHES.contains(&pushes) {
        let (least, most) = (PUSHES.start(), PUSHES.end());
        return Err(format!("pushes: {pushes} is out of range: {least} to {most}"));
    }
    let bytes = bytes.map_or(BYTES_DEFAULT.into(), |Size(bytes)| bytes);
    if !BYTES.contains(&bytes) {
        let [bytes, least, most] = [bytes, *BYTES.start(), *BYTES.end()].map(size_text);
        return Err(format!("bytes: {bytes} is out of range: {least} to {most}"));
    }
    let age = age.map_or(AGE_DEFAULT, |Span(age)| age);
    if !AGE.contains(&age) {
        let [age, least, most] = [age, *AGE.start(), *AGE.end()].map(duration_text);
        return Err(format!("age: {age} is out of range: {least} to {most}"));
    }
    if age.subsec_micros() % 1_000 != 0 {
        return Err(format!("age: {} is not a whole number of milliseconds", duration_text(age)));
    }
    Ok(HistoryRule { rooms, pushes: pushes as u32, bytes: bytes as u32, age })
}

fn table(rule: &HistoryRule) -> Table {
    let HistoryRule { rooms, pushes, bytes, age } = rule;
    let mut table = Table::new();
    table.insert("rooms".to_owned(), rooms.as_str().into());
    table.insert("pushes".to_owned(), i64::from(*pushes).into());
    table.insert("bytes".to_owned(), size_value((*bytes).into()));
    table.insert("age".to_owned(), duration_value(*age));
    table
}
