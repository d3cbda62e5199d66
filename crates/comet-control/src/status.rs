//! What callers are told: ledgers in the wire's terms, and each failure as a gRPC status with a
//! sentence.

use std::fmt;
use std::ops::AddAssign;

use comet_core::{DropReason, Tally};
use tonic::Status;

use crate::calls::{CALLS_MAX, Gathered};
use crate::hub::Unfinished;
use crate::wire::goim::comet::Ledger;

pub(crate) fn invalid(sentence: impl Into<String>) -> Status {
    Status::invalid_argument(sentence)
}

/// What a call that failed has done all the same.
pub(crate) fn known(gathered: &Gathered) -> String {
    format!("known so far: {}", Ledger { scheduled: gathered.scheduled, ..gathered.tally.into() })
}

impl From<Unfinished> for Status {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::TooManyCalls => Self::resource_exhausted(format!(
                "{CALLS_MAX} calls are under way; try again when some are answered"
            )),
            Unfinished::ShardGone(shard) => {
                Self::unavailable(format!("shard {} has ended: the server is going down", shard.0))
            }
            Unfinished::InboxFull { shard, waited, known: gathered } => {
                Self::resource_exhausted(format!(
                    "the inbox of shard {} stayed full for {waited:?}; {}",
                    shard.0,
                    known(&gathered)
                ))
            }
            Unfinished::Late { missing, waited, known: gathered } => Self::deadline_exceeded(
                format!("reports still missing after {waited:?}: {missing}; {}", known(&gathered)),
            ),
        }
    }
}

impl From<Tally> for Ledger {
    fn from(tally: Tally) -> Self {
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| (reason, tally.dropped[*reason as usize]))
            .filter(|(_, connections)| *connections > 0)
            .map(|(reason, connections)| (reason.label().to_owned(), connections))
            .collect();
        Self {
            matched: tally.matched,
            queued: tally.queued,
            dropped,
            absent: tally.absent,
            scheduled: 0,
        }
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.matched += other.matched;
        self.queued += other.queued;
        self.absent += other.absent;
        self.scheduled += other.scheduled;
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
        if self.scheduled > 0 {
            write!(f, ", scheduled {}", self.scheduled)?;
        }
        Ok(())
    }
}
