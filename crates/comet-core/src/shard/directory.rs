//! Registration, sessions, keys and room interest: what shards ask of each other's homes.

use std::sync::Arc;

use comet_proto::op;

use crate::ids::{ConnId, LocalConnId, ShardId, Slot, home_of_key, home_of_room, home_of_user};
use crate::ledger::CloseReason;
use crate::message::{Message, Report, TraceKind};
use crate::room::{Membership, Moved, RoomId, Waiting};
use crate::state::{AwaitedReply, ConnState, Registering};

use super::Shard;

impl Shard {
    pub(super) fn carry_out(&mut self, message: Message) {
        match message {
            Message::PushKeys { call, keys, push } => self.push_keys(call, &keys, &push),
            Message::PushUsers { call, users, push } => self.push_users(call, &users, &push),
            Message::PushRoom { call, room, push } => self.push_room(call, &room, &push),
            Message::Broadcast { call, push, speed } => self.broadcast(call, push, speed),
            Message::DeliverConns { call, conns, push } => {
                let tally = self.deliver_conns(&conns, &push);
                self.reports.push_back(Report::PartialTally { call, tally });
            }
            Message::DeliverRoom { call, room, push } => {
                let tally = self.deliver_room(&room, &push);
                self.reports.push_back(Report::PartialTally { call, tally });
            }
            Message::Snapshot { call } => self.snapshot(call),
            Message::Rooms { call } => {
                self.reports.push_back(Report::Rooms { call, rooms: self.home.rooms() });
            }
            Message::Drain { over_ms, retry_after_ms } => self.drain(over_ms, retry_after_ms),
            Message::Configure { limits } => self.configure(limits),
            Message::RemoteRoomCounts { rooms } => self.home.set_beyond(rooms),
            Message::Identified { conn, answer } => self.identified(conn, answer),
            Message::Receipt { conn, outcome } => self.receipt(conn, outcome),

            Message::Register { conn, user, key } => {
                let seq = self.home.begin_session(user, conn);
                let key = key.unwrap_or_else(|| match user {
                    0 => format!("0_{}", self.home.number_anonymous()).into(),
                    _ => format!("{user}_{seq}").into(),
                });
                let home = home_of_key(&key, self.shards);
                self.route(home, Message::Claim { conn, user, seq, key });
            }
            Message::Claim { conn, user, seq, key } => {
                if let Some(former) = self.home.claim(&key, conn) {
                    let reason = CloseReason::Replaced;
                    self.route(former.shard, Message::Evict { conn: former, reason });
                }
                self.heal(user, &key);
                self.route(conn.shard, Message::Registered { conn, user, seq, key });
            }
            Message::Registered { conn, user, seq, key } => self.registered(conn, user, seq, key),
            Message::Evict { conn, reason } => {
                if let Some(slot) = self.slot(conn) {
                    self.close(slot, reason, "");
                }
            }
            Message::EndSession { conn, user, seq } => {
                if let Some(last) = self.home.end_session(user, seq, conn)
                    && self.limits.user_memory_ms > 0
                {
                    self.home.remember_user(self.now, user, last);
                }
            }
            Message::Release { conn, user, key } => {
                if self.home.release(&key, conn) {
                    self.part(user, key);
                }
            }
            Message::Unclaimed { user, key } => {
                if self.home.owner(&key).is_none() {
                    self.part(user, key);
                }
            }
            Message::Renew { conn, user, key } => {
                if self.home.owner(&key) == Some(conn) {
                    self.reports.push_back(Report::Heartbeat { user, key });
                }
            }

            Message::RenewalFailed { key } => {
                if let Some(owner) = self.home.owner(&key) {
                    self.route(owner.shard, Message::RenewAgain { conn: owner });
                }
            }
            Message::RenewAgain { conn } => {
                if let Some(slot) = self.slot(conn) {
                    self.conns[slot].renew_at = self.now.tick();
                }
            }

            Message::JoinRoom { shard, room } => {
                let elsewhere = self.home.join_room(&room, shard);
                self.route(shard, Message::RoomJoined { room, elsewhere });
            }
            Message::RoomJoined { room, elsewhere } => self.room_joined(&room, elsewhere),
            Message::RoomMembers { shard, room, members } => {
                self.home.set_members(&room, shard, members);
            }
            Message::RoomOnline { room, elsewhere } => {
                if let Some(index) = self.rooms.find(&room) {
                    self.rooms[index].elsewhere = elsewhere;
                }
            }
        }
    }

    pub(super) fn home_of_user(&self, user: i64) -> ShardId {
        if user == 0 { self.id } else { home_of_user(user, self.shards) }
    }

    fn registered(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        let slot = self.slot(conn);
        let waits = |slot: &Slot| matches!(self.conns[*slot].state, ConnState::Registering(_));
        let Some(slot) = slot.filter(waits) else {
            // It closed while its homes were asked; nobody else knows what to give back.
            return self.give_back(conn, user, seq, key);
        };
        let entry = &mut self.conns[slot];
        entry.key = key;
        entry.session = seq;
        let ConnState::Registering(registering) =
            std::mem::replace(&mut entry.state, ConnState::Live)
        else {
            unreachable!("looked at above")
        };
        let Registering { sequence, identity } = *registering;
        entry.accepts = identity.accepts;
        self.counters.authenticated += 1;
        self.counters.live += 1;
        self.set_deadline(slot, self.heartbeat_ms(slot));
        self.plan_renewal(slot);
        self.list(slot);
        if self.conns[slot].is_traced {
            self.note(slot, TraceKind::Authenticated { room: identity.room.clone() });
        }
        let reply = AwaitedReply { operation: op::AUTH_REPLY, sequence };
        match identity.room {
            Some(room) => self.join(slot, &room, reply),
            None => self.answer(slot, reply, b""),
        }
    }

    /// Puts a connection without a room into `room`; `reply` is sent once pushes reach it there.
    pub(super) fn join(&mut self, slot: Slot, room: &str, reply: AwaitedReply) {
        let (index, is_new) = self.rooms.find_or_create(room);
        if self.rooms[index].is_joined {
            self.conns[slot].room = self.rooms.enter(index, slot);
            return self.answer(slot, reply, b"");
        }
        let conn = self.conn_id(slot).local();
        self.conns[slot].state = ConnState::Joining { reply };
        let room = &mut self.rooms[index];
        room.waiting.push(Waiting { conn, reply });
        if is_new {
            let (room, shard) = (Arc::clone(&room.name), self.id);
            let home = home_of_room(&room, self.shards);
            self.route(home, Message::JoinRoom { shard, room });
        }
    }

    /// Takes a connection out of its room; the home hears at once when that was the last member.
    pub(super) fn leave(&mut self, slot: Slot) {
        let membership = std::mem::replace(&mut self.conns[slot].room, Membership::NONE);
        let Some(index) = membership.room() else { return };
        if let Some(Moved { slot, membership }) = self.rooms.leave(slot, membership) {
            self.conns[slot].room = membership;
        }
        self.forget_if_empty(index);
    }

    fn forget_if_empty(&mut self, index: RoomId) {
        if let Some(room) = self.rooms.remove_if_empty(index) {
            let (home, shard) = (home_of_room(&room, self.shards), self.id);
            self.route(home, Message::RoomMembers { shard, room, members: 0 });
        }
    }

    fn room_joined(&mut self, name: &str, elsewhere: u32) {
        // Who waits keeps the room, even when gone meanwhile: so there is one question at a time, and
        // each answer finds the room that asked.
        let index = self.rooms.find(name).expect("a room waits for its home's answer");
        let room = &mut self.rooms[index];
        assert!(!room.is_joined, "a home answers once");
        room.is_joined = true;
        room.elsewhere = elsewhere;
        let mut waiting = std::mem::take(&mut room.waiting);
        waiting.retain(|&Waiting { conn: LocalConnId { slot, generation }, reply }| {
            let Some(entry) = self.conns.at(slot, generation) else { return false };
            // It may have closed meanwhile; it cannot have asked for another room, its input is held.
            let waits =
                matches!(entry.state, ConnState::Joining { reply: asked } if asked == reply);
            if waits {
                entry.state = ConnState::Live;
                entry.room = self.rooms.enter(index, slot);
            }
            waits
        });
        self.forget_if_empty(index);
        // Only now: a client that reads on may leave again, and take the room with it if it is alone.
        for Waiting { conn, reply } in waiting {
            self.answer(conn.slot, reply, b"");
        }
    }

    /// Sends the reply a client waited for, and reads on where its input was held.
    pub(super) fn answer(&mut self, slot: Slot, reply: AwaitedReply, body: &[u8]) {
        self.conns[slot].state = ConnState::Live;
        self.reply(slot, reply.operation, reply.sequence, body);
        self.resume(slot);
    }

    /// Takes a closing connection out of everything that knows it.
    pub(super) fn unregister(&mut self, slot: Slot, key: Box<str>) {
        self.leave(slot);
        if !key.is_empty() {
            let entry = &self.conns[slot];
            let (user, seq) = (entry.user, entry.session);
            self.give_back(self.conn_id(slot), user, seq, key);
        }
    }

    fn give_back(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        if user != 0 {
            let home = home_of_user(user, self.shards);
            self.route(home, Message::EndSession { conn, user, seq });
        }
        let home = home_of_key(&key, self.shards);
        self.route(home, Message::Release { conn, user, key });
    }

    /// Members of the room `slot` is in, on all shards; 0 without a room.
    pub(super) fn online(&self, slot: Slot) -> u32 {
        self.conns[slot].room.room().map_or(0, |index| {
            let room = &self.rooms[index];
            room.elsewhere.saturating_add(room.members.len() as u32)
        })
    }

    /// Not while the last ones wait for somebody: what has changed by then is told once, and does not pile up.
    pub(super) fn tell_room_counts(&mut self) {
        if self.outgoing.iter().any(|outgoing| outgoing.room_counts > 0) {
            return;
        }
        let shard = self.id;
        for (room, members) in self.rooms.take_changed() {
            let home = home_of_room(&room, self.shards);
            self.route(home, Message::RoomMembers { shard, room, members });
        }
        for (shard, room, elsewhere) in self.home.take_changed() {
            self.route(shard, Message::RoomOnline { room, elsewhere });
        }
    }
}
