//! The fake white log: only of listed users, and each connection's lines in an order that makes sense.

use std::collections::BTreeMap;

use comet_core::{ConnId, WhiteEvent, WhiteWhat};

use crate::plan::Plan;

#[derive(Default)]
pub(crate) struct White {
    /// By connection: whether it was closed.
    conns: BTreeMap<ConnId, bool>,
    pub(crate) lines: u64,
}

impl White {
    pub(crate) fn hear(&mut self, plan: &Plan, event: &WhiteEvent) -> Result<(), String> {
        self.lines += 1;
        let WhiteEvent { conn, user, what, .. } = event;
        if !plan.white_lists().any(|list| list.contains(user)) {
            return Err(format!("{event:?} of a user on no list"));
        }
        let is_known = self.conns.contains_key(conn);
        let is_closed = self.conns.get(conn).copied().unwrap_or(false);
        let is_right = match what {
            WhiteWhat::Authenticated { .. } => !is_known,
            // Where lists change, a connection may turn white at any time.
            WhiteWhat::Read { .. } | WhiteWhat::Closed { .. } => {
                (is_known || plan.is_configured) && !is_closed
            }
            WhiteWhat::Wrote { .. } => is_known || plan.is_configured,
            WhiteWhat::Missed { .. } => false,
        };
        self.conns.insert(*conn, is_closed || matches!(what, WhiteWhat::Closed { .. }));
        is_right.then_some(()).ok_or_else(|| format!("a line out of place: {event:?}"))
    }

    /// When everybody is gone.
    pub(crate) fn end(&self, plan: &Plan) -> Result<(), String> {
        let open = self.conns.iter().find(|(_, is_closed)| !**is_closed);
        match open {
            Some((conn, _)) if !plan.is_configured => {
                Err(format!("the white log does not say that {conn:?} was closed"))
            }
            _ => Ok(()),
        }
    }
}
