//! Answers to callers: ledgers as messages of the wire, and each failure as a gRPC status with a sentence.

use std::time::Duration;

use comet_core::{DropReason, Tally};
use comet_hub::{CALLER_CALLS_MAX, CALLS_MAX, CallError, CallResult};
use comet_wire::KNOWN_SO_FAR;
use comet_wire::goim::comet::Ledger;
use tonic::Status;

/// The part of a failed call's result that is known from reports.
pub(crate) fn known(result: &CallResult) -> String {
    let known = Ledger { scheduled: result.scheduled, ..ledger(&result.tally) };
    format!("{KNOWN_SO_FAR}{known}")
}

/// The status for the caller of a call to shards that has no complete answer.
pub(crate) fn status(error: CallError) -> Status {
    match error {
        CallError::TooManyCalls => Status::resource_exhausted(format!(
            "{CALLS_MAX} calls are under way; try again when some are answered"
        )),
        CallError::TooManyOfCaller => Status::resource_exhausted(format!(
            "{CALLER_CALLS_MAX} calls of this connection are under way; try again when some are answered"
        )),
        CallError::ShardGone(shard) => {
            Status::unavailable(format!("shard {} has ended: the server is going down", shard.0))
        }
        CallError::InboxFull { shard, waited_ms, known: result } => {
            let waited = Duration::from_millis(waited_ms);
            Status::resource_exhausted(format!(
                "the inbox of shard {} stayed full for {waited:?}; {}",
                shard.0,
                known(&result)
            ))
        }
        CallError::Late { missing, waited_ms, known: result } => {
            let waited = Duration::from_millis(waited_ms);
            Status::deadline_exceeded(format!(
                "reports still missing after {waited:?}: {missing}; {}",
                known(&result)
            ))
        }
    }
}

/// `tally` as a message of the wire. Reasons without a connection are left out.
pub(crate) fn ledger(tally: &Tally) -> Ledger {
    let dropped = DropReason::ALL
        .iter()
        .map(|reason| (reason, tally.dropped[*reason as usize]))
        .filter(|(_, connections)| *connections > 0)
        .map(|(reason, connections)| (reason.label().to_owned(), connections))
        .collect();
    Ledger {
        matched: tally.matched,
        queued: tally.queued,
        dropped,
        absent: tally.absent,
        parked: tally.parked,
        ..Ledger::default()
    }
}
