//! Moves the data of homes to the shards that are the homes in the new process, and derives the rest from the
//! connections.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::AHashMap;
use comet_handover::{
    Connection, DepartedUser, DisconnectedKey, Fault, History, Home, KeyAge, LeftBehindKey,
    ParkedSession, RemoteRoom, User,
};
use comet_proto::Position;

use crate::history::StreamState;
use crate::ids::{ConnId, Generation, ShardId, Slot, home_of_key, home_of_room, home_of_user};
use crate::time::Millis;

use super::arrival::{ArrivedHome, ArrivedRoom, ArrivedUser, HomeRoomPart};
use super::parked::{self, ArrivedKept, ArrivedSession};

/// All homes of the former process, and the connections of the new one.
#[derive(Default)]
pub(super) struct Homes {
    /// The number of the latest session of each user that had one.
    last: AHashMap<i64, i32>,
    departed_users: Vec<DepartedUser>,
    disconnected_keys: Vec<DisconnectedKey>,
    left_behind: Vec<LeftBehindKey>,
    anonymous: u64,
    remote: AHashMap<Arc<str>, u32>,
    /// Each with its index in the list of its former home.
    histories: Vec<(usize, History)>,
    forgotten_rooms: u64,
    stream: Option<StreamState>,
    stream_forgotten: u64,
    sessions: AHashMap<i64, Vec<(i32, ConnId)>>,
    owners: AHashMap<Box<str>, (ConnId, bool)>,
    /// Since when keys that logic named have their owners.
    claimed_at: AHashMap<Box<str>, Millis>,
    parked: AHashMap<Box<str>, ArrivedSession>,
    kept: Vec<ArrivedKept>,
}

impl Homes {
    /// Reserves memory for connections that will be [registered](Self::register).
    pub(super) fn reserve(&mut self, connections: usize) {
        self.owners.reserve(connections);
        self.sessions.reserve(connections);
    }

    /// Adds the data of a former shard whose clock showed `at`. The clock of the new process continues from there.
    pub(super) fn add(&mut self, home: Home, at: Millis) {
        let Home {
            users,
            departed_users,
            disconnected_keys,
            anonymous,
            remote_rooms,
            histories,
            forgotten_rooms,
            stream_epoch: epoch,
            stream_floor: floor,
            stream_seen: seen,
            stream_forgotten,
            key_ages,
            // These are checked in [`Homes::park`].
            parked: _,
            left_behind,
        } = home;
        self.stream_forgotten = self.stream_forgotten.max(stream_forgotten);
        self.add_stream(StreamState { epoch, floor, seen, is_read: epoch != 0 });
        self.last.extend(users.iter().map(|&User { user, last }| (user, last)));
        self.departed_users.extend(departed_users);
        self.disconnected_keys.extend(disconnected_keys);
        self.left_behind.extend(left_behind);
        self.anonymous = self.anonymous.max(anonymous);
        let ages = key_ages.into_iter();
        let claimed_at = |age_ms: u64| Millis(at.0.saturating_sub(age_ms));
        let ages = ages.map(|KeyAge { key, age_ms }| (key.into(), claimed_at(age_ms)));
        self.claimed_at.extend(ages);
        let remote = remote_rooms.into_iter();
        self.remote.extend(remote.map(|RemoteRoom { name, members }| (name.into(), members)));
        self.histories.extend(histories.into_iter().enumerate());
        self.forgotten_rooms = self.forgotten_rooms.max(forgotten_rooms);
    }

    /// Homes may have read the stream up to different offsets. All get what one of them lacks; each knows what it has
    /// had.
    fn add_stream(&mut self, state: StreamState) {
        let joined = self.stream.map_or(state, |known| match known.epoch == state.epoch {
            true => StreamState {
                floor: known.floor.max(state.floor),
                seen: known.seen.min(state.seen),
                ..known
            },
            false => StreamState::default(),
        });
        self.stream = Some(joined);
    }

    /// Adds sessions whose keys have no connection.
    pub(super) fn park(&mut self, sessions: Vec<ParkedSession>) -> Result<(), Fault> {
        for session in sessions {
            let session = parked::session_from(session)?;
            let (user, key) = (session.user, session.key.clone());
            if self.parked.insert(key.clone(), session).is_some() {
                return Err(Fault::Inconsistent(format!("two sessions of the key {key:?}")));
            }
            self.kept.push(ArrivedKept { user, key, conn: None });
        }
        Ok(())
    }

    /// The connection is on `shard` in the new process, in the slot `at`.
    pub(super) fn register(
        &mut self,
        connection: &Connection,
        shard: ShardId,
        at: usize,
    ) -> Result<(), Fault> {
        let conn = ConnId { shard, slot: Slot(at as u32), generation: Generation(0) };
        let Connection { key, user, session, is_kept, .. } = connection;
        if self.owners.insert(key.as_str().into(), (conn, *is_kept)).is_some() {
            return Err(Fault::Inconsistent(format!("two connections hold the key {key:?}")));
        }
        if self.parked.contains_key(key.as_str()) {
            let what = format!("the key {key:?} has a connection, and its session is parked");
            return Err(Fault::Inconsistent(what));
        }
        if *is_kept {
            let key = key.as_str().into();
            self.kept.push(ArrivedKept { user: *user, key, conn: Some(conn) });
        }
        if *user != 0 {
            let sessions = self.sessions.entry(*user).or_default();
            if sessions.iter().any(|(known, _)| known == session) {
                let what = format!("user {user} has two sessions {session}");
                return Err(Fault::Inconsistent(what));
            }
            sessions.push((*session, conn));
        }
        Ok(())
    }

    /// The data of `count` shards as homes. `rooms` are the rooms of each shard; their numbers of members elsewhere are
    /// filled in.
    pub(super) fn finish(
        self,
        rooms: &mut [Vec<ArrivedRoom>],
        count: u16,
    ) -> Result<Vec<ArrivedHome>, Fault> {
        let Self {
            mut last,
            mut departed_users,
            mut disconnected_keys,
            left_behind,
            anonymous,
            remote,
            mut histories,
            forgotten_rooms,
            stream,
            stream_forgotten,
            sessions,
            owners,
            claimed_at,
            parked,
            kept,
        } = self;
        let mut homes: Vec<ArrivedHome> = (0..count).map(|_| ArrivedHome::default()).collect();
        for home in &mut homes {
            // A shard's numbers interleave with those of the others, so each shard continues after the greatest.
            home.anonymous = anonymous.div_ceil(count.into());
            home.forgotten_rooms = forgotten_rooms;
            home.stream = stream.unwrap_or_default();
            home.stream_forgotten = stream_forgotten;
        }
        for (key, (conn, is_kept)) in owners {
            let claimed_at = claimed_at.get(&key).copied();
            homes[at(home_of_key(&key, count))].owners.push((key, conn, is_kept, claimed_at));
        }
        for (key, session) in parked {
            homes[at(home_of_key(&key, count))].parked.push(session);
        }
        for kept in kept.into_iter().filter(|kept| kept.user != 0) {
            homes[at(home_of_user(kept.user, count))].kept.push(kept);
        }
        for (user, mut sessions) in sessions {
            sessions.sort_unstable_by_key(|&(number, _)| number);
            let greatest = sessions.last().map_or(0, |&(number, _)| number);
            let last = last.remove(&user).unwrap_or(greatest);
            homes[at(home_of_user(user, count))].users.push(ArrivedUser { user, last, sessions });
        }
        // The sessions of these users have ended, because their connections have stayed behind.
        let ended = last.into_iter();
        departed_users.extend(ended.map(|(user, last)| DepartedUser { user, last, age_ms: 0 }));
        // Sorted by age and by name, so that the same hand-over always has the same result.
        departed_users.sort_by_key(|&DepartedUser { user, age_ms, .. }| (Reverse(age_ms), user));
        disconnected_keys.sort_by_key(|key| Reverse(key.age_ms));
        for departed in departed_users {
            homes[at(home_of_user(departed.user, count))].departed_users.push(departed);
        }
        for key in disconnected_keys {
            homes[at(home_of_key(&key.key, count))].disconnected_keys.push(key);
        }
        for key in left_behind {
            homes[at(home_of_key(&key.key, count))].left_behind.push(key);
        }
        let positions = positions(&histories)?;
        histories.sort_by_key(|&(order, _)| order);
        for (_, history) in histories {
            homes[at(home_of_room(&history.room, count))].histories.push(history);
        }
        join_rooms(rooms, &mut homes, &remote, &positions);
        for (name, members) in remote {
            homes[at(home_of_room(&name, count))].remote.push((name, members));
        }
        homes.iter_mut().for_each(sort);
        Ok(homes)
    }
}

/// Sorts a home's data, so that the same hand-over always has the same result.
fn sort(home: &mut ArrivedHome) {
    home.owners.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
    home.parked.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    home.users.sort_unstable_by_key(|user| user.user);
    home.left_behind.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    home.rooms.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    home.remote.sort_unstable();
}

fn at(ShardId(shard): ShardId) -> usize {
    shard.into()
}

/// The position of each room with a history.
fn positions(histories: &[(usize, History)]) -> Result<AHashMap<Arc<str>, Position>, Fault> {
    let mut positions = AHashMap::new();
    for (_, History { room, epoch, top, .. }) in histories {
        let position = Position { epoch: *epoch, offset: *top };
        if positions.insert(room.as_str().into(), position).is_some() {
            return Err(Fault::Inconsistent(format!("two histories of the room {room:?}")));
        }
    }
    Ok(positions)
}

/// Tells homes which shards have members of their rooms, and tells shards the numbers of members elsewhere.
fn join_rooms(
    rooms: &mut [Vec<ArrivedRoom>],
    homes: &mut [ArrivedHome],
    remote: &AHashMap<Arc<str>, u32>,
    positions: &AHashMap<Arc<str>, Position>,
) {
    let mut joined: AHashMap<Arc<str>, HomeRoomPart> = AHashMap::new();
    for (shard, rooms) in (0..).map(ShardId).zip(&*rooms) {
        for ArrivedRoom { name, members, .. } in rooms {
            let room = joined.entry(Arc::clone(name)).or_insert_with(|| HomeRoomPart {
                name: Arc::clone(name),
                shards: Vec::new(),
                remote: remote.get(name).copied().unwrap_or(0),
            });
            room.shards.push((shard, *members));
        }
    }
    for room in rooms.iter_mut().flatten() {
        let HomeRoomPart { shards, remote, .. } = &joined[&room.name];
        let all = shards.iter().fold(0_u32, |sum, &(_, members)| sum.saturating_add(members));
        room.elsewhere = all.saturating_sub(room.members);
        room.remote = *remote;
        room.position = positions.get(&room.name).copied();
    }
    let count = homes.len() as u16;
    for room in joined.into_values() {
        homes[at(home_of_room(&room.name, count))].rooms.push(room);
    }
}
