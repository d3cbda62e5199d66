//! In which keys two configurations differ.

use std::fmt;

use toml::{Table, Value};

use crate::Config;

/// A key that has another value than before.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// `section.key`
    pub key: String,
    /// The value before, as TOML.
    pub from: String,
    /// The value now, as TOML.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changed from {} to {}", self.key, self.from, self.to)
    }
}

impl Config {
    /// What is different in `newer`, sorted by key. Passwords in addresses are `***`.
    #[must_use]
    pub fn changes(&self, newer: &Self) -> Vec<Change> {
        let table = |config: &Self| Table::try_from(config).expect("tables of plain values");
        let [before, now] = [self, newer].map(table);
        let [shown_before, shown_now] =
            [self, newer].map(|config| table(&config.without_passwords()));
        let mut changes = Vec::new();
        for (section, keys) in &before {
            for (key, from) in keys.as_table().into_iter().flatten() {
                let to: &Value = &now[section][key];
                if from != to {
                    changes.push(Change {
                        key: format!("{section}.{key}"),
                        from: shown_before[section][key].to_string(),
                        to: shown_now[section][key].to_string(),
                    });
                }
            }
        }
        changes
    }
}
