//! The fake control thread: pushes to keys, users, rooms and everybody, and the sum of what came of them.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use comet_core::{
    CallId, Limits, Message, Millis, Push, Report, ShardId, Tally, home_of_key, home_of_room,
    home_of_user,
};
use comet_proto::{Encoded, Frame, op};

use crate::call::{Call, check_sum};
use crate::driver;
use crate::logic::Logic;
use crate::mesh::Mesh;
use crate::plan::{KEYS, OPERATIONS, OTHER_TRACE_USERS, Plan, ROOMS, USERS};
use crate::rng::Rng;
use crate::trace_log::TraceLog;
use crate::wire::{self, Kind, PUSH_SEQUENCE, Stamp};

/// Slowest paced broadcast, connections a second on each shard.
const SPEED_LEAST: u64 = 50;

pub(crate) struct Control {
    shards: u16,
    clients: u64,
    /// Messages for which a shard's inbox had no room yet.
    lanes: Vec<VecDeque<Message>>,
    inbox: VecDeque<Report>,
    inbox_max: usize,
    pub(crate) next_call: u64,
    /// Calls made since the last quiet point, without gaps.
    pub(crate) calls: Vec<Call>,
    /// The sum of all tallies.
    pub(crate) total: Tally,
    pub(crate) calls_total: u64,
    pub(crate) has_paced: bool,
    /// Paced broadcasts are over by then.
    pub(crate) paced_until: Millis,
    /// How often each shard said so.
    pub(crate) drained: Vec<u32>,
    pub(crate) logic: Logic,
    pub(crate) trace_log: TraceLog,
    /// Members on other hosts, as the homes were told last.
    pub(crate) remote_members: BTreeMap<&'static str, u32>,
}

impl Control {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            shards: plan.shards,
            clients: plan.clients as u64,
            lanes: (0..plan.shards).map(|_| VecDeque::new()).collect(),
            inbox: VecDeque::new(),
            inbox_max: plan.inbox,
            next_call: 1,
            calls: Vec::new(),
            total: Tally::default(),
            calls_total: 0,
            has_paced: false,
            paced_until: Millis(0),
            drained: vec![0; usize::from(plan.shards)],
            logic: Logic::default(),
            trace_log: TraceLog::default(),
            remote_members: BTreeMap::new(),
        }
    }

    /// Makes one call, or a burst of calls to one room.
    pub(crate) fn push(&mut self, rng: &mut Rng, plan: &Plan) {
        match rng.below(100) {
            0..30 => self.push_keys(rng, plan),
            30..45 => self.push_users(rng, plan),
            45..75 => {
                let room = rng.below(ROOMS.len()) as u8;
                for _ in 0..rng.pick(&[1, 1, 2, 10]) {
                    self.push_room(rng, plan, room);
                }
            }
            75..90 => self.push_all(rng, plan, None),
            90..94 => {
                let speed = NonZeroU32::new(rng.between(SPEED_LEAST, 2000) as u32);
                self.push_all(rng, plan, speed);
            }
            94..96 => self.report_remote_members(rng),
            96..98 if plan.is_configured => self.configure(rng, plan),
            _ => self.ask(rng),
        }
    }

    /// Tells every shard to say goodbye; an impatient operator does it twice.
    pub(crate) fn drain(&mut self, rng: &mut Rng, plan: &Plan) {
        let mut over_ms = plan.drain_over_ms;
        let retry_after_ms = plan.retry_after_ms;
        for _ in 0..rng.pick(&[1, 1, 2]) {
            self.send_all(&Message::Drain { over_ms, retry_after_ms });
            over_ms = rng.pick(&[0, over_ms]);
        }
    }

    /// Limits that change nothing about what clients must see.
    fn configure(&mut self, rng: &mut Rng, plan: &Plan) {
        let mut limits: Limits = plan.limits.clone();
        if rng.percent(50) {
            limits.trace_users = OTHER_TRACE_USERS.into();
            limits.user_memory_ms = 50;
        }
        self.send_all(&Message::Configure { limits: Arc::new(limits) });
    }

    /// Other hosts have counted the members of their rooms.
    fn report_remote_members(&mut self, rng: &mut Rng) {
        self.remote_members.clear();
        for room in ROOMS {
            if rng.percent(50) {
                self.remote_members.insert(room, rng.between(1, 100) as u32);
            }
        }
        for shard in 0..self.shards {
            let here = |room: &&str| home_of_room(room, self.shards).0 == shard;
            let rooms = self.remote_members.iter().filter(|(room, _)| here(room));
            let rooms = rooms.map(|(room, members)| ((*room).into(), *members)).collect();
            self.lanes[usize::from(shard)].push_back(Message::RemoteRoomCounts { rooms });
        }
    }

    /// Has logic do what is due.
    pub(crate) fn turn_logic(&mut self, rng: &mut Rng, plan: &Plan, now: Millis) {
        for (shard, message) in self.logic.turn(rng, plan, now) {
            self.lanes[usize::from(shard.0)].push_back(message);
        }
    }

    fn send_all(&mut self, message: &Message) {
        for lane in &mut self.lanes {
            lane.push_back(message.clone());
        }
    }

    /// Puts on the mesh what its inboxes have room for.
    pub(crate) fn flush(&mut self, rng: &mut Rng, now: Millis, mesh: &mut Mesh) -> bool {
        let mut moved = false;
        for (shard, lane) in (0..).map(ShardId).zip(&mut self.lanes) {
            while let Some(message) = lane.pop_front() {
                if let Err(message) = mesh.send((rng, now), None, shard, message) {
                    lane.push_front(*message);
                    break;
                }
                moved = true;
            }
        }
        moved
    }

    /// Takes a report into the inbox.
    ///
    /// # Errors
    /// Gives it back if the inbox is full.
    pub(crate) fn offer(&mut self, report: Report) -> Result<(), Box<Report>> {
        if self.inbox.len() >= self.inbox_max {
            return Err(Box::new(report));
        }
        self.inbox.push_back(report);
        Ok(())
    }

    /// Works through some of the inbox.
    pub(crate) fn take_reports(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
    ) -> Result<bool, String> {
        let mut moved = false;
        while !rng.percent(20) {
            let Some(report) = self.inbox.pop_front() else { break };
            moved |= driver::is_news(&report);
            match report {
                Report::Identify(_)
                | Report::Receive { .. }
                | Report::Heartbeat { .. }
                | Report::Disconnected { .. } => self.logic.hear(rng, plan, now, report)?,
                Report::Trace(event) => self.trace_log.hear(plan, &event)?,
                report => self.settle(&report, now)?,
            }
        }
        Ok(moved)
    }

    /// Every call has its reports, and every message is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.iter().all(Call::is_complete)
            && self.inbox.is_empty()
            && self.logic.is_idle()
            && self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn unanswered(&self) -> Vec<(u64, Kind)> {
        let open = self.calls.iter().filter(|call| !call.is_complete());
        open.map(|call| (call.id, call.kind)).collect()
    }

    fn settle(&mut self, report: &Report, now: Millis) -> Result<(), String> {
        let (call, tally, messages, partials) = match report {
            Report::Tally { call, tally, partials } => (call, *tally, 1, i64::from(*partials)),
            Report::PartialTally { call, tally } => (call, *tally, 0, -1),
            Report::Scheduled { call, connections } => {
                // Connections that come meanwhile may be visited too.
                let longest = (connections + self.clients) * 1000 / SPEED_LEAST + 100;
                self.paced_until = self.paced_until.max(now.after(longest));
                (call, Tally::default(), 1, 0)
            }
            Report::Busy { call } | Report::Rooms { call, .. } => (call, Tally::default(), 1, 0),
            Report::Snapshot { call, counters, .. } => {
                check_sum(&counters.deliveries)?;
                (call, Tally::default(), 1, 0)
            }
            Report::Drained { shard } => {
                self.drained[usize::from(shard.0)] += 1;
                return Ok(());
            }
            Report::Identify(_)
            | Report::Receive { .. }
            | Report::Heartbeat { .. }
            | Report::Disconnected { .. }
            | Report::Trace(_) => unreachable!("no report to a call"),
        };
        check_sum(&tally)?;
        self.total += tally;
        let first = self.calls.first().map_or(0, |call| call.id);
        let known = call.0.checked_sub(first).and_then(|index| self.calls.get_mut(index as usize));
        let open = known.ok_or_else(|| format!("a report to call {} of long ago", call.0))?;
        if open.is_complete() {
            return Err(format!("call {} was complete, and there comes {report:?}", call.0));
        }
        open.tally += tally;
        open.missing -= messages;
        open.partials += partials;
        open.is_refused |= matches!(report, Report::Busy { .. });
        if open.is_complete() {
            open.check()?;
        }
        Ok(())
    }

    fn push_keys(&mut self, rng: &mut Rng, plan: &Plan) {
        let mut keys: Vec<Box<str>> = Vec::new();
        for _ in 0..rng.between(1, 5) {
            let key = match rng.percent(60) {
                true => rng.pick(&KEYS).to_owned(),
                false => format!("{}_{}", rng.below(USERS as usize), rng.between(1, 6)),
            };
            if !keys.iter().any(|known| **known == *key) {
                keys.push(key.into());
            }
        }
        let call = self.open(rng, Kind::Keys);
        let push = self.encode(rng, plan, call);
        let shards = self.shards;
        for home in (0..shards).map(ShardId) {
            let here = keys.iter().filter(|key| home_of_key(key, shards) == home);
            let keys: Vec<_> = here.cloned().collect();
            if !keys.is_empty() {
                let call = CallId(call);
                self.send(home, Message::PushKeys { call, keys, push: push.clone() });
            }
        }
        self.last_call().keys = keys;
    }

    fn push_users(&mut self, rng: &mut Rng, plan: &Plan) {
        let mut users: Vec<i64> = (1..USERS).filter(|_| rng.percent(40)).collect();
        if users.is_empty() {
            users.push(1);
        }
        let call = self.open(rng, Kind::Users);
        let push = self.encode(rng, plan, call);
        let shards = self.shards;
        for home in (0..shards).map(ShardId) {
            let here = users.iter().filter(|user| home_of_user(**user, shards) == home);
            let users: Vec<_> = here.copied().collect();
            if !users.is_empty() {
                let call = CallId(call);
                self.send(home, Message::PushUsers { call, users, push: push.clone() });
            }
        }
        self.last_call().users = users;
    }

    fn push_room(&mut self, rng: &mut Rng, plan: &Plan, room: u8) {
        let call = self.open(rng, Kind::Room(room));
        let push = self.encode(rng, plan, call);
        let room: Arc<str> = ROOMS[usize::from(room)].into();
        let home = home_of_room(&room, self.shards);
        self.send(home, Message::PushRoom { call: CallId(call), room, push });
    }

    fn push_all(&mut self, rng: &mut Rng, plan: &Plan, speed: Option<NonZeroU32>) {
        self.has_paced |= speed.is_some();
        let call = self.open(rng, if speed.is_some() { Kind::Paced } else { Kind::All });
        let push = self.encode(rng, plan, call);
        for shard in (0..self.shards).map(ShardId) {
            self.send(shard, Message::Broadcast { call: CallId(call), push: push.clone(), speed });
        }
    }

    /// Counters and rooms, as the monitor asks for them.
    fn ask(&mut self, rng: &mut Rng) {
        // Recorded as a push to nobody.
        let call = CallId(self.open(rng, Kind::Users));
        let snapshot = rng.percent(50);
        for shard in (0..self.shards).map(ShardId) {
            let message =
                if snapshot { Message::Snapshot { call } } else { Message::Rooms { call } };
            self.send(shard, message);
        }
    }

    fn open(&mut self, rng: &mut Rng, kind: Kind) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        self.calls_total += 1;
        let (keys, users) = (Vec::new(), Vec::new());
        let operation = rng.pick(&OPERATIONS);
        let (tally, is_refused) = (Tally::default(), false);
        self.calls.push(Call {
            id,
            kind,
            operation,
            keys,
            users,
            missing: 0,
            partials: 0,
            tally,
            is_refused,
        });
        id
    }

    fn last_call(&mut self) -> &mut Call {
        self.calls.last_mut().expect("a call was opened")
    }

    fn send(&mut self, shard: ShardId, message: Message) {
        self.last_call().missing += 1;
        self.lanes[usize::from(shard.0)].push_back(message);
    }

    /// The call's frame: one, or a batch as goim's job makes it.
    fn encode(&mut self, rng: &mut Rng, plan: &Plan, id: u64) -> Push {
        let Call { kind, operation, .. } = *self.last_call();
        let parts = if rng.percent(25) { rng.between(1, 4) as u8 } else { 0 };
        let padding = rng.below(plan.push_body_max + 1);
        let stamp = Stamp { id, part: 0, parts: parts.max(1), kind, operation };
        let frame = |operation, sequence, body: &[u8]| {
            Encoded::frame(&Frame { version: 1, operation, sequence, body })
        };
        let frame = if parts == 0 {
            frame(operation, PUSH_SEQUENCE, &stamp.write(padding))
        } else {
            let inner = (0..parts).flat_map(|part| {
                wire::frame(operation, PUSH_SEQUENCE, &Stamp { part, ..stamp }.write(padding))
            });
            frame(op::RAW, 0, &inner.collect::<Vec<u8>>())
        };
        Push { operation, frame }
    }
}
