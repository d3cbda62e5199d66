//! Rules of presence: tables, each of which is a rule.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::rules::check_rules;
use super::{Check, Facts, Kind};
use crate::units::{Number, Span, duration_text, duration_value};

/// A rule for rooms whose members are told who enters and leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceRule {
    /// Rooms whose id begins with this.
    pub rooms: String,
    /// Operation of the pushes.
    pub operation: i32,
    /// How long changes are gathered; whole milliseconds.
    pub window: Duration,
    /// Most of the entered and most of the left members that a push names.
    pub names: u32,
}

/// Most rules: each room that is entered or left is compared with them.
const RULES_MAX: usize = 64;
/// Operations without a meaning of their own.
const OPERATIONS: RangeInclusive<i64> = 25..=i32::MAX as i64;
/// A shorter window would make a push for almost each change.
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);
const WINDOW_DEFAULT: Duration = Duration::from_secs(1);
const NAMES: RangeInclusive<i64> = 0..=100;
const NAMES_DEFAULT: u32 = 10;

/// Any number of rules.
pub(crate) struct PresenceRules;

/// A rule as written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    rooms: String,
    operation: Number,
    window: Option<Span>,
    names: Option<Number>,
}

impl Kind<Vec<PresenceRule>> for PresenceRules {
    type Raw = Vec<Spanned<RawRule>>;

    fn facts(&self) -> Facts {
        let limits = format!(
            "Up to {RULES_MAX}. An operation from {}; a window from \"{}\" to \"{}\", \"{}\" if not given; names from {} to {}, \
             {NAMES_DEFAULT} if not given.",
            OPERATIONS.start(),
            duration_text(*WINDOW.start()),
            duration_text(*WINDOW.end()),
            duration_text(WINDOW_DEFAULT),
            NAMES.start(),
            NAMES.end(),
        );
        Facts { limits, ..Facts::new(Facts::TABLES) }
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<PresenceRule>> {
        check_rules(raw, RULES_MAX, check, rule)
    }

    fn write(&self, value: &Vec<PresenceRule>) -> Value {
        Value::Array(value.iter().map(|rule| Value::Table(table(rule))).collect())
    }
}

fn rule(raw: RawRule) -> Result<PresenceRule, String> {
    let RawRule { rooms, operation: Number(operation), window, names } = raw;
    if !OPERATIONS.contains(&operation) {
        let (least, most) = (OPERATIONS.start(), OPERATIONS.end());
        return Err(format!("operation: {operation} is out of range: {least} to {most}"));
    }
    let window = window.map_or(WINDOW_DEFAULT, |Span(window)| window);
    if !WINDOW.contains(&window) {
        let [window, least, most] = [window, *WINDOW.start(), *WINDOW.end()].map(duration_text);
        return Err(format!("window: {window} is out of range: {least} to {most}"));
    }
    if window.subsec_micros() % 1_000 != 0 {
        let window = duration_text(window);
        return Err(format!("window: {window} is not a whole number of milliseconds"));
    }
    let names = names.map_or(NAMES_DEFAULT.into(), |Number(names)| names);
    if !NAMES.contains(&names) {
        let (least, most) = (NAMES.start(), NAMES.end());
        return Err(format!("names: {names} is out of range: {least} to {most}"));
    }
    Ok(PresenceRule { rooms, operation: operation as i32, window, names: names as u32 })
}

fn table(rule: &PresenceRule) -> Table {
    let PresenceRule { rooms, operation, window, names } = rule;
    let mut table = Table::new();
    table.insert("rooms".to_owned(), rooms.as_str().into());
    table.insert("operation".to_owned(), i64::from(*operation).into());
    table.insert("window".to_owned(), duration_value(*window));
    table.insert("names".to_owned(), i64::from(*names).into());
    table
}
