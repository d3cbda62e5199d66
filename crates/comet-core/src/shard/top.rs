//! The rooms with the most deliveries and the slowest clients, kept as they happen.

use std::sync::Arc;

use crate::conn::Conn;
use crate::heavy_hitters::HeavyHitters;
use crate::ids::{CallId, LocalConnId};
use crate::listing::{ConnOrder, SlowClient, SocketInfo, Top};
use crate::message::Report;
use crate::outbox::chains::Chains;
use crate::time::Millis;

use super::Shard;

/// Clients that hold up bytes: a push is dropped for want of space in their outbox, or a send is still under way a tick
/// after it began.
pub(super) struct SlowClients {
    now: Millis,
    /// By bytes that were dropped or late.
    late: HeavyHitters<LocalConnId>,
}

impl SlowClients {
    pub(super) fn new(seed: u64, now: Millis) -> Self {
        Self { now, late: HeavyHitters::new(seed, now) }
    }

    pub(super) fn begin_turn(&mut self, now: Millis) {
        self.now = now;
    }

    /// So many bytes of `conn` were dropped.
    pub(super) fn note_dropped(&mut self, conn: LocalConnId, bytes: u32) {
        self.late.note(bytes.into(), || (conn, self.now));
    }

    /// The send of a connection goes on for longer than a tick.
    pub(super) fn note_late(&mut self, id: LocalConnId, conn: &Conn, chains: &Chains) {
        self.note_dropped(id, chains.load(&conn.outbox, conn.transport).bytes);
    }
}

/// The rooms with the most deliveries.
pub(super) type TopRooms = HeavyHitters<Arc<str>>;

impl Shard {
    /// Reports the top lists of this shard. Clients that have left are not in them.
    pub(super) fn report_top(&mut self, call: CallId, sockets: &mut impl SocketInfo) {
        let now = self.context.now;
        let (rooms, span_ms) = self.top_rooms.heaviest(now);
        let (late, _) = self.outboxes.slow.late.heaviest(now);
        let mut clients = Vec::new();
        for (conn, late_bytes) in late {
            if self.conns.get(conn).is_some() {
                let (place, load) = self.place(conn.slot, ConnOrder::Waiting);
                clients.push(SlowClient { conn: self.listed(place, load, sockets), late_bytes });
            }
        }
        let top = Some(Box::new(Top { span_ms, rooms, clients }));
        self.reports.push(Report::Top { call, top });
    }
}
