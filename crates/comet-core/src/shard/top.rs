//! The top lists: rooms by deliveries, and clients by late bytes and by traffic. They are updated with each event.

use std::sync::Arc;

use crate::conn::Conn;
use crate::heavy_hitters::HeavyHitters;
use crate::ids::{CallId, LocalConnId};
use crate::listing::{ConnOrder, SlowClient, SocketInfo, Top};
use crate::message::Report;
use crate::outbox::chains::Chains;
use crate::time::Millis;

use super::Shard;

/// Clients that take bytes too slowly: a push is dropped because their outbox is full, or a send is still under way a
/// tick after it began.
pub(super) struct SlowClients {
    now: Millis,
    /// By the number of dropped or late bytes.
    late: HeavyHitters<LocalConnId>,
}

impl SlowClients {
    pub(super) fn new(seed: u64, now: Millis) -> Self {
        Self { now, late: HeavyHitters::new(seed, now) }
    }

    pub(super) fn begin_turn(&mut self, now: Millis) {
        self.now = now;
    }

    /// `bytes` bytes for `conn` were dropped.
    pub(super) fn note_dropped(&mut self, conn: LocalConnId, bytes: u32) {
        self.late.note(bytes.into(), || (conn, self.now));
    }

    /// The send of a connection has lasted longer than a tick.
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
        let rates = self.traffic.rates(now);
        let mut entry = |conn: LocalConnId, order| {
            self.conns.get(conn)?;
            let (place, load) = self.place(conn.slot, order, &rates);
            Some(self.listed(place, load, &rates, sockets))
        };
        let slow = late.into_iter().filter_map(|(conn, late_bytes)| {
            Some(SlowClient { conn: entry(conn, ConnOrder::Waiting)?, late_bytes })
        });
        let clients = slow.collect();
        let mut busiest: Vec<_> =
            rates.conns().filter_map(|conn| entry(conn, ConnOrder::Rate)).collect();
        busiest.sort_unstable();
        let top = Some(Box::new(Top { span_ms, rooms, clients, busiest }));
        self.reports.push(Report::Top { call, top });
    }
}
