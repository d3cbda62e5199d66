//! Registration, sessions, keys and room interest: what shards ask of each other's homes.

use std::sync::Arc;

use comet_proto::op;

use crate::conn::{Life, Registering, Reply};
use crate::ids::{ConnId, ShardId, home_of_key, home_of_room, home_of_user};
use crate::ledger::CloseReason;
use crate::limits::{ACCEPTS_MAX, NAME_MAX};
use crate::message::{Identity, Message, Report};
use crate::room::Waiting;

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
                self.reports.push_back(Report::Part { call, tally });
            }
            Message::DeliverRoom { call, room, push } => {
                let tally = self.deliver_room(&room, &push);
                self.reports.push_back(Report::Part { call, tally });
            }
            Message::Snapshot { call } => self.snapshot(call),
            Message::Rooms { call } => {
                self.reports.push_back(Report::Rooms { call, rooms: self.home.rooms() });
            }
            Message::Drain => self.drain(),

            Message::Register { conn, user, key } => {
                let seq = self.home.begin_session(user, conn);
                let key = key.unwrap_or_else(|| format!("{user}_{seq}").into());
                let home = home_of_key(&key, self.shards);
                self.route(home, Message::Claim { conn, user, seq, key });
            }
            Message::Claim { conn, user, seq, key } => {
                if let Some(former) = self.home.claim(&key, conn) {
                    let reason = CloseReason::Replaced;
                    self.route(former.shard, Message::Evict { conn: former, reason });
                }
                self.route(conn.shard, Message::Registered { conn, user, seq, key });
            }
            Message::Registered { conn, user, seq, key } => self.registered(conn, user, seq, key),
            Message::Evict { conn, reason } => {
                if let Some(slot) = self.slot(conn) {
                    self.close(slot, reason, "");
                }
            }
            Message::EndSession { conn, user, seq } => self.home.end_session(user, seq, conn),
            Message::Release { conn, key } => self.home.release(&key, conn),

            Message::JoinRoom { shard, room, epoch } => {
                let elsewhere = self.home.join_room(&room, shard);
                self.route(shard, Message::RoomJoined { room, epoch, elsewhere });
            }
            Message::RoomJoined { room, epoch, elsewhere } => {
                self.room_joined(&room, epoch, elsewhere);
            }
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

    /// Logic has answered.
    pub(super) fn authenticated(&mut self, slot: u32, answer: Result<Identity, String>) {
        let entry = &mut self.conns[slot];
        let Life::Identifying { sequence } = entry.life else {
            return;
        };
        let identity = match answer.and_then(check_names) {
            Ok(identity) => identity,
            Err(refusal) => return self.close(slot, CloseReason::AuthRefused, &refusal),
        };
        entry.user = identity.user;
        entry.heartbeat_ms =
            identity.heartbeat_ms.filter(|&millis| millis > 0).unwrap_or(self.limits.heartbeat_ms);
        let (user, key) = (identity.user, identity.key.clone());
        entry.life = Life::Registering(Box::new(Registering { sequence, identity }));
        let conn = self.conn_id(slot);
        self.route(self.home_of_user(user), Message::Register { conn, user, key });
    }

    fn home_of_user(&self, user: i64) -> ShardId {
        if user == 0 { self.id } else { home_of_user(user, self.shards) }
    }

    fn registered(&mut self, conn: ConnId, user: i64, seq: i32, key: Box<str>) {
        let slot = self.slot(conn);
        let waits = |slot: &u32| matches!(self.conns[*slot].life, Life::Registering(_));
        let Some(slot) = slot.filter(waits) else {
            // It closed while its homes were asked; nobody else knows what to give back.
            return self.give_back(conn, user, seq, key);
        };
        let entry = &mut self.conns[slot];
        entry.key = key;
        entry.session = seq;
        let Life::Registering(registering) = std::mem::replace(&mut entry.life, Life::Live) else {
            unreachable!("looked at above")
        };
        let Registering { sequence, identity } = *registering;
        entry.accepts = identity.accepts;
        self.counters.authenticated += 1;
        self.counters.live += 1;
        self.set_deadline(slot, self.conns[slot].heartbeat_ms);
        let reply = Reply { operation: op::AUTH_REPLY, sequence };
        match identity.room {
            Some(room) => self.join(slot, &room, reply),
            None => self.answer(slot, reply),
        }
    }

    /// Puts a connection without a room into `room`; `reply` is sent once pushes reach it there.
    pub(super) fn join(&mut self, slot: u32, room: &str, reply: Reply) {
        let (index, is_new) = self.rooms.find_or_create(room);
        if self.rooms[index].is_joined {
            self.rooms.enter(index, slot, &mut self.conns[slot]);
            return self.answer(slot, reply);
        }
        let generation = self.conns.generation(slot);
        self.conns[slot].life = Life::Joining { reply };
        let room = &mut self.rooms[index];
        room.waiting.push(Waiting { slot, generation, reply });
        if is_new {
            let (room, epoch, shard) = (Arc::clone(&room.name), room.epoch, self.id);
            let home = home_of_room(&room, self.shards);
            self.route(home, Message::JoinRoom { shard, room, epoch });
        }
    }

    /// Takes a connection out of its room; the home hears at once when that was the last member.
    pub(super) fn leave(&mut self, slot: u32) {
        if let Some(index) = self.rooms.leave(slot, &mut self.conns) {
            self.forget_if_empty(index);
        }
    }

    fn forget_if_empty(&mut self, index: u32) {
        if let Some(room) = self.rooms.remove_if_empty(index) {
            let (home, shard) = (home_of_room(&room, self.shards), self.id);
            self.route(home, Message::RoomMembers { shard, room, members: 0 });
        }
    }

    fn room_joined(&mut self, name: &str, epoch: u32, elsewhere: u32) {
        let Some(index) = self.rooms.find(name).filter(|&index| self.rooms[index].epoch == epoch)
        else {
            return;
        };
        let room = &mut self.rooms[index];
        room.is_joined = true;
        room.elsewhere = elsewhere;
        let mut waiting = std::mem::take(&mut room.waiting);
        waiting.retain(|&Waiting { slot, generation, reply }| {
            let Some(entry) = self.conns.at(slot, generation) else { return false };
            // It may have closed meanwhile; it cannot have asked for another room, its input is held.
            let waits = matches!(entry.life, Life::Joining { reply: asked } if asked == reply);
            if waits {
                entry.life = Life::Live;
                self.rooms.enter(index, slot, entry);
            }
            waits
        });
        self.forget_if_empty(index);
        // Only now: a client that reads on may leave again, and take the room with it if it is alone.
        for Waiting { slot, reply, .. } in waiting {
            self.answer(slot, reply);
        }
    }

    /// Sends the reply a client waited for, and reads on where its input was held.
    fn answer(&mut self, slot: u32, reply: Reply) {
        self.conns[slot].life = Life::Live;
        self.reply(slot, reply.operation, reply.sequence, b"");
        self.resume(slot);
    }

    /// Takes a closing connection out of everything that knows it.
    pub(super) fn unregister(&mut self, slot: u32, key: Box<str>) {
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
        self.route(home, Message::Release { conn, key });
    }

    /// Members of the room `slot` is in, on all shards; 0 without a room.
    pub(super) fn online(&self, slot: u32) -> u32 {
        self.conns[slot].room.room().map_or(0, |index| {
            let room = &self.rooms[index];
            room.elsewhere.saturating_add(room.members.len() as u32)
        })
    }

    pub(super) fn tell_room_counts(&mut self) {
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

/// Logic may be somebody else's: its names are bounded here once more.
fn check_names(identity: Identity) -> Result<Identity, String> {
    let check = |what: &str, name: Option<&str>| match name {
        Some("") => Err(format!("logic gave an empty {what}")),
        Some(name) if name.len() > NAME_MAX => {
            Err(format!("{what} of {} bytes; at most {NAME_MAX} are taken", name.len()))
        }
        _ => Ok(()),
    };
    check("key", identity.key.as_deref())?;
    check("room", identity.room.as_deref())?;
    match identity.accepts.listed() {
        listed if listed > ACCEPTS_MAX => {
            Err(format!("{listed} accepted operations; at most {ACCEPTS_MAX} are taken"))
        }
        _ => Ok(identity),
    }
}
