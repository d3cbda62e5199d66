//! Distributes the shards of one process to those of another.

use std::collections::HashSet;

use comet_handover as handed;
use comet_handover::{Fault, VERSION};
use comet_proto::{Encoded, RoomHandle};

use crate::gaps::Offsets;
use crate::ids::ShardId;
use crate::ledger::Counters;
use crate::limits::NAME_MAX;
use crate::outbox::{CollapseKey, PushMeta};
use crate::time::Millis;
use crate::transport::Transport;

use super::arrival::{ArrivedConn, ArrivedItem, TakeOver};
use super::counters;
use super::homes::Homes;
use super::operation_filter::accepts_from;
use super::paced::Paced;
use super::parked::push_from;
use super::rooms::{NewHandles, ShardRooms};

/// The limit of connections of one shard: slots are `u32`, and this number exceeds any machine.
const CONNECTIONS_MAX: usize = 1 << 28;

/// A shard of the former process. Its frames are checked.
struct Former {
    items: Vec<ArrivedItem>,
    rooms: Vec<handed::Room>,
}

/// A connection on its way to its new shard.
struct Moving<S> {
    /// The index of its shard in the former process.
    from: usize,
    connection: handed::Connection,
    socket: S,
}

/// Divides everything that the shards of the former process have handed over among `count` shards. `S` is what belongs
/// to a connection: its socket. Each shard is returned with the sockets of its connections, in the order of
/// [`Shard::take_over`](crate::Shard::take_over).
///
/// With the same number of shards each connection stays on its shard. Otherwise the connections are divided evenly.
///
/// # Errors
/// If a part is missing, or parts contradict each other. Then nothing is taken over.
pub fn distribute<S>(
    mut shards: Vec<(handed::Shard, Vec<S>)>,
    count: u16,
) -> Result<Vec<(TakeOver, Vec<S>)>, Fault> {
    if count == 0 {
        return inconsistent("it is for no shard");
    }
    shards.sort_by_key(|(shard, _)| shard.shard);
    check_complete(&shards)?;
    let is_same = shards.len() == usize::from(count);
    let (mut former, mut moving, mut all_counters) = (Vec::new(), Vec::new(), Vec::new());
    let mut total = 0;
    let (mut homes, mut paced) = (Homes::default(), Paced::default());
    let mut lengths = Vec::new();
    let mut ticket_keys = None;
    for (shard, sockets) in shards {
        let handed::Shard {
            version: _,
            required: _,
            shard: _,
            shards: _,
            clock_ms,
            connections,
            items,
            rooms,
            home,
            counters,
            ticket_keys: of_shard,
            paced: of_former,
        } = shard;
        ticket_keys = ticket_keys.or(of_shard);
        let mut home = home.unwrap_or_default();
        homes.park(std::mem::take(&mut home.parked))?;
        let items = items.into_iter().map(item).collect::<Result<_, _>>()?;
        former.push(Former { items, rooms });
        paced.add(of_former, connections.len())?;
        lengths.push(connections.len());
        total += connections.len();
        moving.push((connections, sockets));
        homes.add(home, Millis(clock_ms));
        all_counters.push(counters.unwrap_or_default());
    }
    if total > CONNECTIONS_MAX {
        return inconsistent("too many connections");
    }
    if !is_same {
        let count = usize::from(count);
        lengths = (0..count).map(|at| (at + 1) * total / count - at * total / count).collect();
    }
    let paced = if is_same { paced.keep() } else { paced.divide(&lengths) };
    homes.reserve(total);
    // Each record moves only once, because clients wait for each page that the kernel has to find.
    let mut moving = moving.into_iter().enumerate().flat_map(|(from, (connections, sockets))| {
        let pairs = connections.into_iter().zip(sockets);
        pairs.map(move |(connection, socket)| Moving { from, connection, socket })
    });
    let (mut parts, mut rooms) = (Vec::new(), Vec::new());
    for (shard, length) in (0..count).map(ShardId).zip(lengths) {
        let mut conns = Vec::with_capacity(length);
        let (mut sockets, mut origins) = (Vec::with_capacity(length), Vec::with_capacity(length));
        let mut items = Items::default();
        let mut mine = ShardRooms::new(former.len());
        for Moving { from, connection, socket } in moving.by_ref().take(length) {
            let former = &former[from];
            let conn = arrive(connection, from, former, &mut items, &mut mine)?;
            homes.register(&conn.connection, shard, conns.len())?;
            conns.push(conn);
            sockets.push(socket);
            origins.push(from);
        }
        let (mine, handles) = mine.finish(&mut conns)?;
        items.rename(&handles);
        for (ArrivedConn { connection, .. }, from) in conns.iter_mut().zip(origins) {
            for gap in &mut connection.gaps {
                gap.room = handles.of(from, RoomHandle(gap.room)).0;
            }
        }
        rooms.push(mine);
        parts.push((shard, conns, items.all, sockets));
    }
    let homes = homes.finish(&mut rooms, count)?;
    let counters = counters::regroup(&all_counters, count);
    let mut done = Vec::new();
    let rest = rooms.into_iter().zip(homes).zip(counters).zip(paced);
    for ((shard, connections, items, sockets), (((rooms, home), counters), paced)) in
        parts.into_iter().zip(rest)
    {
        let mut counters = counters::from_message(&counters);
        // Waiting pushes move with their connections, so each shard counts those of its own connections as queued.
        let is_push = |item: &&u32| items[**item as usize].is_push;
        let waiting = |conn: &ArrivedConn| conn.connection.pending.iter().filter(is_push).count();
        let waiting: usize = connections.iter().map(waiting).sum();
        let Counters { sent, lost, superseded, unsent, .. } = counters;
        let ended = [sent, lost, superseded, unsent].into_iter().fold(0, u64::saturating_add);
        let tally = &mut counters.deliveries;
        tally.queued = ended.saturating_add(waiting as u64);
        tally.matched =
            tally.dropped.iter().fold(tally.queued, |sum, more| sum.saturating_add(*more));
        let ticket_keys = ticket_keys.clone();
        let part = TakeOver {
            shard,
            shards: count,
            connections,
            items,
            rooms,
            home,
            counters,
            ticket_keys,
            paced,
        };
        done.push((part, sockets));
    }
    Ok(done)
}

fn inconsistent<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Inconsistent(what.into()))
}

/// Checks that each shard of the former process is present once, and that each connection has a socket.
fn check_complete<S>(shards: &[(handed::Shard, Vec<S>)]) -> Result<(), Fault> {
    if shards.is_empty() {
        return inconsistent("no shard");
    }
    for (at, (shard, sockets)) in shards.iter().enumerate() {
        let handed::Shard { version, shard: number, shards: of, connections, .. } = shard;
        if *version == 0 || *version > VERSION {
            return Err(Fault::Version(*version));
        }
        if (*number as usize, *of as usize) != (at, shards.len()) {
            return inconsistent(format!("shard {number} of {of} among {}", shards.len()));
        }
        if connections.len() != sockets.len() {
            let (conns, sockets) = (connections.len(), sockets.len());
            return inconsistent(format!("{sockets} sockets of {conns} connections"));
        }
    }
    Ok(())
}

fn item(item: handed::Item) -> Result<ArrivedItem, Fault> {
    let handed::Item { bytes, tcp_at, is_push, state, offsets, direct } = item;
    let collapse_key = state.map(|handed::State { room, id }| CollapseKey {
        room: room.map(Into::into),
        id: id.into(),
    });
    let offsets = offsets.map(|handed::Offsets { room, last, pushes, sent_as }| Offsets {
        room: RoomHandle(room),
        last,
        pushes,
        sent_as: RoomHandle(sent_as.unwrap_or(room)),
        generation: None,
    });
    let direct = direct.map(push_from).transpose()?;
    let meta = PushMeta { collapse_key, offsets, direct, parcel: None }.shared();
    match Encoded::from_parts(&bytes, tcp_at as usize) {
        Some(frame) => Ok(ArrivedItem { frame, is_push, meta }),
        None => inconsistent("a frame that is none"),
    }
}

/// The frames of a new shard.
#[derive(Default)]
struct Items {
    all: Vec<ArrivedItem>,
    /// For each former shard: the indices of its items in `all`.
    known: Vec<Vec<u32>>,
}

impl Items {
    fn index(&mut self, from: usize, former: &Former, item: u32) -> Result<u32, Fault> {
        let Some(frame) = former.items.get(item as usize) else {
            return inconsistent(format!("frame {item} of {}", former.items.len()));
        };
        if self.known.len() <= from {
            self.known.resize(from + 1, Vec::new());
        }
        let known = &mut self.known[from];
        if known.is_empty() {
            known.resize(former.items.len(), u32::MAX);
        }
        let known = &mut known[item as usize];
        if *known == u32::MAX {
            *known = self.all.len() as u32;
            self.all.push(frame.clone());
        }
        Ok(*known)
    }

    /// Notes the present handles of the rooms that pushes are to. The frames still name the former ones.
    fn rename(&mut self, handles: &NewHandles) {
        for (from, known) in self.known.iter().enumerate() {
            for &at in known.iter().filter(|&&at| at != u32::MAX) {
                let item = &mut self.all[at as usize];
                let Some(meta) = item.meta.as_deref() else { continue };
                let Some(offsets) = meta.offsets else { continue };
                let room = handles.of(from, offsets.room);
                if room != offsets.room {
                    let offsets = Some(Offsets { room, ..offsets });
                    item.meta = PushMeta { offsets, ..meta.clone() }.shared();
                }
            }
        }
    }
}

/// Checks a connection, and adds its frames and rooms to those of its new shard.
fn arrive(
    mut connection: handed::Connection,
    from: usize,
    former: &Former,
    items: &mut Items,
    rooms: &mut ShardRooms,
) -> Result<ArrivedConn, Fault> {
    let transport = match connection.transport() {
        handed::Transport::Tcp => Transport::Tcp,
        handed::Transport::WebSocket => Transport::WebSocket,
        handed::Transport::EventStream => Transport::EventStream,
        handed::Transport::Unknown => return inconsistent("a connection without transport"),
    };
    let key = &connection.key;
    if key.is_empty() || key.len() > NAME_MAX {
        return inconsistent(format!("a key of {} bytes", key.len()));
    }
    let accepts = accepts_from(connection.accepts.take())?;
    for pending in &mut connection.pending {
        *pending = items.index(from, former, *pending)?;
    }
    let first = connection
        .pending
        .first()
        .map_or(0, |&first| transport.bytes(&items.all[first as usize].frame).len());
    let is_begun = connection.stalled_ms.is_some();
    if connection.taken > 0 && (!is_begun || connection.taken as usize >= first) {
        return inconsistent("more than the first frame is taken");
    }
    if is_begun && connection.pending.is_empty() {
        return inconsistent("a send of nothing");
    }
    if let Some(tls) = &connection.tls {
        let length = |&item: &u32| transport.bytes(&items.all[item as usize].frame).len() as u64;
        let waiting: u64 = connection.pending.iter().map(length).sum();
        let sealed = u64::from(tls.sealed);
        let is_whole = is_begun && !tls.ciphertext.is_empty();
        if sealed > 0 && (!is_whole || u64::from(connection.taken) + sealed > waiting) {
            return inconsistent("more is sealed than waits");
        }
    }
    let is_gap = |gap: &handed::Gap| {
        let is_range = |first, last| 0 < first && first <= last && last < u64::MAX;
        is_range(gap.first, gap.first.saturating_add(gap.pushes))
            && gap.untold.is_none_or(|untold| is_range(untold.first, untold.last))
    };
    if !connection.gaps.iter().all(is_gap) {
        return inconsistent("a gap that is none");
    }
    let mut offered = Vec::new();
    let mut enter = |handle: u32| -> Result<usize, Fault> {
        let room = rooms.enter(from, &former.rooms, handle)?;
        offered.extend(room.offered.map(|offset| (room.at, offset)));
        Ok(room.at)
    };
    let room = connection.room.map(&mut enter).transpose()?;
    let further_rooms: Vec<usize> =
        connection.further_rooms.iter().map(|&handle| enter(handle)).collect::<Result<_, _>>()?;
    if !further_rooms.is_empty() {
        let mut seen = HashSet::new();
        if !room.iter().chain(&further_rooms).all(|&at| seen.insert(at)) {
            return inconsistent("a connection is in a room twice");
        }
    }
    let renamed = Vec::new();
    Ok(ArrivedConn { connection, transport, accepts, room, further_rooms, offered, renamed })
}
