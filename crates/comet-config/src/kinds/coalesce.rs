//! Rules of coalescing: tables, each of which is a rule.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::rules::check_rules;
use super::{Check, Facts, Kind};
use crate::units::{Number, Span, duration_text, duration_value};

/// A rule for pushes that wait for others, so that a client gets several in one send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoalesceRule {
    /// Pushes to rooms whose id begins with this. `None`: pushes to any room, and broadcasts.
    pub rooms: Option<String>,
    /// Pushes of these operations. Empty: of any operation.
    pub operations: Vec<i32>,
    /// The longest time for which a push waits for others; whole milliseconds.
    pub window: Duration,
    /// Whether only the newest of the waiting pushes with one id is kept.
    pub keep_latest: bool,
}

/// Most rules: each push to a room is compared with them.
const RULES_MAX: usize = 64;
/// Most operations of a rule.
const OPERATIONS_MAX: usize = 64;
/// A shorter window has no effect, given the kernel's clock and a core's turns. With a longer one callers wait too
/// long.
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
const WINDOW_DEFAULT: Duration = Duration::from_millis(50);

/// Any number of rules.
pub(crate) struct CoalesceRules;

/// A rule as written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    rooms: Option<String>,
    #[serde(default)]
    operations: Vec<Number>,
    window: Option<Span>,
    #[serde(default)]
    keep_latest: bool,
}

impl Kind<Vec<CoalesceRule>> for CoalesceRules {
    type Raw = Vec<Spanned<RawRule>>;

    fn facts(&self) -> Facts {
        let limits = format!(
            "Up to {RULES_MAX}. A window from \"{}\" to \"{}\", \"{}\" if not given.",
            duration_text(*WINDOW.start()),
            duration_text(*WINDOW.end()),
            duration_text(WINDOW_DEFAULT),
        );
        Facts { limits, ..Facts::new(Facts::TABLES) }
    }

    fn check(&self, raw: Self::Raw, check: &mut Check<'_>) -> Option<Vec<CoalesceRule>> {
        check_rules(raw, RULES_MAX, check, rule)
    }

    fn write(&self, value: &Vec<CoalesceRule>) -> Value {
        Value::Array(value.iter().map(|rule| Value::Table(table(rule))).collect())
    }
}

fn rule(raw: RawRule) -> Result<CoalesceRule, String> {
    let RawRule { rooms, operations, window, keep_latest } = raw;
    if rooms.is_none() && operations.is_empty() {
        return Err("names neither rooms nor operations; rooms = \"\" are all rooms".to_owned());
    }
    if operations.len() > OPERATIONS_MAX {
        let number = operations.len();
        return Err(format!("operations: {number} are too many: up to {OPERATIONS_MAX}"));
    }
    let operation = |Number(number)| {
        i32::try_from(number).map_err(|_| format!("operations: {number} is no operation"))
    };
    let operations = operations.into_iter().map(operation).collect::<Result<_, _>>()?;
    let window = window.map_or(WINDOW_DEFAULT, |Span(window)| window);
    if !WINDOW.contains(&window) {
        let [window, least, most] = [window, *WINDOW.start(), *WINDOW.end()].map(duration_text);
        return Err(format!("window: {window} is out of range: {least} to {most}"));
    }
    if window.subsec_micros() % 1_000 != 0 {
        let window = duration_text(window);
        return Err(format!("window: {window} is not a whole number of milliseconds"));
    }
    Ok(CoalesceRule { rooms, operations, window, keep_latest })
}

fn table(rule: &CoalesceRule) -> Table {
    let CoalesceRule { rooms, operations, window, keep_latest } = rule;
    let mut table = Table::new();
    if let Some(rooms) = rooms {
        table.insert("rooms".to_owned(), rooms.as_str().into());
    }
    if !operations.is_empty() {
        table.insert("operations".to_owned(), operations.clone().into());
    }
    table.insert("window".to_owned(), duration_value(*window));
    table.insert("keep_latest".to_owned(), (*keep_latest).into());
    table
}
