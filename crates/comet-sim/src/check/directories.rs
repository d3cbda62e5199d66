//! Checks that shards, homes, clients and logic agree about each other.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{
    ConnId, Counters, DropReason, LiveConn, ShardId, home_of_key, home_of_room, home_of_user,
};

use crate::driver::{Driver, live_conns};
use crate::env::{Env, Peer};
use crate::live_traces::about;
use crate::plan::ROOMS;
use crate::received::ReceivedStream;

/// Keys, sessions and rooms are at their homes, and are those of the live connections.
pub(super) fn check_directories(env: &Env, drivers: &[Driver]) -> Result<(), String> {
    let shards = env.plan.shards;
    let mut keys = BTreeMap::new();
    let mut sessions = BTreeSet::new();
    let mut rooms: BTreeMap<(ShardId, &str), u32> = BTreeMap::new();
    for live in live_conns(drivers) {
        let LiveConn { conn, key, user, session, room, further_rooms, .. } = live;
        if let Some(other) = keys.insert((home_of_key(key, shards), key), conn) {
            return Err(format!("{other:?} and {conn:?} both live with key {key}"));
        }
        if user != 0 {
            sessions.insert((home_of_user(user, shards), user, session, conn));
        }
        for room in room.into_iter().chain(further_rooms) {
            *rooms.entry((home_of_room(room, shards), room)).or_default() += 1;
        }
    }
    let homes = || drivers.iter().map(|driver| (driver.shard.id(), &driver.shard));
    let held: BTreeMap<(ShardId, &str), ConnId> = homes()
        .flat_map(|(home, shard)| shard.keys().map(move |(key, conn)| ((home, key), conn)))
        .collect();
    same("keys", &held, &keys)?;
    let held: BTreeSet<(ShardId, i64, i32, ConnId)> = homes()
        .flat_map(|(home, shard)| {
            shard.sessions().map(move |(user, seq, conn)| (home, user, seq, conn))
        })
        .collect();
    same("sessions", &held, &sessions)?;
    let listed: Vec<_> = homes().map(|(home, shard)| (home, shard.home_rooms())).collect();
    let held: BTreeMap<(ShardId, &str), u32> = listed
        .iter()
        .flat_map(|(home, rooms)| rooms.iter().map(|(room, members)| ((*home, &**room), *members)))
        .collect();
    same("rooms", &held, &rooms)?;
    for live in live_conns(drivers) {
        let remote_members = |room| env.control.remote_members.get(room).copied().unwrap_or(0);
        let here = |room| rooms[&(home_of_room(room, shards), room)];
        let online = live.room.map_or(0, |room| here(room) + remote_members(room));
        if live.online != online {
            return Err(format!("{live:?} would get another number than {online}"));
        }
    }
    Ok(())
}

/// The gauges equal the numbers of entries in the directories.
pub(super) fn check_gauges(drivers: &[Driver]) -> Result<(), String> {
    for driver in drivers {
        let shard = &driver.shard;
        let users: BTreeSet<_> = shard.sessions().map(|(user, ..)| user).collect();
        let live = shard.live_conns().count();
        let counters = shard.counters();
        let gauges = [counters.live, counters.rooms, counters.users, counters.keys];
        let listed = [live, shard.home_rooms().len(), users.len(), shard.keys().count()];
        same("gauges", &gauges.map(|gauge| gauge as usize), &listed)?;
    }
    let total = |of: fn(&Counters) -> u64| -> u64 {
        drivers.iter().map(|driver| of(&driver.shard.counters())).sum()
    };
    if total(|counters| counters.connections) == 0 {
        same("sources without connections", &[total(|counters| counters.sources)], &[0])?;
    }
    Ok(())
}

/// What clients know about themselves agrees with their shards.
pub(super) fn check_clients(env: &Env, drivers: &[Driver]) -> Result<(), String> {
    // Losses in the mesh are told with the next push only.
    let mesh_losses =
        |driver: &Driver| driver.shard.counters().deliveries.dropped[DropReason::MeshFull as usize];
    let has_mesh_losses = drivers.iter().any(|driver| mesh_losses(driver) > 0);
    for driver in drivers {
        let live: BTreeMap<ConnId, LiveConn<'_>> =
            driver.shard.live_conns().map(|live| (live.conn, live)).collect();
        for number in driver.peers() {
            let Peer { client, socket, conn, closed, .. } = &env.peers[number];
            let Some(live) = live.get(&conn.expect("accepted")) else {
                if client.received.is_live && closed.is_none() {
                    return Err(format!(
                        "peer {number} was authenticated, and its shard forgot it"
                    ));
                }
                continue;
            };
            let traces = about(env.control.live_traces(), live, number);
            same("live traces of a client", &live.traces, &&*traces)?;
            if closed.is_some() {
                return Err(format!("peer {number} was closed and lives: {live:?}"));
            }
            if client.must_be_closed && socket.is_drained_by_server() {
                return Err(format!("peer {number} did what it must be closed for, and lives"));
            }
            if !client.received.is_live || !client.received.expected.is_empty() {
                continue;
            }
            let profile = &client.profile;
            // Remote logic numbers sessions itself, and so does a shard for anonymous users.
            let may_differ = env.plan.is_remote() || profile.user == 0;
            let made = match may_differ {
                true if live.key.starts_with(&format!("{}_", profile.user)) => live.key.to_owned(),
                _ => format!("{}_{}", profile.user, live.session),
            };
            same("keys of a client", &live.key, &profile.key.unwrap_or(&made))?;
            same("users", &live.user, &profile.user)?;
            let room = client.received.room.map(|room| ROOMS[usize::from(room)]);
            same("room of a client", &live.room, &room)?;
            // A client that stopped reading may not have read its room's handle.
            if profile.is_protocol_2 && (client.received.knows_its_room() || socket.is_idle()) {
                let held: BTreeSet<&str> =
                    live.room.into_iter().chain(live.further_rooms.iter().copied()).collect();
                let known = client.received.rooms.values();
                let known = known.map(|(room, _)| ROOMS[usize::from(*room)]).collect();
                same("rooms of a client", &held, &known)?;
            }
            if profile.is_protocol_2 && !has_mesh_losses && socket.is_idle() {
                check_positions(env, drivers, &client.received)?;
            }
        }
    }
    Ok(())
}

/// A client that has read everything knows all pushes of its rooms with a history, or which of them it has lost.
fn check_positions(env: &Env, drivers: &[Driver], received: &ReceivedStream) -> Result<(), String> {
    for (room, _) in received.rooms.values() {
        let name = ROOMS[usize::from(*room)];
        let home = home_of_room(name, env.plan.shards);
        let home = drivers.iter().find(|driver| driver.shard.id() == home);
        if let Some(last_offset) = home.and_then(|home| home.shard.history_last_offset(name)) {
            received.positions.check_complete(*room, last_offset)?;
        }
    }
    Ok(())
}

/// Checks that the keys that logic takes for present are exactly the present ones. `false`: logic will learn of some
/// with the next renewals, so the check has to be repeated.
pub(crate) fn check_logic(env: &mut Env, drivers: &[Driver]) -> Result<bool, String> {
    let keys = drivers.iter().flat_map(|Driver { shard, .. }| {
        // To logic a parked session is a session.
        shard.keys().map(|(key, _)| key.into()).chain(shard.parked_keys().map(Into::into))
    });
    let held: BTreeSet<Box<str>> = keys.collect();
    let Env { control, plan, now, .. } = env;
    control.logic.check(plan, *now, &held, &control.remote_members)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, held: &T, expected: &T) -> Result<(), String> {
    let agrees = held == expected;
    agrees.then_some(()).ok_or_else(|| format!("{what}: {held:?}, but should be {expected:?}"))
}
