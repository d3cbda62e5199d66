//! The checks after every turn, at every quiet point, and at the end.

mod deliveries;
mod directories;
mod keys;
mod presence;

use comet_core::{Counters, STATUS_CODES, SlowConsumer, Tally, Transport};

pub(crate) use self::deliveries::Baseline;

use self::deliveries::check_deliveries;
pub(crate) use self::directories::check_logic;
use self::directories::{check_clients, check_directories, check_gauges};
use self::keys::check_keys;
use self::presence::{check_members, check_rosters};
use crate::call_checker::CallCounts;
use crate::driver::Driver;
use crate::env::{Env, Peer};
use crate::summary::{self, Summary};

/// After a turn of one shard: checks its counters against each other and against its sockets.
pub(crate) fn turn(driver: &Driver, env: &Env) -> Result<(), String> {
    let counters = driver.shard.counters();
    let sockets = driver.socket_totals(env);
    let Counters { deliveries, sent, lost, superseded, displaced, unsent, waiting, .. } = counters;
    let holds = |holds: bool, law: &str| {
        let shard = driver.shard.id().0;
        holds.then_some(()).ok_or_else(|| format!("shard {shard}: {law}: {counters:?}"))
    };
    holds(deliveries.matched == deliveries.queued + deliveries.dropped_total(), "matched")?;
    holds(deliveries.queued == sent + lost + superseded + unsent + waiting, "queued")?;
    holds(displaced <= superseded, "displaced")?;
    let limits = &env.plan.limits;
    // With `DropOldest` one push may wait in addition to those in flight, however many these are, and another in
    // addition to those of a resumed session, which are not dropped. Pushes about states may fill an outbox in addition
    // to these.
    let keeps_latest = limits.coalesce_rules.iter().any(|rule| rule.keep_latest);
    let beside = match limits.slow_consumer {
        SlowConsumer::DropNewest | SlowConsumer::DropOldest if keeps_latest => limits.svr_proto,
        SlowConsumer::DropOldest => 1 + u16::from(limits.resume.is_on()),
        _ => 0,
    };
    let room = u64::from(limits.svr_proto + beside) * counters.connections;
    holds(waiting <= room, "more waits than outboxes hold")?;
    holds(sent <= sockets.pushes_taken, "sent, and no socket took it")?;
    holds(counters.bytes_out == sockets.bytes_taken, "bytes out")?;
    holds(counters.bytes_in == sockets.bytes_received, "bytes in")?;
    holds(counters.live + counters.handshakes <= counters.connections, "handshakes")?;
    let has_none = counters.connections == 0;
    holds(!has_none || counters.handshakes == 0, "handshakes of no connection")?;
    holds(counters.connections == driver.peers().count() as u64, "connections")
}

/// At rest: checks that directories, rooms and what clients know agree, that every call has ended, and that every push
/// that a client was entitled to was received or counted.
pub(crate) fn quiet_point(
    env: &mut Env,
    drivers: &mut [Driver],
    baseline: &mut Baseline,
) -> Result<(), String> {
    env.control.check_quiet()?;
    check_directories(env, drivers)?;
    check_gauges(drivers)?;
    check_totals(env, drivers)?;
    check_parked(drivers)?;
    check_keys(&env.peers)?;
    check_clients(env, drivers)?;
    let untold = check_rosters(env, drivers);
    check_deliveries(env, drivers, baseline, untold)?;
    check_members(drivers)?;
    env.control.calls.clear();
    env.push_callers.account.clear();
    for peer in &mut env.peers {
        let received = &mut peer.client.received;
        received.pushes.clear();
        // Missing pushes of a parked session were given up before, even if the client was not settled. They are counted
        // once.
        received.parked_due = 0;
    }
    Ok(())
}

/// After the drain: checks that no connection is left, and no state of one.
pub(crate) fn end(env: &mut Env, drivers: &mut [Driver]) -> Result<Summary, String> {
    env.control.check_quiet()?;
    finish_callers(env, drivers)?;
    check_totals(env, drivers)?;
    let env = &*env;
    env.control.trace_log.end(&env.plan)?;
    if let Some(times) = env.control.drained.iter().find(|times| **times != 1) {
        return Err(format!("a shard was drained {times} times"));
    }
    let mut summary = Summary::new(&env.plan.limits, env.plan.shards);
    for driver in drivers {
        let sockets = driver.socket_totals(env);
        summary.coalesced_waits += driver.coalesced_waits;
        summary.lists += driver.listings.lists;
        summary.listed += driver.listings.listed;
        summary.slow += driver.listings.slow;
        summary.kept += driver.listings.kept;
        let shard = &mut driver.shard;
        if shard.handle_accept(Transport::Tcp).is_some() {
            return Err(format!("shard {} takes connections after its drain", shard.id().0));
        }
        if shard.traced() > 0 {
            return Err(format!("shard {} traces connections that are gone", shard.id().0));
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
        summary.gaps += client.received.positions.gaps;
    }
    let control = &env.control;
    summary.remote = u64::from(env.plan.is_remote());
    summary.logic = control.logic.summary();
    summary.traced = control.trace_log.lines;
    summary.told_live = control.live_tracing.told;
    summary.steps = env.trace.step;
    let CallCounts { answered, inbox_full, late, left, skipped } = control.calls.counts;
    summary.calls = answered + inbox_full + late + left;
    summary.calls_inbox_full = inbox_full;
    summary.calls_late = late;
    summary.callers_left = left;
    summary.messages_skipped = skipped;
    summary.stalls = control.stalls;
    summary.pushes_unknown = env.push_callers.account.unknown;
    summary.elsewhere = [control.elsewhere.told, env.push_callers.account.unanswered];
    summary.rosters = env.rosters;
    Ok(summary)
}

/// The process ends with unread requests of push callers, which are answered. After that each reply that was read has
/// been counted.
fn finish_callers(env: &mut Env, drivers: &mut [Driver]) -> Result<(), String> {
    let moment = (env.control.calls.next_id(), env.now);
    env.push_callers.begin_end(&mut env.rng, &env.plan, moment);
    for Driver { shard, caller_listener, .. } in &mut *drivers {
        caller_listener.finish(shard, &mut env.push_callers, &mut env.rng)?;
    }
    env.push_callers.turn(&mut env.rng, &env.plan, moment, true)?;
    let mut counted = [0; STATUS_CODES];
    for driver in drivers {
        summary::add_each(&mut counted, &driver.shard.counters().calls);
    }
    let read = &env.push_callers.account.statuses;
    let agrees = read.iter().zip(&counted).all(|(read, counted)| read <= counted);
    agrees.then_some(()).ok_or_else(|| format!("callers read {read:?}, shards counted {counted:?}"))
}

/// Checks that parked pushes were sent, were counted as lost, or are still parked.
fn check_parked(drivers: &[Driver]) -> Result<(), String> {
    let (mut came, mut went) = (0, 0);
    for driver in drivers {
        let Counters { deliveries, unsent, resumed, parked_lost, parked, .. } =
            driver.shard.counters();
        came += deliveries.parked + unsent;
        went += resumed + parked + parked_lost.iter().sum::<u64>();
    }
    let what = || format!("{came} pushes were parked, and there is an account of {went}");
    (came == went).then_some(()).ok_or_else(what)
}

/// Checks that control's sum of all tallies, together with what push callers were told, equals the shards' counters.
/// Only the counters include pushes from histories, the server's pushes about joins and leaves, and pushes whose
/// callers do not know their result.
fn check_totals(env: &Env, drivers: &[Driver]) -> Result<(), String> {
    let mut counted = Tally::default();
    for driver in drivers {
        counted += driver.shard.counters().deliveries;
    }
    let numbers = |tally: &Tally| {
        [&[tally.matched, tally.queued, tally.absent, tally.parked][..], &tally.dropped].concat()
    };
    let (control, account) = (&env.control, &env.push_callers.account);
    if account.unanswered > 0 && !env.plan.has_hosts {
        return Err(format!("{} hosts have not answered, and there are none", account.unanswered));
    }
    let mut reported = *control.calls.total();
    reported += account.total;
    reported += control.paced.total;
    let (counted, reported) = (numbers(&counted), numbers(&reported));
    // Pushes from a history or a parked session belong to no call.
    let has_recovered = drivers.iter().any(|driver| {
        let Counters { recoveries, resumed, .. } = driver.shard.counters();
        recoveries[1] + resumed > 0
    });
    let has_presence = drivers.iter().any(|driver| driver.shard.counters().presence_pushes > 0);
    let agrees = if account.unknown > 0 || has_recovered || has_presence {
        counted.iter().zip(&reported).all(|(counted, reported)| counted >= reported)
    } else {
        counted == reported
    };
    agrees.then_some(()).ok_or_else(|| format!("shards counted {counted:?}, callers {reported:?}"))
}
