//! A newer configuration for a running server: what changes alive, and what waits for the next start.

use comet_config::{Change, Config, TakesEffect};

/// What a newer configuration changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Reloaded {
    /// Keys that hold from now on.
    pub alive: Vec<Change>,
    /// Keys whose newer value holds after a restart.
    pub later: Vec<Change>,
    /// Keys whose files have other contents, a sentence for each. They hold from now on.
    pub files: Vec<String>,
}

impl Reloaded {
    /// What `newer` changes of `running`. Keys of `comet logic` are not named: they are another process's.
    pub(crate) fn compare(running: &Config, newer: &Config) -> Self {
        let mut changes = running.changes(newer);
        changes.retain(|change| change.takes_effect != TakesEffect::InLogic);
        let (alive, later) =
            changes.into_iter().partition(|change| change.takes_effect == TakesEffect::Alive);
        Self { alive, later, files: Vec::new() }
    }
}
