//! Pushes that connections have lost, in rooms with a history. Gap markers tell clients about them.
//!
//! A connection without losses has no entry. Otherwise it has at most one for each room that it is in, and one for a
//! room that it has left until the client is told.

mod hand_over;

use std::collections::HashMap;

use ahash::RandomState;
use comet_proto::{Frame, RoomGap, RoomHandle, RoomPush, count_frames, decode, op};

use crate::ids::{Generation, Slot};
use crate::room::RoomId;

/// Consecutive pushes of a room that a connection does not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LostRange {
    pub(crate) room: RoomHandle,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The number of lost pushes.
    pub(crate) pushes: u64,
    /// Newer pushes about the same states have replaced them.
    pub(crate) is_outdated: bool,
    /// See [`Offsets::generation`].
    pub(crate) generation: Option<Generation>,
}

/// The place of a push in the history of its room. A batch is several pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offsets {
    pub(crate) room: RoomHandle,
    pub(crate) last: u64,
    pub(crate) pushes: u32,
    /// The handle in its frame. It differs from `room` if the room has got a new handle since.
    pub(crate) sent_as: RoomHandle,
    /// The generation of the handle, which another room may get later. `None`: the push came from another process.
    pub(crate) generation: Option<Generation>,
}

impl Offsets {
    /// The place of a push with operation 20. `None`: `message` has another operation, or its room keeps no history.
    pub(crate) fn of_room_push(message: &[u8]) -> Option<Self> {
        let (Frame { operation, body, .. }, _) = decode(message, usize::MAX).ok()??;
        let RoomPush { handle: room, operation: inner, offset: last, body } =
            (operation == op::ROOM_PUSH).then(|| RoomPush::decode(body))??;
        let pushes = if inner == op::RAW { count_frames(body).unwrap_or(1) as u32 } else { 1 };
        (last > 0).then_some(Self { room, last, pushes, sent_as: room, generation: None })
    }
}

impl LostRange {
    /// The loss of a push that an outbox has dropped.
    pub(crate) fn of(offsets: Offsets, is_outdated: bool) -> Option<Self> {
        let Offsets { room, last, pushes, sent_as: _, generation } = offsets;
        let lost = Self::of_push(room, last, pushes.into(), is_outdated)?;
        Some(Self { generation, ..lost })
    }

    /// The loss of a push of `pushes` frames, the last of which has `offset`.
    pub(crate) fn of_push(
        room: RoomHandle,
        offset: u64,
        pushes: u64,
        is_outdated: bool,
    ) -> Option<Self> {
        let first = (offset + 1).checked_sub(pushes)?;
        (offset > 0 && pushes > 0).then_some(Self {
            room,
            first,
            last: offset,
            pushes,
            is_outdated,
            generation: None,
        })
    }

    /// The loss of `pushes` pushes after the one at `after`, up to `last`.
    pub(crate) fn between(room: RoomHandle, after: u64, last: u64, pushes: u64) -> Option<Self> {
        let first = after + 1;
        let lost = Self { room, first, last, pushes, is_outdated: false, generation: None };
        (after < last && pushes > 0).then_some(lost)
    }
}

/// The losses of a connection in one room.
struct Gap {
    room: RoomHandle,
    /// The connection has left the room since.
    is_left: bool,
    /// The first lost push, and the number of lost pushes, since the client last got all of them.
    first: u64,
    pushes: u64,
    /// The first lost push that no newer push has replaced.
    needed: Option<u64>,
    /// The part that the client has not been told about, as one range.
    untold: Option<LostRange>,
}

/// Whether these are generations of one room, not of two with the same handle. A push from another process counts as
/// the same room's.
pub(crate) fn is_same_room(one: Option<Generation>, other: Option<Generation>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// When a client is told about a gap.
pub(crate) enum Telling {
    /// With this send, behind this number of its frames.
    Now(usize),
    /// With this send, at both places.
    Twice(usize, usize),
    /// With this send, and again with a later one.
    NowAndLater(usize),
    Later,
    Never,
}

pub(crate) struct Gaps {
    by_conn: HashMap<Slot, Vec<Gap>, RandomState>,
    /// The number of connections whose clients are still to be told something.
    untold: usize,
}

impl Gaps {
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, 30, 31, 32);
        Self { by_conn: HashMap::with_hasher(hasher), untold: 0 }
    }

    /// Notes that the connection, which is in the room or `is_left`, does not get these pushes.
    pub(crate) fn note(&mut self, slot: Slot, lost: LostRange, is_left: bool) {
        let gaps = self.by_conn.entry(slot).or_default();
        let was_told = gaps.iter().all(|gap| gap.untold.is_none());
        let pushes = lost.pushes;
        let needed = (!lost.is_outdated).then_some(lost.first);
        let is_of_room = |untold: LostRange| is_same_room(untold.generation, lost.generation);
        let is_same = |gap: &&mut Gap| {
            gap.room == lost.room && gap.is_left == is_left && gap.untold.is_none_or(is_of_room)
        };
        match gaps.iter_mut().find(is_same) {
            None => {
                let LostRange { room, first, .. } = lost;
                gaps.push(Gap { room, is_left, first, pushes, needed, untold: Some(lost) });
            }
            Some(gap) => {
                gap.first = gap.first.min(lost.first);
                gap.pushes += pushes;
                gap.needed = gap.needed.into_iter().chain(needed).min();
                gap.untold = Some(gap.untold.map_or(lost, |untold| LostRange {
                    room: lost.room,
                    first: untold.first.min(lost.first),
                    last: untold.last.max(lost.last),
                    pushes: untold.pushes + lost.pushes,
                    is_outdated: untold.is_outdated && lost.is_outdated,
                    generation: lost.generation,
                }));
            }
        }
        self.untold += usize::from(was_told);
    }

    /// Whether the client is still to be told something.
    #[inline]
    pub(crate) fn has_untold(&self, slot: Slot) -> bool {
        let is_untold = |gaps: &Vec<Gap>| gaps.iter().any(|gap| gap.untold.is_some());
        self.untold > 0 && self.by_conn.get(&slot).is_some_and(is_untold)
    }

    /// The offset of the first push to the room that the connection has lost and no newer push has replaced.
    pub(crate) fn first_needed(&self, slot: Slot, room: RoomId) -> Option<u64> {
        if self.by_conn.is_empty() {
            return None;
        }
        let mut gaps = self.by_conn.get(&slot)?.iter();
        gaps.find(|gap| gap.room == room.handle() && !gap.is_left)?.needed
    }

    /// Takes the gap markers for this send, each with the number of its frames in front of the marker. `when` decides
    /// for each gap; its second argument says whether the connection has left the room.
    pub(crate) fn take_untold(
        &mut self,
        slot: Slot,
        when: impl Fn(&LostRange, bool) -> Telling,
    ) -> Vec<(RoomGap, usize)> {
        let Some(gaps) = self.by_conn.get_mut(&slot) else { return Vec::new() };
        let mut markers = Vec::new();
        for gap in &mut *gaps {
            let Some(lost) = gap.untold else { continue };
            let LostRange { room: handle, first, last, pushes: _, is_outdated, generation: _ } =
                lost;
            let marker = RoomGap { handle, is_outdated, first, last };
            match when(&lost, gap.is_left) {
                Telling::Now(place) => markers.push((marker, place)),
                Telling::Twice(place, again) => markers.extend([(marker, place), (marker, again)]),
                Telling::NowAndLater(place) => {
                    markers.push((marker, place));
                    continue;
                }
                Telling::Never => {}
                Telling::Later => continue,
            }
            gap.untold = None;
        }
        gaps.retain(|gap| !gap.is_left || gap.untold.is_some());
        let is_all_told = gaps.iter().all(|gap| gap.untold.is_none());
        if gaps.is_empty() {
            self.by_conn.remove(&slot);
        }
        self.untold -= usize::from(is_all_told);
        markers
    }

    /// The connection gets all pushes to the room after `since`. Returns how many of these it had lost.
    pub(crate) fn repair(&mut self, slot: Slot, room: RoomId, since: u64) -> u64 {
        let Some(gap) = self.take(slot, room) else { return 0 };
        // A client that continued behind a gap gets the lost pushes later, perhaps all of them.
        if since < gap.first { gap.pushes } else { 0 }
    }

    /// The connection has left the room. Pushes to the room may still be pending, so its client is told about a gap in
    /// front of them.
    pub(crate) fn leave(&mut self, slot: Slot, room: RoomId) {
        if let Some(Gap { untold: Some(lost), .. }) = self.take(slot, room) {
            self.note(slot, lost, true);
        }
    }

    fn take(&mut self, slot: Slot, room: RoomId) -> Option<Gap> {
        if self.by_conn.is_empty() {
            return None;
        }
        let had_untold = self.has_untold(slot);
        let gaps = self.by_conn.get_mut(&slot)?;
        let at = gaps.iter().position(|gap| gap.room == room.handle() && !gap.is_left)?;
        let gap = gaps.swap_remove(at);
        if gaps.is_empty() {
            self.by_conn.remove(&slot);
        }
        self.untold -= usize::from(had_untold && !self.has_untold(slot));
        Some(gap)
    }

    /// Forgets all gaps of the connection. Its client is told nothing more.
    pub(crate) fn forget_all(&mut self, slot: Slot) {
        if self.by_conn.is_empty() {
            return;
        }
        self.untold -= usize::from(self.has_untold(slot));
        self.by_conn.remove(&slot);
    }
}
