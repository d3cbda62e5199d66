//! What the server tells about itself: the counters of all shards, as a metrics page and as JSON.

use std::sync::Arc;
use std::time::Duration;

use comet_core::{CloseReason, Counters, DropReason};
use serde_json::{Map, Value, json};
use tonic::Code;

use crate::exposition::{Exposition, Kind};
use crate::grpc::Answers;
use crate::hub::{Hub, Unfinished};
use crate::pushes::snapshots;

/// How long a reader of metrics waits for the shards.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(1);

/// A number every shard counts: read from one shard, summed over all.
struct Field {
    /// Its key in the JSON; the metric is `comet_<name>`, of a counter with `_total` behind it.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&Counters) -> u64,
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Counters) -> u64) -> Field {
    Field { name, kind: Kind::Counter, help, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Counters) -> u64) -> Field {
    Field { name, kind: Kind::Gauge, help, read }
}

const FIELDS: &[Field] = &[
    counter("accepted_tcp", "Connections accepted over TCP.", |c| c.accepted_tcp),
    counter("accepted_websocket", "Connections accepted over WebSocket.", |c| c.accepted_websocket),
    counter("refused", "Connections turned away at accept.", |c| c.refused),
    counter("authenticated", "Connections authenticated and registered.", |c| c.authenticated),
    counter("pushes", "Pushes carried out, one for each shard reached.", |c| c.pushes),
    counter("matched", "Deliveries that pushes asked for: queued plus dropped.", |c| {
        c.deliveries.matched
    }),
    counter("queued", "Deliveries that an outbox took.", |c| c.deliveries.queued),
    counter("absent", "Keys and users pushed to that nobody held.", |c| c.deliveries.absent),
    counter("sent", "Deliveries whose every byte the kernel took.", |c| c.sent),
    counter("lost", "Deliveries queued, then lost with their connection.", |c| c.lost),
    counter("superseded", "Deliveries queued, then taken out for a newer one.", |c| c.superseded),
    counter("frames_in", "Frames read from clients.", |c| c.frames_in),
    counter("frames_ignored", "Frames from clients not authenticated yet.", |c| c.frames_ignored),
    counter("heartbeats", "Heartbeats answered.", |c| c.heartbeats),
    counter(
        "received",
        "Client messages answered: operation 4 and those without a meaning here.",
        |c| c.received,
    ),
    counter("bytes_in", "Bytes read from clients.", |c| c.bytes_in),
    counter("bytes_out", "Bytes the kernel took for clients.", |c| c.bytes_out),
    counter("sends", "Sends the kernel was asked for.", |c| c.sends),
    counter("mesh_waits", "Messages between shards that waited for room.", |c| c.mesh_waits),
    gauge("waiting", "Deliveries in an outbox or on their way into the kernel.", |c| c.waiting),
    gauge("connections", "Connections open.", |c| c.connections),
    gauge("live", "Connections authenticated.", |c| c.live),
    gauge("rooms", "Rooms with somebody online.", |c| c.rooms),
    gauge("users", "Users with a session.", |c| c.users),
    gauge("keys", "Keys with a connection.", |c| c.keys),
];

/// The fields worth watching for each core: is one of them busier than the rest?
const CORE_FIELDS: &[Field] = &[
    gauge("core_connections", "Connections open, by core.", |c| c.connections),
    gauge("core_waiting", "Deliveries not yet in the kernel, by core.", |c| c.waiting),
    counter("core_queued", "Deliveries that an outbox took, by core.", |c| c.deliveries.queued),
    counter("core_sends", "Sends the kernel was asked for, by core.", |c| c.sends),
];

/// Where numbers come from.
pub(crate) struct Monitor {
    pub(crate) hub: Arc<Hub>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) server_id: String,
    pub(crate) version: &'static str,
}

/// All numbers of one moment.
pub(crate) struct Reading<'monitor> {
    monitor: &'monitor Monitor,
    /// By core.
    counters: Vec<Counters>,
    inbox_depths: Vec<usize>,
    calls_under_way: usize,
    answers: Vec<(&'static str, Code, u64)>,
}

impl Monitor {
    /// Asks every shard. All or nothing: a sum over some shards would look like a counter that fell.
    pub(crate) async fn read(&self) -> Result<Reading<'_>, Unfinished> {
        let inbox_depths = self.hub.depths();
        let calls_under_way = self.hub.calls_under_way();
        let snapshots = snapshots(&self.hub, SNAPSHOT_TIMEOUT).await?;
        Ok(Reading {
            monitor: self,
            counters: snapshots.into_iter().map(|(_, counters)| *counters).collect(),
            inbox_depths,
            calls_under_way,
            answers: self.answers.all(),
        })
    }
}

impl Reading<'_> {
    /// The page for Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Exposition::default();
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
        for field in CORE_FIELDS {
            let mut family = page.family(field.metric(), field.kind, field.help);
            for (core, counters) in self.counters.iter().enumerate() {
                family.labelled(&[("core", &core)], (field.read)(counters));
            }
        }
        let mut depths = page.family(
            "comet_core_inbox_depth",
            Kind::Gauge,
            "Messages on their way to a core, by core.",
        );
        for (core, depth) in self.inbox_depths.iter().enumerate() {
            depths.labelled(&[("core", &core)], *depth as u64);
        }
        page.family("comet_calls_under_way", Kind::Gauge, "Calls that wait for shards.")
            .sample(self.calls_under_way as u64);
        let mut calls = page.family(
            "comet_calls_total",
            Kind::Counter,
            "Calls answered, by name or path and by gRPC code.",
        );
        for (rpc, code, count) in &self.answers {
            calls.labelled(&[("rpc", rpc), ("code", &format_args!("{code:?}"))], *count);
        }
        page.family("comet_build_info", Kind::Gauge, "Always 1; the labels say what runs here.")
            .labelled(
                &[("version", &self.monitor.version), ("server_id", &self.monitor.server_id)],
                1,
            );
        page.finish()
    }

    /// The same totals as JSON.
    pub(crate) fn stat(&self) -> Value {
        let mut totals: Map<String, Value> = FIELDS
            .iter()
            .map(|field| (field.name.to_owned(), self.sum(field.read).into()))
            .collect();
        let closed = CloseReason::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), self.closed(*reason).into()));
        totals.insert("closed".to_owned(), Value::Object(closed.collect()));
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), self.dropped(*reason).into()));
        totals.insert("dropped".to_owned(), Value::Object(dropped.collect()));
        json!({
            "server_id": self.monitor.server_id,
            "version": self.monitor.version,
            "cores": self.counters.len(),
            "calls_under_way": self.calls_under_way,
            "totals": totals,
        })
    }

    fn sum(&self, read: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(read).sum()
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.sum(|counters| counters.closed[reason as usize])
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|counters| counters.deliveries.dropped[reason as usize])
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
