//! The operations of pushes that a connection accepts.

/// The operations that a connection accepts from pushes by key and from broadcasts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum OperationFilter {
    /// Every operation. A token that is only a user id names none, and filters nothing.
    #[default]
    All,
    /// Only these. Tokens of goim v2 list them; an empty list accepts nothing.
    Only(Box<[i32]>),
    /// Every operation except these; op 16 turns [`OperationFilter::All`] into this.
    AllBut(Box<[i32]>),
}

impl OperationFilter {
    /// Whether `operation` passes.
    #[must_use]
    pub fn contains(&self, operation: i32) -> bool {
        match self {
            Self::All => true,
            Self::Only(operations) => operations.contains(&operation),
            Self::AllBut(operations) => !operations.contains(&operation),
        }
    }

    /// The number of listed operations.
    #[must_use]
    pub fn listed(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Only(operations) | Self::AllBut(operations) => operations.len(),
        }
    }

    /// Accepts `operations` too (op 14).
    pub(crate) fn subscribe(&mut self, operations: &[i32]) {
        match self {
            Self::All => {}
            Self::Only(listed) => *listed = union(listed, operations),
            Self::AllBut(listed) => *listed = difference(listed, operations),
        }
    }

    /// Accepts `operations` no longer (op 16).
    pub(crate) fn unsubscribe(&mut self, operations: &[i32]) {
        match self {
            Self::All => *self = Self::AllBut(union(&[], operations)),
            Self::Only(listed) => *listed = difference(listed, operations),
            Self::AllBut(listed) => *listed = union(listed, operations),
        }
    }
}

fn union(listed: &[i32], added: &[i32]) -> Box<[i32]> {
    let mut all = [listed, added].concat();
    all.sort_unstable();
    all.dedup();
    all.into()
}

fn difference(listed: &[i32], removed: &[i32]) -> Box<[i32]> {
    listed.iter().copied().filter(|operation| !removed.contains(operation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_follows_ops_14_and_16() {
        let mut only = OperationFilter::Only([1].into());
        only.subscribe(&[2, 3, 2]);
        assert_eq!(only, OperationFilter::Only([1, 2, 3].into()));
        only.unsubscribe(&[1, 9]);
        assert!(only.contains(2) && !only.contains(1) && !only.contains(9));

        let mut all = OperationFilter::All;
        all.subscribe(&[5]);
        assert_eq!(all, OperationFilter::All);
        all.unsubscribe(&[5, 6]);
        assert!(all.contains(4) && !all.contains(5) && !all.contains(6));
        all.subscribe(&[5]);
        assert!(all.contains(5) && !all.contains(6));
    }
}
