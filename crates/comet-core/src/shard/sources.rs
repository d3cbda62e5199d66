//! The addresses of clients: their connections are blocked, traced or counted. The home of a subnet counts its
//! connections and those of each address in it, over all shards. The connection does not wait for that. If there are
//! too many, the home closes it.

use std::net::IpAddr;

use ahash::AHashMap;

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{TURNED_AWAY_LINGER_MAX, TURNED_AWAY_MS};
use crate::message::Message;
use crate::source::Source;

use super::Shard;

/// The sources of this shard's counted connections, by slot; empty while no limit is set.
pub(super) type Sources = AHashMap<Slot, Source>;

impl Shard {
    /// The client of `conn` connects from `address`. To be called once for each connection, before its first bytes,
    /// while [`Limits::needs_addresses`](crate::Limits::needs_addresses).
    pub fn handle_source(&mut self, conn: ConnId, address: IpAddr) {
        self.meet_source(conn, address, Some(conn));
    }

    /// As [`Shard::handle_source`], for a connection that another process has handed over. The connection may be older
    /// than the limit, so it is counted but stays.
    pub fn adopt_source(&mut self, conn: ConnId, address: IpAddr) {
        self.meet_source(conn, address, None);
    }

    /// `one_more` is the connection to close if there are too many; `None`: it stays.
    fn meet_source(&mut self, conn: ConnId, address: IpAddr, one_more: Option<ConnId>) {
        let Some(slot) = self.conns.find(conn).filter(|&slot| self.conns[slot].is_open()) else {
            return;
        };
        if self.context.limits.blocklist.contains(address, self.context.now) {
            self.close(slot, CloseReason::Blocked, "");
            self.abort(slot);
            return self.dispatch_local();
        }
        self.trace_accepted(slot, address);
        let Some(source) = self.context.limits.sources.source(address) else { return };
        if self.sources.insert(slot, source).is_none() {
            let home = self.context.home_of_source(&source);
            self.messages.send(home, Message::EnterSource { conn: one_more, source });
            self.dispatch_local();
        }
    }

    /// The connection in `slot` closes. Its source's home is told.
    pub(super) fn leave_source(&mut self, slot: Slot) {
        if let Some(source) = self.sources.remove(&slot) {
            let home = self.context.home_of_source(&source);
            self.messages.send(home, Message::LeaveSource { source });
        }
    }

    /// At the home: counts a further connection from `source`.
    pub(super) fn enter_source(&mut self, conn: Option<ConnId>, source: &Source) {
        let excess = self.home.sources.enter(source, &self.context.limits.sources);
        if let Some((conn, reason)) = conn.zip(excess) {
            self.messages.send(conn.shard, Message::Evict { conn, reason });
        }
    }

    /// Refuses a connection and tells its client to come back after a random time.
    pub(super) fn turn_away(&mut self, slot: Slot, reason: CloseReason) {
        if !self.conns[slot].is_open() {
            return;
        }
        self.conns[slot].is_turned_away = true;
        let wait = self.jitter.within(TURNED_AWAY_MS);
        self.refuse_upgrade(slot, wait);
        self.close_with_hint(slot, reason, "", Some(wait));
    }

    /// Whether another connection that was turned away may linger. No limit on clients counts these connections, and a
    /// flood of them must not take the slots of others.
    pub(super) fn may_linger_turned_away(&self) -> bool {
        let part = self.context.limits.connections as usize / 16;
        self.turned_away < part.min(TURNED_AWAY_LINGER_MAX)
    }
}
