//! Counts of the spans of traced pushes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::exposition::{Exposition, Kind};

/// Whether there is a collector for them.
static IS_WANTED: AtomicBool = AtomicBool::new(false);
static IS_UP: AtomicBool = AtomicBool::new(false);
static SENT: AtomicU64 = AtomicU64::new(0);
static UNSENT: [AtomicU64; UnsentSpans::ALL.len()] =
    [const { AtomicU64::new(0) }; UnsentSpans::ALL.len()];

/// Why a span was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnsentSpans {
    /// Too many calls are traced, or wait for the collector.
    QueueFull,
    /// The call has more spans than are kept.
    LeftOut,
    /// The collector did not take it.
    Refused,
}

impl UnsentSpans {
    const ALL: [(Self, &'static str); 3] =
        [(Self::QueueFull, "queue_full"), (Self::LeftOut, "left_out"), (Self::Refused, "refused")];
}

/// Counts spans that are not sent.
pub fn count_unsent_spans(reason: UnsentSpans, spans: u64) {
    UNSENT[reason as usize].fetch_add(spans, Relaxed);
}

/// Counts spans that the collector took.
pub fn count_sent_spans(spans: u64) {
    SENT.fetch_add(spans, Relaxed);
}

/// Sets whether the collector took the last batch. Before the first batch it counts as up.
pub fn set_collector(is_up: bool) {
    IS_UP.store(is_up, Relaxed);
    IS_WANTED.store(true, Relaxed);
}

/// Adds the families, if there is a collector.
pub(crate) fn expose(page: &mut Exposition) {
    if !IS_WANTED.load(Relaxed) {
        return;
    }
    let help = "Whether the collector of traces took the last spans: 1 or 0.";
    page.family("comet_trace_collector_up", Kind::Gauge, help)
        .sample(u64::from(IS_UP.load(Relaxed)));
    let help = "Spans that the collector of traces took.";
    page.family("comet_trace_spans_total", Kind::Counter, help).sample(SENT.load(Relaxed));
    let help = "Spans that the collector of traces does not have, by reason.";
    let mut family = page.family("comet_trace_spans_dropped_total", Kind::Counter, help);
    for (reason, label) in UnsentSpans::ALL {
        family.labelled(&[("reason", &label)], UNSENT[reason as usize].load(Relaxed));
    }
}
