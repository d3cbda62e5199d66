//! Checks that no deadline comes early, none is missed, and no connection is closed without a reason.

use std::collections::BTreeMap;

use comet_core::limits::TICK_MS;
use comet_core::{CloseReason, ClosedEvent, Millis, Shard, Slot, SocketShutdown};

use crate::env::{Env, Peer};
use crate::source::{address, blocked};
use crate::stall_log::StallLog;

/// The time after which a postponed deadline is checked again, milliseconds.
const LOOK_AGAIN_MS: u64 = 250;

/// Checks that nothing is overdue while the shard says that it may sleep. `slots` are the peers by slot. The shard last
/// took a message at `message_at`. `is_held`: it holds input of clients.
pub(crate) fn check_overdue(
    shard: &Shard,
    slots: &BTreeMap<Slot, usize>,
    message_at: Millis,
    (stalls, is_held): (&StallLog, bool),
    env: &mut Env,
) -> Result<(), String> {
    let limits = &env.plan.limits;
    let live: Vec<Slot> = shard.live_conns().map(|live| live.conn.slot).collect();
    for (slot, &peer) in slots {
        let entry = &mut env.peers[peer];
        if entry.socket.shut == Some(SocketShutdown::Both) {
            continue;
        }
        // What the client sent before its end is read first.
        if !entry.socket.owes_hangup() && !entry.client.received.is_input_held() {
            return Err(format!("peer {peer} hung up, and its socket is not shut"));
        }
        // A connection about which the server asks others may take twice the time.
        let waits = u32::from(entry.client.received.is_input_held());
        let (since, limit, what) = if let Some((_, at)) = entry.closed {
            (at, limits.linger_ms, "linger")
        } else if live.contains(slot) {
            let since = *entry.live_at.get_or_insert(env.now);
            let since = since.max(entry.received_at).max(message_at);
            (since, entry.client.profile.heartbeat_ms * (1 + waits), "heartbeat")
        } else {
            (entry.accepted_at, limits.handshake_ms * (1 + waits), "handshake")
        };
        let upgrades = |since| env.upgraded_at.iter().filter(|at| **at >= since).count() as u64;
        // Each hand-over rounds once more.
        let is_overdue = |since, limit| {
            let ticks = 3 + upgrades(since);
            is_overdue((entry, stalls), (since, limit), ticks, env.now)
        };
        let mut overdue = is_overdue(since, limit).then_some(what);
        // A client that has left takes nothing more. Its connection lasts until its input is read.
        let has_left = !entry.socket.owes_hangup();
        if entry.socket.is_sending()
            && !has_left
            && is_overdue(entry.socket.last_progress_at, limits.write_ms)
        {
            overdue = Some("write");
        }
        // This time counts while a core is held up, too.
        let token_end = entry.token_expires_at.map(|at| {
            at.max(
                entry
                    .postponed_at
                    .map_or(Millis(0), |postponed_at| postponed_at.after(LOOK_AGAIN_MS)),
            )
        });
        // Input that arrived before is read first, so the shard may check again in the next tick.
        let looks_soon = shard.poll_timeout().is_some_and(|due| due <= env.now.after(TICK_MS));
        if entry.closed.is_none()
            && token_end.is_some_and(|at| env.now > at.after(2 * TICK_MS))
            && !looks_soon
        {
            overdue = Some("token's");
        }
        // Held input may keep the connection open.
        overdue = overdue.filter(|what| *what == "write" || !is_held);
        if let Some(what) = overdue {
            let [now, token_end] = [Some(env.now), token_end];
            return Err(format!(
                "peer {peer} is past its {what} deadline at {now:?}, and nothing is due; its token ends at {token_end:?}"
            ));
        }
    }
    Ok(())
}

/// A deadline may be late by `ticks`, because its begin and its end are rounded. Added to that are the time that its
/// core did not count, and the time until a postponed deadline is checked again.
fn is_overdue(
    (entry, stalls): (&Peer, &StallLog),
    (since, limit_ms): (Millis, u32),
    ticks: u64,
    now: Millis,
) -> bool {
    let mut last = since.after(u64::from(limit_ms) + stalls.since(since));
    if entry.client.received.is_input_held() {
        last = last.after(LOOK_AGAIN_MS);
    }
    if let Some(postponed_at) = entry.postponed_at {
        last = last.max(postponed_at.after(LOOK_AGAIN_MS + stalls.since(postponed_at)));
    }
    now > last.after(ticks * TICK_MS)
}

/// Whether the token of another connection with the key of `peer` came later or in the same millisecond.
fn has_younger(env: &Env, peer: usize) -> bool {
    let Peer { client, socket, .. } = &env.peers[peer];
    // The number in a key that a home or logic made is not known here.
    let Some(key) = client.profile.key else { return true };
    env.peers.iter().enumerate().any(|(number, Peer { client: other, socket: others, .. })| {
        let made = || key.starts_with(&format!("{}_", other.profile.user));
        let may_hold_key = other.profile.key.map_or_else(made, |other| other == key);
        // A token that may be compressed may have waited for its turn; it counts from when it was read.
        let is_younger = others.token_at >= socket.token_at
            || (other.profile.is_deflated && others.token_at.is_some());
        number != peer && may_hold_key && is_younger
    })
}

/// Checks that a connection is closed once, for a reason that its behaviour explains, and that no deadline comes early
/// or before the input that the peer has sent in time was read.
pub(crate) fn check_closed(env: &Env, peer: usize, event: &ClosedEvent) -> Result<(), String> {
    let entry = &env.peers[peer];
    let ClosedEvent { conn, reason, .. } = event;
    if entry.conn != Some(*conn) || entry.closed.is_some() {
        return Err(format!("{event:?} of peer {peer}, which was closed before"));
    }
    let limits = &env.plan.limits;
    let socket = &entry.socket;
    let (since, limit) = match reason {
        CloseReason::HandshakeTimeout => (entry.accepted_at, limits.handshake_ms),
        // A heartbeat that is sent while homes or logic are asked, or in the middle of a history, waits with the rest
        // of the input.
        CloseReason::HeartbeatTimeout if entry.client.received.is_input_held() => return Ok(()),
        CloseReason::HeartbeatTimeout => {
            let since = socket.heartbeat_at.unwrap_or_default().max(entry.accepted_at);
            (since, entry.client.profile.heartbeat_ms)
        }
        CloseReason::WriteTimeout => (socket.last_progress_at_least, limits.write_ms),
        CloseReason::TokenExpired => match entry.token_expires_at {
            Some(at) if env.now >= at => return Ok(()),
            at => return Err(format!("the token of peer {peer} expires early: {at:?}")),
        },
        CloseReason::Draining
            if env.is_draining || env.control.has_moved_off || env.has_upgraded =>
        {
            return Ok(());
        }
        // Only the shard knows when blocks are in force.
        CloseReason::Blocked if env.plan.is_blocking && blocked().contains(address(peer)) => {
            return Ok(());
        }
        CloseReason::Kicked if env.control.has_kicked => return Ok(()),
        CloseReason::Replaced if !has_younger(env, peer) => {
            return Err(format!("peer {peer} was replaced, and is the youngest with its key"));
        }
        reason if entry.client.allowed_closes.contains(reason) => return Ok(()),
        _ => return Err(format!("peer {peer} did nothing for which {event:?} would be right")),
    };
    // A reload may have halved the limit.
    let least = if env.plan.is_configured { limit / 2 } else { limit };
    if env.now < since.after(u64::from(least)) {
        return Err(format!("{reason:?} of peer {peer} comes early: {since:?} and {limit} ms"));
    }
    // No deadline is postponed forever.
    if entry.has_backlog && env.now < since.after(2 * u64::from(least)) {
        return Err(format!(
            "{reason:?} of peer {peer} comes before its input or send was handled"
        ));
    }
    Ok(())
}
