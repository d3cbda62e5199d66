//! The shard's state as plain data: what the simulator checks against its model, and what handing
//! the state to a new process will start from.

use crate::ids::ConnId;

use super::Shard;

/// A connection that is authenticated and registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveConn<'a> {
    /// Which.
    pub conn: ConnId,
    /// The key it was registered under; a newer connection may have claimed it meanwhile.
    pub key: &'a str,
    /// User id; 0 is anonymous.
    pub user: i64,
    /// Its number among the user's sessions; 0 without a user.
    pub session: i32,
    /// The room it is in.
    pub room: Option<&'a str>,
    /// What op 2 would answer.
    pub online: u32,
}

impl Shard {
    /// Every live connection, by slot.
    pub fn live_conns(&self) -> impl Iterator<Item = LiveConn<'_>> {
        self.conns.indices().filter(|&slot| self.conns.is_taken(slot)).filter_map(|slot| {
            let entry = &self.conns[slot];
            entry.is_live().then(|| LiveConn {
                conn: self.conn_id(slot),
                key: &entry.key,
                user: entry.user,
                session: entry.session,
                room: entry.room.room().map(|index| &*self.rooms[index].name),
                online: self.online(slot),
            })
        })
    }

    /// Keys whose home this is, and who holds them; in no order.
    pub fn keys(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.home.keys_and_owners()
    }

    /// Sessions of users whose home this is: user, number, connection; in no order of users.
    pub fn sessions(&self) -> impl Iterator<Item = (i64, i32, ConnId)> {
        self.home.all_sessions()
    }

    /// Rooms whose home this is with someone in them, and how many by what the shards last said; in
    /// no order.
    #[must_use]
    pub fn home_rooms(&self) -> Vec<(std::sync::Arc<str>, u32)> {
        self.home.rooms()
    }
}
