//! A shard, and a driver that counts what each turn does.

use std::sync::Arc;

use comet_core::{
    Budget, CallId, ConnId, Generation, Identity, Limits, Logic, MessageClass, Millis,
    OperationFilter, Settings, Shard, ShardId, Slot, Transport, home_of_room,
};
use comet_proto::op;

use crate::rig::frame;

/// The work of one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Work {
    /// Connections that pushes were offered to.
    pub(super) deliveries: u64,
    /// Connections that were given a close reason.
    pub(super) closings: u64,
    /// Items that were polled.
    pub(super) tokens: u64,
    pub(super) transmits: u64,
    pub(super) closed_events: u64,
    pub(super) closes: u64,
    pub(super) messages: u64,
    pub(super) reports: u64,
}

impl Work {
    fn counts(self) -> [(&'static str, u64); 8] {
        [
            ("deliveries", self.deliveries),
            ("closings", self.closings),
            ("tokens", self.tokens),
            ("transmits", self.transmits),
            ("closed events", self.closed_events),
            ("closes", self.closes),
            ("messages", self.messages),
            ("reports", self.reports),
        ]
    }

    #[track_caller]
    pub(super) fn assert_within(self, bound: Self, case: &str) {
        for ((what, done), (_, most)) in self.counts().into_iter().zip(bound.counts()) {
            assert!(done <= most, "{case}: {done} {what} in one turn, of {most} allowed");
        }
    }
}

/// A shard and a driver that counts.
pub(super) struct Core {
    pub(super) shard: Shard,
    pub(super) shards: u16,
    pub(super) now: u64,
    pub(super) clients: Vec<ConnId>,
    pub(super) in_flight: Vec<(ConnId, usize)>,
    pub(super) longest_transmit: usize,
    /// The number of slices of each kind of work in a turn.
    pub(super) slices: usize,
    /// When tokens expire.
    pub(super) expires_in_ms: Option<u64>,
}

impl Core {
    pub(super) fn new(shards: u16, limits: Limits, logic: Logic) -> Self {
        let limits = Arc::new(limits);
        let shard = ShardId(0);
        let settings =
            Settings { shard, shards, limits, logic, hash_seed: 7, has_other_hosts: false };
        Self {
            shard: Shard::new(&settings, Millis(0)),
            shards,
            now: 0,
            clients: Vec::new(),
            in_flight: Vec::new(),
            longest_transmit: 0,
            slices: usize::MAX,
            expires_in_ms: None,
        }
    }

    /// A shard with `count` clients in the room `r`, each with a key of its own. Other shards answer nothing.
    pub(super) fn with_members(shards: u16, limits: Limits, count: usize) -> Self {
        let mut core = Self::new(shards, limits, Logic::Embedded);
        core.connect(count);
        core.turn(|_| {});
        core
    }

    /// Connects clients that have sent their tokens.
    pub(super) fn connect(&mut self, count: usize) {
        let token = frame(op::AUTH, 1, b"");
        for _ in 0..count {
            let conn = self.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
            self.shard.handle_recv(conn, &token);
            self.clients.push(conn);
        }
    }

    /// One turn of a driver that has no limits of its own but the slices: completions, what `input` does,
    /// deadlines, pushes, polls.
    pub(super) fn turn(&mut self, input: impl FnOnce(&mut Shard)) -> Work {
        let shard = &mut self.shard;
        let before = shard.counters();
        let mut work = Work::default();
        shard.handle_time(Millis(self.now));
        for (conn, bytes) in self.in_flight.drain(..) {
            shard.handle_sent(conn, bytes);
        }
        input(shard);
        shard.handle_deadlines(&mut Budget::slice());
        for _ in 1..self.slices {
            if !shard.has_work() {
                break;
            }
            shard.handle_time(Millis(self.now));
            shard.handle_deadlines(&mut Budget::slice());
        }
        for _ in 0..self.slices {
            if !shard.has_pushes() {
                break;
            }
            shard.handle_pushes(&mut Budget::slice(), |_| None);
        }
        while let Some(request) = shard.poll_auth() {
            work.tokens += 1;
            let (user, key) = (i64::from(request.conn.slot.0) + 1, request.conn.slot.to_string());
            shard.handle_auth(
                request.conn,
                Ok(Identity {
                    user,
                    key: Some(key.into()),
                    room: Some("r".into()),
                    accepts: OperationFilter::All,
                    heartbeat_ms: None,
                    expires_in_ms: self.expires_in_ms,
                    rooms: Box::default(),
                }),
            );
        }
        for _ in 0..self.slices {
            if !shard.has_crowds() {
                break;
            }
            shard.handle_crowds();
        }
        while let Some(transmit) = shard.poll_transmit() {
            work.transmits += 1;
            let bytes = transmit.slices.map(<[u8]>::len).sum();
            self.longest_transmit = self.longest_transmit.max(bytes);
            self.in_flight.push((transmit.conn, bytes));
        }
        while shard.poll_closed().is_some() {
            work.closed_events += 1;
        }
        while shard.poll_close().is_some() {
            work.closes += 1;
        }
        for peer in (1..self.shards).map(ShardId) {
            for class in MessageClass::ALL {
                while shard.poll_message(peer, class).is_some() {
                    work.messages += 1;
                }
            }
        }
        while shard.poll_report().is_some() {
            work.reports += 1;
        }
        let after = shard.counters();
        work.deliveries = after.deliveries.matched - before.deliveries.matched;
        work.closings = after.closed.iter().sum::<u64>() - before.closed.iter().sum::<u64>();
        work
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += millis;
    }
}

pub(super) const CALL: CallId = CallId(1);

/// A room whose home is shard 0.
pub(super) fn room_here(shards: u16) -> Arc<str> {
    let mut rooms = (0..).map(|number| format!("room{number}"));
    rooms.find(|room| home_of_room(room, shards).0 == 0).expect("one of a few").into()
}

pub(super) fn remote_conn(shard: u16, slot: u32) -> ConnId {
    ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(0) }
}
