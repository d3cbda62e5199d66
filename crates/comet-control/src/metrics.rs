//! The page for Prometheus, at `/metrics`.
//!
//! It is complete if every core answers in time. For a core that does not, it has the values that control knows.
//!
//! Labels are reasons, cores and calls: their number does not grow with clients, users or rooms.

use std::time::Duration;

use comet_core::{CloseReason, Counters, DropReason, ParkedLoss};
use comet_histogram::Histogram;
use comet_ops::{COMMIT, Exposition, Kind, RUSTC, expose_call_times, expose_gates, expose_process};
use comet_proto::RoomRefusal;

use crate::monitor::{FIELDS, Field, Reading, counter, gauge};

/// The fields for each core, which show whether one is busier than the rest.
const CORE_FIELDS: &[Field] = &[
    gauge("core_connections", "Connections open, by core.", |c| c.connections),
    gauge("core_waiting", "Deliveries not yet in the kernel, by core.", |c| c.waiting),
    counter("core_queued", "Deliveries that an outbox took, by core.", |c| c.deliveries.queued),
    counter("core_sends", "Sends submitted to the kernel, by core.", |c| c.sends),
    counter("core_turns", "Turns of the driver, by core.", |c| c.turn_times.count()),
];

/// Name, help and histogram of each time measured on a core.
type CoreTimes = (&'static str, &'static str, fn(&Counters) -> &Histogram);

const CORE_TIMES: [CoreTimes; 3] = [
    (
        "comet_handshake_seconds",
        "From accept to the end of authentication, to the millisecond, by core.",
        |c| &c.handshake_times,
    ),
    (
        "comet_push_queue_seconds",
        "From the turn that took a push to the end of the turn that queued its last send for the kernel, by core. \
         Clients whose former send is under way are not waited for.",
        |c| &c.push_times,
    ),
    ("comet_turn_seconds", "Turns of the driver, by core.", |c| &c.turn_times),
];

impl Reading<'_> {
    /// The page.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Exposition::default();
        if self.is_complete() {
            self.sums(&mut page);
        }
        self.cores(&mut page);
        self.of_process(&mut page);
        page.finish()
    }

    /// The metrics of the process itself, not of its shards. In a live upgrade the new process continues its counters.
    pub(crate) fn of_process(&self, page: &mut Exposition) {
        page.go_on();
        self.control(page);
        expose_process(page);
    }

    /// The sums over all cores. If one core is missing, these families are left out.
    fn sums(&self, page: &mut Exposition) {
        for field in FIELDS {
            page.family(field.metric(), field.kind, field.help).sample(self.sum(field.read));
        }
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
        let mut lost =
            page.family("comet_parked_lost_total", Kind::Counter, "Parked pushes lost, by reason.");
        for reason in ParkedLoss::ALL {
            lost.labelled(&[("reason", &reason.label())], self.parked_lost(*reason));
        }
        let mut refused = page.family(
            "comet_rooms_refused_total",
            Kind::Counter,
            "Requests to enter or leave a room that were refused, by reason.",
        );
        for reason in RoomRefusal::ALL {
            let of_reason = self.sum(|counters| counters.rooms_refused[reason as usize - 1]);
            refused.labelled(&[("reason", &reason.label())], of_reason);
        }
        let (_, missed) = self.trace_log;
        page.family(
            "comet_white_log_missed_total",
            Kind::Counter,
            "Events missing from the trace log, as too many waited or the file could not be written.",
        )
        .sample(missed + self.sum(|counters| counters.trace_missed));
    }

    fn cores(&self, page: &mut Exposition) {
        let help = "Whether the core answered within a second, by core. Its other figures, and the sums over all cores, \
                    are left out if not.";
        let mut answers = page.family("comet_core_answers", Kind::Gauge, help);
        for core in 0..self.inbox_depths.len() {
            answers.labelled(&[("core", &core)], u64::from(self.counters.contains_key(&core)));
        }
        for field in CORE_FIELDS {
            let mut family = page.family(field.metric(), field.kind, field.help);
            for (core, counters) in &self.counters {
                family.labelled(&[("core", &core)], (field.read)(counters));
            }
        }
        let mut busy = page.family(
            "comet_core_turn_seconds_total",
            Kind::Counter,
            "Time of the driver's turns, by core. The call that sleeps, and the sends in it, are not counted.",
        );
        for (core, counters) in &self.counters {
            busy.labelled(&[("core", &core)], counters.turn_times.sum());
        }
        for (name, help, read) in CORE_TIMES {
            let mut family = page.family(name, Kind::Histogram, help);
            for (core, counters) in &self.counters {
                family.times(("core", &core), read(counters));
            }
        }
        let mut longest = page.family(
            "comet_core_turn_seconds_max",
            Kind::Gauge,
            "Longest turn of the driver since the start, by core.",
        );
        for (core, counters) in &self.counters {
            longest.labelled(&[("core", &core)], Duration::from_micros(counters.turn_micros_max));
        }
        let mut stalled = page.family(
            "comet_core_stalled_seconds_total",
            Kind::Counter,
            "Time in which a core was held up: stopped, without a CPU, or too long in a turn, by core. Deadlines \
             of clients leave it out.",
        );
        for (core, counters) in &self.counters {
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
        for (code, count) in self.calls_of_frames() {
            calls.labelled(&[("rpc", &"PushFrames"), ("code", &format_args!("{code:?}"))], count);
        }
        expose_call_times(page, &self.monitor.counts);
        expose_gates(page, &self.monitor.gates, self.gate_of_frames());
        self.monitor.memory.expose(page);
        page.family(
            "comet_draining",
            Kind::Gauge,
            "1 from an order to drain on, until it is taken back; otherwise 0.",
        )
        .sample(u64::from(self.monitor.node.is_draining()));
        self.monitor.certificates.expose(page);
        if let Some(logic) = &self.logic {
            logic.expose(page);
        }
        if let Some(cluster) = &self.monitor.cluster {
            cluster.expose(page);
        }
        let (lines, _) = self.trace_log;
        page.family(
            "comet_white_log_lines_total",
            Kind::Counter,
            "Lines written to the trace log.",
        )
        .sample(lines);
        let (under_way, missed) = self.live_traces;
        page.family("comet_live_traces", Kind::Gauge, "Live traces under way.")
            .sample(under_way as u64);
        page.family(
            "comet_live_trace_missed_total",
            Kind::Counter,
            "Events that live traces were told to be missing, as too many waited.",
        )
        .sample(missed);
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
            Kind::Gauge | Kind::Histogram => format!("comet_{}", self.name),
        }
    }
}
