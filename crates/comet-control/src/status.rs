//! Answers to callers: ledgers in the wire's terms, and each failure as a gRPC status with a
//! sentence.

use comet_core::{DropReason, Tally};
use comet_wire::goim::comet::Ledger;
use tonic::Status;

use crate::calls::{CALLS_MAX, Gathered};
use crate::hub::Unfinished;

/// What a call that failed has done all the same.
pub(crate) fn known(gathered: &Gathered) -> String {
    format!("known so far: {}", Ledger { scheduled: gathered.scheduled, ..ledger(&gathered.tally) })
}

/// Why a call of the shards has no complete answer, for its caller.
pub(crate) fn status(unfinished: Unfinished) -> Status {
    match unfinished {
        Unfinished::TooManyCalls => Status::resource_exhausted(format!(
            "{CALLS_MAX} calls are under way; try again when some are answered"
        )),
        Unfinished::ShardGone(shard) => {
            Status::unavailable(format!("shard {} has ended: the server is going down", shard.0))
        }
        Unfinished::InboxFull { shard, waited, known: gathered } => {
            Status::resource_exhausted(format!(
                "the inbox of shard {} stayed full for {waited:?}; {}",
                shard.0,
                known(&gathered)
            ))
        }
        Unfinished::Late { missing, waited, known: gathered } => Status::deadline_exceeded(
            format!("reports still missing after {waited:?}: {missing}; {}", known(&gathered)),
        ),
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
        scheduled: 0,
    }
}
