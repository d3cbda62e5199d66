//! Sums of ledgers, and a ledger as a sentence.

use std::fmt;
use std::ops::AddAssign;

use crate::goim::comet::Ledger;

/// What stands before the ledger of a push that has failed on its way, in the sentence of its status.
pub const KNOWN_SO_FAR: &str = "known so far: ";

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.absent += other.absent;
        self.scheduled += other.scheduled;
        self.parked += other.parked;
        self.unanswered.extend(other.unanswered);
        for (reason, connections) in other.dropped {
            *self.dropped.entry(reason).or_default() += connections;
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "matched {}, queued {}", self.matched, self.queued)?;
        for (reason, connections) in &self.dropped {
            write!(f, ", dropped {connections} ({reason})")?;
        }
        write!(f, ", absent {}", self.absent)?;
        if self.parked > 0 {
            write!(f, ", parked {}", self.parked)?;
        }
        if self.scheduled > 0 {
            write!(f, ", scheduled {}", self.scheduled)?;
        }
        if !self.unanswered.is_empty() {
            write!(f, ", no answer of {}", self.unanswered.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(dropped: &[(&str, u64)]) -> Ledger {
        let dropped = dropped.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
        Ledger { matched: 5, queued: 3, dropped, absent: 1, parked: 4, ..Ledger::default() }
    }

    #[test]
    fn ledgers_add_up_by_reason() {
        let mut sum = ledger(&[("filtered", 2)]);
        sum += ledger(&[("filtered", 1), ("outbox_full", 1)]);
        assert_eq!(
            sum.to_string(),
            "matched 10, queued 6, dropped 3 (filtered), dropped 1 (outbox_full), absent 2, parked 8"
        );
    }

    #[test]
    fn only_a_paced_broadcast_is_scheduled() {
        let ledger = Ledger { scheduled: 7, ..Ledger::default() };
        assert_eq!(ledger.to_string(), "matched 0, queued 0, absent 0, scheduled 7");
    }
}
