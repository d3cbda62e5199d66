//! The accept filter of a connection of another process.

use comet_handover as handed;
use comet_handover::{AcceptsKind, Fault};

use crate::accepts::Accepts;
use crate::limits::ACCEPTS_MAX;

/// Checks and converts the accept filter.
pub(super) fn accepts_from(accepts: Option<handed::Accepts>) -> Result<Accepts, Fault> {
    Ok(match accepts {
        None => Accepts::All,
        Some(accepts) if accepts.operations.len() > ACCEPTS_MAX => {
            let what = "too many operations are accepted";
            return Err(Fault::Inconsistent(what.into()));
        }
        Some(accepts) => match (accepts.kind(), accepts.operations.into()) {
            (AcceptsKind::Only, operations) => Accepts::Only(operations),
            (AcceptsKind::AllBut, operations) => Accepts::AllBut(operations),
            (AcceptsKind::Unknown, _) => {
                let what = "an unknown list of operations";
                return Err(Fault::Inconsistent(what.into()));
            }
        },
    })
}
