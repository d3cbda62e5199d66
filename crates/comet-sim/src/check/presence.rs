//! Checks who is in a room against what its members are told and what operators are told.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use comet_core::{
    Budget, CallId, ConnFilter, ConnId, ConnOrder, ConnQuery, LiveConn, Message, Report,
};

use crate::driver::{Driver, live_conns};
use crate::env::Env;
use crate::plan::{PRESENCE_OPERATION, ROOMS};
use crate::presence::Members;

use super::deliveries::settled_peers;

/// A call id that control never uses.
const CALL: CallId = CallId(u64::MAX);

/// Checks that what members were told since the last quiet point adds up to the present members. Returns how many
/// members have missed something, which must have been counted as dropped.
pub(super) fn check_rosters(env: &mut Env, drivers: &[Driver]) -> u64 {
    let limits = env.plan.limits.clone();
    if limits.presence_rules.is_empty() {
        return 0;
    }
    let mut rooms: BTreeMap<u8, Members> = BTreeMap::new();
    for LiveConn { key, room, further_rooms, .. } in live_conns(drivers) {
        for room in room.into_iter().chain(further_rooms) {
            let members = rooms.entry(index(room)).or_default();
            *members.entry(key.into()).or_default() += 1;
        }
    }
    let settled: Vec<(usize, Vec<u8>)> = settled_peers(env, drivers)
        .map(|(peer, live)| {
            let all = live.room.into_iter().chain(live.further_rooms.iter().copied());
            let told =
                all.filter(|room| limits.presence_rules.iter().any(|rule| rule.covers(room)));
            (peer, told.map(index).collect())
        })
        .collect();
    // What an unsettled client has missed is counted in this phase, so its account begins anew.
    let mut before: Vec<_> =
        env.peers.iter_mut().map(|peer| mem::take(&mut peer.client.received.rosters)).collect();
    let mut missing = 0;
    for (peer, mine) in settled {
        let received = &mut env.peers[peer].client.received;
        if limits.filter_rooms && !received.accepts.contains(PRESENCE_OPERATION) {
            continue;
        }
        for room in mine {
            let members = &rooms[&room];
            if let Some(is_same) = before[peer].end(room, members) {
                env.rosters += 1;
                missing += u64::from(!is_same);
            }
            received.rosters.begin(room, members);
        }
    }
    missing
}

fn index(room: &str) -> u8 {
    ROOMS.iter().position(|known| *known == room).expect("a room of the plan") as u8
}

/// Checks that a list of a room's members is complete.
pub(super) fn check_members(drivers: &mut [Driver]) -> Result<(), String> {
    for room in ROOMS {
        let filter = ConnFilter { room: Some(room.into()), ..ConnFilter::default() };
        let query = ConnQuery { filter, order: ConnOrder::Age, limit: 1_000, after: None };
        let query = Arc::new(query);
        let mut listed = BTreeSet::new();
        for Driver { shard, listings, .. } in &mut *drivers {
            shard.handle_message(Message::Connections { call: CALL, query: Arc::clone(&query) });
            while shard.has_listings() {
                shard.handle_listings(&mut Budget::new(1_000), &mut &*listings);
            }
            while let Some(report) = shard.poll_report() {
                match report {
                    Report::Connections { page: Some(page), .. } => {
                        listed.extend(page.listed.iter().map(|conn| conn.place.conn));
                    }
                    other => return Err(format!("{other:?} in place of the members of {room}")),
                }
            }
        }
        let is_in =
            |live: &LiveConn<'_>| live.room == Some(room) || live.further_rooms.contains(&room);
        let live: BTreeSet<ConnId> =
            live_conns(drivers).filter(is_in).map(|live| live.conn).collect();
        if listed != live {
            return Err(format!("members of {room}: {listed:?}, but should be {live:?}"));
        }
    }
    Ok(())
}
