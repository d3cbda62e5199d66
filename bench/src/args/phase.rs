//! A phase of a day, as files and the command line write it, and the day there is by default.

use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::de::ValueDeserializer;

/// A part of a day.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Phase {
    pub name: String,
    /// How long pushes and guests last, in seconds; connecting comes before that.
    #[serde(default = "two")]
    pub seconds: f64,
    /// Share of the members that is connected from now on, 0 to 1; a smaller one disconnects nobody.
    #[serde(default = "one")]
    pub connect: f64,
    /// Share of them that loses its connection at the start and makes a new one.
    #[serde(default)]
    pub reconnect: f64,
    /// Pushes a second: to one room after the other, one key after the other, and to everybody.
    #[serde(default)]
    pub room_rate: f64,
    #[serde(default)]
    pub key_rate: f64,
    #[serde(default)]
    pub broadcast_rate: f64,
    /// Guests a second.
    #[serde(default)]
    pub arrivals: f64,
}

impl Phase {
    /// All members stay, and nothing happens for two seconds.
    pub(crate) fn idle() -> Self {
        Self {
            name: String::new(),
            seconds: two(),
            connect: one(),
            reconnect: 0.0,
            room_rate: 0.0,
            key_rate: 0.0,
            broadcast_rate: 0.0,
            arrivals: 0.0,
        }
    }
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

/// A day as a TOML file has it: a `[[phase]]` table for each phase.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DayFile {
    pub phase: Vec<Phase>,
}

impl DayFile {
    /// Reads a file; an error comes with its line.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {path}: {error}"))?;
        toml::from_str(&text).map_err(|error| error.to_string())
    }
}

/// The default day; the rates of guests are for a hundred members.
const DEFAULT_DAY: &str = r#"phase = [
    { name = "morning storm", connect = 0.9 },
    { name = "morning", room-rate = 50, key-rate = 100, arrivals = 1 },
    { name = "rush", room-rate = 200, key-rate = 200, broadcast-rate = 1, arrivals = 2 },
    { name = "reconnect storm", reconnect = 0.5, room-rate = 50, key-rate = 50 },
    { name = "evening", room-rate = 20, broadcast-rate = 0.5, arrivals = 1 },
    { name = "night" },
]"#;

impl Phase {
    /// The default day for `members` members.
    pub(crate) fn day(members: usize) -> Vec<Self> {
        let day: DayFile = toml::from_str(DEFAULT_DAY).expect("the default day is well-formed");
        let scaled = |is: Self| Self { arrivals: is.arrivals * members as f64 / 100.0, ..is };
        day.phase.into_iter().map(scaled).collect()
    }
}

impl FromStr for Phase {
    type Err = String;

    /// Parses an inline table.
    fn from_str(text: &str) -> Result<Self, String> {
        let phase = ValueDeserializer::parse(text).and_then(Self::deserialize);
        phase.map_err(|error| error.message().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_an_inline_table() {
        let phase: Phase = r#"{ name = "noon", room-rate = 5, arrivals = 2.5 }"#.parse().unwrap();
        assert_eq!((phase.name.as_str(), phase.seconds, phase.connect), ("noon", 2.0, 1.0));
        assert_eq!((phase.room_rate, phase.key_rate, phase.arrivals), (5.0, 0.0, 2.5));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("{ seconds = 1 }", "missing field `name`"),
            ("{ name = \"x\", rate = 1 }", "unknown field `rate`"),
            ("noon", ""),
        ] {
            let error = text.parse::<Phase>().unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_day_is_a_file_or_the_default() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/day-5k.toml");
        assert_eq!(DayFile::read(file).unwrap().phase[1].name, "morning");
        let day = Phase::day(500);
        assert_eq!((day.len(), day[0].connect, day[2].arrivals), (6, 0.9, 10.0));
        let said = DayFile::read(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap_err();
        assert!(said.contains("at line") && said.contains("unknown field"), "{said}");
        assert!(DayFile::read("/nowhere").unwrap_err().starts_with("cannot read /nowhere"));
    }
}
