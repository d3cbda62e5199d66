//! What must hold: after every turn, at every quiet point, and at the end.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{
    ConnId, Counters, DropReason, LiveConn, ShardId, SlowConsumer, Tally, Transport, home_of_key,
    home_of_room, home_of_user,
};

use crate::Summary;
use crate::call::Call;
use crate::client::Client;
use crate::driver::Driver;
use crate::plan::ROOMS;
use crate::wire::Kind;
use crate::world::{Env, Peer, World};

/// Counters as they were at the last quiet point.
#[derive(Clone, Copy, Default)]
pub(crate) struct Baseline {
    superseded: u64,
    dropped_unwanted: u64,
}

/// After a turn of one shard: its books balance, with each other and with its sockets.
pub(crate) fn turn(driver: &Driver, env: &Env) -> Result<(), String> {
    let counters = driver.shard.counters();
    let sockets = driver.socket_totals(env);
    let Counters { deliveries, sent, lost, superseded, waiting, .. } = counters;
    let holds = |holds: bool, law: &str| {
        let shard = driver.shard.id().0;
        holds.then_some(()).ok_or_else(|| format!("shard {shard}: {law}: {counters:?}"))
    };
    holds(deliveries.matched == deliveries.queued + deliveries.dropped_total(), "matched")?;
    holds(deliveries.queued == sent + lost + superseded + waiting, "queued")?;
    let limits = &env.plan.limits;
    // Where the oldest makes room, one waits beside those on their way, however many these are.
    let beside = u64::from(limits.slow_consumer == SlowConsumer::DropOldest);
    let room = (u64::from(limits.svr_proto) + beside) * counters.connections;
    holds(waiting <= room, "more waits than outboxes hold")?;
    holds(sent <= sockets.pushes_taken, "sent, and no socket took it")?;
    holds(counters.bytes_out == sockets.bytes_taken, "bytes out")?;
    holds(counters.bytes_in == sockets.bytes_received, "bytes in")?;
    holds(counters.connections == driver.peers().count() as u64, "connections")
}

/// When everything has come to rest: directories, rooms and beliefs agree, and every push that a client
/// had a right to has come or was counted.
pub(crate) fn quiet_point(world: &mut World) -> Result<(), String> {
    directories(world)?;
    totals(world)?;
    clients(world)?;
    logic(world)?;
    deliveries(world)?;
    world.env.control.calls.clear();
    for peer in &mut world.env.peers {
        peer.client.received.pushes.clear();
    }
    Ok(())
}

/// After the drain: nobody is left, and nothing of them.
pub(crate) fn end(world: &mut World) -> Result<Summary, String> {
    totals(world)?;
    logic(world)?;
    let env = &world.env;
    env.control.trace_log.end(&env.plan)?;
    if let Some(times) = env.control.drained.iter().find(|times| **times != 1) {
        return Err(format!("a shard was drained {times} times"));
    }
    let mut summary = Summary::new(&env.plan.limits, env.plan.shards);
    for driver in &mut world.drivers {
        let sockets = driver.socket_totals(env);
        summary.coalesced_waits += driver.coalesced_waits;
        let shard = &mut driver.shard;
        if shard.handle_accept(Transport::Tcp).is_some() {
            return Err(format!("shard {} takes connections after its drain", shard.id().0));
        }
        let counters = shard.counters();
        let Counters { connections, live, rooms, users, keys, waiting, waiting_bytes, .. } =
            counters;
        let left = [connections, live, rooms, users, keys, waiting, waiting_bytes];
        if left != [0; 7] || !shard.home_rooms().is_empty() {
            return Err(format!(
                "shard {} is not empty after its drain: {counters:?}",
                shard.id().0
            ));
        }
        if counters.sent != sockets.pushes_taken {
            let taken = sockets.pushes_taken;
            return Err(format!("{} pushes sent, {taken} taken by sockets", counters.sent));
        }
        summary.add(&counters);
    }
    for (number, Peer { client, socket, closed, conn, .. }) in env.peers.iter().enumerate() {
        if !socket.is_released || conn.is_some() != closed.is_some() {
            return Err(format!("peer {number} was not closed: {closed:?}"));
        }
        summary.digest = summary.digest.rotate_left(1) ^ client.received.digest;
    }
    let logic = &env.control.logic;
    summary.remote = u64::from(env.plan.is_remote());
    summary.renewals = logic.renewals;
    summary.departures = logic.departures;
    summary.failures = logic.failures;
    summary.traced = env.control.trace_log.lines;
    summary.steps = env.trace.step;
    summary.calls = env.control.calls_total;
    Ok(summary)
}

/// Control's sum of all tallies is the sum of the shards' counters; paced broadcasts are in the
/// latter only.
fn totals(world: &World) -> Result<(), String> {
    let mut counted = Tally::default();
    for driver in &world.drivers {
        counted += driver.shard.counters().deliveries;
    }
    let numbers =
        |tally: &Tally| [&[tally.matched, tally.queued, tally.absent][..], &tally.dropped].concat();
    let control = &world.env.control;
    let (counted, reported) = (numbers(&counted), numbers(&control.total));
    let agrees = if control.has_paced {
        counted.iter().zip(&reported).all(|(counted, reported)| counted >= reported)
    } else {
        counted == reported
    };
    agrees.then_some(()).ok_or_else(|| format!("shards counted {counted:?}, control {reported:?}"))
}

/// Keys, sessions and rooms are where their homes are, and are those of the live connections.
fn directories(world: &World) -> Result<(), String> {
    let shards = world.env.plan.shards;
    let mut keys = BTreeMap::new();
    let mut sessions = BTreeSet::new();
    let mut rooms: BTreeMap<(ShardId, &str), u32> = BTreeMap::new();
    for live in live_conns(world) {
        let LiveConn { conn, key, user, session, room, .. } = live;
        if let Some(other) = keys.insert((home_of_key(key, shards), key), conn) {
            return Err(format!("{other:?} and {conn:?} both live with key {key}"));
        }
        if user != 0 {
            sessions.insert((home_of_user(user, shards), user, session, conn));
        }
        if let Some(room) = room {
            *rooms.entry((home_of_room(room, shards), room)).or_default() += 1;
        }
    }
    let homes = || world.drivers.iter().map(|driver| (driver.shard.id(), &driver.shard));
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
    for live in live_conns(world) {
        let remote_members =
            |room| world.env.control.remote_members.get(room).copied().unwrap_or(0);
        let here = |room| rooms[&(home_of_room(room, shards), room)];
        let online = live.room.map_or(0, |room| here(room) + remote_members(room));
        if live.online != online {
            return Err(format!("{live:?} would get another number than {online}"));
        }
    }
    gauges(world)
}

/// The gauges count what the directories list.
fn gauges(world: &World) -> Result<(), String> {
    for driver in &world.drivers {
        let shard = &driver.shard;
        let users: BTreeSet<_> = shard.sessions().map(|(user, ..)| user).collect();
        let live = shard.live_conns().count();
        let counters = shard.counters();
        let gauges = [counters.live, counters.rooms, counters.users, counters.keys];
        let listed = [live, shard.home_rooms().len(), users.len(), shard.keys().count()];
        same("gauges", &gauges.map(|gauge| gauge as usize), &listed)?;
    }
    Ok(())
}

/// What clients know of themselves is so.
fn clients(world: &World) -> Result<(), String> {
    for driver in &world.drivers {
        let live: BTreeMap<ConnId, LiveConn<'_>> =
            driver.shard.live_conns().map(|live| (live.conn, live)).collect();
        for number in driver.peers() {
            let Peer { client, socket, conn, closed, .. } = &world.env.peers[number];
            let Some(live) = live.get(&conn.expect("accepted")) else {
                if client.received.is_live && closed.is_none() {
                    return Err(format!(
                        "peer {number} was authenticated, and its shard forgot it"
                    ));
                }
                continue;
            };
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
            // Logic numbers sessions as it likes, and so does a shard those of nobody.
            let may_differ = world.env.plan.is_remote() || profile.user == 0;
            let made = match may_differ {
                true if live.key.starts_with(&format!("{}_", profile.user)) => live.key.to_owned(),
                _ => format!("{}_{}", profile.user, live.session),
            };
            same("keys of a client", &live.key, &profile.key.unwrap_or(&made))?;
            same("users", &live.user, &profile.user)?;
            let room = client.received.room.map(|room| ROOMS[usize::from(room)]);
            same("rooms of a client", &live.room, &room)?;
        }
    }
    Ok(())
}

/// What logic believes to be here is here.
fn logic(world: &World) -> Result<(), String> {
    let held: BTreeSet<Box<str>> = match world.env.plan.is_remote() {
        true => {
            let keys = world.drivers.iter().flat_map(|driver| driver.shard.keys());
            keys.map(|(key, _)| key.into()).collect()
        }
        false => BTreeSet::new(),
    };
    same("keys at logic", &world.env.control.logic.present, &held)
}

/// What calls meant a client that was there all the time has come, or the call counted it as dropped,
/// or somebody's outbox gave it up for a newer one.
fn deliveries(world: &mut World) -> Result<(), String> {
    let calls = &world.env.control.calls;
    let mut unexplained = 0;
    let settled: Vec<_> = settled(world).collect();
    let mut delivered: BTreeMap<u64, u64> = BTreeMap::new();
    for id in world.env.peers.iter().flat_map(|peer| &peer.client.received.pushes) {
        *delivered.entry(*id).or_default() += 1;
    }
    for call in calls {
        let delivered = delivered.get(&call.id).copied().unwrap_or(0);
        if call.kind != Kind::Paced && delivered > call.tally.queued {
            return Err(format!("{delivered} got call {}: {:?}", call.id, call.tally));
        }
        if call.is_estimated() {
            continue;
        }
        let meant = settled.iter().filter(|(client, live)| is_meant(call, client, live));
        let (mut expected, mut missing) = (0, 0);
        for (client, _) in meant {
            let received = &client.received;
            let is_filtered =
                !matches!(call.kind, Kind::Room(_)) || world.env.plan.limits.filter_rooms;
            expected += 1;
            if is_filtered && received.accepts_since > call.id {
                // What it accepted back then is not known any more.
                continue;
            }
            let accepts = !is_filtered || received.accepts.contains(call.operation);
            missing += u64::from(accepts && !received.pushes.contains(&call.id));
        }
        if call.kind != Kind::Paced && expected > call.tally.matched {
            return Err(format!(
                "call {} reached fewer than {expected}: {:?}",
                call.id, call.tally
            ));
        }
        unexplained += missing.saturating_sub(call.dropped_unwanted());
    }
    let mut baseline = Baseline::default();
    for driver in &world.drivers {
        let Counters { deliveries, superseded, .. } = driver.shard.counters();
        baseline.superseded += superseded;
        baseline.dropped_unwanted +=
            deliveries.dropped_total() - deliveries.dropped[DropReason::Filtered as usize];
    }
    let reported: u64 = calls.iter().map(Call::dropped_unwanted).sum();
    let paced = baseline.dropped_unwanted - world.baseline.dropped_unwanted - reported;
    let explained = baseline.superseded - world.baseline.superseded + paced;
    world.baseline = baseline;
    if unexplained > explained {
        return Err(format!("{unexplained} deliveries are missing, {explained} were given up"));
    }
    Ok(())
}

/// Clients that are live, have read everything and ask for nothing.
fn settled(world: &World) -> impl Iterator<Item = (&Client, LiveConn<'_>)> {
    world.drivers.iter().flat_map(|driver| {
        driver.shard.live_conns().filter_map(|live| {
            let peer = driver.peer(live.conn.slot)?;
            let Peer { client, socket, .. } = &world.env.peers[peer];
            let is_settled = client.received.is_live && client.received.expected.is_empty();
            (is_settled && socket.is_idle()).then_some((client, live))
        })
    })
}

/// Whether the call meant this connection, and it was there from before the call until now.
fn is_meant(call: &Call, client: &Client, live: &LiveConn<'_>) -> bool {
    let received = &client.received;
    call.id >= received.live_since
        && match call.kind {
            Kind::Keys => call.keys.iter().any(|key| **key == *live.key),
            Kind::Users => call.users.contains(&live.user),
            Kind::Room(room) => received.room == Some(room) && call.id >= received.room_since,
            Kind::All | Kind::Paced => true,
        }
}

fn live_conns(world: &World) -> impl Iterator<Item = LiveConn<'_>> {
    world.drivers.iter().flat_map(|driver| driver.shard.live_conns())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, held: &T, expected: &T) -> Result<(), String> {
    let agrees = held == expected;
    agrees.then_some(()).ok_or_else(|| format!("{what}: {held:?}, but should be {expected:?}"))
}
