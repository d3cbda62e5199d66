//! The operations that a program has chosen in addition to those of its token.

use crate::error::Error;

/// The most of each kind. A server lists as many for a connection, those of its token among them, and closes one with more.
const OPERATIONS_MAX: usize = 64;

/// No operation is in both lists. In each the one that was set last is the last.
#[derive(Debug, Default)]
pub(super) struct Operations {
    accepted: Vec<i32>,
    refused: Vec<i32>,
}

impl Operations {
    pub(super) fn accepted(&self) -> &[i32] {
        &self.accepted
    }

    pub(super) fn refused(&self) -> &[i32] {
        &self.refused
    }

    /// After an error nothing is changed.
    pub(super) fn accept(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.accepted = with(&self.accepted, operations)?;
        self.refused.retain(|operation| !self.accepted.contains(operation));
        Ok(())
    }

    /// The oldest of too many is forgotten: a program that follows one topic after the other refuses ever more. After an error nothing is
    /// changed.
    pub(super) fn refuse(&mut self, operations: &[i32]) -> Result<(), Error> {
        let chosen = with(&[], operations)?;
        self.accepted.retain(|operation| !chosen.contains(operation));
        self.refused.retain(|operation| !chosen.contains(operation));
        self.refused.extend(chosen);
        let excess = self.refused.len().saturating_sub(OPERATIONS_MAX);
        self.refused.drain(..excess);
        Ok(())
    }
}

/// The list, and behind it those of `more` that it does not have.
fn with(list: &[i32], more: &[i32]) -> Result<Vec<i32>, Error> {
    let mut all = list.to_vec();
    for operation in more {
        if all.contains(operation) {
            continue;
        }
        if all.len() == OPERATIONS_MAX {
            return Err(Error::TooManyOperations);
        }
        all.push(*operation);
    }
    Ok(all)
}
