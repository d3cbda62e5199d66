//! Reports on their way to control. Trace events are bounded.

use std::collections::VecDeque;

use crate::limits::TRACE_EVENTS_MAX;
use crate::message::{Report, TraceEvent, TraceKind};

#[derive(Default)]
pub(super) struct ReportQueue {
    queue: VecDeque<Report>,
    /// The number of trace events in the queue.
    traces: usize,
    /// Counts the trace events that found the queue full. It is queued itself as soon as there is space.
    missed: Option<Box<TraceEvent>>,
}

impl ReportQueue {
    pub(super) fn push(&mut self, report: Report) {
        self.queue.push_back(report);
    }

    /// Queues a trace event. `false`: the queue is full, and the event is only counted.
    pub(super) fn push_trace(&mut self, mut event: Box<TraceEvent>) -> bool {
        if self.traces < TRACE_EVENTS_MAX && self.missed.is_none() {
            self.traces += 1;
            self.queue.push_back(Report::Trace(event));
            return true;
        }
        match self.missed.as_deref_mut() {
            Some(TraceEvent { what: TraceKind::Missed { events }, is_logged, .. }) => {
                *events += 1;
                *is_logged |= event.is_logged;
            }
            _ => {
                event.what = TraceKind::Missed { events: 1 };
                self.missed = Some(event);
            }
        }
        false
    }

    /// The number of waiting reports.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn pop(&mut self) -> Option<Report> {
        let report = self.queue.pop_front()?;
        if matches!(report, Report::Trace(_)) {
            self.traces -= 1;
            if self.traces < TRACE_EVENTS_MAX
                && let Some(missed) = self.missed.take()
            {
                self.traces += 1;
                self.queue.push_back(Report::Trace(missed));
            }
        }
        Some(report)
    }

    pub(super) fn put_back(&mut self, report: Report) {
        self.traces += usize::from(matches!(report, Report::Trace(_)));
        self.queue.push_front(report);
    }
}
