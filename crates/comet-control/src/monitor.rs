//! The state of the server: the numbers of all shards and of the control thread at one moment. `metrics` and `stat` are
//! its two forms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::{CallerEnd, CloseReason, Counters, DropReason, ParkedLoss, STATUS_CODES, ShardId};
use comet_hub::CallError;
use comet_ops::{CertificatesInUse, Exposition, Kind};
use comet_serve::{CallCounts, GateReading, Gates, Phase};
use tokio::sync::watch;
use tonic::Code;

use crate::cluster::ClusterDriver;
use crate::counts::snapshots;
use crate::hub::HubDriver;
use crate::inspector::Inspector;
use crate::liveness::CoreLiveness;
use crate::logic::{Logic, LogicStats};
use crate::memory_ceiling::MemoryCeiling;
use crate::node::NodeDriver;
use crate::questions::Questions;

/// How long a reader waits for the shards.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A number that every shard counts: read from one shard, or summed over all.
pub(crate) struct Field {
    /// Its key in the JSON; the metric is `comet_<name>`, with `_total` appended for a counter.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) read: fn(&Counters) -> u64,
}

pub(crate) const fn counter(
    name: &'static str,
    help: &'static str,
    read: fn(&Counters) -> u64,
) -> Field {
    Field { name, kind: Kind::Counter, help, read }
}

pub(crate) const fn gauge(
    name: &'static str,
    help: &'static str,
    read: fn(&Counters) -> u64,
) -> Field {
    Field { name, kind: Kind::Gauge, help, read }
}

/// The fields that are summed.
pub(crate) const FIELDS: &[Field] = &[
    counter("accepted_tcp", "Connections accepted over TCP.", |c| c.accepted_tcp),
    counter("accepted_websocket", "Connections accepted over WebSocket.", |c| c.accepted_websocket),
    counter("event_streams", "Of these, connections that became event streams.", |c| {
        c.event_streams
    }),
    counter("deflated_connections", "Connections that negotiated permessage-deflate.", |c| {
        c.deflated_connections
    }),
    counter("deflated_pushes", "Pushes compressed, one for each shard and form.", |c| {
        c.deflated_messages
    }),
    counter("deflate_saved_bytes", "Bytes that compression kept from being sent.", |c| {
        c.deflate_saved_bytes
    }),
    counter("refused", "Connections turned away at accept.", |c| c.refused),
    counter("refused_for_memory", "Connections turned away at accept for limits.memory.", |c| {
        c.refused_for_memory
    }),
    counter("accept_pauses", "Times that accepts paused for clients.accepts.", |c| c.accept_pauses),
    counter("accept_errors", "Accepts of clients and push callers that failed.", |c| {
        c.accept_errors
    }),
    counter("authenticated", "Connections authenticated and registered.", |c| c.authenticated),
    counter("tokens_renewed", "Tokens that took the place of a connection's last one.", |c| {
        c.tokens_renewed
    }),
    counter("tokens_not_renewed", "Tokens that were to do so and were not taken.", |c| {
        c.tokens_not_renewed
    }),
    counter("pushes", "Pushes carried out, one for each shard reached.", |c| c.pushes),
    counter("coalesce_windows", "Windows of coalescing that have ended.", |c| c.coalesce_windows),
    counter("coalesced", "Pushes that left at the end of such windows.", |c| c.coalesced),
    counter("recovered", "Joins with a position that got all they had missed.", |c| {
        c.recoveries[1]
    }),
    counter("not_recovered", "Joins with a position that could not.", |c| c.recoveries[0]),
    counter("presence_pushes", "Pushes that told members who entered and left rooms.", |c| {
        c.presence_pushes
    }),
    counter(
        "recoveries_delayed",
        "Requests for what a client missed in a room that waited until others had theirs.",
        |c| c.recoveries_delayed,
    ),
    counter("presence_changes", "Connections that entered or left, in such pushes.", |c| {
        c.presence_changes
    }),
    counter("repaired", "Pushes lost for a member of a room, and got when it asked again.", |c| {
        c.repaired
    }),
    counter("unknown_event_ids", "Event streams whose last event ID no server has sent.", |c| {
        c.unknown_event_ids
    }),
    counter("history_evicted", "Pushes that left a room's history for want of memory.", |c| {
        c.history_evicted
    }),
    counter("matched", "Deliveries that pushes asked for: queued plus dropped.", |c| {
        c.deliveries.matched
    }),
    counter("queued", "Deliveries that an outbox took.", |c| c.deliveries.queued),
    counter("absent", "Keys and users of pushes that no connection held.", |c| c.deliveries.absent),
    counter("parked", "Pushes parked for sessions without a connection.", |c| c.deliveries.parked),
    counter(
        "unsent",
        "Deliveries queued, then parked with the session of their connection.",
        |c| c.unsent,
    ),
    counter("resumed", "Parked pushes given to the next connection of their key.", |c| c.resumed),
    counter("sessions_parked", "Sessions that outlasted their connection.", |c| c.sessions_parked),
    counter("sessions_resumed", "Parked sessions that another connection took over.", |c| {
        c.sessions_resumed
    }),
    counter("sessions_expired", "Parked sessions whose window was over.", |c| c.sessions_expired),
    counter("sent", "Deliveries whose every byte the kernel took.", |c| c.sent),
    counter("lost", "Deliveries queued, then lost with their connection.", |c| c.lost),
    counter("superseded", "Deliveries queued, then taken out for a newer one.", |c| c.superseded),
    counter(
        "displaced",
        "Superseded deliveries that no newer state replaces: they made space in a full outbox.",
        |c| c.displaced,
    ),
    counter("frames_in", "Frames read from clients.", |c| c.frames_in),
    counter("frames_ignored", "Frames from clients not authenticated yet.", |c| c.frames_ignored),
    counter("heartbeats", "Heartbeats answered.", |c| c.heartbeats),
    counter(
        "received",
        "Client messages answered: operation 4 and operations that comet does not define.",
        |c| c.received,
    ),
    counter("bytes_in", "Bytes read from clients.", |c| c.bytes_in),
    counter("bytes_out", "Bytes the kernel took for clients.", |c| c.bytes_out),
    counter("sends", "Sends submitted to the kernel.", |c| c.sends),
    counter("mesh_waits", "Attempts to send to another core that found its inbox full.", |c| {
        c.mesh_waits
    }),
    counter("forgotten", "Users and keys forgotten early, as too many were remembered.", |c| {
        c.forgotten
    }),
    gauge("waiting", "Deliveries in an outbox or on their way into the kernel.", |c| c.waiting),
    gauge("waiting_bytes", "Bytes in outboxes that the kernel has not taken.", |c| c.waiting_bytes),
    gauge(
        "held_bytes",
        "Memory that outboxes take; pushes that several clients wait for count once.",
        |c| c.held_bytes,
    ),
    gauge("coalescing", "Pushes that wait in windows of coalescing.", |c| c.gathered),
    gauge("coalescing_bytes", "Bytes of their frames, for each core that they are on.", |c| {
        c.gathered_bytes
    }),
    gauge("history_bytes", "Memory that the histories of rooms take.", |c| c.history_bytes),
    gauge(
        "recovery_bytes",
        "Memory of what clients missed in rooms and is in no outbox yet.",
        |c| c.recovery_bytes,
    ),
    gauge("parked_pushes", "Pushes parked now.", |c| c.parked),
    gauge("parked_bytes", "Memory that parked sessions take.", |c| c.parked_bytes),
    gauge("parked_sessions", "Sessions parked now.", |c| c.parked_sessions),
    gauge("connections", "Connections open.", |c| c.connections),
    gauge("live", "Connections authenticated.", |c| c.live),
    gauge("handshakes", "Connections not authenticated yet.", |c| c.handshakes),
    gauge(
        "moving_off",
        "Connections that a drain, or an order to move clients off, is still to close.",
        |c| c.moving_off,
    ),
    gauge("sources", "Client addresses and subnets that are counted.", |c| c.sources),
    gauge("addresses", "Client addresses that are counted.", |c| c.addresses),
    gauge("rooms", "Rooms with members.", |c| c.rooms),
    gauge("further_rooms", "Rooms of connections beside their first ones.", |c| c.further_rooms),
    gauge("users", "Users with a session.", |c| c.users),
    gauge("keys", "Keys with a connection.", |c| c.keys),
];

/// The sources of the numbers.
pub(crate) struct Monitor {
    pub(crate) hub: Arc<HubDriver>,
    pub(crate) inspector: Arc<Inspector>,
    pub(crate) questions: Arc<Questions>,
    pub(crate) node: Arc<NodeDriver>,
    pub(crate) logic: Option<Arc<Logic>>,
    pub(crate) cluster: Option<Arc<ClusterDriver>>,
    pub(crate) liveness: Arc<CoreLiveness>,
    pub(crate) memory: Arc<MemoryCeiling>,
    pub(crate) certificates: Arc<CertificatesInUse>,
    pub(crate) counts: Arc<CallCounts>,
    pub(crate) gates: Arc<Gates>,
    pub(crate) server_id: String,
    pub(crate) version: &'static str,
    pub(crate) started: Instant,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// All numbers of one moment.
pub(crate) struct Reading<'monitor> {
    pub(crate) monitor: &'monitor Monitor,
    /// The counters of the cores that answered, by core.
    pub(crate) counters: BTreeMap<usize, Counters>,
    pub(crate) inbox_depths: Vec<usize>,
    /// Time since the latest turn of each core.
    pub(crate) turn_ages: Vec<Duration>,
    pub(crate) calls_under_way: usize,
    pub(crate) calls: Vec<(&'static str, Code, u64)>,
    /// Number of lines in the trace log, and of events that it has not.
    pub(crate) trace_log: (u64, u64),
    /// Live traces under way, and the number of events reported to them as missing.
    pub(crate) live_traces: (usize, u64),
    pub(crate) logic: Option<LogicStats>,
}

impl Monitor {
    /// Asks every shard, and takes the answers of those that answer in time.
    ///
    /// # Errors
    /// If the shards cannot be asked.
    pub(crate) async fn read(&self) -> Result<Reading<'_>, CallError> {
        self.read_with(|late| match late {
            CallError::InboxFull { known, .. } | CallError::Late { known, .. } => {
                Ok(known.counters)
            }
            other => Err(other),
        })
        .await
    }

    /// As [`Monitor::read`], but only if every shard answers.
    ///
    /// # Errors
    /// If a shard does not answer in time.
    pub(crate) async fn read_all(&self) -> Result<Reading<'_>, CallError> {
        self.read_with(Err).await
    }

    async fn read_with(
        &self,
        known: impl FnOnce(CallError) -> Result<Vec<(ShardId, Box<Counters>)>, CallError>,
    ) -> Result<Reading<'_>, CallError> {
        let inbox_depths = self.hub.depths();
        let turn_ages = self.liveness.ages();
        let calls_under_way = self.hub.calls_under_way();
        // Read before the shards are asked: each shard that answers knows these traces.
        let live_traces = self.hub.watchers.counts();
        let snapshots = snapshots(&self.hub, ANSWER_TIMEOUT).await.or_else(known)?;
        let reading = self.reading(snapshots);
        Ok(Reading { inbox_depths, turn_ages, calls_under_way, live_traces, ..reading })
    }

    /// The counters of the process, for the continuing process.
    pub(crate) fn counters_of_process(&self) -> String {
        let mut page = Exposition::default();
        self.reading(Vec::new()).of_process(&mut page);
        page.finish()
    }

    fn reading(&self, snapshots: Vec<(ShardId, Box<Counters>)>) -> Reading<'_> {
        let of_core = |(shard, counters): (ShardId, Box<Counters>)| (shard.0.into(), *counters);
        Reading {
            monitor: self,
            counters: snapshots.into_iter().map(of_core).collect(),
            inbox_depths: self.hub.depths(),
            turn_ages: self.liveness.ages(),
            calls_under_way: self.hub.calls_under_way(),
            calls: self.counts.all(),
            trace_log: self.hub.trace_log_counts(),
            live_traces: self.hub.watchers.counts(),
            logic: self.logic.as_deref().map(Logic::stats),
        }
    }

    /// Asks every home for its rooms, and applies a function to them on the blocking pool.
    pub(crate) async fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.hub.rooms(ANSWER_TIMEOUT, make).await
    }
}

impl Reading<'_> {
    /// Whether every core has answered. A sum over some of them would look like a counter that fell.
    pub(crate) fn is_complete(&self) -> bool {
        self.counters.len() == self.inbox_depths.len()
    }

    pub(crate) fn sum(&self, read: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.values().map(read).sum()
    }

    /// Answered requests of callers at `push.frames`, by code; codes without any are left out.
    pub(crate) fn calls_of_frames(&self) -> Vec<(Code, u64)> {
        let calls = (0..STATUS_CODES).map(|code| (code, self.sum(|counters| counters.calls[code])));
        let calls = calls.filter(|(_, count)| *count > 0 && self.is_complete());
        calls.map(|(code, count)| (Code::from_i32(code as i32), count)).collect()
    }

    /// The gate of `push.frames`, if there is such a listener and all cores have answered.
    pub(crate) fn gate_of_frames(&self) -> Option<GateReading> {
        let most = usize::from(self.monitor.hub.limits().callers.connections);
        let is_known = most > 0 && self.is_complete();
        let ended = CallerEnd::ALL
            .iter()
            .map(|reason| (*reason, self.sum(|counters| counters.callers_ended[*reason as usize])));
        // A caller without a valid token counts as refused, as at the other gates.
        let (refused, closed): (Vec<_>, Vec<_>) =
            ended.partition(|(reason, _)| *reason == CallerEnd::NoToken);
        let labelled = |ended: Vec<(CallerEnd, u64)>| {
            ended.into_iter().map(|(reason, count)| (reason.label(), count)).collect()
        };
        is_known.then(|| GateReading {
            setting: "push.frames",
            connections: self.sum(|counters| counters.callers) as usize,
            connections_max: most * self.inbox_depths.len(),
            accepted: self.sum(|counters| counters.callers_accepted),
            accept_errors: 0,
            closed: labelled(closed),
            refused: labelled(refused),
        })
    }

    pub(crate) fn closed(&self, reason: CloseReason) -> u64 {
        self.sum(|counters| counters.closed[reason as usize])
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|counters| counters.deliveries.dropped[reason as usize])
    }

    pub(crate) fn parked_lost(&self, reason: ParkedLoss) -> u64 {
        self.sum(|counters| counters.parked_lost[reason as usize])
    }
}
