//! The checker of the trace log: only listed users have lines, and the lines of a connection are in order.

use std::collections::BTreeMap;

use comet_core::{ConnId, TraceEvent, TraceKind};

use crate::plan::Plan;

#[derive(Default)]
pub(crate) struct TraceLog {
    /// By connection: whether it was closed.
    conns: BTreeMap<ConnId, bool>,
    pub(crate) lines: u64,
    /// Control was too slow for some lines, and a line says so. Nothing is known about the missing ones.
    has_missed: bool,
}

impl TraceLog {
    pub(crate) fn add(&mut self, plan: &Plan, event: &TraceEvent) -> Result<(), String> {
        if !event.is_logged {
            return Ok(());
        }
        self.lines += 1;
        let TraceEvent { conn, user, what, .. } = event;
        // The first of the missing events may belong to a live trace.
        let is_missed = matches!(what, TraceKind::Missed { .. });
        if !is_missed && !plan.trace_lists().any(|list| list.contains(user)) {
            return Err(format!("{event:?} of a user on no list"));
        }
        self.has_missed |= is_missed;
        if self.has_missed {
            return Ok(());
        }
        let is_known = self.conns.contains_key(conn);
        let is_closed = self.conns.get(conn).copied().unwrap_or(false);
        let is_right = match what {
            TraceKind::Authenticated { .. } => !is_known,
            // If lists change, a connection may become traced at any time.
            TraceKind::Read { .. } | TraceKind::Closed { .. } => {
                (is_known || plan.is_configured) && !is_closed
            }
            TraceKind::Wrote { .. } => is_known || plan.is_configured,
            _ => false,
        };
        self.conns.insert(*conn, is_closed || matches!(what, TraceKind::Closed { .. }));
        is_right.then_some(()).ok_or_else(|| format!("a line out of place: {event:?}"))
    }

    /// Connections have other ids from here on. Those that are not in `renamed` have been closed.
    pub(crate) fn rename(&mut self, renamed: &BTreeMap<ConnId, ConnId>) {
        let former = std::mem::take(&mut self.conns);
        let new_id = |(conn, is_closed)| Some((*renamed.get(&conn)?, is_closed));
        self.conns = former.into_iter().filter_map(new_id).collect();
    }

    /// Checks the log after the last connection has ended.
    pub(crate) fn end(&self, plan: &Plan) -> Result<(), String> {
        let open = self.conns.iter().find(|(_, is_closed)| !**is_closed);
        match open {
            Some((conn, _)) if !plan.is_configured && !self.has_missed => {
                Err(format!("the trace log does not say that {conn:?} was closed"))
            }
            _ => Ok(()),
        }
    }
}
