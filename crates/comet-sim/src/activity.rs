//! What counts as activity: a message or report after which other parts may have something to do. Renewals, heartbeats
//! and trace lines do not count, because they continue as long as clients send heartbeats.

use comet_core::{Message, Report};

pub(crate) fn is_active_message(message: &Message) -> bool {
    !matches!(message, Message::Renew { .. })
}

pub(crate) fn is_active_report(report: &Report) -> bool {
    !matches!(report, Report::Trace(_) | Report::Heartbeat { .. })
}
