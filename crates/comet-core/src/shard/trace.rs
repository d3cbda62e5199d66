//! Tracing: events of the connections of listed users, for the trace log, and of the subjects of live traces. For any
//! other connection it costs one check of a flag.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;
use comet_proto::{Frame, HEADER_LEN};

use crate::budget::{self, Budget};
use crate::ids::Slot;
use crate::ledger::DropReason;
use crate::listing::SocketInfo;
use crate::live_traces::{LiveTrace, Subject, TraceId};
use crate::message::{TraceEvent, TraceKind};
use crate::room::RoomId;

use super::Shard;

/// The traced connections.
pub(super) type Tracing = AHashMap<Slot, Traced>;

/// The destinations of the events of a connection.
#[derive(PartialEq, Eq)]
pub(super) struct Traced {
    /// Its user is on the trace list.
    is_listed: bool,
    pub(super) live: Box<[TraceId]>,
}

/// The result of a push at an outbox.
pub(super) enum Offered {
    Queued { bytes: u32, superseded: u32 },
    Dropped(DropReason),
}

impl Shard {
    /// The trace list or the live traces have changed: decides anew for every connection, from the first slot on.
    pub(super) fn update_all_tracing(&mut self, budget: &mut Budget) {
        while let Some(slot) = self.tracing_from
            && budget.is_left()
        {
            budget.spend(1);
            if self.conns.is_taken(slot) {
                self.update_tracing(slot, None);
            }
            let next = slot.next();
            self.tracing_from = (next < self.conns.end()).then_some(next);
        }
    }

    /// Live traces of networks were added: checks the addresses of the connections from `slot` on. Returns the first
    /// slot that is left over.
    pub(super) fn trace_networks(
        &mut self,
        mut slot: Slot,
        sockets: &mut impl SocketInfo,
        budget: &mut Budget,
    ) -> Option<Slot> {
        while slot < self.conns.end() && budget.is_left() {
            budget.spend(budget::LOOK);
            if self.conns.is_taken(slot) {
                budget.spend(budget::ADDRESS);
                let address = sockets.address(self.conns.id(slot));
                self.update_tracing(slot, address.map(|address| address.ip()));
            }
            slot = slot.next();
        }
        (slot < self.conns.end()).then_some(slot)
    }

    /// The client of an open connection connects from `address`.
    pub(super) fn trace_accepted(&mut self, slot: Slot, address: IpAddr) {
        if self.context.limits.traces.has_networks() {
            self.update_tracing(slot, Some(address));
            self.trace(slot, TraceKind::Accepted { address });
        }
    }

    /// Decides whether a connection is traced. Without an `address`, live traces of networks stay as decided before.
    /// Once the connection is closed, traces can only end.
    pub(super) fn update_tracing(&mut self, slot: Slot, address: Option<IpAddr>) {
        let (conn, limits) = (&self.conns[slot], &self.context.limits);
        let former = self.tracing.get(&slot);
        let is_known = |id: TraceId| former.is_some_and(|former| former.live.contains(&id));
        let is_meant = |LiveTrace { id, subject }: &LiveTrace| match subject {
            _ if !conn.is_open() => is_known(*id),
            Subject::Key(key) => conn.is_live() && conn.key == *key,
            Subject::User(user) => conn.is_live() && conn.user == *user,
            Subject::Room(room) => self.rooms.find(room).is_some_and(|id| self.is_in(slot, id)),
            Subject::Network(network) => {
                address.map_or(is_known(*id), |address| network.contains(address))
            }
        };
        let live: Box<[TraceId]> =
            limits.traces.iter().filter(|trace| is_meant(trace)).map(|trace| trace.id).collect();
        let is_listed = conn.is_live() && limits.trace_users.binary_search(&conn.user).is_ok();
        let is_traced = is_listed || !live.is_empty();
        if is_traced {
            self.tracing.insert(slot, Traced { is_listed, live });
        } else if conn.is_traced {
            self.tracing.remove(&slot);
        }
        self.conns[slot].is_traced = is_traced;
    }

    /// The connection has entered or left `room`. The event goes to all live traces that it concerns, before or after.
    pub(super) fn trace_moved(
        &mut self,
        slot: Slot,
        room: RoomId,
        what: fn(Arc<str>) -> TraceKind,
    ) {
        if !self.conns[slot].is_traced && self.context.limits.traces.is_empty() {
            return;
        }
        let former =
            self.tracing.get(&slot).map_or_else(Box::default, |former| former.live.clone());
        self.update_tracing(slot, None);
        let mut concerned = former.into_vec();
        if let Some(Traced { live, .. }) = self.tracing.get(&slot) {
            concerned.extend(live);
        }
        concerned.sort_unstable();
        concerned.dedup();
        let what = what(Arc::clone(&self.rooms[room].name));
        self.trace_for(slot, what, false, concerned.into());
    }

    #[cold]
    pub(super) fn trace_read(&mut self, slot: Slot, frame: &Frame<'_>) {
        let Frame { operation, sequence, body, .. } = *frame;
        let bytes = (HEADER_LEN + body.len()) as u32;
        self.trace(slot, TraceKind::Read { operation, sequence, bytes });
    }

    /// The kernel took `bytes` more of what is in flight. To be called before the outbox advances.
    #[cold]
    pub(super) fn trace_written(&mut self, slot: Slot, bytes: usize) {
        let conn = &self.conns[slot];
        for (operation, sequence, bytes) in
            self.outboxes.chains.frames_taken(&conn.outbox, conn.transport, bytes)
        {
            self.trace(slot, TraceKind::Wrote { operation, sequence, bytes });
        }
    }

    /// A push was offered to a traced connection.
    #[cold]
    pub(super) fn trace_offered(&mut self, slot: Slot, operation: i32, offered: &Offered) {
        match *offered {
            Offered::Queued { bytes, superseded } => {
                self.trace(slot, TraceKind::Queued { operation, bytes, superseded });
            }
            Offered::Dropped(reason) => self.trace(slot, TraceKind::Dropped { operation, reason }),
        }
    }

    /// Reports an event of a connection, if it is traced.
    #[cold]
    pub(super) fn trace(&mut self, slot: Slot, what: TraceKind) {
        let Some(Traced { is_listed, live }) = self.tracing.get(&slot) else { return };
        let (is_listed, live) = (*is_listed, live.clone());
        self.trace_for(slot, what, is_listed, live);
    }

    fn trace_for(&mut self, slot: Slot, what: TraceKind, is_listed: bool, live: Box<[TraceId]>) {
        let is_logged = is_listed && what.is_logged();
        // Some live traces may have ended since.
        let traces = &self.context.limits.traces;
        if !is_logged && !live.iter().any(|id| traces.contains(*id)) {
            return;
        }
        let conn = &self.conns[slot];
        let (user, key) = (conn.user, conn.key.clone());
        let id = self.conns.id(slot);
        let at = self.context.now;
        let event = TraceEvent { conn: id, user, key, what, at, is_logged, traces: live };
        if !self.reports.push_trace(Box::new(event)) && is_logged {
            self.counters.trace_missed += 1;
        }
    }
}
