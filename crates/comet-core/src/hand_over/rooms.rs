//! The rooms of a new shard, and the handles by which clients know them.
//!
//! A room keeps its handle if all its members know it by the same handle, and no client of the shard knows another room
//! by that handle. So handles do not change if the number of shards stays the same or grows. Otherwise a room gets a
//! handle that no client knows. Then a request that names a former handle, sent before the client learned the new one,
//! meets no room instead of a wrong one.

use std::sync::Arc;

use ahash::AHashMap;
use comet_handover::{Fault, Room};
use comet_proto::RoomHandle;

use crate::limits::NAME_MAX;

use super::arrival::{ArrivedConn, ArrivedRoom};

/// The limit of handles. They are indices, so it bounds the memory that they make a shard allocate.
const HANDLES_MAX: u32 = 1 << 24;

/// The rooms of one new shard.
pub(super) struct ShardRooms {
    rooms: Vec<Building>,
    by_name: AHashMap<Arc<str>, usize>,
    /// For each former shard: its rooms by handle, and their indices in `rooms`.
    known: Vec<AHashMap<u32, Known>>,
}

/// For each former shard: the rooms that have another handle in the new process.
pub(super) struct NewHandles(Vec<AHashMap<RoomHandle, RoomHandle>>);

impl NewHandles {
    /// The new handle of a room that had the handle `former` on the former shard `from`.
    pub(super) fn of(&self, from: usize, former: RoomHandle) -> RoomHandle {
        self.0[from].get(&former).copied().unwrap_or(former)
    }
}

/// A room that a connection has entered.
#[derive(Clone, Copy)]
pub(super) struct Entered {
    /// Its index on the new shard.
    pub(super) at: usize,
    /// See [`Room::offered`].
    pub(super) offered: Option<u64>,
}

#[derive(Clone, Copy)]
enum Known {
    /// An index into the former shard's list.
    There(usize),
    Here(Entered),
}

struct Building {
    name: Arc<str>,
    members: u32,
    /// The handle by which all members so far know it; `None`: they know several handles.
    handle: Option<u32>,
}

impl ShardRooms {
    pub(super) fn new(former: usize) -> Self {
        let known = (0..former).map(|_| AHashMap::new()).collect();
        Self { rooms: Vec::new(), by_name: AHashMap::new(), known }
    }

    /// Enters a connection of the former shard `from` into the room with the handle `handle` there.
    pub(super) fn enter(
        &mut self,
        from: usize,
        former: &[Room],
        handle: u32,
    ) -> Result<Entered, Fault> {
        let known = &mut self.known[from];
        if known.is_empty() {
            for (at, room) in former.iter().enumerate() {
                if known.insert(room.handle, Known::There(at)).is_some() {
                    let what = format!("two rooms have the handle {}", room.handle);
                    return Err(Fault::Inconsistent(what));
                }
            }
        }
        let entered = match known.get(&handle) {
            None => return Err(Fault::Inconsistent(format!("no room has the handle {handle}"))),
            Some(&Known::Here(entered)) => entered,
            Some(&Known::There(there)) => {
                let Room { name, offered, .. } = &former[there];
                if name.is_empty() || name.len() > NAME_MAX {
                    let what = format!("a room name of {} bytes", name.len());
                    return Err(Fault::Inconsistent(what));
                }
                let at = match self.by_name.get(name.as_str()) {
                    Some(&at) => at,
                    None => {
                        let name: Arc<str> = name.as_str().into();
                        let at = self.rooms.len();
                        let handle = Some(handle);
                        self.rooms.push(Building { name: Arc::clone(&name), members: 0, handle });
                        self.by_name.insert(name, at);
                        at
                    }
                };
                let entered = Entered { at, offered: *offered };
                known.insert(handle, Known::Here(entered));
                entered
            }
        };
        let room = &mut self.rooms[entered.at];
        room.members += 1;
        if room.handle != Some(handle) {
            room.handle = None;
        }
        Ok(entered)
    }

    /// Gives each room its handle, and notes for each of `conns` the rooms that it knows by another handle.
    pub(super) fn finish(
        mut self,
        conns: &mut [ArrivedConn],
    ) -> Result<(Vec<ArrivedRoom>, NewHandles), Fault> {
        // The room that clients know by each handle.
        let mut rooms_of: AHashMap<u32, usize> = AHashMap::new();
        let mut next = 0;
        for known in &self.known {
            for (&handle, &known) in known {
                let Known::Here(Entered { at, .. }) = known else { continue };
                next = next.max(handle.saturating_add(1));
                let other = *rooms_of.entry(handle).or_insert(at);
                if other != at {
                    self.rooms[at].handle = None;
                    self.rooms[other].handle = None;
                }
            }
        }
        let mut rooms = Vec::new();
        for Building { name, members, handle } in self.rooms {
            let handle = handle.unwrap_or_else(|| {
                next = next.saturating_add(1);
                next - 1
            });
            if handle >= HANDLES_MAX {
                return Err(Fault::Inconsistent(format!("the handle {handle}")));
            }
            let handle = RoomHandle(handle);
            rooms.push(ArrivedRoom {
                handle,
                name,
                members,
                elsewhere: 0,
                remote: 0,
                position: None,
            });
        }
        for ArrivedConn { connection, room, further_rooms, renamed, .. } in conns {
            let first = connection.room.into_iter().zip(*room);
            let further = connection.further_rooms.iter().copied();
            let all = first.chain(further.zip(further_rooms.iter().copied()));
            renamed.extend(
                all.filter(|&(handle, at)| rooms[at].handle != RoomHandle(handle))
                    .map(|(_, at)| at),
            );
        }
        let renamed = self.known.iter().map(|known| {
            let handles = known.iter().filter_map(|(&former, known)| match known {
                Known::Here(Entered { at, .. }) => Some((RoomHandle(former), rooms[*at].handle)),
                Known::There(_) => None,
            });
            handles.filter(|(former, handle)| former != handle).collect()
        });
        let renamed = NewHandles(renamed.collect());
        Ok((rooms, renamed))
    }
}
