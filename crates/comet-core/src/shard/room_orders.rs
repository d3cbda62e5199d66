//! Further rooms that a connection enters or leaves without asking: rooms named by its token, and orders of push
//! callers.
//!
//! The connection's input is not held while the room's home is asked. So meanwhile it may close, enter other rooms up
//! to the limit, or enter this room by itself. A client of protocol 2 is told about the change. Any other client gets
//! the room's pushes as plain pushes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::RandomState;
use comet_proto::{JoinReply, LeaveReply, RoomRefusal, VERSION_2, op};

use crate::budget::{self, Budget};
use crate::ids::{LocalConnId, Slot};
use crate::ledger::{DropReason, Tally};
use crate::message::RoomOrder;
use crate::room::RoomId;
use crate::state::AwaitedReply;

use super::Shard;
use super::push_task::{OrderId, Progress};

/// The unanswered part of an order.
#[derive(Default)]
struct PendingOrder {
    /// The number of pairs of a connection and a room that wait.
    left: usize,
    /// The results of the pairs that have waited.
    tally: Tally,
    /// The rest of the order, once it is complete.
    progress: Option<Progress>,
}

/// The pairs that wait for homes, with their orders. Pairs of a connection and a room that a token names belong to no
/// order.
pub(super) struct RoomOrders {
    waiting: HashMap<(RoomId, LocalConnId), Option<OrderId>, RandomState>,
    /// The number of rooms that each connection waits for.
    places: HashMap<LocalConnId, usize, RandomState>,
    orders: HashMap<OrderId, PendingOrder, RandomState>,
    last: OrderId,
}

impl RoomOrders {
    pub(super) fn new(seed: u64) -> Self {
        let state = |key| RandomState::with_seeds(seed, 19, 20, key);
        Self {
            waiting: HashMap::with_hasher(state(21)),
            places: HashMap::with_hasher(state(23)),
            orders: HashMap::with_hasher(state(22)),
            last: OrderId(0),
        }
    }

    /// The number of pairs of a connection and a room that wait for homes.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn add(&mut self, room: RoomId, conn: LocalConnId, order: Option<OrderId>) {
        self.waiting.insert((room, conn), order);
        *self.places.entry(conn).or_default() += 1;
    }

    /// Removes a waiting pair.
    fn take(&mut self, room: RoomId, conn: LocalConnId) -> Option<Option<OrderId>> {
        let order = self.waiting.remove(&(room, conn))?;
        if let Entry::Occupied(mut places) = self.places.entry(conn) {
            *places.get_mut() -= 1;
            if *places.get() == 0 {
                places.remove();
            }
        }
        Some(order)
    }

    /// The number of rooms that a connection waits for. They count towards the limit, so the last rooms in an order are
    /// left out.
    fn places_of(&self, conn: LocalConnId) -> usize {
        self.places.get(&conn).copied().unwrap_or(0)
    }
}

/// The result for a connection and a room.
enum Change {
    Made,
    /// The connection was in the room, or not in it, already.
    Needless,
    Refused,
    /// The connection takes no pushes any more.
    Closing,
    /// The room's home was asked.
    Waits,
}

impl Change {
    /// Counts the result, unless the pair waits.
    fn count(self, tally: &mut Tally) {
        match self {
            Self::Made => tally.queue(),
            Self::Needless => tally.unchanged += 1,
            Self::Refused => tally.refused += 1,
            Self::Closing => tally.drop_as(DropReason::Closing, 1),
            Self::Waits => {}
        }
    }
}

impl Shard {
    /// The reply to the token is queued. Enters the further rooms that the token names, as many as the limit allows.
    pub(super) fn enter_rooms_at_start(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot];
        let Some(input) = &mut conn.input else { return };
        let rooms = std::mem::take(&mut input.rooms);
        let last_event_id = std::mem::take(&mut input.last_event_id);
        let first = conn.room.room();
        conn.shed_input();
        if let Some(first) = first {
            let name = Arc::clone(&self.rooms[first].name);
            self.ask_for_missed(slot, &last_event_id, &name);
        }
        let (taken, beyond) = rooms.split_at(rooms.len().min(self.context.limits.rooms.into()));
        self.counters.rooms_refused[RoomRefusal::TooManyRooms as usize - 1] += beyond.len() as u64;
        for room in taken {
            if self.conns[slot].takes_pushes().is_err() {
                return;
            }
            if !self.ask_for_missed(slot, &last_event_id, room) {
                self.enter_unasked(slot, room, None);
            }
        }
    }

    /// Carries out an order for connections of this shard.
    pub(super) fn change_rooms(
        &mut self,
        order: &RoomOrder,
        conns: &[LocalConnId],
        progress: &mut Progress,
        budget: &mut Budget,
    ) {
        for &conn in conns {
            budget.spend(order.rooms.len() * budget::ANSWER);
            for room in &order.rooms {
                // A notice to the connection may have closed it.
                let state = self.conns.get(conn).map(|conn| conn.takes_pushes());
                let change = match state.unwrap_or(Err(DropReason::Closing)) {
                    Ok(()) if order.is_join => self.enter_by(progress, conn.slot, room),
                    Ok(()) => self.leave_unasked(conn.slot, room),
                    Err(reason) => {
                        progress.tally.drop_as(reason, 1);
                        continue;
                    }
                };
                change.count(&mut progress.tally);
            }
        }
    }

    fn enter_by(&mut self, progress: &mut Progress, slot: Slot, room: &str) -> Change {
        let orders = &mut self.room_orders;
        let order = *progress.order.get_or_insert_with(|| {
            orders.last.0 += 1;
            orders.last
        });
        let change = self.enter_unasked(slot, room, Some(order));
        if let Change::Waits = change {
            self.room_orders.orders.entry(order).or_default().left += 1;
        }
        change
    }

    /// An order is complete except for connections that wait for homes. Returns it if there are none. Otherwise it is
    /// reported when the last of them has entered, so that later pushes of its caller to the rooms reach them.
    pub(super) fn await_homes(&mut self, mut progress: Progress) -> Option<Progress> {
        let Some(id) = progress.order else { return Some(progress) };
        let orders = &mut self.room_orders.orders;
        match orders.get_mut(&id) {
            Some(order) if order.left > 0 => {
                order.progress = Some(progress);
                return None;
            }
            Some(order) => progress.tally += order.tally,
            None => {}
        }
        orders.remove(&id);
        Some(progress)
    }

    /// Counts the result of a pair that has waited, and reports the order after the last one.
    fn settle(&mut self, id: Option<OrderId>, change: Change) {
        let Some(order) = id.and_then(|id| self.room_orders.orders.get_mut(&id)) else { return };
        change.count(&mut order.tally);
        order.left -= 1;
        if order.left == 0
            && let Some(progress) = order.progress.take()
        {
            self.report(progress);
        }
    }

    /// Makes a connection that takes pushes enter a further room.
    fn enter_unasked(&mut self, slot: Slot, room: &str, order: Option<OrderId>) -> Change {
        let conn = self.conns.id(slot).local();
        if let Some(id) = self.rooms.find(room) {
            if self.recoveries.take_back_cancel(slot, id) {
                return Change::Made;
            }
            let waits = self.room_orders.waiting.contains_key(&(id, conn));
            if self.is_in(slot, id) || waits || self.recoveries.has(slot, id) {
                return Change::Needless;
            }
        }
        if let Some(refusal) = self.refusal_of_further(slot) {
            self.counters.rooms_refused[refusal as usize - 1] += 1;
            return Change::Refused;
        }
        let id = self.find_or_ask(room);
        if self.rooms[id].is_open() {
            self.enter_and_tell(id, slot);
            return Change::Made;
        }
        self.room_orders.add(id, conn, order);
        self.wait_for_home(id, slot, None);
        Change::Waits
    }

    /// Removes a connection that takes pushes from a room, no matter how it entered, or from those that wait to enter.
    fn leave_unasked(&mut self, slot: Slot, room: &str) -> Change {
        let Some(id) = self.rooms.find(room) else { return Change::Needless };
        if self.recoveries.cancel(slot, id) {
            return Change::Made;
        }
        if self.conns[slot].room.room() == Some(id) {
            self.leave(slot);
        } else if !self.leave_further(slot, id) {
            let conn = self.conns.id(slot).local();
            let Some(order) = self.room_orders.take(id, conn) else {
                return Change::Needless;
            };
            self.settle(order, Change::Made);
            return Change::Made;
        }
        self.tell_left(slot, id);
        Change::Made
    }

    /// Tells a client that the server has removed it from a room.
    pub(super) fn tell_left(&mut self, slot: Slot, id: RoomId) {
        if self.conns[slot].is_protocol_2 {
            let left = LeaveReply { outcome: Ok(()), is_unasked: true, handle: id.handle() };
            self.notify(slot, op::LEAVE_REPLY, &left.encode());
        }
    }

    /// The room's home has answered. Makes the waiting connection a member.
    pub(super) fn enter_ordered(&mut self, id: RoomId, conn: LocalConnId) {
        // The order may have been taken back meanwhile.
        let Some(order) = self.room_orders.take(id, conn) else {
            return self.remove_if_empty(id);
        };
        let change = self.enter_if_possible(id, conn);
        if !matches!(change, Change::Made) {
            self.remove_if_empty(id);
        }
        self.settle(order, change);
    }

    fn enter_if_possible(&mut self, id: RoomId, conn: LocalConnId) -> Change {
        if self.conns.get(conn).is_none_or(|conn| conn.takes_pushes().is_err()) {
            return Change::Closing;
        }
        if self.is_in(conn.slot, id) || self.recoveries.has(conn.slot, id) {
            return Change::Needless;
        }
        if let Some(refusal) = self.refusal_of_further(conn.slot) {
            self.counters.rooms_refused[refusal as usize - 1] += 1;
            return Change::Refused;
        }
        self.enter_and_tell(id, conn.slot);
        Change::Made
    }

    fn enter_and_tell(&mut self, id: RoomId, slot: Slot) {
        self.enter(id, slot, true);
        if self.conns[slot].knows_rooms() {
            let name = Arc::clone(&self.rooms[id].name);
            let joined = JoinReply::joined(id.handle(), name.as_bytes());
            let told =
                JoinReply { is_unasked: true, position: self.position_in(id, slot), ..joined };
            self.notify(slot, op::JOIN_REPLY, &told.encode());
        }
    }

    fn notify(&mut self, slot: Slot, operation: i32, body: &[u8]) {
        let notice = AwaitedReply { version: VERSION_2, operation, sequence: 0 };
        self.reply(slot, notice, body);
    }

    /// Why a connection may not enter a further room.
    pub(super) fn refusal_of_further(&self, slot: Slot) -> Option<RoomRefusal> {
        let limits = &self.context.limits;
        let waiting = self.room_orders.places_of(self.conns.id(slot).local());
        if self.rooms_of(slot) + waiting >= limits.rooms.into() {
            Some(RoomRefusal::TooManyRooms)
        } else {
            limits.is_out_of_memory.then_some(RoomRefusal::OutOfMemory)
        }
    }
}
