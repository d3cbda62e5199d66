//! Entering a room with a history, by a request of protocol 2.
//!
//! The room's home answers among its pushes, so the answer has a place in the room's order on this shard, behind pushes
//! that wait for their turn or in a window. At that place the connection becomes a member. So it gets each push once:
//! those before that place are in the answer, and those behind it are delivered to members.

mod memory;

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use comet_proto::{Encoded, HEADER_LEN, JoinReply, Position, op};

use crate::budget::{self, Budget};
use crate::gaps::{LostRange, Offsets};
use crate::home::RecoveryRequest;
use crate::ids::{CallId, LocalConnId, Slot};
use crate::ledger::{CloseReason, Tally};
use crate::message::{Message, Push, Recovery};
use crate::room::{RoomId, Watermark};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;
use super::delivery::DeliveryMode;
use super::push_forms::PushForms;
use super::push_task::{Crowd, Progress, PushTask, RecoveryPoint, TallyKind, Target};
use memory::RecoveryMemory;

/// The overhead of a reply in bytes: the header of the frame and that of a WebSocket message.
const FRAME_MAX: usize = HEADER_LEN + 10;

/// Connections that are still to get parts of a room's history. Their input is held.
pub(super) struct Recoveries {
    by_conn: HashMap<Slot, CatchUp, RandomState>,
    memory: RecoveryMemory,
}

#[derive(Clone, Copy)]
struct CatchUp {
    room: RoomId,
    /// The position up to which the client has the pushes, or they are queued for it.
    since: Option<Position>,
    /// The number of pushes of the room that the connection had lost before.
    lost: u64,
    /// The room is the one that operation 12 changes.
    is_primary: bool,
    /// The join was answered.
    is_told: bool,
    request: RequestState,
    /// The connection is to leave the room as soon as it has entered.
    is_cancelled: bool,
}

/// The state of the request to the home for missing pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestState {
    /// The client has to read its outbox first.
    NotDue,
    /// The request waits for [memory](RecoveryMemory), under this number.
    Waits(u64),
    /// The home has been asked.
    Sent,
}

impl CatchUp {
    fn new(room: RoomId, since: Option<Position>) -> Self {
        let (is_primary, is_told, is_cancelled) = (false, false, false);
        Self {
            room,
            since,
            lost: 0,
            is_primary,
            is_told,
            request: RequestState::NotDue,
            is_cancelled,
        }
    }
}

impl Recoveries {
    pub(super) fn new(seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, 33, 34, 35);
        Self { by_conn: HashMap::with_hasher(hasher), memory: RecoveryMemory::default() }
    }

    fn wait(&mut self, slot: Slot, catch_up: CatchUp) {
        self.by_conn.insert(slot, CatchUp { request: RequestState::NotDue, ..catch_up });
    }

    fn take(&mut self, slot: Slot) -> Option<CatchUp> {
        self.by_conn.remove(&slot)
    }

    /// Bytes of answers that were not given to their connections yet.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Whether no connection is catching up.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.by_conn.is_empty()
    }

    /// Whether the connection will be in the room after it has caught up.
    pub(super) fn has(&self, slot: Slot, room: RoomId) -> bool {
        !self.is_empty() && self.by_conn.get(&slot).is_some_and(|one| one.room == room)
    }

    /// Makes the connection leave the room after it has caught up. `false`: it is not catching up there, or was to
    /// leave already.
    pub(super) fn cancel(&mut self, slot: Slot, room: RoomId) -> bool {
        let catch_up = self.by_conn.get_mut(&slot).filter(|one| one.room == room);
        catch_up.is_some_and(|one| !std::mem::replace(&mut one.is_cancelled, true))
    }

    /// Takes such an order to leave back. `false`: the connection is not catching up there, or was not to leave.
    pub(super) fn take_back_cancel(&mut self, slot: Slot, room: RoomId) -> bool {
        let catch_up = self.by_conn.get_mut(&slot).filter(|one| one.room == room);
        catch_up.is_some_and(|one| std::mem::take(&mut one.is_cancelled))
    }
}

impl Shard {
    /// Asks the home of `room`, which keeps a history. The connection is not in the room yet.
    pub(super) fn join_with_history(
        &mut self,
        slot: Slot,
        room: &str,
        since: Position,
        reply: AwaitedReply,
    ) {
        let id = self.find_or_ask(room);
        self.rooms[id].recovering += 1;
        self.conns[slot].state = ConnState::Joining { reply };
        // Registered at once, so that an order of the server for the same room does not make the connection a member
        // before.
        self.recoveries.wait(slot, CatchUp::new(id, Some(since)));
        self.request_missed(slot);
    }

    /// Asks the home for the position of a room that keeps a history.
    pub(super) fn ask_position(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        room.awaits_position = true;
        room.recovering += 1;
        self.ask_what_came(id, None, None);
    }

    fn ask_what_came(&mut self, id: RoomId, conn: Option<LocalConnId>, since: Option<Position>) {
        let (shard, room) = (self.context.shard, Arc::clone(&self.rooms[id].name));
        let home = self.context.home_of_room(&room);
        let handle = id.handle();
        self.messages.send(home, Message::Recover { shard, conn, room, handle, since });
    }

    /// At the home: a shard asks for the pushes after a position, or only for the present position, which is answered
    /// at once.
    pub(super) fn recover(&mut self, request: RecoveryRequest) {
        if request.since.is_some() {
            self.home.recoveries.push_back(request);
        } else {
            self.answer_recovery(request, &mut Budget::slice());
        }
    }

    /// At the home: answers requests for missed pushes, in order.
    pub(super) fn answer_recoveries(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && let Some(request) = self.home.recoveries.pop_front()
        {
            self.answer_recovery(request, budget);
        }
        // An answer to a client of this shard must get its place before any push that a later step makes.
        self.dispatch_local();
    }

    /// Answers with the pushes after `since`. All later pushes reach the shard anyway.
    fn answer_recovery(&mut self, request: RecoveryRequest, budget: &mut Budget) {
        let RecoveryRequest { shard, conn, room, handle, since } = request;
        let limits = &self.context.limits;
        let most = (self.context.now, limits.recovery_max());
        let recovery = limits.history_rule(&room).map(|rule| {
            Box::new(self.home.histories.recover(&room, rule, since, handle, most, budget))
        });
        // Sent even if many pushes wait for that shard, because each connection and each room has at most one request
        // under way.
        self.messages.send(shard, Message::Recovered { conn, room, recovery });
    }

    /// The home has answered. `conn` enters behind the earlier pushes to the room, or the shard learns the position
    /// there.
    pub(super) fn queue_recovery(
        &mut self,
        conn: Option<LocalConnId>,
        room: Arc<str>,
        mut recovery: Option<Box<Recovery>>,
    ) {
        let json = self.missed_event(conn, &room, &mut recovery);
        let chunk = recovery.as_ref().and_then(|recovery| recovery.chunk.clone());
        let push = Push::new(op::RAW, chunk.unwrap_or_else(|| Encoded::verbatim(b"")));
        let bytes = size_of::<PushTask>() + push.frame.for_websocket().len() + json.event_bytes();
        let mut items = PushForms::new(&mut self.outboxes.chains, &push.frame, &json);
        if let Some(offsets) = Offsets::of_room_push(push.frame.for_tcp()) {
            items.set_offsets(offsets);
        }
        items.keep_plain();
        if conn.is_some() {
            self.recoveries.memory.note_answer(bytes);
            self.send_waiting_requests();
        }
        let progress = Progress {
            call: CallId::NONE,
            items,
            push,
            tally: Tally::default(),
            tally_kind: TallyKind::None,
            is_counted: true,
            order: None,
            recovery_point: Some(RecoveryPoint { conn, recovery, bytes }),
            outdated: 0,
        };
        if self.is_gathering() {
            self.end_window(&Some(Arc::clone(&room)));
        }
        let target = Target::Crowd(Crowd::Room(room));
        self.pushes.push_back(PushTask { target, progress });
    }

    /// Gives a connection the pushes of the room `name` that it missed, and makes it a member behind them. If there is
    /// no space for all of them, the rest follows when the client has read some.
    pub(super) fn enter_with_history(
        &mut self,
        name: &str,
        RecoveryPoint { conn, recovery, bytes }: RecoveryPoint,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> Vec<Slot> {
        budget.spend(budget::ANSWER);
        let id = self.rooms.find(name).expect("a connection that waits keeps its room");
        let position = recovery.as_ref().map(|recovery| recovery.position);
        let watermark =
            recovery.as_ref().map(|it| Watermark { position: it.position, number: it.number });
        self.advance_watermark(id, watermark);
        let Some(conn) = conn else {
            self.rooms[id].awaits_position = false;
            self.rooms[id].recovering -= 1;
            self.let_in(id);
            return Vec::new();
        };
        self.recoveries.memory.release(bytes);
        self.send_waiting_requests();
        // The connection may have closed since. It cannot have asked for another room, because its input is held.
        let reply_due = |state: &ConnState| match *state {
            ConnState::Joining { reply } => Some(reply),
            _ => None,
        };
        let Some(reply) = self.conns.get(conn).and_then(|conn| reply_due(&conn.state)) else {
            self.end_recovery(id);
            return Vec::new();
        };
        let slot = conn.slot;
        if self.conns[slot].has_peer_left {
            self.forget_recovery(slot);
            self.end_recovery(id);
            self.conns[slot].state = ConnState::Live;
            self.resume_reading(slot);
            return Vec::new();
        }
        let catch_up = self.recoveries.take(slot).expect("it waits");
        let missed = recovery.as_ref().and_then(|recovery| recovery.recovered);
        let chunk_end = recovery.and_then(|recovery| recovery.chunk.map(|_| recovery.chunk_end));
        let mut joined = JoinReply::joined(id.handle(), name.as_bytes());
        joined.position = position;
        joined.recovered = missed;
        if let Some(end) = chunk_end.filter(|_| joined.recovered.is_some()) {
            let beside = if catch_up.is_told { 0 } else { FRAME_MAX + joined.encode().len() };
            if self.has_space_for(slot, beside, progress) {
                if position.is_some_and(|position| end < position.offset) {
                    return self.give_part(slot, reply, &joined, (catch_up, end), progress, budget);
                }
            } else if self.conns[slot].outbox.is_empty() {
                joined.recovered = None;
            } else {
                self.recoveries.wait(slot, catch_up);
                return Vec::new();
            }
        }
        self.rooms[id].recovering -= 1;
        self.enter(id, slot, !catch_up.is_primary);
        if self.rooms[id].recovering == 0 {
            // A count that was due earlier was left out.
            self.rooms.mark(id);
        }
        self.conns[slot].state = ConnState::Live;
        if joined.recovered.is_some() {
            self.counters.repaired += catch_up.lost;
        }
        self.tell_entry(slot, reply, &joined, &catch_up);
        let mut to_close = Vec::new();
        if chunk_end.is_some() && joined.recovered.is_some() {
            to_close = self.give_chunk(conn, progress, budget);
        }
        if catch_up.is_cancelled && self.is_in(slot, id) {
            self.leave_membership(slot, id);
            self.tell_left(slot, id);
        }
        self.resume_reading(slot);
        to_close
    }

    /// Tells the client its position in the room. If the client was promised all missed pushes, and the history has
    /// lost some of them, a gap marker tells it so.
    fn tell_entry(
        &mut self,
        slot: Slot,
        reply: AwaitedReply,
        joined: &JoinReply<'_>,
        catch_up: &CatchUp,
    ) {
        let CatchUp { room, since, is_told, .. } = *catch_up;
        if !is_told {
            if since.is_some() {
                self.counters.recoveries[usize::from(joined.recovered.is_some())] += 1;
            }
            return self.reply(slot, reply, &joined.encode());
        }
        let since = since.map_or(0, |since| since.offset);
        let last = joined.position.map_or(0, |position| position.offset).max(since + 1);
        // If offsets have holes, the number of missed pushes is not known.
        let missed = if self.context.limits.history_is_shared { 1 } else { last - since };
        let lost = LostRange::between(room.handle(), since, last, missed);
        if let Some(lost) = lost.filter(|_| joined.recovered.is_none()) {
            self.note_lost(slot, lost);
        }
    }

    /// Gives a connection the first part of the missed pushes, up to the offset `end`. It enters behind the last part.
    fn give_part(
        &mut self,
        slot: Slot,
        reply: AwaitedReply,
        joined: &JoinReply<'_>,
        (catch_up, end): (CatchUp, u64),
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> Vec<Slot> {
        let since = joined.position.map(|position| Position { offset: end, ..position });
        // Registered before anything can close the connection.
        self.recoveries.wait(slot, CatchUp { since, is_told: true, ..catch_up });
        if !catch_up.is_told {
            self.counters.recoveries[1] += 1;
            self.reply(slot, reply, &joined.encode());
        }
        let conn = self.conns.id(slot).local();
        let to_close = self.give_chunk(conn, progress, budget);
        self.go_on_recovering(slot);
        to_close
    }

    /// Queues the part that the outbox of a connection has space for.
    fn give_chunk(
        &mut self,
        conn: LocalConnId,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> Vec<Slot> {
        let Progress { push, items, .. } = progress;
        let delivered =
            self.deliver(push, items, DeliveryMode::Offer, |delivery| delivery.offer_to(conn));
        let is_queued = delivered.tally.queued > 0;
        let to_close = self.count_slice(delivered, progress, budget);
        if !is_queued && self.conns[conn.slot].is_open() && to_close.is_empty() {
            // The client was promised these pushes.
            self.close(conn.slot, CloseReason::SlowConsumer, "");
        }
        to_close
    }

    /// A member has lost pushes of the room and asks for them. Until it has them it is no member, so that none is
    /// delivered twice.
    pub(super) fn recover_again(
        &mut self,
        slot: Slot,
        id: RoomId,
        since: Position,
        reply: AwaitedReply,
    ) {
        let lost = self.gaps.repair(slot, id, since.offset);
        if self.position_in(id, slot) == Some(since) {
            // No push has come after the client's position.
            self.counters.recoveries[1] += 1;
            let name = Arc::clone(&self.rooms[id].name);
            let joined = JoinReply::joined(id.handle(), name.as_bytes());
            let joined = JoinReply { position: Some(since), recovered: Some(0), ..joined };
            return self.reply(slot, reply, &joined.encode());
        }
        let is_primary = self.conns[slot].room.room() == Some(id);
        self.rooms[id].recovering += 1;
        self.leave_membership(slot, id);
        self.conns[slot].state = ConnState::Joining { reply };
        let catch_up = CatchUp { is_primary, lost, ..CatchUp::new(id, Some(since)) };
        self.recoveries.wait(slot, catch_up);
        self.go_on_recovering(slot);
    }

    fn leave_membership(&mut self, slot: Slot, id: RoomId) {
        if self.conns[slot].room.room() == Some(id) {
            self.leave(slot);
        } else {
            self.leave_further(slot, id);
        }
    }

    /// Asks the home for the next missing part, once half of the connection's outbox is free.
    pub(super) fn go_on_recovering(&mut self, slot: Slot) {
        let is_due = |catch_up: &CatchUp| catch_up.request == RequestState::NotDue;
        if !self.recoveries.by_conn.get(&slot).is_some_and(is_due) {
            return;
        }
        let conn = &self.conns[slot];
        let load = self.outboxes.chains.load(&conn.outbox, conn.transport);
        let limits = &self.context.limits;
        let is_free =
            load.pushes <= u32::from(limits.svr_proto) / 2 && load.bytes <= limits.outbox_bytes / 2;
        if conn.is_open() && is_free {
            // Its heartbeats are held with the rest of its input. So reading counts as a sign of life.
            self.set_deadline(slot, self.heartbeat_ms(slot));
            self.request_missed(slot);
        }
    }

    /// Asks the home as soon as there is memory for its answer.
    fn request_missed(&mut self, slot: Slot) {
        let Recoveries { by_conn, memory } = &mut self.recoveries;
        let catch_up = by_conn.get_mut(&slot).expect("it catches up");
        catch_up.request = RequestState::Waits(memory.wait(slot));
        self.send_waiting_requests();
        let is_delayed = |catch_up: &CatchUp| catch_up.request != RequestState::Sent;
        let is_delayed = self.recoveries.by_conn.get(&slot).is_some_and(is_delayed);
        self.counters.recoveries_delayed += u64::from(is_delayed);
    }

    fn send_waiting_requests(&mut self) {
        while let Some(slot) = self.recoveries.memory.next(&self.context.limits) {
            let catch_up = self.recoveries.by_conn.get_mut(&slot).expect("it catches up");
            catch_up.request = RequestState::Sent;
            let CatchUp { room, since, .. } = *catch_up;
            self.ask_what_came(room, Some(self.conns.id(slot).local()), since);
        }
    }

    /// The client has left, and will not read the parts of the history that are still to be sent. So the input behind its
    /// request is read, up to the next one that waits. `false`: it catches up nowhere, or the home owes an answer.
    pub(super) fn end_catch_up(&mut self, slot: Slot) -> bool {
        let is_sent = |catch_up: &CatchUp| catch_up.request == RequestState::Sent;
        if self.recoveries.by_conn.get(&slot).is_none_or(is_sent) {
            return false;
        }
        self.forget_recovery(slot);
        self.conns[slot].state = ConnState::Live;
        // The caller ends the connection. There may be thousands of requests, so no call is inside the one before.
        let former = self.reading_held.replace(slot);
        self.resume_reading(slot);
        self.reading_held = former;
        true
    }

    /// Forgets the recovery of a connection that closes, or whose client has left.
    pub(super) fn forget_recovery(&mut self, slot: Slot) {
        let Some(CatchUp { room, request, .. }) = self.recoveries.take(slot) else { return };
        // The connection is no member, so leaving its rooms does not clear this gap. Nothing is sent behind the close notice.
        self.gaps.leave(slot, room);
        if let RequestState::Waits(number) = request {
            self.recoveries.memory.forget(number);
        }
        if request != RequestState::Sent {
            // The home was not asked, so no answer will come.
            self.end_recovery(room);
        }
    }

    /// A connection that was to enter the room will not.
    fn end_recovery(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        room.recovering -= 1;
        if room.recovering == 0 {
            self.rooms.mark(id);
        }
        self.remove_if_empty(id);
    }

    /// Notes that the members were offered all pushes to the room up to `watermark`. Exceptions are pushes that the mesh
    /// has dropped, and those of a stream that was not read yet.
    fn advance_watermark(&mut self, id: RoomId, watermark: Option<Watermark>) {
        let room = &self.rooms[id];
        let members = room.members.len();
        let lost = match (room.watermark, watermark) {
            (Some(before), Some(after)) if before.position.epoch == after.position.epoch => {
                let missing = after.number.saturating_sub(before.number);
                let (after, last) = (before.position.offset, after.position.offset);
                LostRange::between(id.handle(), after, last, missing)
            }
            // It is not known which pushes of this stream the members have had, nor how many they lack.
            (Some(before), Some(Watermark { position: Position { epoch, offset }, .. }))
                if self.context.limits.history_is_shared && epoch != 0 =>
            {
                // The gap begins behind the last push that they had, so that they ask for the rest.
                let had = before.position.offset;
                LostRange::between(id.handle(), had, offset.max(had + 1), 1)
            }
            _ => None,
        };
        if let Some(lost) = lost {
            self.note_hole(id, 0, members, lost);
        }
        self.rooms[id].watermark = watermark;
    }

    /// Whether the outbox of a connection has space for a push behind `beside` further bytes.
    fn has_space_for(&mut self, slot: Slot, beside: usize, progress: &mut Progress) -> bool {
        let mut has_space = false;
        let Progress { push, items, .. } = progress;
        self.deliver(push, items, DeliveryMode::Offer, |delivery| {
            has_space = delivery.has_space(slot, beside as u32);
        });
        has_space
    }
}
