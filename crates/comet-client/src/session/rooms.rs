//! The rooms of a session that speaks protocol 2, and its positions in their histories.
//!
//! The session requests missing pushes by itself: when the server reports a gap, and when the connection enters a room
//! of which an earlier one had a part. Until the answer it ignores pushes to that room, because the answer contains
//! them as well.

use std::collections::BTreeMap;

use comet_proto::{JoinReply, LeaveReply, Position, RoomGap, RoomHandle};

use crate::room_news::{Gap, GapState, Joined};

/// The origin of a push to a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin<'a> {
    /// The room.
    pub room: &'a str,
    /// The push's place in the room's history, if it keeps one.
    pub position: Option<Position>,
}

/// The rooms that the server has named.
#[derive(Default)]
pub(super) struct Rooms {
    named: BTreeMap<RoomHandle, Room>,
    /// The room that operation 12 changes.
    primary: Option<RoomHandle>,
    /// Its state while the server announces its successor.
    former: Option<Room>,
    /// Joins that are not answered yet.
    pending: Vec<PendingJoin>,
    /// Positions of earlier connections in rooms that this one has not entered.
    known: BTreeMap<Box<str>, Position>,
    /// The sequence number of the session's latest request. These count down from 0; the caller's numbers count up.
    sequence: i32,
}

struct Room {
    name: Box<str>,
    /// The position of the latest push passed on, if the room keeps a history.
    latest: Option<Position>,
    /// The sequence number of the unanswered request to leave the room.
    leaving: Option<i32>,
}

struct PendingJoin {
    sequence: i32,
    room: Box<str>,
    since: Option<Position>,
    cause: JoinCause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum JoinCause {
    Caller,
    /// To recover these missing pushes.
    Gap {
        first: u64,
        last: u64,
    },
    /// An earlier connection had the pushes up to a position.
    Return,
    /// A request of the session's own, made before the server removed the connection from the room. If its answer puts
    /// the connection back, the session leaves again.
    Over,
}

/// The result of a frame about rooms.
pub(super) enum RoomUpdate {
    /// The frame answers a request of the caller.
    Answer,
    Room(Box<str>, Joined),
    /// The server has removed the connection from this room.
    Left(Box<str>),
    Gap(Gap),
    /// Nothing.
    Nothing,
}

/// A request that the session has to send, with this sequence number.
pub(super) enum RoomRequest {
    Join { sequence: i32, room: Box<str>, since: Position },
    Leave { sequence: i32, handle: RoomHandle },
}

impl Room {
    /// The origin of the room's push with this offset; 0: it has none.
    fn origin(&self, offset: u64) -> Origin<'_> {
        let position = self.latest.filter(|_| offset > 0);
        let position = position.map(|latest| Position { offset, ..latest });
        Origin { room: &self.name, position }
    }

    /// Whether the caller considers the connection out of the room, because the session itself leaves it.
    fn is_over(&self) -> bool {
        self.leaving.is_some_and(|sequence| sequence < 0)
    }
}

impl Rooms {
    /// Sets the position up to which an earlier connection had the pushes of `room`.
    pub(super) fn know(&mut self, room: &str, position: Position) {
        self.known.insert(room.into(), position);
    }

    pub(super) fn may_resume(&self, room: &str) -> bool {
        self.known.contains_key(room) || self.names().any(|name| name == room)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.named.values().filter(|room| !room.is_over()).map(|room| &*room.name)
    }

    /// The caller requests to leave a room. Returns its handle. `None`: the server has not named the room.
    pub(super) fn leave(&mut self, sequence: i32, name: &str) -> Option<RoomHandle> {
        let is_named = |room: &Room| *room.name == *name && !room.is_over();
        let (&handle, room) = self.named.iter_mut().find(|(_, room)| is_named(room))?;
        room.leaving = Some(sequence);
        Some(handle)
    }

    pub(super) fn position(&self, name: &str) -> Option<Position> {
        self.named.values().find(|room| *room.name == *name)?.latest
    }

    /// The caller requests to enter `room`.
    pub(super) fn ask(&mut self, sequence: i32, room: &str, since: Option<Position>) {
        self.known.remove(room);
        self.pending.push(PendingJoin {
            sequence,
            room: room.into(),
            since,
            cause: JoinCause::Caller,
        });
    }

    fn ask_since(&mut self, room: Box<str>, since: Position, cause: JoinCause) -> RoomRequest {
        let (sequence, since_then) = (self.own_sequence(), Some(since));
        self.pending.push(PendingJoin { sequence, room: room.clone(), since: since_then, cause });
        RoomRequest::Join { sequence, room, since }
    }

    fn own_sequence(&mut self) -> i32 {
        self.sequence = self.sequence.checked_sub(1).unwrap_or(-1);
        self.sequence
    }

    fn pending_joins<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut PendingJoin> {
        self.pending.iter_mut().filter(move |join| *join.room == *name)
    }

    fn awaits_history(&self, name: &str) -> bool {
        self.pending.iter().any(|join| *join.room == *name && join.since.is_some())
    }

    /// Handles a push to the room with this handle. `None`: the server has not named the room. `Some(None)`: the push
    /// is not passed on, because the answer to a join contains it as well, or because the session leaves the room.
    pub(super) fn push(&mut self, handle: RoomHandle, offset: u64) -> Option<Option<Origin<'_>>> {
        let room = self.named.get(&handle)?;
        // Usually no join is unanswered.
        let is_awaited = offset > 0 && !self.pending.is_empty() && self.awaits_history(&room.name);
        if is_awaited || room.is_over() {
            return Some(None);
        }
        let room = self.named.get_mut(&handle)?;
        if let Some(latest) = room.latest.as_mut().filter(|_| offset > 0) {
            latest.offset = offset;
        }
        Some(Some(room.origin(offset)))
    }

    /// The server has moved the connection out of its room.
    pub(super) fn leave_primary(&mut self) {
        self.former = self.primary.take().and_then(|primary| self.named.remove(&primary));
    }

    /// Handles the announcement that the connection is out of a room.
    pub(super) fn left(&mut self, sequence: i32, reply: &LeaveReply) -> RoomUpdate {
        let LeaveReply { outcome, is_unasked, handle } = *reply;
        let is_repeated = |(&known, room): (&RoomHandle, &Room)| {
            room.leaving == Some(sequence) && known != handle
        };
        if !is_unasked && outcome.is_err() && self.named.iter().any(is_repeated) {
            // The request crossed the announcement of another handle.
            return RoomUpdate::Nothing;
        }
        let room = self.named.remove(&handle);
        self.primary.take_if(|primary| *primary == handle);
        if !is_unasked {
            return if sequence >= 0 { RoomUpdate::Answer } else { RoomUpdate::Nothing };
        }
        let Some(Room { name, leaving, .. }) = room else { return RoomUpdate::Nothing };
        let mut is_wanted = false;
        for join in self.pending_joins(&name) {
            match join.cause {
                JoinCause::Caller => is_wanted = true,
                _ => join.cause = JoinCause::Over,
            }
        }
        // If the caller requested it, the answer tells the caller.
        if is_wanted || leaving.is_some() { RoomUpdate::Nothing } else { RoomUpdate::Left(name) }
    }

    /// Handles the announcement that the connection is in a room, or why not. `name` is the room of the reply.
    pub(super) fn joined(
        &mut self,
        sequence: i32,
        reply: &JoinReply<'_>,
        name: &str,
    ) -> (RoomUpdate, Option<RoomRequest>) {
        let join = (!reply.is_unasked)
            .then(|| self.pending.iter().position(|join| join.sequence == sequence))
            .flatten()
            .map(|at| self.pending.swap_remove(at));
        let JoinReply { outcome, position, recovered, is_primary, .. } = *reply;
        let joined = Joined { position, recovered };
        let mut repeated = None;
        if let Ok(handle) = outcome {
            let former = self.former.take().filter(|former| *former.name == *name);
            let known = self.named.iter().find(|(_, room)| *room.name == *name);
            let known = known.map(|(&known, _)| known);
            let before = known.and_then(|known| self.named.remove(&known)).or(former);
            if reply.is_unasked && before.is_none() {
                // The server puts the connection back after it had removed it.
                let over = self.pending_joins(name).filter(|join| join.cause == JoinCause::Over);
                over.for_each(|join| join.cause = JoinCause::Return);
            }
            let leaving = before.as_ref().and_then(|room| room.leaving);
            if known != Some(handle) {
                // A request to leave by the former handle is refused, so it is repeated.
                repeated = leaving.map(|sequence| RoomRequest::Leave { sequence, handle });
            }
            // Without a position the connection was in the room before, or the room keeps no history.
            let mut latest = position.or(before.and_then(|room| room.latest));
            if let (Some(_), Some(PendingJoin { since: Some(since), .. })) = (recovered, &join) {
                // Recovered pushes advance the position when they arrive.
                latest = Some(*since);
            }
            self.named.insert(handle, Room { name: name.into(), latest, leaving });
            if is_primary {
                self.primary = Some(handle);
            }
        }
        match join.map(|join| join.cause) {
            Some(JoinCause::Caller) => (RoomUpdate::Answer, None),
            Some(JoinCause::Return) => (RoomUpdate::Room(name.into(), joined), None),
            Some(JoinCause::Gap { first, last }) => {
                let state =
                    recovered.map_or(GapState::Lost, |missed| GapState::Repaired { missed });
                (RoomUpdate::Gap(Gap { room: name.into(), first, last, state }), None)
            }
            Some(JoinCause::Over) => {
                (RoomUpdate::Nothing, outcome.ok().and_then(|handle| self.leave_again(handle)))
            }
            None if reply.is_unasked => match self.entered(name, outcome.ok(), position) {
                (update, None) => (update, repeated),
                both => both,
            },
            None => (RoomUpdate::Answer, None),
        }
    }

    /// A join of the session's own has put the connection back into a room. Leaves it again, unless the caller wants to
    /// be there by now.
    fn leave_again(&mut self, handle: RoomHandle) -> Option<RoomRequest> {
        let name = self.named.get(&handle)?.name.clone();
        if self.pending_joins(&name).any(|join| join.cause == JoinCause::Caller) {
            return None;
        }
        let sequence = self.own_sequence();
        self.named.get_mut(&handle)?.leaving = Some(sequence);
        Some(RoomRequest::Leave { sequence, handle })
    }

    /// Handles that the server put the connection into a room, which may keep a history.
    fn entered(
        &mut self,
        name: &str,
        handle: Option<RoomHandle>,
        position: Option<Position>,
    ) -> (RoomUpdate, Option<RoomRequest>) {
        let (Some(handle), Some(now)) = (handle, position) else {
            return (RoomUpdate::Nothing, None);
        };
        if self.awaits_history(name) {
            return (RoomUpdate::Nothing, None);
        }
        let before = self.known.remove(name);
        if let Some(since) = before.filter(|since| since.epoch == now.epoch && *since != now) {
            if let Some(room) = self.named.get_mut(&handle) {
                room.latest = Some(since);
            }
            return (
                RoomUpdate::Nothing,
                Some(self.ask_since(name.into(), since, JoinCause::Return)),
            );
        }
        let recovered = before.filter(|before| *before == now).map(|_| 0);
        (RoomUpdate::Room(name.into(), Joined { position, recovered }), None)
    }

    /// Handles that the server has dropped pushes for this connection.
    pub(super) fn gap(&mut self, gap: RoomGap) -> (RoomUpdate, Option<RoomRequest>) {
        let RoomGap { handle, is_outdated, first, last } = gap;
        let Some(Room { name, latest, .. }) =
            self.named.get(&handle).filter(|room| !room.is_over())
        else {
            return (RoomUpdate::Nothing, None);
        };
        let is_known = latest.is_some_and(|latest| last <= latest.offset);
        // The answer to a pending join contains them.
        if is_known || self.awaits_history(name) {
            return (RoomUpdate::Nothing, None);
        }
        let (name, latest) = (name.clone(), *latest);
        let told = |state| RoomUpdate::Gap(Gap { room: name.clone(), first, last, state });
        match latest {
            _ if is_outdated => (told(GapState::Outdated), None),
            None => (told(GapState::Lost), None),
            Some(since) => {
                let request = self.ask_since(name.clone(), since, JoinCause::Gap { first, last });
                (told(GapState::Asked), Some(request))
            }
        }
    }
}
