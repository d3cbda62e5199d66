//! The page for Prometheus, at `/metrics`.
//!
//! Labels are reasons, cores and calls: their number does not grow with clients, users or rooms.

use std::time::Duration;

use comet_core::{CloseReason, DropReason};
use comet_ops::{COMMIT, Exposition, Kind, RUSTC, expose_gates, expose_process};

use crate::monitor::{FIELDS, Field, Reading, counter, gauge};

/// The fields worth watching for each core: is one of them busier than the rest?
const CORE_FIELDS: &[Field] = &[
    gauge("core_connections", "Connections open, by core.", |c| c.connections),
    gauge("core_waiting", "Deliveries not yet in the kernel, by core.", |c| c.waiting),
    counter("core_queued", "Deliveries that an outbox took, by core.", |c| c.deliveries.queued),
    counter("core_sends", "Sends submitted to the kernel, by core.", |c| c.sends),
    counter("core_turns", "Turns of the driver, by core.", |c| c.turns),
];

impl Reading<'_> {
    /// The page.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Exposition::default();
        for field in FIELDS {
            page.family(field.metric(), field.kind, field.help).sample(self.sum(field.read));
        }
        self.reasons(&mut page);
        self.cores(&mut page);
        self.control(&mut page);
        expose_process(&mut page);
        page.finish()
    }

    fn reasons(&self, page: &mut Exposition) {
        let mut closed =
            page.family("comet_closed_total", Kind::Counter, "Connections closed, by reason.");
        for reason in CloseReason::ALL {
            closed.labelled(&[("reason", &reason.label())], self.closed(*reason));
        }
        let mut dropped =
            page.family("comet_dropped_total", Kind::Counter, "Deliveries not made, by reason.");
        for reason in DropReason::ALL {
            dropped.labelled(&[("reason", &reason.label())], self.dropped(*reason));
        }
    }

    fn cores(&self, page: &mut Exposition) {
        for field in CORE_FIELDS {
            let mut family = page.family(field.metric(), field.kind, field.help);
            for (core, counters) in self.counters.iter().enumerate() {
                family.labelled(&[("core", &core)], (field.read)(counters));
            }
        }
        let mut busy = page.family(
            "comet_core_turn_seconds_total",
            Kind::Counter,
            "Time of the driver's turns, by core. The call that sleeps, and the sends in it, are not counted.",
        );
        for (core, counters) in self.counters.iter().enumerate() {
            busy.labelled(&[("core", &core)], Duration::from_micros(counters.turn_micros));
        }
        let mut longest = page.family(
            "comet_core_turn_seconds_max",
            Kind::Gauge,
            "Longest turn of the driver since the start, by core.",
        );
        for (core, counters) in self.counters.iter().enumerate() {
            longest.labelled(&[("core", &core)], Duration::from_micros(counters.turn_micros_max));
        }
        let mut stalled = page.family(
            "comet_core_stalled_seconds_total",
            Kind::Counter,
            "Time in which a core was held up: stopped, without a CPU, or too long in a turn, by core. Deadlines \
             of clients leave it out.",
        );
        for (core, counters) in self.counters.iter().enumerate() {
            stalled.labelled(&[("core", &core)], Duration::from_millis(counters.stalled_millis));
        }
        let mut ages = page.family(
            "comet_core_turn_age_seconds",
            Kind::Gauge,
            "Time since the latest turn of the driver, by core; a core that sleeps is woken each second.",
        );
        for (core, age) in self.turn_ages.iter().enumerate() {
            ages.labelled(&[("core", &core)], *age);
        }
        let mut depths = page.family(
            "comet_core_inbox_depth",
            Kind::Gauge,
            "Messages on their way to a core, by core.",
        );
        for (core, depth) in self.inbox_depths.iter().enumerate() {
            depths.labelled(&[("core", &core)], *depth as u64);
        }
    }

    fn control(&self, page: &mut Exposition) {
        page.family("comet_calls_under_way", Kind::Gauge, "Calls that wait for shards.")
            .sample(self.calls_under_way as u64);
        let mut calls = page.family(
            "comet_calls_total",
            Kind::Counter,
            "Calls answered, by name or path and by gRPC code.",
        );
        for (rpc, code, count) in &self.calls {
            calls.labelled(&[("rpc", rpc), ("code", &format_args!("{code:?}"))], *count);
        }
        expose_gates(page, &self.monitor.gates);
        self.monitor.memory.expose(page);
        self.monitor.certificates.expose(page);
        if let Some(logic) = &self.logic {
            logic.expose(page);
        }
        let (lines, missed) = self.trace_log;
        page.family(
            "comet_white_log_lines_total",
            Kind::Counter,
            "Lines written to the trace log.",
        )
        .sample(lines);
        page.family(
            "comet_white_log_missed_total",
            Kind::Counter,
            "Events missing from the trace log, as too many waited or the file could not be written.",
        )
        .sample(missed + self.sum(|counters| counters.trace_missed));
        page.family("comet_build_info", Kind::Gauge, "Always 1; the labels identify the build.")
            .labelled(
                &[
                    ("version", &self.monitor.version),
                    ("revision", &COMMIT),
                    ("rustc", &RUSTC),
                    ("server_id", &self.monitor.server_id),
                ],
                1,
            );
    }
}

impl Field {
    fn metric(&self) -> String {
        match self.kind {
            Kind::Counter => format!("comet_{}_total", self.name),
            Kind::Gauge => format!("comet_{}", self.name),
        }
    }
}
