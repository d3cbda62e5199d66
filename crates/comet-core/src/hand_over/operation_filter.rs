//! The accept filter of a connection of another process.

use comet_handover as handed;
use comet_handover::{AcceptsKind, Fault};

use crate::limits::ACCEPTS_MAX;
use crate::operation_filter::OperationFilter;

/// Checks and converts the accept filter.
pub(super) fn accepts_from(accepts: Option<handed::Accepts>) -> Result<OperationFilter, Fault> {
    Ok(match accepts {
        None => OperationFilter::All,
        Some(accepts) if accepts.operations.len() > ACCEPTS_MAX => {
            let what = "too many operations are accepted";
            return Err(Fault::Inconsistent(what.into()));
        }
        Some(accepts) => match (accepts.kind(), accepts.operations.into()) {
            (AcceptsKind::Only, operations) => OperationFilter::Only(operations),
            (AcceptsKind::AllBut, operations) => OperationFilter::AllBut(operations),
            (AcceptsKind::Unknown, _) => {
                let what = "an unknown list of operations";
                return Err(Fault::Inconsistent(what.into()));
            }
        },
    })
}
