//! Pages of the histories of rooms, for callers.

use crate::history::HistoryQuery;
use crate::ids::CallId;
use crate::message::Report;

use super::Shard;

impl Shard {
    /// At the home: reports a page of a room's history.
    pub(super) fn report_history(&mut self, call: CallId, query: &HistoryQuery) {
        let (limits, now) = (&self.context.limits, self.context.now);
        let page = limits
            .history_rule(&query.room)
            .map(|rule| Box::new(self.home.histories.page(query, rule, now)));
        self.reports.push(Report::History { call, page });
    }
}
