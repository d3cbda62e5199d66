//! Answers to callers: ledgers in the wire's terms, and each failure as a gRPC status with a
//! sentence.

use std::time::Duration;

use comet_core::{DropReason, Tally};
use comet_hub::{CALLER_CALLS_MAX, CALLS_MAX, CallError, CallResult};
use comet_wire::KNOWN_SO_FAR;
use comet_wire::goim::comet::Ledger;
use tonic::Status;

/// The part of a failed call's result that its reports have told.
pub(crate) fn known(result: &CallResult) -> String {
    let known = Ledger { scheduled: result.scheduled, ..ledger(&result.tally) };
    format!("{KNOWN_SO_FAR}{known}")
}

/// Why a call of the shards has no complete answer, for its caller.
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

/// `tally` in the terms of the wire; a reason without a connection is left out.
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
