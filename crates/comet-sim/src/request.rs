//! The requests of callers to control, and the resulting messages.

use std::num::NonZeroU32;
use std::sync::Arc;

use comet_core::{
    CallId, ConnFilter, ConnOrder, ConnQuery, HistoryQuery, Message, Push, ShardId, Transport,
    home_of_key, home_of_room, home_of_user,
};
use comet_proto::{Encoded, Frame, op};

use crate::plan::{COLLAPSE_IDS, KEYS, Plan, ROOMS, USERS};
use crate::rng::Rng;
use crate::wire::{self, Kind, PUSH_SEQUENCE, Stamp};

/// The slowest paced broadcast, connections a second on each shard.
const SPEED_LEAST: u64 = 50;

/// The request of a call.
pub(crate) enum Request {
    Keys(Vec<Box<str>>),
    Users(Vec<i64>),
    /// Index into [`ROOMS`].
    Room(u8),
    All,
    /// Connections a second on each shard.
    Paced(NonZeroU32),
    /// Counters, for the monitor.
    Snapshot,
    /// Rooms with members.
    Rooms,
    /// A list of connections.
    List(Arc<ConnQuery>),
    /// Top lists.
    Top,
    /// A page of a room's history.
    History(Arc<HistoryQuery>),
}

impl Request {
    pub(crate) fn random_keys(rng: &mut Rng) -> Self {
        let mut keys: Vec<Box<str>> = Vec::new();
        for _ in 0..rng.between(1, 5) {
            let key = match rng.percent(60) {
                true => rng.pick(&KEYS).to_owned(),
                false => format!("{}_{}", rng.below(USERS as usize), rng.between(1, 6)),
            };
            if !keys.iter().any(|known| **known == *key) {
                keys.push(key.into());
            }
        }
        Self::Keys(keys)
    }

    pub(crate) fn random_users(rng: &mut Rng) -> Self {
        let mut users: Vec<i64> = (1..USERS).filter(|_| rng.percent(40)).collect();
        if users.is_empty() {
            users.push(1);
        }
        Self::Users(users)
    }

    pub(crate) fn random_pace(rng: &mut Rng) -> Self {
        let speed = NonZeroU32::new(rng.between(SPEED_LEAST, 2000) as u32);
        Self::Paced(speed.expect("the slowest is not 0"))
    }

    /// A list with any filter, at times a later page of it.
    pub(crate) fn random_list(rng: &mut Rng, shards: u16) -> Self {
        let mut filter = ConnFilter::default();
        match rng.below(10) {
            0..4 => {}
            4 => filter.user = Some(rng.below(USERS as usize) as i64),
            5 => filter.key = Some(rng.pick(&KEYS).into()),
            6 => filter.room = Some(rng.pick(&ROOMS).into()),
            7 => filter.transport = Some(rng.pick(&[Transport::Tcp, Transport::WebSocket])),
            8 => filter.is_tls = Some(rng.percent(50)),
            _ => {
                let network = rng.pick(&["192.0.2.0/24", "192.0.3.5", "192.0.2.2"]);
                filter.network = Some(network.parse().expect("a network"));
            }
        }
        let order = rng.pick(&[ConnOrder::Waiting, ConnOrder::Age, ConnOrder::Rate]);
        let limit = rng.pick(&[1, 3, 1_000]);
        let after = rng.percent(20).then(|| {
            let rank = rng.pick(&[0, 10, u32::MAX]);
            let place = format!("{rank}.{}.{}.0", rng.below(shards.into()), rng.below(5));
            place.parse().expect("a place")
        });
        Self::List(Arc::new(ConnQuery { filter, order, limit, after }))
    }

    /// A page of a room that may keep a history.
    pub(crate) fn random_history(rng: &mut Rng) -> Self {
        let before = rng.percent(50).then(|| rng.between(0, 40));
        let (room, limit) = (rng.pick(&ROOMS).into(), rng.pick(&[1, 3, 1_000]));
        Self::History(Arc::new(HistoryQuery { room, before, limit }))
    }

    /// Counters, rooms and lists count as a push to no user.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Keys(_) => Kind::Keys,
            Self::Users(_)
            | Self::Snapshot
            | Self::Rooms
            | Self::List(_)
            | Self::Top
            | Self::History(_) => Kind::Users,
            Self::Room(room) => Kind::Room(*room),
            Self::All => Kind::All,
            Self::Paced(_) => Kind::Paced,
        }
    }

    /// One message for each shard concerned, in the order of shards.
    pub(crate) fn messages(
        &self,
        call: CallId,
        shards: u16,
        push: &Push,
    ) -> Vec<(ShardId, Message)> {
        let push = || push.clone();
        let all = (0..shards).map(ShardId);
        match self {
            Self::Keys(keys) => {
                let by_home = group(keys, shards, |key| home_of_key(key, shards));
                by_home
                    .map(|(home, keys)| (home, Message::PushKeys { call, keys, push: push() }))
                    .collect()
            }
            Self::Users(users) => {
                let by_home = group(users, shards, |user| home_of_user(*user, shards));
                by_home
                    .map(|(home, users)| (home, Message::PushUsers { call, users, push: push() }))
                    .collect()
            }
            Self::Room(room) => {
                let room: Arc<str> = ROOMS[usize::from(*room)].into();
                vec![(home_of_room(&room, shards), Message::PushRoom { call, room, push: push() })]
            }
            Self::All => all
                .map(|shard| (shard, Message::Broadcast { call, push: push(), speed: None }))
                .collect(),
            Self::Paced(speed) => {
                let speed = Some(*speed);
                all.map(|shard| (shard, Message::Broadcast { call, push: push(), speed })).collect()
            }
            Self::Snapshot => all.map(|shard| (shard, Message::Snapshot { call })).collect(),
            Self::Rooms => all.map(|shard| (shard, Message::Rooms { call })).collect(),
            Self::Top => all.map(|shard| (shard, Message::Top { call })).collect(),
            Self::History(query) => {
                let query = Arc::clone(query);
                vec![(home_of_room(&query.room, shards), Message::History { call, query })]
            }
            Self::List(query) => all
                .map(|shard| (shard, Message::Connections { call, query: Arc::clone(query) }))
                .collect(),
        }
    }
}

/// `items` by home, without homes that have none.
fn group<T: Clone>(
    items: &[T],
    shards: u16,
    home: impl Fn(&T) -> ShardId,
) -> impl Iterator<Item = (ShardId, Vec<T>)> {
    (0..shards).map(ShardId).filter_map(move |shard| {
        let here: Vec<T> = items.iter().filter(|item| home(item) == shard).cloned().collect();
        (!here.is_empty()).then_some((shard, here))
    })
}

/// The push of call `id`.
pub(crate) fn encode(rng: &mut Rng, plan: &Plan, id: u64, kind: Kind, operation: i32) -> Push {
    let (wire_operation, sequence, body) = body(rng, plan, id, kind, operation);
    let frame = Frame { version: 1, operation: wire_operation, sequence, body: &body };
    let collapse_id = rng.percent(50).then(|| rng.pick(&COLLAPSE_IDS).into());
    Push { collapse_id, ..Push::new(operation, Encoded::frame(&frame)) }
}

/// The operation, sequence and body of a push: one frame, or a batch as goim's job makes it.
pub(crate) fn body(
    rng: &mut Rng,
    plan: &Plan,
    id: u64,
    kind: Kind,
    operation: i32,
) -> (i32, i32, Vec<u8>) {
    let parts = if rng.percent(25) { rng.between(1, 4) as u8 } else { 0 };
    let padding = rng.below(plan.push_body_max + 1);
    let stamp = Stamp { id, part: 0, parts: parts.max(1), kind, operation };
    if parts == 0 {
        return (operation, PUSH_SEQUENCE, stamp.write(padding));
    }
    let inner = (0..parts).flat_map(|part| {
        wire::frame(operation, PUSH_SEQUENCE, &Stamp { part, ..stamp }.write(padding))
    });
    (op::RAW, PUSH_SEQUENCE, inner.collect())
}
