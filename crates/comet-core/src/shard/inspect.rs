//! The shard's state as plain data, which the simulator compares with its model.

use std::sync::Arc;

use crate::ids::ConnId;
use crate::live_conn::LiveConn;

use super::Shard;

impl Shard {
    /// Whether counts of members have changed and were not passed on to a home or to the shards of a room yet.
    #[must_use]
    pub fn has_unsent_counts(&self) -> bool {
        self.rooms.changed() + self.home.rooms.changed() > 0 || self.has_counts_to_send()
    }

    /// Every live connection, by slot.
    pub fn live_conns(&self) -> impl Iterator<Item = LiveConn<'_>> {
        self.conns.slots().filter(|&slot| self.conns.is_taken(slot)).filter_map(|slot| {
            let conn = &self.conns[slot];
            conn.is_live().then(|| LiveConn {
                conn: self.conns.id(slot),
                key: &conn.key,
                user: conn.user,
                session: conn.session,
                room: conn.room.room().map(|id| &*self.rooms[id].name),
                further_rooms: self
                    .further_rooms
                    .of(slot)
                    .iter()
                    .map(|membership| &*self.rooms[membership.id()].name)
                    .collect(),
                online: self.online(slot),
                traces: self.tracing.get(&slot).map_or(&[], |traced| &traced.live),
            })
        })
    }

    /// Number of connections that are traced.
    #[must_use]
    pub fn traced(&self) -> usize {
        self.tracing.len()
    }

    /// Keys whose home this is, and the connections that own them; in no order.
    pub fn keys(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.home.keys.iter()
    }

    /// Keys whose home this is and whose sessions are parked; in no order.
    pub fn parked_keys(&self) -> impl Iterator<Item = &str> {
        self.home.parking.iter().map(|(session, _)| &*session.key)
    }

    /// Sessions of users whose home this is: user, number, connection; in no order of users.
    pub fn sessions(&self) -> impl Iterator<Item = (i64, i32, ConnId)> {
        self.home.users.iter()
    }

    /// Rooms with members whose home this is, and the number of members that shards last reported; in no order.
    #[must_use]
    pub fn home_rooms(&self) -> Vec<(Arc<str>, u32)> {
        self.home.rooms.counts()
    }

    /// The offset of the latest push to a room whose home this is, if the room keeps a history.
    #[must_use]
    pub fn history_last_offset(&self, room: &str) -> Option<u64> {
        self.home.histories.last_offset(room)
    }
}
