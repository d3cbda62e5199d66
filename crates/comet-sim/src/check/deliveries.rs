//! Checks that every push that a client was entitled to was received or counted.

use std::collections::BTreeMap;
use std::mem;

use comet_core::{Counters, DropReason, Limits, LiveConn, SlowConsumer, Tally};

use crate::call::Call;
use crate::client::Client;
use crate::driver::Driver;
use crate::env::{Env, Peer};
use crate::plan::{COLLAPSE_IDS, OUTBOX_BYTES_MAX, OUTBOX_MEMORY_MAX, ROOMS};
use crate::push_callers::MadePush;
use crate::wire::Kind;

/// The counters at the last quiet point.
#[derive(Clone, Copy, Default)]
pub(crate) struct Baseline {
    superseded: u64,
    dropped_unwanted: u64,
}

/// A push, of control or of a push caller.
struct OfferedPush<'run> {
    /// The id that its body contains.
    id: u64,
    /// The push was made no earlier than this call of control. So a client that had read before this call that it is live
    /// or in a room had read that before the push.
    after: u64,
    kind: Kind,
    operation: i32,
    is_kick: bool,
    is_estimated: bool,
    keys: &'run [Box<str>],
    users: &'run [i64],
    tally: &'run Tally,
}

impl<'run> From<&'run Call> for OfferedPush<'run> {
    fn from(call: &'run Call) -> Self {
        let Call { id, kind, operation, is_kick, keys, users, sums, .. } = call;
        Self {
            id: *id,
            after: *id,
            kind: *kind,
            operation: *operation,
            is_kick: *is_kick,
            is_estimated: call.is_estimated(),
            keys,
            users,
            tally: &sums.tally,
        }
    }
}

impl<'run> From<&'run MadePush> for OfferedPush<'run> {
    fn from(push: &'run MadePush) -> Self {
        let MadePush { stamp, after, kind, operation, key, user, tally } = push;
        Self {
            id: *stamp,
            after: *after,
            kind: *kind,
            operation: *operation,
            is_kick: false,
            is_estimated: push.is_estimated(),
            keys: key.as_slice(),
            users: user.as_slice(),
            tally,
        }
    }
}

impl OfferedPush<'_> {
    /// Connections that were meant and did not get it, except those whose filter dropped it.
    fn dropped_unwanted(&self) -> u64 {
        self.tally.dropped_total() - self.tally.dropped[DropReason::Filtered as usize]
    }

    /// Whether the push is for this connection, which existed from before the push until now.
    fn means(&self, client: &Client, live: &LiveConn<'_>) -> bool {
        let received = &client.received;
        self.after >= received.live_since
            && match self.kind {
                Kind::Keys => self.keys.iter().any(|key| **key == *live.key),
                Kind::Users => self.users.contains(&live.user),
                Kind::Room(room) => received.since(room).is_some_and(|since| self.after >= since),
                Kind::All | Kind::Paced => true,
            }
    }
}

/// For a client that existed all the time, each push to it was received, or its call counted it as dropped, or an
/// outbox superseded it. `untold` other clients have missed a push of the server itself, which must have been counted
/// as well.
pub(super) fn check_deliveries(
    env: &Env,
    drivers: &[Driver],
    baseline: &mut Baseline,
    untold: u64,
) -> Result<(), String> {
    let mut unexplained = untold;
    let settled: Vec<_> = settled(env, drivers).collect();
    let mut delivered: BTreeMap<u64, u64> = BTreeMap::new();
    for id in env.peers.iter().flat_map(|peer| &peer.client.received.pushes) {
        *delivered.entry(*id).or_default() += 1;
    }
    let account = &env.push_callers.account;
    if let Some(refused) = account.refused.iter().find(|stamp| delivered.contains_key(stamp)) {
        return Err(format!("somebody got push {refused:#x}, which was refused"));
    }
    let calls = env.control.calls.calls();
    let by_calls = calls.iter().map(OfferedPush::from);
    let offers: Vec<OfferedPush<'_>> =
        by_calls.chain(account.made.iter().map(OfferedPush::from)).collect();
    for (index, offer) in offers.iter().enumerate() {
        let OfferedPush { id, kind, tally, .. } = *offer;
        let delivered = delivered.get(&id).copied().unwrap_or(0);
        if kind != Kind::Paced && delivered > tally.queued + tally.parked {
            return Err(format!("{delivered} got push {id:#x}: {tally:?}"));
        }
        if offer.is_estimated {
            continue;
        }
        let mut meant = settled.iter().filter(|(client, live)| offer.means(client, live));
        if offer.is_kick {
            if let Some((_, live)) = meant.next().filter(|_| offer.dropped_unwanted() == 0) {
                return Err(format!("push {id:#x} should have closed {live:?}"));
            }
            continue;
        }
        let (mut expected, mut missing) = (0, 0);
        for (client, _) in meant {
            let received = &client.received;
            let is_filtered = !matches!(kind, Kind::Room(_)) || env.plan.limits.filter_rooms;
            expected += 1;
            if is_filtered && received.accepts_since > offer.after {
                // The filter at the time of the call is not known any more.
                continue;
            }
            let accepts = !is_filtered || received.accepts.contains(offer.operation);
            missing += u64::from(accepts && !received.pushes.contains(&id));
        }
        // A client may know that it is live before its key's home does. Until then the home parks pushes.
        if kind != Kind::Paced && expected > tally.matched + tally.parked {
            return Err(format!("push {id:#x} reached fewer than {expected}: {tally:?}"));
        }
        let missing = missing.saturating_sub(offer.dropped_unwanted());
        if let Some(call) = calls.get(index) {
            check_state(env, call, &calls[index + 1..], missing)?;
        }
        unexplained += missing;
    }
    // The pushes that a client was promised from its parked session.
    let parked: u64 = settled.iter().map(|(client, _)| u64::from(client.received.parked_due)).sum();
    unexplained += parked;
    let before = mem::take(baseline);
    for driver in drivers {
        let Counters { deliveries, superseded, .. } = driver.shard.counters();
        baseline.superseded += superseded;
        baseline.dropped_unwanted +=
            deliveries.dropped_total() - deliveries.dropped[DropReason::Filtered as usize];
    }
    let pushes = offers.iter().filter(|offer| !offer.is_kick);
    let reported: u64 = pushes.map(OfferedPush::dropped_unwanted).sum();
    let paced = baseline.dropped_unwanted - before.dropped_unwanted - reported;
    let explained = baseline.superseded - before.superseded + paced;
    if unexplained > explained {
        return Err(format!(
            "{unexplained} deliveries are missing, {untold} of them about presence, {parked} of them parked ones, {explained} were given up"
        ));
    }
    Ok(())
}

/// A full outbox refuses no push about a state, and drops it only for a newer one. `missing` is the number of clients
/// that have read everything and did not get it, beyond the number for which it was counted as dropped.
fn check_state(env: &Env, call: &Call, later: &[Call], missing: u64) -> Result<(), String> {
    let Limits { slow_consumer, coalesce_rules, svr_proto, outbox_bytes, outbox_memory, .. } =
        &env.plan.limits;
    let room = match call.kind {
        Kind::Room(room) => Some(ROOMS[usize::from(room)]),
        Kind::All => None,
        _ => return Ok(()),
    };
    let rule = coalesce_rules.iter().find(|rule| rule.covers(room, call.operation));
    let is_state = call.collapse_id.is_some() && rule.is_some_and(|rule| rule.keep_latest);
    if !is_state || env.is_draining {
        return Ok(());
    }
    let is_newest = !later.iter().any(|newer| call.may_be_superseded_by(newer));
    if missing > 0 && is_newest && *slow_consumer == SlowConsumer::DropNewest {
        return Err(format!("{missing} miss the newest state of {:?}, call {}", room, call.id));
    }
    let states = COLLAPSE_IDS.len() * (ROOMS.len() + 1);
    let has_places = usize::from(*svr_proto) > states
        && *outbox_bytes == OUTBOX_BYTES_MAX
        && *outbox_memory == OUTBOX_MEMORY_MAX
        && *slow_consumer != SlowConsumer::Close;
    let refused = call.sums.tally.dropped[DropReason::OutboxFull as usize];
    if has_places && refused > 0 {
        return Err(format!("{refused} outboxes refused a state, call {}", call.id));
    }
    Ok(())
}

/// The clients that are live, have read everything and have no request under way.
fn settled<'run>(
    env: &'run Env,
    drivers: &'run [Driver],
) -> impl Iterator<Item = (&'run Client, LiveConn<'run>)> {
    settled_peers(env, drivers).map(|(peer, live)| (&env.peers[peer].client, live))
}

/// The same clients, by peer number.
pub(super) fn settled_peers<'run>(
    env: &'run Env,
    drivers: &'run [Driver],
) -> impl Iterator<Item = (usize, LiveConn<'run>)> {
    drivers.iter().flat_map(move |driver| {
        driver.shard.live_conns().filter_map(move |live| {
            let peer = driver.peer(live.conn.slot)?;
            let Peer { client, socket, .. } = &env.peers[peer];
            let is_settled = client.received.is_live && client.received.expected.is_empty();
            (is_settled && socket.is_idle()).then_some((peer, live))
        })
    })
}
