//! Printing a configuration, comparing it with a newer one, and adopting the keys that change at run time.

use std::fmt;

use crate::declare::{Entry, TakesEffect};
use crate::fit;
use crate::keys::{Config, SECTIONS};
use crate::mistakes::{Mistakes, Origin, Report};
use crate::source::Process;

/// The key that names the logic services.
const LOGIC: &str = "logic.addrs";

/// A key whose value has changed.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// `section.key`
    pub key: &'static str,
    /// The value before, as TOML.
    pub from: String,
    /// The value now, as TOML.
    pub to: String,
    /// When the value takes effect in a running server.
    pub takes_effect: TakesEffect,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changed from {} to {}", self.key, self.from, self.to)
    }
}

impl Config {
    /// The differences to `newer`, sorted by key. Passwords are `***`.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let pairs = self.entries().zip(newer.entries());
        let mut changes: Vec<_> = pairs
            .filter(|(before, now)| before.value != now.value)
            .map(|(Entry { key, shown, .. }, now)| Change {
                key: key.path,
                from: shown.to_string(),
                to: now.shown.to_string(),
                takes_effect: if key.path == LOGIC && self.has_logic() != newer.has_logic() {
                    TakesEffect::AtStart
                } else {
                    key.takes_effect
                },
            })
            .collect();
        changes.sort_by_key(|change| change.key);
        changes
    }

    /// This configuration with the values of `newer` that do not need a restart.
    ///
    /// # Errors
    /// If these values do not fit the keys that need a restart.
    pub fn adopt(&self, newer: &Self) -> Result<Self, Mistakes> {
        let mut adopted = self.clone();
        adopted.take_alive(newer);
        if self.has_logic() != newer.has_logic() {
            adopted.logic.addrs.clone_from(&self.logic.addrs);
        }
        self.fitting(adopted, Process::Comet)
    }

    /// This configuration with the values of `newer` that change at run time in `comet logic`.
    ///
    /// # Errors
    /// If these values do not fit the keys that need a restart.
    pub fn adopt_in_logic(&self, newer: &Self) -> Result<Self, Mistakes> {
        let mut adopted = self.clone();
        adopted.log.level = newer.log.level;
        adopted.push.access_log = newer.push.access_log;
        adopted.api_tls.clone_from(&newer.api_tls);
        adopted.token.jwt_keys.clone_from(&newer.token.jwt_keys);
        let (logic, newer) = (&mut adopted.logic_server, &newer.logic_server);
        logic.tokens.clone_from(&newer.tokens);
        logic.comets.clone_from(&newer.comets);
        logic.nodes.clone_from(&newer.nodes);
        self.fitting(adopted, Process::Logic)
    }

    /// `adopted`, a later state of this configuration, if its keys fit each other.
    fn fitting(&self, adopted: Self, process: Process) -> Result<Self, Mistakes> {
        let mut report = Report::new(None);
        // If two keys do not fit each other, the error is reported for the changed one.
        for change in self.changes(&adopted) {
            report.found(change.key, Origin::Default, 0..0);
        }
        fit::fits_together(&mut report, &adopted, process);
        report.conclude(adopted)
    }

    /// Whether logic is another process. This is decided at the start.
    fn has_logic(&self) -> bool {
        !self.logic.addrs.is_empty()
    }

    /// The configuration as a file from which [`crate::load`] reads the same values, except for passwords, which are
    /// `***`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut entries = self.entries();
        let sections = SECTIONS.iter().map(|section| {
            let mut entries = entries.by_ref().take(section.keys.len());
            if section.tables().is_some() {
                return entries.next().map_or(String::new(), |entry| tables(section.name, &entry));
            }
            let lines = entries.map(|Entry { key, shown, .. }| format!("{} = {shown}\n", key.name));
            format!("[{}]\n{}", section.name, lines.collect::<String>())
        });
        sections.collect::<Vec<_>>().join("\n")
    }
}

/// A section that is a list of tables, in the form of a file.
fn tables(section: &str, entry: &Entry) -> String {
    let tables = entry.shown.as_array().into_iter().flatten().filter_map(toml::Value::as_table);
    let lines = |table: &toml::Table| {
        table.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>()
    };
    tables.map(|table| format!("[[{section}]]\n{}", lines(table))).collect()
}
