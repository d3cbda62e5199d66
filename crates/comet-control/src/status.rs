//! What callers are told: ledgers in the wire's terms, and each failure as a gRPC status with a
//! sentence.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use comet_core::{DropReason, Tally};
use comet_hub::{CALLS_MAX, CallError, CallResult};
use tonic::Status;

use crate::hub::CallFailed;
use crate::wire::goim::comet::Ledger;

pub(crate) fn invalid(sentence: impl Into<String>) -> Status {
    Status::invalid_argument(sentence)
}

/// What a call that failed has done all the same.
pub(crate) fn known(result: &CallResult) -> String {
    format!("known so far: {}", Ledger { scheduled: result.scheduled, ..result.tally.into() })
}

impl From<CallFailed> for Status {
    fn from(CallFailed(error): CallFailed) -> Self {
        match error {
            CallError::TooManyCalls => Self::resource_exhausted(format!(
                "{CALLS_MAX} calls are under way; try again when some are answered"
            )),
            CallError::ShardGone(shard) => {
                Self::unavailable(format!("shard {} has ended: the server is going down", shard.0))
            }
            CallError::InboxFull { shard, waited_ms, known: result } => {
                Self::resource_exhausted(format!(
                    "the inbox of shard {} stayed full for {:?}; {}",
                    shard.0,
                    Duration::from_millis(waited_ms),
                    known(&result)
                ))
            }
            CallError::Late { missing, waited_ms, known: result } => {
                Self::deadline_exceeded(format!(
                    "reports still missing after {:?}: {missing}; {}",
                    Duration::from_millis(waited_ms),
                    known(&result)
                ))
            }
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
