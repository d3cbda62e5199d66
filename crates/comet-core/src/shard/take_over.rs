//! The hand-over, at the shard that continues with the state of another process.

use std::sync::Arc;

use comet_handover as handed;
use comet_proto::sse::LastEventId;
use comet_proto::websocket::{FragmentParts, Fragments};
use comet_proto::{JoinReply, VERSION_2, op};

use crate::conn::{Conn, Input};
use crate::gaps::LostRange;
use crate::hand_over::{
    ArrivedConn, ArrivedHome, ArrivedRoom, ArrivedUser, HomeRoomPart, TakeOver,
};
use crate::home::keys::Claim;
use crate::ids::{ConnId, Slot};
use crate::message::Report;
use crate::outbox::{Item, PartialSend};
use crate::room::{Membership, RoomId};
use crate::settings::Logic;
use crate::state::{AwaitedReply, ConnState};
use crate::time::{Millis, TokenTime};

use super::Shard;
use super::token_expiry::TokenExpiries;

impl Shard {
    /// Continues with the state that another process has handed over. Returns the connections, in the order of those
    /// that [`distribute`](crate::distribute) returned beside `part`. The driver then tells the address of each
    /// ([`Shard::adopt_source`]). Input of clients is held until [`Shard::release_input`].
    ///
    /// # Panics
    /// If the shard has connections already, or `part` is for another shard.
    pub fn take_over(&mut self, part: TakeOver) -> Vec<ConnId> {
        let TakeOver {
            shard,
            shards,
            connections,
            items,
            rooms,
            home,
            counters,
            // The driver takes them.
            ticket_keys: _,
            paced,
        } = part;
        assert_eq!((shard, shards), (self.context.shard, self.context.shards), "for this shard");
        assert_eq!(self.conns.len(), 0, "for a shard that has just begun");
        self.hold_input();
        self.conns.begin_take_over(&self.context);
        self.token_expiries = TokenExpiries::with_present_due(self.context.now.tick());
        let chains = &mut self.outboxes.chains;
        let items: Vec<Item> = items
            .into_iter()
            .map(|item| chains.arrived_item(item.frame, item.is_push, item.meta))
            .collect();
        let is_remote = matches!(self.context.logic, Logic::Remote { .. });
        self.rooms.take_over(rooms.iter().map(|room| {
            let remote = if is_remote { room.remote } else { 0 };
            let elsewhere = room.elsewhere.saturating_add(remote);
            (room.handle, Arc::clone(&room.name), elsewhere, room.position)
        }));
        self.counters = counters;
        self.counters.live = connections.len() as u64;
        self.callers.accepted = self.counters.callers_accepted;
        self.callers.ended = self.counters.callers_ended;
        self.callers.answered = self.counters.calls;
        let ids: Vec<ConnId> =
            connections.into_iter().map(|conn| self.take_over_conn(conn, &items, &rooms)).collect();
        self.outboxes.bytes_queued += self.counters.bytes_out;
        self.take_over_home(home);
        self.pacing.take_over(paced, self.context.now);
        self.dispatch_local();
        ids
    }

    fn take_over_conn(
        &mut self,
        arrived: ArrivedConn,
        items: &[Item],
        rooms: &[ArrivedRoom],
    ) -> ConnId {
        let ArrivedConn { connection, transport, accepts, room, further_rooms, offered, renamed } =
            arrived;
        let handed::Connection {
            // The id is meaningful only in the other process.
            id: _,
            transport: _,
            is_text,
            is_protocol_2,
            is_deflated,
            is_kept,
            gaps,
            user,
            key,
            session,
            // The driver takes it.
            address: _,
            age_ms,
            heartbeat_ms,
            deadline_ms,
            renew_ms,
            token_ms,
            room: _,
            further_rooms: _,
            accepts: _,
            input,
            sent,
            pending,
            taken,
            stalled_ms,
            tls,
        } = connection;
        self.departures.was_on |= is_kept;
        let (now, active) = (self.context.now, self.context.clock.active());
        let millis = |millis: u64| u32::try_from(millis).unwrap_or(u32::MAX);
        let last_progress = Millis(active.0.saturating_sub(stalled_ms.unwrap_or(0)));
        // A deadline that has passed is due at once, not at the next tick.
        let deadline = match millis(deadline_ms) {
            0 => self.context.tick(),
            millis => self.context.deadline(millis),
        };
        let sealed = tls.map_or(0, |tls| tls.sealed);
        let begun = stalled_ms.map(|_| PartialSend { taken, sealed });
        let frames = pending.iter().map(|&item| &items[item as usize]);
        let outbox = self.outboxes.chains.take_over(frames, transport, begun);
        let load = self.outboxes.chains.load(&outbox, transport);
        self.outboxes.bytes_queued += u64::from(load.bytes);
        let conn = Conn {
            state: ConnState::Live,
            transport,
            is_text,
            is_ready: false,
            is_send_kept: sealed > 0,
            is_watched: false,
            is_traced: false,
            is_protocol_2,
            is_deflated,
            is_kept,
            is_turned_away: false,
            has_peer_left: false,
            has_further_rooms: !further_rooms.is_empty(),
            outbox,
            // A deadline may be late by up to a tick, but never early.
            last_progress: last_progress.tick_at_or_after(),
            deadline,
            accepted: Millis(now.0.saturating_sub(age_ms)),
            heartbeat_ms,
            renew_at: self.context.deadline(millis(renew_ms)),
            session,
            user,
            key: key.into(),
            room: Membership::NONE,
            accepts,
            input: input.map(|input| Box::new(input_from(*input))),
        };
        let slot = self.conns.take_over(conn, &self.context);
        let id = self.conns.id(slot);
        if let Some(room) = room {
            let room = RoomId::of_handle(rooms[room].handle);
            self.conns[slot].room = self.rooms.take_over_member(room, slot);
        }
        for room in further_rooms {
            let room = RoomId::of_handle(rooms[room].handle);
            let membership = self.rooms.take_over_member(room, slot);
            self.further_rooms.insert(slot, membership);
        }
        match token_ms {
            Some(0) => self.token_expiries.arm(slot, now.tick()),
            Some(_) => self.set_token_expiry(slot, token_ms),
            None => {}
        }
        if let Some(sent) = sent {
            self.rate_limiter.take_over(id.local(), &sent, now);
        }
        self.update_tracing(slot, None);
        let conn = &mut self.conns[slot];
        conn.shed_input();
        if conn.is_deflated && conn.input.as_ref().is_some_and(|input| !input.bytes.is_empty()) {
            // It may contain whole messages that waited for another turn.
            self.wait_for_turn(slot);
        }
        let conn = &mut self.conns[slot];
        if !conn.outbox.is_empty() && !conn.is_send_kept {
            self.outboxes.mark_ready(slot, conn);
        }
        self.gaps.take_over(slot, gaps);
        for (room, offset) in offered {
            self.note_missed(slot, &rooms[room], offset);
        }
        for room in renamed {
            self.tell_handle(slot, &rooms[room]);
        }
        id
    }

    /// The home has later pushes of the room than the one at `offered`, and none of them is on its way: the mesh has
    /// dropped them.
    fn note_missed(&mut self, slot: Slot, room: &ArrivedRoom, offered: u64) {
        let top = room.position.map_or(0, |position| position.offset);
        if self.conns[slot].hears_gaps() && offered < top {
            // If offsets have holes, the number of missed pushes is not known.
            let missed = if self.context.limits.history_is_shared { 1 } else { top - offered };
            let lost = LostRange::between(room.handle, offered, top, missed);
            lost.into_iter().for_each(|lost| self.note_lost(slot, lost));
        }
    }

    /// Tells a client that knows a room by a former handle its handle here. Frames that are pending name the former
    /// one. The reply has no position, because the client may have fewer pushes than the room's home.
    fn tell_handle(&mut self, slot: Slot, room: &ArrivedRoom) {
        let ArrivedRoom { handle, name, .. } = room;
        if !self.conns[slot].is_protocol_2 {
            return;
        }
        let is_primary = self.conns[slot].room.room() == Some(RoomId::of_handle(*handle));
        let joined = match is_primary {
            true => JoinReply::primary(*handle, name.as_bytes()),
            false => JoinReply { is_unasked: true, ..JoinReply::joined(*handle, name.as_bytes()) },
        };
        let reply = AwaitedReply { version: VERSION_2, operation: op::JOIN_REPLY, sequence: 0 };
        self.reply(slot, reply, &joined.encode());
    }

    fn take_over_home(&mut self, home: ArrivedHome) {
        let ArrivedHome {
            owners,
            parked,
            kept,
            users,
            departed_users,
            disconnected_keys,
            left_behind,
            anonymous,
            rooms,
            remote,
            stream,
            stream_forgotten,
            histories,
            forgotten_rooms,
        } = home;
        let active = self.context.clock.active();
        let since = |age_ms: u64| Millis(active.0.saturating_sub(age_ms));
        for (key, conn, is_kept, claimed_at) in owners {
            // Any later claim of the key has a later token. The time itself is compared by other hosts.
            let arrived = claimed_at.map(|at| at.min(self.context.now));
            let token_at = TokenTime::default();
            let token_at = arrived.map_or(token_at, |arrived| token_at.next(arrived));
            // Only given keys have an age in the hand-over.
            let claim = Claim { token_at, is_given: claimed_at.is_some(), is_kept };
            self.home.keys.claim(&key, conn, claim);
        }
        self.take_over_parked(parked, kept);
        for ArrivedUser { user, last, sessions } in users {
            self.home.users.take_over(user, last, sessions);
        }
        if self.context.limits.user_memory_ms > 0 {
            for handed::DepartedUser { user, last, age_ms } in departed_users {
                self.home.users.retain_number(since(age_ms), user, last);
            }
        }
        // Without remote logic nobody needs to know that such a key is held again.
        if let Logic::Remote { .. } = self.context.logic {
            for handed::DisconnectedKey { key, age_ms } in disconnected_keys {
                self.home.keys.retain_disconnected(since(age_ms), &key);
            }
        }
        for handed::LeftBehindKey { user, key } in left_behind {
            self.end_orphaned_session(user, key.into());
        }
        self.home.keys.set_anonymous(anonymous);
        // Remote logic alone says how many members other hosts have. Without it the last numbers would stay for ever.
        let is_remote = matches!(self.context.logic, Logic::Remote { .. });
        for HomeRoomPart { name, shards, remote } in rooms {
            if self.context.has_other_hosts {
                let room = Arc::clone(&name);
                self.reports.push(Report::RoomInterest { room, has_members: true });
            }
            self.home.rooms.take_over(name, shards, if is_remote { remote } else { 0 });
        }
        for (room, members) in remote.into_iter().filter(|_| is_remote) {
            self.home.rooms.take_over_remote(room, members);
        }
        let (limits, evicted) = (&self.context.limits, self.counters.history_evicted);
        let now = self.context.now;
        let histories = (histories, stream, stream_forgotten);
        self.home.histories.take_over(histories, forgotten_rooms, evicted, limits, now);
    }
}

fn input_from(input: handed::Input) -> Input {
    let handed::Input { bytes, fragments, cookie } = input;
    let fragments = fragments.map(|handed::Fragments { payload, is_text, is_compressed }| {
        Box::new(Fragments::from_parts(FragmentParts { payload, is_text, is_compressed }))
    });
    Input {
        bytes,
        fragments,
        cookie: cookie.map(Into::into),
        token: None,
        echo: None,
        rooms: Box::default(),
        cors: None,
        last_event_id: LastEventId::None,
        kept: None,
        waits_for_turn: false,
        held_since: None,
    }
}
