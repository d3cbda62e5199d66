//! Connections by their clients' addresses: blocked, traced or counted. The home of a subnet counts it and the addresses in it,
//! over all shards. The connection goes on meanwhile; the home closes it if there are too many.

use std::net::IpAddr;

use ahash::AHashMap;

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{TURNED_AWAY_LINGER_MAX, TURNED_AWAY_MS};
use crate::message::Message;
use crate::source::Source;

use super::Shard;

/// The sources of the connections of a shard that are counted; empty while no limit is set.
pub(super) type Sources = AHashMap<Slot, Source>;

impl Shard {
    /// The client of `conn` connects from `address`. Call it once for each connection, before its bytes, while
    /// [`Limits::needs_addresses`](crate::Limits::needs_addresses).
    pub fn handle_source(&mut self, conn: ConnId, address: IpAddr) {
        self.meet_source(conn, address, Some(conn));
    }

    /// As [`Shard::handle_source`], for a connection that another process has handed over. It may have come before there was a
    /// limit: it is counted, and stays.
    pub fn adopt_source(&mut self, conn: ConnId, address: IpAddr) {
        self.meet_source(conn, address, None);
    }

    /// `one_more` is closed if there are too many.
    fn meet_source(&mut self, conn: ConnId, address: IpAddr, one_more: Option<ConnId>) {
        let Some(slot) = self.conns.find(conn).filter(|&slot| self.conns[slot].is_open()) else {
            return;
        };
        if self.context.limits.blocks.contains(address, self.context.now) {
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

    /// The connection in `slot` closes.
    pub(super) fn leave_source(&mut self, slot: Slot) {
        if let Some(source) = self.sources.remove(&slot) {
            let home = self.context.home_of_source(&source);
            self.messages.send(home, Message::LeaveSource { source });
        }
    }

    /// At the home: one connection more from `source`.
    pub(super) fn enter_source(&mut self, conn: Option<ConnId>, source: &Source) {
        let excess = self.home.sources.enter(source, &self.context.limits.sources);
        if let Some((conn, reason)) = conn.zip(excess) {
            self.messages.send(conn.shard, Message::Evict { conn, reason });
        }
    }

    /// Refuses a connection for now: it is told to come back after a random time.
    pub(super) fn turn_away(&mut self, slot: Slot, reason: CloseReason) {
        if !self.conns[slot].is_open() {
            return;
        }
        self.conns[slot].is_turned_away = true;
        let wait = self.jitter.within(TURNED_AWAY_MS);
        self.refuse_upgrade(slot, wait);
        self.close_with_hint(slot, reason, "", Some(wait));
    }

    /// Whether a connection that was turned away may linger as well: these are counted by no limit on clients, and a flood of
    /// them must not take the slots of others.
    pub(super) fn may_linger_turned_away(&self) -> bool {
        let part = self.context.limits.connections as usize / 16;
        self.turned_away < part.min(TURNED_AWAY_LINGER_MAX)
    }
}
