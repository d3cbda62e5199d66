//! A phase of a day, as the command line and files write it, and the day there is by default.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A part of a day.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Phase {
    pub name: String,
    /// How long pushes and guests last; connecting comes before that.
    #[serde(default = "two")]
    pub seconds: f64,
    /// Share of the members that is connected from now on, 0 to 1; nobody is sent away by a smaller one.
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

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

impl Phase {
    /// The default day of so many members.
    pub(crate) fn day(members: usize) -> Vec<Self> {
        let hundredth = members as f64 / 100.0;
        let phase = |name: &str| Self {
            name: name.to_owned(),
            seconds: two(),
            connect: one(),
            reconnect: 0.0,
            room_rate: 0.0,
            key_rate: 0.0,
            broadcast_rate: 0.0,
            arrivals: 0.0,
        };
        vec![
            Self { connect: 0.9, ..phase("morning storm") },
            Self { room_rate: 50.0, key_rate: 100.0, arrivals: hundredth, ..phase("morning") },
            Self {
                room_rate: 200.0,
                key_rate: 200.0,
                broadcast_rate: 1.0,
                arrivals: 2.0 * hundredth,
                ..phase("rush")
            },
            Self { reconnect: 0.5, room_rate: 50.0, key_rate: 50.0, ..phase("reconnect storm") },
            Self { room_rate: 20.0, broadcast_rate: 0.5, arrivals: hundredth, ..phase("evening") },
            phase("night"),
        ]
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Line {
            phase: Phase,
        }
        let line = toml::from_str::<Line>(&format!("phase = {text}"));
        line.map(|line| line.phase).map_err(|error| error.message().to_owned())
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
        let check = |text: &str, words: &str| {
            let error = text.parse::<Phase>().unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        };
        check("{ seconds = 1 }", "missing field `name`");
        check("{ name = \"x\", rate = 1 }", "unknown field `rate`");
        check("noon", "");
    }
}
