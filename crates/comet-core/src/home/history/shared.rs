//! Histories that hosts share: each host reads one stream and keeps the last pushes. An offset is a place in the
//! stream, so the offsets of a room have holes, and any host can recover any client.

use std::sync::Arc;

use comet_proto::{Encoded, Position};

use crate::history::{HistoryRule, StreamState};
use crate::limits::STREAM_FRAMES_MAX;
use crate::time::Millis;

use super::{CameAt, PushPlace, RoomHistories, RoomHistory};

#[derive(Default)]
pub(super) struct Shared {
    stream: StreamState,
    /// The offset of the latest push to a room that was forgotten, or that no rule covered.
    forgotten: u64,
    /// How many times the stream lost pushes that this host had not read.
    losses: u64,
}

impl Shared {
    pub(super) fn epoch(&self) -> u64 {
        self.stream.epoch
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Notes that a room is forgotten whose latest push had the offset `last_offset`.
    pub(super) fn forget(&mut self, last_offset: u64) {
        self.forgotten = self.forgotten.max(last_offset);
    }
}

impl RoomHistories {
    /// The shared stream, as far as it is read. Epoch 0: positions cannot be told to clients yet.
    pub(crate) fn stream(&self) -> Option<StreamState> {
        let shared = self.shared.as_ref()?;
        let StreamState { epoch, is_read, .. } = shared.stream;
        Some(StreamState { epoch: if is_read { epoch } else { 0 }, ..shared.stream })
    }

    /// Sets how far this host has read the stream. With another epoch the histories begin anew.
    pub(crate) fn set_stream(&mut self, state: StreamState) {
        let Some(shared) = &mut self.shared else { return };
        let known = &mut shared.stream;
        if known.epoch == state.epoch {
            shared.losses += u64::from(known.is_read && state.floor > known.floor);
            known.floor = known.floor.max(state.floor);
            known.seen = known.seen.max(state.seen);
            known.is_read |= state.is_read;
            return;
        }
        *shared = Shared { stream: state, ..Shared::default() };
        self.rooms.clear();
        self.with_frames.clear();
        self.without_frames.clear();
        self.chunks.clear();
        self.bytes = 0;
    }

    /// Whether members get a push of the stream: the host has read the part that existed when it began, and has not
    /// read this push.
    pub(crate) fn is_live(&self, room: &str, offset: u64) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.stream.is_read) && self.is_unread(room, offset)
    }

    fn is_unread(&self, room: &str, offset: u64) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| offset > shared.stream.seen)
            && self.last_offset(room).is_none_or(|last_offset| offset > last_offset)
    }

    /// Stores a push that has its offset, for which `rule` holds. `None`: it was stored before.
    pub(crate) fn add_from_stream(
        &mut self,
        room: &Arc<str>,
        rule: &HistoryRule,
        frame: &Encoded,
        (offset, age_ms): (u64, u64),
        now: Millis,
        memory: usize,
    ) -> Option<PushPlace> {
        if !self.is_unread(room, offset) {
            return None;
        }
        let at = CameAt::ago(now, age_ms);
        Some(self.keep(room, rule, frame, (Some(offset), at), now, memory))
    }

    /// A push to a room that no rule covers here; the rules of hosts differ while they are being changed. The stored
    /// pushes of the room are dropped, so that under a later rule nothing from before this push is recovered.
    pub(crate) fn pass_over(&mut self, room: &str, offset: u64) {
        if !self.is_unread(room, offset) {
            return;
        }
        if let Some(known) = self.take(room) {
            self.bytes -= known.bytes;
            self.forgotten += 1;
        }
        if let Some(shared) = &mut self.shared {
            shared.forget(offset);
        }
    }

    /// A push that this host refuses, to a room that a rule covers. It takes a number, but is not stored. So members
    /// are told about a gap with the next push, and nothing from before it is recovered.
    pub(crate) fn refuse_from_stream(&mut self, room: &Arc<str>, offset: u64, memory: usize) {
        if !self.is_unread(room, offset) {
            return;
        }
        let mut known = self.take_for(room, 1);
        self.bytes -= known.bytes;
        (known.last_offset, known.floor) = (offset, offset);
        (known.bytes, known.pushes) = (0, 0);
        known.frames.clear();
        self.put(Arc::clone(room), known);
        self.evict(memory);
    }

    /// The position of `room`, and the offset after which all its pushes are stored.
    pub(super) fn known_of(&self, room: &str) -> (Position, u64) {
        let known = self.rooms.get(room);
        let Some(Shared { stream, .. }) = &self.shared else {
            let epoch = known.map_or_else(|| self.epoch_of(room), |known| known.epoch);
            let (offset, floor) = known.map_or((0, 0), |known| (known.last_offset, known.floor));
            return (Position { epoch, offset }, floor);
        };
        let StreamState { epoch, floor, seen, is_read } = *stream;
        if !is_read {
            // With this floor nothing is recovered.
            return (Position { epoch: 0, offset: 0 }, u64::MAX);
        }
        let known_floor = known.map_or(self.floor_of_others(), |known| known.floor);
        let last_offset = known.map_or(0, |known| known.last_offset);
        let offset = last_offset.max(seen).max(floor);
        (Position { epoch, offset }, known_floor.max(floor))
    }

    /// The offset of the last push that a client at `since` has. Within a chunk clients count back from its last push,
    /// as if offsets had no holes. `None`: that push is older than the stored ones.
    pub(super) fn had_by(&self, known: &RoomHistory, since: u64) -> Option<u64> {
        let at = known.frames.partition_point(|kept| kept.offset < since);
        let Some(next) = known.frames.get(at).filter(|_| self.shared.is_some()) else {
            return Some(since);
        };
        let mut missing = next.offset - since;
        if missing >= STREAM_FRAMES_MAX {
            return Some(since);
        }
        for kept in known.frames.range(..=at).rev() {
            if missing <= kept.pushes.into() {
                return Some(kept.offset - missing);
            }
            missing -= u64::from(kept.pushes);
        }
        None
    }

    /// The offset after which all pushes to an unknown room would be stored.
    pub(super) fn floor_of_others(&self) -> u64 {
        let shared = self.shared.as_ref();
        shared.map_or(0, |shared| shared.forgotten.max(shared.stream.floor))
    }

    /// How many times the stream lost pushes. They may have been to any room, so each loss takes a number in every
    /// room.
    pub(super) fn losses(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.losses)
    }

    /// See [`crate::message::Push::number`].
    pub(super) fn number_of(&self, known: &RoomHistory) -> u64 {
        known.last_number + (self.losses() - known.losses)
    }
}

#[cfg(test)]
mod tests {
    use comet_proto::{Frame, RoomHandle, VERSION, op};

    use crate::history::HistoryQuery;

    use super::*;
    use crate::budget::Budget;

    const MEMORY: usize = 1 << 20;
    const S: u64 = STREAM_FRAMES_MAX;
    const READ: StreamState = StreamState { epoch: 7, floor: 0, seen: 0, is_read: true };

    struct Home(RoomHistories);

    impl Home {
        fn new(state: StreamState) -> Self {
            let mut all = RoomHistories::new(7, true);
            all.set_stream(state);
            Self(all)
        }

        fn rule() -> HistoryRule {
            HistoryRule { prefix: "h".into(), pushes: 3, bytes: 1 << 10, age_ms: 100 }
        }

        fn add(&mut self, room: &str, offset: u64) -> Option<u64> {
            self.add_aged(room, offset, 0)
        }

        fn add_aged(&mut self, room: &str, offset: u64, age_ms: u64) -> Option<u64> {
            let frame = Frame { version: VERSION, operation: 5, sequence: 0, body: b"b" };
            self.add_frame(room, &Encoded::frame(&frame), offset * S, age_ms)
        }

        fn add_frame(
            &mut self,
            room: &str,
            frame: &Encoded,
            offset: u64,
            age_ms: u64,
        ) -> Option<u64> {
            let at = (offset, age_ms);
            let rule = Self::rule();
            let now = Millis(1_000);
            let place = self.0.add_from_stream(&room.into(), &rule, frame, at, now, MEMORY)?;
            assert_eq!(place.offset, offset);
            Some(place.number)
        }

        fn recovered(&mut self, room: &str, epoch: u64, offset: u64) -> (Option<u32>, u64) {
            let (recovered, offset) = self.recovered_since(room, epoch, offset * S);
            assert_eq!(offset % S, 0);
            (recovered, offset / S)
        }

        fn recovered_since(&mut self, room: &str, epoch: u64, offset: u64) -> (Option<u32>, u64) {
            let since = Some(Position { epoch, offset });
            let (rule, handle, most) = (Self::rule(), RoomHandle(1), (Millis(1_000), MEMORY));
            let mut budget = Budget::slice();
            let recovery = self.0.recover(room, &rule, since, handle, most, &mut budget);
            assert_eq!(recovery.chunk.is_some(), recovery.recovered.is_some_and(|it| it > 0));
            (recovery.recovered, recovery.position.offset)
        }
    }

    #[test]
    fn offsets_have_holes_and_numbers_have_none() {
        let mut home = Home::new(READ);
        let numbers = [20, 40, 50].map(|offset| home.add("h", offset));
        assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
        for (since, missed) in [(0, 3), (19, 3), (20, 2), (39, 2), (45, 1), (50, 0)] {
            assert_eq!(home.recovered("h", 7, since), (Some(missed), 50), "{since}");
        }
        assert_eq!(home.recovered("h", 8, 50).0, None, "another stream");
        assert_eq!(home.recovered("h", 7, 51).0, None, "not read so far");
        assert_eq!(home.add("h", 50), None, "it was there before");
        // The rule keeps three pushes.
        home.add("h", 70);
        assert_eq!(home.recovered("h", 7, 19).0, None);
        assert_eq!(home.recovered("h", 7, 20).0, Some(3));
    }

    #[test]
    fn a_room_without_pushes_is_as_far_as_the_stream_is_read() {
        let mut home = Home::new(StreamState { floor: 30 * S, ..READ });
        assert_eq!(home.recovered("h", 7, 29), (None, 30));
        assert_eq!(home.recovered("h", 7, 30), (Some(0), 30));
        home.0.set_stream(StreamState { seen: 90 * S, ..READ });
        assert_eq!(home.recovered("h", 7, 60), (Some(0), 90));
        assert_eq!(home.add("h", 90), None, "all homes have had it");
        home.add("h", 95);
        assert_eq!(home.recovered("h", 7, 60), (Some(1), 95));
        assert_eq!(home.recovered("h", 7, 29).0, None);
    }

    /// A client that read part of a chunk of three pushes has an offset counted back from the last one, whatever the
    /// offsets of the others are.
    #[test]
    fn a_client_that_read_a_part_of_a_chunk_gets_the_rest() {
        let mut home = Home::new(READ);
        home.add("h", 20);
        let run = [1, 2].map(|_| {
            Encoded::frame(&Frame { version: VERSION, operation: 5, sequence: 0, body: b"b" })
        });
        let run = run.each_ref().map(Encoded::for_tcp).concat();
        let batch = Frame { version: VERSION, operation: op::RAW, sequence: 0, body: &run };
        home.add_frame("h", &Encoded::frame(&batch), 30 * S, 0);
        home.add("h", 40);
        // The rule keeps three pushes, so the first is gone.
        for (since, missed) in [(40 * S, Some(0)), (40 * S - 1, Some(1)), (40 * S - 2, Some(2))] {
            assert_eq!(home.recovered_since("h", 7, since).0, missed, "{since}");
        }
        assert_eq!(home.recovered_since("h", 7, 40 * S - 3).0, Some(3));
        assert_eq!(home.recovered_since("h", 7, 40 * S - 4).0, None);
        assert_eq!(home.recovered_since("h", 7, 30 * S - 1).0, Some(2), "within the batch");
        assert_eq!(home.recovered_since("h", 7, 30 * S - 2).0, Some(3));
    }

    /// A loss between two pushes leaves a hole in the numbers as well, so that members get a gap marker.
    #[test]
    fn pushes_that_the_stream_lost_leave_a_hole() {
        let mut home = Home::new(READ);
        assert_eq!(home.add("h", 10), Some(1));
        home.0.set_stream(StreamState { floor: 15 * S, ..READ });
        assert_eq!(home.recovered("h", 7, 10), (None, 15));
        assert_eq!(home.add("h", 20), Some(3));
        assert_eq!(home.add("h", 21), Some(4));
        assert_eq!(home.recovered("h", 7, 14).0, None);
        assert_eq!(home.recovered("h", 7, 15).0, Some(2));
        // The lost push may have been to a room without any push.
        assert_eq!(home.add("h2", 22), Some(2));
    }

    #[test]
    fn pushes_in_the_stream_before_the_start_are_kept_and_not_sent_live() {
        let mut home = Home::new(StreamState { is_read: false, ..READ });
        home.add("h", 10);
        home.add_aged("h", 11, 60);
        assert!(!home.0.is_live("h", 12 * S));
        assert_eq!(home.recovered("h", 7, 9), (None, 0), "the rest is not read yet");
        assert_eq!(home.0.stream().map(|stream| stream.epoch), Some(0));
        home.0.set_stream(StreamState { seen: 12 * S, ..READ });
        assert_eq!(home.recovered("h", 7, 9), (Some(2), 12));
        assert!(!home.0.is_live("h", 12 * S));
        assert!(home.0.is_live("h", 13 * S));
        assert_eq!(home.add("h", 13), Some(3));
        // The age counts from the time when the stream got the push.
        home.add_aged("old", 14, 100);
        assert_eq!(home.recovered("old", 7, 13).0, None);
    }

    /// The clock of this home is at one second.
    #[test]
    fn a_push_may_be_older_than_the_process() {
        let mut home = Home::new(READ);
        let rule = HistoryRule { age_ms: 10_000, ..Home::rule() };
        let frame = Frame { version: VERSION, operation: 5, sequence: 0, body: b"b" };
        for (offset, age_ms) in [(1, 9_500), (2, 9_000)] {
            let (at, now) = ((offset * S, age_ms), Millis(1_000));
            home.0.add_from_stream(&"h".into(), &rule, &Encoded::frame(&frame), at, now, MEMORY);
        }
        let query = HistoryQuery { room: "h".into(), before: None, limit: 9 };
        let ages = |now| {
            let page = home.0.page(&query, &rule, Millis(now));
            page.entries(&query).iter().map(|entry| entry.age_ms).collect::<Vec<_>>()
        };
        assert_eq!(ages(1_000), [9_000, 9_500]);
        assert_eq!(ages(1_500), [9_500], "a rule keeps pushes for 10 s");
        assert_eq!(ages(2_000), [0; 0]);
    }

    #[test]
    fn a_room_without_a_rule_recovers_nothing_once_it_has_one() {
        let mut home = Home::new(READ);
        home.add("known", 40);
        home.add("other", 45);
        for (room, offset) in [("h", 60), ("known", 70)] {
            home.0.pass_over(room, offset * S);
        }
        home.0.set_stream(StreamState { seen: 100 * S, ..READ });
        for room in ["h", "known"] {
            assert_eq!(home.recovered(room, 7, 50), (None, 100), "{room}");
            assert_eq!(home.recovered(room, 7, 70), (Some(0), 100), "{room}");
        }
        assert_eq!(home.recovered("other", 7, 50).0, Some(0), "it had a rule all the time");
        assert_eq!(home.add("known", 110), Some(1));
        assert_eq!(home.recovered("known", 7, 40).0, None);
        assert_eq!(home.recovered("known", 7, 70).0, Some(1));
        // The push comes again after a hand-over.
        home.0.pass_over("other", 45 * S);
        assert_eq!(home.recovered("other", 7, 44).0, Some(1));
    }

    #[test]
    fn a_push_that_this_host_refuses_is_a_hole() {
        let mut home = Home::new(READ);
        assert_eq!(home.add("h", 10), Some(1));
        for room in ["h", "unknown"] {
            home.0.refuse_from_stream(&room.into(), 20 * S, MEMORY);
            assert_eq!(home.recovered(room, 7, 10), (None, 20), "{room}");
            assert_eq!(home.recovered(room, 7, 20).0, Some(0), "{room}");
        }
        assert_eq!(home.add("h", 30), Some(3), "members are told of a gap");
        assert_eq!(home.recovered("h", 7, 20).0, Some(1));
        assert_eq!(home.add("h", 20), None, "it was there before");
        home.0.refuse_from_stream(&"h".into(), 30 * S, MEMORY);
        assert_eq!(home.recovered("h", 7, 20).0, Some(1));
    }

    #[test]
    fn another_stream_begins_anew() {
        let mut home = Home::new(READ);
        home.add("h", 10);
        home.0.set_stream(StreamState { epoch: 8, ..READ });
        assert_eq!(home.0.bytes(), 0);
        assert_eq!(home.recovered("h", 7, 10), (None, 0));
        assert_eq!(home.add("h", 3), Some(1));
        assert_eq!(home.recovered("h", 8, 0).0, Some(1));
    }
}
