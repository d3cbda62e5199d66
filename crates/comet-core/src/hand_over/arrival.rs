//! The part of a hand-over that one shard takes over, checked.

use std::sync::Arc;

use comet_handover::{
    Connection, DepartedUser, DisconnectedKey, History, LeftBehindKey, TicketKeys, Tls,
};
use comet_proto::{Encoded, Position, RoomHandle};

use crate::accepts::Accepts;
use crate::history::StreamState;
use crate::ids::{CallId, ConnId, ShardId};
use crate::ledger::Counters;
use crate::outbox::Subject;
use crate::time::Millis;
use crate::transport::Transport;

use super::paced::ArrivedPaced;
use super::parked::{ArrivedKept, ArrivedSession};

/// What one shard takes over. [`distribute`](crate::distribute) makes it.
pub struct TakeOver {
    pub(crate) shard: ShardId,
    pub(crate) shards: u16,
    /// By slot.
    pub(crate) connections: Vec<ArrivedConn>,
    pub(crate) items: Vec<ArrivedItem>,
    pub(crate) rooms: Vec<ArrivedRoom>,
    pub(crate) home: ArrivedHome,
    pub(crate) counters: Counters,
    pub(crate) ticket_keys: Option<TicketKeys>,
    /// The oldest first.
    pub(crate) paced: Vec<ArrivedPaced>,
}

impl TakeOver {
    /// How many connections the shard takes over.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The address of each client as the driver has handed it over, by slot.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.connections.iter().map(|conn| conn.connection.address.as_str())
    }

    /// Rooms with members whose home the shard is.
    pub fn rooms(&self) -> impl Iterator<Item = &Arc<str>> {
        self.home.rooms.iter().map(|room| &room.name)
    }

    /// The shard, and the calls whose paced broadcasts go on there.
    pub fn paced(&self) -> impl Iterator<Item = (ShardId, CallId)> {
        self.paced.iter().map(|paced| (self.shard, paced.call))
    }

    /// The keys of the former process's session tickets, the same for each shard.
    pub fn take_ticket_keys(&mut self) -> Option<TicketKeys> {
        self.ticket_keys.take()
    }

    /// The TLS of each connection as the driver has handed it over, by slot. What is sealed stays known to the shard.
    pub fn take_tls(&mut self) -> Vec<Option<Tls>> {
        let connections = self.connections.iter_mut().map(|conn| &mut conn.connection.tls);
        connections.map(|tls| tls.as_deref_mut().map(Tls::take)).collect()
    }
}

pub(crate) struct ArrivedConn {
    /// Handles in it are those of the former process, but for `gaps`; `pending` are indices of [`TakeOver::items`].
    pub(crate) connection: Connection,
    pub(crate) transport: Transport,
    pub(crate) accepts: Accepts,
    /// Index of [`TakeOver::rooms`].
    pub(crate) room: Option<usize>,
    pub(crate) further_rooms: Vec<usize>,
    /// Up to which offset it was offered the pushes of rooms that keep a history, by index.
    pub(crate) offered: Vec<(usize, u64)>,
    /// Rooms that its client knows by another handle.
    pub(crate) renamed: Vec<usize>,
}

#[derive(Clone)]
pub(crate) struct ArrivedItem {
    pub(crate) frame: Encoded,
    pub(crate) is_push: bool,
    pub(crate) subject: Option<Arc<Subject>>,
}

pub(crate) struct ArrivedRoom {
    pub(crate) handle: RoomHandle,
    pub(crate) name: Arc<str>,
    /// Members on this shard.
    pub(crate) members: u32,
    /// Members on all other shards and hosts.
    pub(crate) elsewhere: u32,
    /// Of its latest push, if its home knows one.
    pub(crate) position: Option<Position>,
}

#[derive(Default)]
pub(crate) struct ArrivedHome {
    /// Whether their sessions outlast them, and how long they have had their keys if other hosts compare that.
    pub(crate) owners: Vec<(Box<str>, ConnId, bool, Option<Millis>)>,
    pub(crate) parked: Vec<ArrivedSession>,
    pub(crate) kept: Vec<ArrivedKept>,
    pub(crate) users: Vec<ArrivedUser>,
    pub(crate) departed_users: Vec<DepartedUser>,
    pub(crate) disconnected_keys: Vec<DisconnectedKey>,
    pub(crate) left_behind: Vec<LeftBehindKey>,
    /// Keys given to anonymous users by this shard, as it would count them.
    pub(crate) anonymous: u64,
    pub(crate) rooms: Vec<HomeRoomPart>,
    /// Rooms with members on other hosts.
    pub(crate) remote: Vec<(Arc<str>, u32)>,
    /// The stream that hosts share, as far as all homes have had it.
    pub(crate) stream: StreamState,
    /// Offset of the latest push of it to a room that was forgotten.
    pub(crate) stream_forgotten: u64,
    pub(crate) histories: Vec<History>,
    pub(crate) forgotten_rooms: u64,
}

pub(crate) struct ArrivedUser {
    pub(crate) user: i64,
    pub(crate) last: i32,
    /// At least one.
    pub(crate) sessions: Vec<(i32, ConnId)>,
}

/// A room with members on this host.
pub(crate) struct HomeRoomPart {
    pub(crate) name: Arc<str>,
    pub(crate) shards: Vec<(ShardId, u32)>,
    pub(crate) remote: u32,
}
