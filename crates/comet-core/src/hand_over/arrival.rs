//! The checked part of a hand-over that one shard takes over.

use std::sync::Arc;

use comet_handover::{
    Connection, DepartedUser, DisconnectedKey, History, LeftBehindKey, TicketKeys, Tls,
};
use comet_proto::{Encoded, Position, RoomHandle};

use crate::history::StreamState;
use crate::ids::{CallId, ConnId, ShardId};
use crate::ledger::Counters;
use crate::operation_filter::OperationFilter;
use crate::outbox::PushMeta;
use crate::time::Millis;
use crate::transport::Transport;

use super::paced::ArrivedPaced;
use super::parked::{ArrivedKept, ArrivedSession};

/// The part that one shard takes over. [`distribute`](crate::distribute) makes it.
pub struct TakeOver {
    pub(crate) shard: ShardId,
    pub(crate) shards: u16,
    /// Sorted by slot.
    pub(crate) connections: Vec<ArrivedConn>,
    pub(crate) items: Vec<ArrivedItem>,
    pub(crate) rooms: Vec<ArrivedRoom>,
    pub(crate) home: ArrivedHome,
    pub(crate) counters: Counters,
    pub(crate) ticket_keys: Option<TicketKeys>,
    /// Oldest first.
    pub(crate) paced: Vec<ArrivedPaced>,
}

impl TakeOver {
    /// The number of connections that the shard takes over.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The address of each client as the former driver has handed it over, by slot.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.connections.iter().map(|conn| conn.connection.address.as_str())
    }

    /// The rooms with members whose home the shard is.
    pub fn rooms(&self) -> impl Iterator<Item = &Arc<str>> {
        self.home.rooms.iter().map(|room| &room.name)
    }

    /// The shard, with each call whose paced broadcast continues there.
    pub fn paced(&self) -> impl Iterator<Item = (ShardId, CallId)> {
        self.paced.iter().map(|paced| (self.shard, paced.call))
    }

    /// The session ticket keys of the former process, the same for each shard.
    pub fn take_ticket_keys(&mut self) -> Option<TicketKeys> {
        self.ticket_keys.take()
    }

    /// The TLS state of each connection as the former driver has handed it over, by slot. The shard keeps the number of
    /// sealed bytes.
    pub fn take_tls(&mut self) -> Vec<Option<Tls>> {
        let connections = self.connections.iter_mut().map(|conn| &mut conn.connection.tls);
        connections.map(|tls| tls.as_deref_mut().map(Tls::take)).collect()
    }
}

pub(crate) struct ArrivedConn {
    /// Except in `gaps`, handles in it are those of the former process; `pending` are indices into [`TakeOver::items`].
    pub(crate) connection: Connection,
    pub(crate) transport: Transport,
    pub(crate) accepts: OperationFilter,
    /// An index into [`TakeOver::rooms`].
    pub(crate) room: Option<usize>,
    pub(crate) further_rooms: Vec<usize>,
    /// The offsets up to which it was offered the pushes of rooms with a history, by index of the room.
    pub(crate) offered: Vec<(usize, u64)>,
    /// The rooms that its client knows by another handle.
    pub(crate) renamed: Vec<usize>,
}

#[derive(Clone)]
pub(crate) struct ArrivedItem {
    pub(crate) frame: Encoded,
    pub(crate) is_push: bool,
    pub(crate) meta: Option<Arc<PushMeta>>,
}

pub(crate) struct ArrivedRoom {
    pub(crate) handle: RoomHandle,
    pub(crate) name: Arc<str>,
    /// The number of members on this shard.
    pub(crate) members: u32,
    /// The number of members on all other shards.
    pub(crate) elsewhere: u32,
    /// The number of members on other hosts, as remote logic last said.
    pub(crate) remote: u32,
    /// The position of its latest push, if its home knows one.
    pub(crate) position: Option<Position>,
}

#[derive(Default)]
pub(crate) struct ArrivedHome {
    /// The owner of each key, whether its session outlasts it, and, if other hosts compare that, since when it has the
    /// key.
    pub(crate) owners: Vec<(Box<str>, ConnId, bool, Option<Millis>)>,
    pub(crate) parked: Vec<ArrivedSession>,
    pub(crate) kept: Vec<ArrivedKept>,
    pub(crate) users: Vec<ArrivedUser>,
    pub(crate) departed_users: Vec<DepartedUser>,
    pub(crate) disconnected_keys: Vec<DisconnectedKey>,
    pub(crate) left_behind: Vec<LeftBehindKey>,
    /// The number of keys given to anonymous users, as this shard counts them.
    pub(crate) anonymous: u64,
    pub(crate) rooms: Vec<HomeRoomPart>,
    /// Rooms with members on other hosts.
    pub(crate) remote: Vec<(Arc<str>, u32)>,
    /// The stream that hosts share, as far as all homes have read it.
    pub(crate) stream: StreamState,
    /// The offset of the latest push of the stream to a room that was forgotten.
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
