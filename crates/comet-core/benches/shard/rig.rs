//! Shards with clients whose kernel takes everything at once, so that only the shard is measured.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::sync::Arc;

use comet_core::{
    Budget, CallId, ConnId, Hangup, Identity, Limits, Logic, Message, MessageClass, Millis,
    OperationFilter, Push, Report, Settings, Shard, ShardId, SocketShutdown, Transport,
    home_of_room,
};
use comet_proto::{Encoded, Frame, Join, VERSION, VERSION_2, op};

pub(crate) struct Rig {
    pub(crate) shards: Vec<Shard>,
    /// Every connection, in the order of accept.
    pub(crate) clients: Vec<ConnId>,
    /// Of the protocol that the next clients speak.
    pub(crate) version: u16,
    now: Millis,
    /// Shards that did something since their messages were passed on.
    touched: Vec<bool>,
    /// Sends that the kernel has, and their bytes.
    sending: Vec<(ConnId, usize)>,
    calls: u64,
    /// Connections there ever were: no key is used twice.
    connected: usize,
    /// The client that sends the next heartbeat.
    next_heartbeat: usize,
}

impl Rig {
    pub(crate) fn with_limits(shards: u16, limits: Limits) -> Self {
        let limits = Arc::new(limits);
        let settings = |shard| Settings {
            shard: ShardId(shard),
            shards,
            limits: Arc::clone(&limits),
            logic: Logic::Embedded,
            hash_seed: 7,
            has_other_hosts: false,
        };
        Self {
            shards: (0..shards).map(|shard| Shard::new(&settings(shard), Millis(0))).collect(),
            clients: Vec::new(),
            version: VERSION,
            touched: vec![false; usize::from(shards)],
            now: Millis(0),
            sending: Vec::new(),
            calls: 0,
            connected: 0,
            next_heartbeat: 0,
        }
    }

    /// `members` connections, divided between the shards and into rooms.
    pub(crate) fn with_members(shards: u16, members: usize, rooms: usize) -> Self {
        let mut rig = Self::with_limits(shards, limits());
        rig.connect(members, rooms);
        rig
    }

    /// Connects `count` more clients, each with a key and a user of its own, and sends the replies.
    pub(crate) fn connect(&mut self, count: usize, rooms: usize) {
        let shards = self.shards.len();
        self.connect_at(count, |number| (number % shards, number / shards % rooms));
    }

    /// The same, with the shard and the room of each by its number.
    pub(crate) fn connect_at(&mut self, count: usize, place: impl Fn(usize) -> (usize, usize)) {
        let token = frame_of(self.version, op::AUTH, 1, b"token");
        for number in self.connected..self.connected + count {
            let (shard, its_room) = place(number);
            self.touched[shard] = true;
            let shard = &mut self.shards[shard];
            let conn = shard.handle_accept(Transport::Tcp).expect("the shard is not full");
            shard.handle_recv(conn, &token);
            let request = shard.poll_auth().expect("a token");
            shard.handle_auth(
                request.conn,
                Ok(Identity {
                    user: number as i64 + 1,
                    key: Some(key(number).into()),
                    room: Some(room(its_room).into()),
                    accepts: OperationFilter::All,
                    heartbeat_ms: None,
                    expires_in_ms: None,
                    rooms: Box::default(),
                }),
            );
            self.clients.push(conn);
        }
        self.connected += count;
        self.pass_messages();
        self.go_on();
        self.send_all();
    }

    /// Ends the newest connections.
    pub(crate) fn hang_up(&mut self, count: usize) {
        for conn in self.clients.split_off(self.clients.len() - count) {
            self.shard(conn).handle_hangup(conn, Hangup::Eof);
        }
        self.pass_messages();
        for shard in &mut self.shards {
            while let Some((conn, how)) = shard.poll_close() {
                if how == SocketShutdown::Both {
                    shard.handle_gone(conn);
                }
            }
            while shard.poll_closed().is_some() {}
        }
    }

    /// Pushes to a room by way of its home; returns how many outboxes took the push.
    pub(crate) fn push_room(&mut self, room: &Arc<str>, push: &Push) -> u64 {
        let home = home_of_room(room, self.shards.len() as u16);
        let (room, push) = (Arc::clone(room), push.clone());
        self.push(home, |call| Message::PushRoom { call, room, push })
    }

    /// Pushes to keys by way of shard 0, their home.
    pub(crate) fn push_keys(&mut self, keys: &[Box<str>], push: &Push) -> u64 {
        let (keys, push) = (keys.to_vec(), push.clone());
        self.push(ShardId(0), |call| Message::PushKeys { call, keys, push })
    }

    /// Pushes to everybody.
    pub(crate) fn broadcast(&mut self, push: &Push) -> u64 {
        self.calls += 1;
        let call = CallId(self.calls);
        for shard in 0..self.shards.len() {
            let message = Message::Broadcast { call, push: push.clone(), speed: None };
            self.handle_message(ShardId(shard as u16), message);
        }
        self.queued()
    }

    /// The first `count` clients change to another room, by their number.
    pub(crate) fn change_rooms(&mut self, count: usize, other: impl Fn(usize) -> usize) {
        for number in 0..count {
            let conn = self.clients[number];
            let change = frame(op::CHANGE_ROOM, 3, room(other(number)).as_bytes());
            self.shard(conn).handle_recv(conn, &change);
            if number % 1_000 == 999 {
                self.pass_messages();
                self.send_all();
            }
        }
        self.pass_messages();
        self.send_all();
    }

    /// Every client asks to be in `each` of so many further rooms, with one input.
    pub(crate) fn enter_rooms(&mut self, each: usize, rooms: usize) {
        let slice = (self.clients.len() / 100).max(1);
        for number in 0..self.clients.len() {
            let conn = self.clients[number];
            let mut input = Vec::new();
            for at in 0..each {
                let room = format!("further://{}", (number + at * (rooms / each)) % rooms);
                let join = Join { since: None, room: room.as_bytes() }.encode();
                input.extend(frame_of(VERSION_2, op::JOIN, at as i32, &join));
            }
            self.shard(conn).handle_recv(conn, &input);
            if number % slice == slice - 1 {
                self.pass_messages();
                self.send_all();
            }
        }
        self.pass_messages();
        self.send_all();
    }

    fn push(&mut self, home: ShardId, message: impl FnOnce(CallId) -> Message) -> u64 {
        self.calls += 1;
        let message = message(CallId(self.calls));
        self.handle_message(home, message);
        self.pass_messages();
        self.queued()
    }

    /// Outboxes that took what was pushed.
    fn queued(&mut self) -> u64 {
        let mut queued = 0;
        for shard in &mut self.shards {
            while let Some(report) = shard.poll_report() {
                if let Report::Tally { tally, .. } | Report::PartialTally { tally, .. } = report {
                    queued += tally.queued;
                }
            }
        }
        queued
    }

    /// Sends everything that waits: the transmits of a turn, then their completions, as a driver does, and
    /// again for what was more than one send.
    pub(crate) fn send_all(&mut self) {
        while self.begin_sends() > 0 {
            for (conn, bytes) in std::mem::take(&mut self.sending) {
                self.shard(conn).handle_sent(conn, bytes);
            }
        }
    }

    /// Completes the sends that are under way with as many bytes as `taken` says for each client, by its number on its
    /// shard. With 0 the kernel keeps the send.
    pub(crate) fn complete_sends(&mut self, taken: impl Fn(usize) -> usize) {
        for (conn, bytes) in std::mem::take(&mut self.sending) {
            let taken = taken(conn.slot.0 as usize).min(bytes);
            if taken > 0 {
                self.shard(conn).handle_sent(conn, taken);
            }
        }
    }

    /// The transmits of a turn, which the kernel has from then on. Returns how many are under way.
    pub(crate) fn begin_sends(&mut self) -> usize {
        for shard in &mut self.shards {
            while let Some(transmit) = shard.poll_transmit() {
                let bytes = transmit.slices.map(<[u8]>::len).sum();
                self.sending.push((transmit.conn, bytes));
            }
        }
        self.sending.len()
    }

    /// Every client sends a heartbeat with a number of its own.
    pub(crate) fn heartbeat_each(&mut self) {
        for number in 0..self.clients.len() {
            let conn = self.clients[number];
            self.shard(conn).handle_recv(conn, &frame(op::HEARTBEAT, number as i32, b""));
        }
    }

    /// The next `count` clients send a heartbeat.
    pub(crate) fn heartbeat(&mut self, count: usize) {
        let heartbeat = frame(op::HEARTBEAT, 2, b"");
        for _ in 0..count {
            self.next_heartbeat = (self.next_heartbeat + 1) % self.clients.len();
            let conn = self.clients[self.next_heartbeat];
            self.shard(conn).handle_recv(conn, &heartbeat);
        }
    }

    /// Lets the time pass.
    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now.after(millis);
        for shard in &mut self.shards {
            shard.handle_time(self.now);
            shard.handle_deadlines(&mut Budget::slice());
        }
        self.go_on();
    }

    fn pass_messages(&mut self) {
        while let Some(from) = self.touched.iter().position(|touched| *touched) {
            self.touched[from] = false;
            for to in 0..self.shards.len() {
                let to = ShardId(to as u16);
                for class in MessageClass::ALL {
                    while let Some(message) = self.shards[from].poll_message(to, class) {
                        self.handle_message(to, message);
                    }
                }
            }
        }
    }

    /// Goes on with what did not fit into a slice.
    fn go_on(&mut self) {
        for shard in &mut self.shards {
            while shard.has_work() {
                shard.handle_time(self.now);
                shard.handle_deadlines(&mut Budget::slice());
            }
        }
    }

    fn handle_message(&mut self, to: ShardId, message: Message) {
        self.touched[usize::from(to.0)] = true;
        let shard = &mut self.shards[usize::from(to.0)];
        shard.handle_message(message);
        while shard.has_pushes() {
            shard.handle_pushes(&mut Budget::slice(), |_| None);
        }
        while shard.has_crowds() {
            shard.handle_crowds();
        }
    }

    fn shard(&mut self, conn: ConnId) -> &mut Shard {
        self.touched[usize::from(conn.shard.0)] = true;
        &mut self.shards[usize::from(conn.shard.0)]
    }
}

/// Bounds of a rig without others.
pub(crate) fn limits() -> Limits {
    Limits { heartbeat_ms: 60_000, ..Limits::default() }
}

/// The key of a client, by its number.
pub(crate) fn key(number: usize) -> String {
    format!("k{number}")
}

/// The id of a room, by its number.
pub(crate) fn room(number: usize) -> String {
    format!("live://{number}")
}

/// A push with a body of `body` bytes.
pub(crate) fn push(body: usize) -> Push {
    let body = vec![b'x'; body];
    let frame = Frame { version: VERSION, operation: 1000, sequence: 0, body: &body };
    Push::new(1000, Encoded::frame(&frame))
}

fn frame(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    frame_of(VERSION, operation, sequence, body)
}

fn frame_of(version: u16, operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    Encoded::frame(&Frame { version, operation, sequence, body }).for_tcp().to_vec()
}
