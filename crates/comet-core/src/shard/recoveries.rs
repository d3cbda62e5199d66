//! Entering a room that keeps a history, by a request of protocol 2.
//!
//! The room's home answers among its pushes, and the answer has its place in the room's order on this shard, behind pushes
//! that wait for their turn or in a window. There the connection becomes a member. So it gets each push once: those before
//! that place are in the answer, and those behind it come to members.

use std::sync::Arc;

use comet_proto::{Encoded, JoinReply, Position, RoomHandle, op};

use crate::budget::{self, Budget};
use crate::ids::{CallId, ConnId, LocalConnId, Slot};
use crate::ledger::{CloseReason, Tally};
use crate::limits::RECOVERY_MAX;
use crate::message::{Message, Push, Recovery};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;
use super::delivery::{Items, Walk};
use super::push_task::{Answer, Crowd, Entry, Progress, PushTask, Target};

impl Shard {
    /// Asks the home of `room`, which keeps a history and in which the connection is not yet.
    pub(super) fn join_with_history(
        &mut self,
        slot: Slot,
        room: &str,
        since: Option<Position>,
        reply: AwaitedReply,
    ) {
        let (id, is_new) = self.rooms.find_or_create(room);
        if is_new {
            self.ask_home(id);
        }
        self.rooms[id].recovering += 1;
        self.conns[slot].state = ConnState::Joining { reply };
        let (conn, room) = (self.conns.id(slot), Arc::clone(&self.rooms[id].name));
        let home = self.context.home_of_room(&room);
        self.messages.send(home, Message::Recover { conn, room, handle: id.handle(), since });
    }

    /// At the home: answers with what came after `since`. The shard of `conn` gets all later pushes.
    pub(super) fn recover(
        &mut self,
        conn: ConnId,
        room: Arc<str>,
        handle: RoomHandle,
        since: Option<Position>,
    ) {
        let limits = &self.context.limits;
        let (now, most) = (self.context.now, RECOVERY_MAX.min(limits.outbox_bytes as usize));
        let recovery = limits.history_rule(&room).map(|rule| {
            Box::new(self.home.histories.recover(&room, rule, since, handle, now, most))
        });
        // However many pushes wait for that shard: a connection has one request under way.
        let (shard, conn) = (conn.shard, conn.local());
        self.messages.send(shard, Message::Recovered { conn, room, recovery });
    }

    /// The home has answered: `conn` enters behind the pushes to the room that came before.
    pub(super) fn begin_entry(
        &mut self,
        conn: LocalConnId,
        room: Arc<str>,
        mut recovery: Option<Box<Recovery>>,
    ) {
        let json = self.missed_event(conn, &room, &mut recovery);
        let chunk = recovery.as_ref().and_then(|recovery| recovery.chunk.clone());
        let push = Push::new(op::RAW, chunk.unwrap_or_else(|| Encoded::verbatim(b"")));
        let progress = Progress {
            call: CallId(0),
            items: Items::new(&mut self.outboxes.chains, &push.frame, &json),
            push,
            tally: Tally::default(),
            answer: Answer::None,
            is_counted: true,
            order: None,
            entry: Some(Entry { conn, recovery }),
        };
        if self.is_gathering() {
            self.end_window(&Some(Arc::clone(&room)));
        }
        let target = Target::Crowd(Crowd::Room(room));
        self.pushes.push_back(PushTask { target, progress });
    }

    /// Lets a connection into the room `name`, tells it the position, and gives it what it missed.
    pub(super) fn enter_with_history(
        &mut self,
        name: &str,
        Entry { conn, recovery }: Entry,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> Vec<Slot> {
        budget.spend(budget::ANSWER);
        let id = self.rooms.find(name).expect("a connection that waits keeps its room");
        let room = &mut self.rooms[id];
        room.recovering -= 1;
        if room.recovering == 0 {
            // A count that was due before was left out.
            self.rooms.mark(id);
        }
        // It may have closed since. It cannot have asked for another room, because its input is held.
        let reply_due = |state: &ConnState| match *state {
            ConnState::Joining { reply } => Some(reply),
            _ => None,
        };
        let Some(reply) = self.conns.get(conn).and_then(|conn| reply_due(&conn.state)) else {
            self.remove_if_empty(id);
            return Vec::new();
        };
        let slot = conn.slot;
        // By order of the server it may have come into the room meanwhile, and has some of the pushes.
        let is_new = !self.is_in(slot, id);
        if is_new {
            self.enter(id, slot, true);
        }
        let mut joined = JoinReply::joined(id.handle(), name.as_bytes());
        joined.position = recovery.as_ref().map(|recovery| recovery.position);
        self.rooms[id].reached = joined.position;
        let missed = recovery.as_ref().and_then(|recovery| recovery.recovered);
        let is_sought = recovery.as_ref().is_some_and(|recovery| recovery.is_sought);
        let has_chunk = recovery.is_some_and(|recovery| recovery.chunk.is_some());
        let beside = joined.encode().len();
        joined.recovered =
            missed.filter(|_| is_new && (!has_chunk || self.has_space_for(slot, beside, progress)));
        if is_sought {
            let is_recovered = usize::from(joined.recovered.is_some());
            self.counters.recoveries[is_recovered] += 1;
        }
        self.conns[slot].state = ConnState::Live;
        self.reply(slot, reply, &joined.encode());
        let mut to_close = Vec::new();
        if has_chunk && joined.recovered.is_some() {
            let Progress { push, items, .. } = progress;
            let delivered =
                self.deliver(push, items, Walk::Offer, |delivery| delivery.offer_to(conn));
            let is_queued = delivered.tally.queued > 0;
            to_close = self.count_slice(delivered, progress, budget);
            if !is_queued && self.conns[slot].is_open() && to_close.is_empty() {
                // It was told that the pushes follow.
                self.close(slot, CloseReason::SlowConsumer, "");
            }
        }
        self.resume(slot);
        to_close
    }

    /// Whether the outbox of a connection takes a push, with so many bytes before it.
    fn has_space_for(&mut self, slot: Slot, beside: usize, progress: &mut Progress) -> bool {
        let mut has_space = false;
        let Progress { push, items, .. } = progress;
        self.deliver(push, items, Walk::Offer, |delivery| {
            has_space = delivery.has_space(slot, beside as u32);
        });
        has_space
    }
}
