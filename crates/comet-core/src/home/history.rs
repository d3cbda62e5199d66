//! The last pushes of rooms with a history, and the position of each push.
//!
//! A position is an epoch and an offset. An epoch is a hash of the room and of the number of rooms that were forgotten,
//! with the seed of the shard. So neither the epoch of a forgotten room nor one of another process comes back.

mod chunks;
mod hand_over;
mod page;
mod shared;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;
use comet_proto::{Encoded, Frame, Position, RoomHandle, VERSION, count_frames, decode, op};

use crate::budget::{self, Budget};
use crate::history::HistoryRule;
use crate::limits::{HISTORY_CHUNKS_MAX, HISTORY_ROOMS_MAX};
use crate::message::Recovery;
use crate::time::Millis;

use chunks::{Chunk, fitting};
use shared::Shared;

/// The memory of a stored frame in addition to its bytes.
const ENTRY: usize = 64;

pub(crate) struct RoomHistories {
    rooms: HashMap<Arc<str>, RoomHistory, RandomState>,
    /// Rooms by the number of their latest push: those with frames, and those with only a position.
    with_frames: BTreeMap<u64, Arc<str>>,
    without_frames: BTreeMap<u64, Arc<str>>,
    /// The number of the latest push to any room.
    latest: u64,
    /// The memory of all frames, including [`ENTRY`] for each.
    bytes: usize,
    /// The number of pushes that were dropped early for want of memory.
    evicted: u64,
    /// The number of rooms whose position is lost.
    forgotten: u64,
    epochs: RandomState,
    /// The stream, if hosts share the histories. `None`: this host has its own.
    shared: Option<Shared>,
    /// The chunks that were requested last, the latest at the end. Clients that come back together request the same
    /// ones.
    chunks: VecDeque<Chunk>,
}

struct RoomHistory {
    epoch: u64,
    /// The offset of the latest push.
    last_offset: u64,
    /// See [`crate::message::Push::number`].
    last_number: u64,
    /// The number of losses of the stream that `last_number` includes.
    losses: u64,
    /// All pushes after this offset are among the frames.
    floor: u64,
    frames: VecDeque<HistoryFrame>,
    bytes: usize,
    pushes: u32,
    /// The number of the room's latest push among the pushes to all rooms.
    recency: u64,
}

/// The place of a push in the history of its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PushPlace {
    pub(crate) offset: u64,
    pub(crate) number: u64,
}

/// A frame, which may be a batch.
struct HistoryFrame {
    frame: Encoded,
    /// The offset of its last push.
    offset: u64,
    pushes: u32,
    at: CameAt,
}

/// When a push arrived, by the clock of the shard. Negative if the push is older than the process.
#[derive(Clone, Copy)]
struct CameAt(i64);

impl CameAt {
    fn ago(now: Millis, age_ms: u64) -> Self {
        Self(now.0.cast_signed().saturating_sub_unsigned(age_ms))
    }

    fn age_ms(self, now: Millis) -> u64 {
        now.0.cast_signed().saturating_sub(self.0).max(0).cast_unsigned()
    }
}

impl HistoryFrame {
    fn bytes(&self) -> usize {
        self.frame.for_websocket().len() + ENTRY
    }

    /// The frames of its pushes after `offset`.
    fn frames_after(&self, offset: u64) -> &[u8] {
        let mut run = self.frame.for_tcp();
        let first = self.offset + 1 - u64::from(self.pushes);
        for _ in first..=offset {
            let (_, consumed) =
                decode(run, usize::MAX).ok().flatten().expect("a push is a run of whole frames");
            run = &run[consumed..];
        }
        run
    }
}

impl RoomHistories {
    /// If `is_shared`, hosts share the histories.
    pub(super) fn new(seed: u64, is_shared: bool) -> Self {
        Self {
            rooms: HashMap::with_hasher(RandomState::with_seeds(seed, 24, 25, 26)),
            with_frames: BTreeMap::new(),
            without_frames: BTreeMap::new(),
            latest: 0,
            bytes: 0,
            evicted: 0,
            forgotten: 0,
            epochs: RandomState::with_seeds(seed, 27, 28, 29),
            chunks: VecDeque::new(),
            shared: is_shared.then(Shared::default),
        }
    }

    /// The memory of all frames, including [`ENTRY`] for each.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of pushes that were dropped early for want of memory.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The offset of the latest push to `room`, if that is known.
    pub(crate) fn last_offset(&self, room: &str) -> Option<u64> {
        self.rooms.get(room).map(|known| known.last_offset)
    }

    /// Stores a push to `room`, for which `rule` holds, and returns its place; for a batch, the place of its last push.
    /// All rooms together keep at most `memory` bytes.
    pub(crate) fn add(
        &mut self,
        room: &Arc<str>,
        rule: &HistoryRule,
        frame: &Encoded,
        now: Millis,
        memory: usize,
    ) -> PushPlace {
        self.keep(room, rule, frame, (None, CameAt::ago(now, 0)), now, memory)
    }

    /// The same for a push that arrived at `at`. Without an offset it gets the next one.
    fn keep(
        &mut self,
        room: &Arc<str>,
        rule: &HistoryRule,
        frame: &Encoded,
        (offset, at): (Option<u64>, CameAt),
        now: Millis,
        memory: usize,
    ) -> PushPlace {
        let pushes = count_frames(frame.for_tcp()).map_or(1, |frames| frames as u32);
        let mut known = self.take_for(room, pushes.into());
        known.last_offset = offset.unwrap_or(known.last_offset + u64::from(pushes));
        let place = PushPlace { offset: known.last_offset, number: known.last_number };
        self.bytes -= known.bytes;
        if pushes > 0 {
            let kept = HistoryFrame { frame: frame.clone(), offset: known.last_offset, pushes, at };
            (known.bytes, known.pushes) = (known.bytes + kept.bytes(), known.pushes + pushes);
            known.frames.push_back(kept);
        }
        known.trim(rule, now);
        self.bytes += known.bytes;
        self.put(Arc::clone(room), known);
        self.evict(memory);
        place
    }

    /// The pushes after `since` in `room`, for which `rule` holds, as room pushes with `handle` in at most `most`
    /// bytes. If there is more, it gives the first pushes in half of that, so that the rest finds space while these are
    /// read.
    pub(crate) fn recover(
        &mut self,
        room: &str,
        rule: &HistoryRule,
        since: Option<Position>,
        handle: RoomHandle,
        (now, most): (Millis, usize),
        budget: &mut Budget,
    ) -> Recovery {
        budget.spend(budget::LOOKUP);
        let (position, floor) = self.known_of(room);
        let known = self.rooms.get(room);
        let last_offset = known.map_or(0, |known| known.last_offset);
        let number = known.map_or(self.losses(), |known| self.number_of(known));
        let chunk_end = position.offset;
        let mut recovery =
            Recovery { position, number, since, recovered: None, chunk: None, chunk_end };
        let is_known = |since: &Position| {
            since.epoch == position.epoch && (floor..=position.offset).contains(&since.offset)
        };
        let Some(Position { offset: after, epoch }) = since.filter(is_known) else {
            return recovery;
        };
        let Some(known) = known.filter(|known| after < known.last_offset) else {
            recovery.recovered = Some(0);
            return recovery;
        };
        let Some(after) = self.had_by(known, after) else { return recovery };
        let frames =
            known.frames.range(known.frames.partition_point(|kept| kept.offset <= after)..);
        budget.spend(frames.len());
        let has_all = frames.clone().next().is_some_and(|first| first.is_within(rule, now));
        if !has_all {
            return recovery;
        }
        let missed = frames.clone().map(|kept| u64::from(kept.pushes).min(kept.offset - after));
        let Some(missed) = u32::try_from(missed.sum::<u64>()).ok() else { return recovery };
        let Self { chunks, .. } = self;
        let Some((bytes, count, to)) = fitting(frames.clone(), after, most) else {
            return recovery;
        };
        let is_same = |chunk: &&Chunk| {
            let Chunk { epoch: of, after: behind, to: end, handle: for_handle, .. } = **chunk;
            (of, behind, end, for_handle) == (epoch, after, to, handle)
        };
        let chunk = chunks.iter().find(is_same).map(|chunk| chunk.frame.clone());
        let chunk = chunk.unwrap_or_else(|| {
            budget.spend(bytes / budget::COPY_BYTES);
            let mut body = Vec::with_capacity(bytes);
            frames.take(count).for_each(|kept| body.extend_from_slice(kept.frames_after(after)));
            let run = Frame { version: VERSION, operation: op::RAW, sequence: 0, body: &body };
            let frame = Encoded::frame(&run).to_room_push(handle, to);
            if chunks.len() == HISTORY_CHUNKS_MAX {
                chunks.pop_front();
            }
            chunks.push_back(Chunk { epoch, after, to, handle, frame: frame.clone() });
            frame
        });
        recovery.chunk_end = if to == last_offset { position.offset } else { to };
        recovery.recovered = Some(missed);
        recovery.chunk = Some(chunk);
        recovery
    }

    /// Takes the history of a room out, for adding `pushes` pushes, or begins one.
    fn take_for(&mut self, room: &str, pushes: u64) -> RoomHistory {
        let mut known = self.take(room).unwrap_or_else(|| RoomHistory {
            epoch: self.epoch_of(room),
            last_offset: 0,
            last_number: 0,
            losses: 0,
            floor: self.floor_of_others(),
            frames: VecDeque::new(),
            bytes: 0,
            pushes: 0,
            recency: 0,
        });
        self.latest += 1;
        known.recency = self.latest;
        known.last_number = self.number_of(&known) + pushes;
        known.losses = self.losses();
        known
    }

    fn take(&mut self, room: &str) -> Option<RoomHistory> {
        let known = self.rooms.remove(room)?;
        self.order_of(&known).remove(&known.recency);
        Some(known)
    }

    /// Forgets the rooms that no rule covers any more, and begins a new epoch for rooms that had no push. A push
    /// without a rule gets no offset, so a rule that comes back must not continue the former epoch.
    pub(crate) fn forget_uncovered(&mut self, covers: impl Fn(&str) -> bool) {
        let gone: Vec<_> = self.rooms.keys().filter(|room| !covers(room)).cloned().collect();
        for room in gone {
            let known = self.take(&room).expect("it is there");
            self.bytes -= known.bytes;
        }
        self.forgotten += 1;
    }

    /// The epoch of the first push to a room, unless other rooms are forgotten before it.
    fn epoch_of(&self, room: &str) -> u64 {
        let own = || self.epochs.hash_one((room, self.forgotten));
        self.shared.as_ref().map_or_else(own, Shared::epoch)
    }

    /// The list that a room is on.
    fn order_of(&mut self, known: &RoomHistory) -> &mut BTreeMap<u64, Arc<str>> {
        if known.frames.is_empty() { &mut self.without_frames } else { &mut self.with_frames }
    }

    fn put(&mut self, room: Arc<str>, known: RoomHistory) {
        self.order_of(&known).insert(known.recency, Arc::clone(&room));
        self.rooms.insert(room, known);
    }

    /// Removes frames of the rooms that had no push for the longest time, and forgets such rooms.
    fn evict(&mut self, memory: usize) {
        while self.bytes > memory
            && let Some((_, room)) = self.with_frames.pop_first()
        {
            let mut known = self.rooms.remove(&room).expect("a room on a list is there");
            while self.bytes > memory
                && let Some(bytes) = known.drop_oldest()
            {
                self.bytes -= bytes.0;
                self.evicted += u64::from(bytes.1);
            }
            self.put(room, known);
        }
        while self.rooms.len() > HISTORY_ROOMS_MAX {
            let (without, with) = (&mut self.without_frames, &mut self.with_frames);
            let oldest = without.pop_first().or_else(|| with.pop_first());
            let Some((_, room)) = oldest else { return };
            let known = self.rooms.remove(&room).expect("a room on a list is there");
            self.bytes -= known.bytes;
            self.evicted += u64::from(known.pushes);
            self.forgotten += 1;
            if let Some(shared) = &mut self.shared {
                shared.forget(known.last_offset);
            }
        }
    }
}

impl HistoryFrame {
    fn is_within(&self, rule: &HistoryRule, now: Millis) -> bool {
        self.at.age_ms(now) < rule.age_ms.into()
    }
}

impl RoomHistory {
    /// Drops the frames that exceed the rule.
    fn trim(&mut self, rule: &HistoryRule, now: Millis) {
        while let Some(oldest) = self.frames.front()
            && (self.pushes > rule.pushes
                || self.bytes > rule.bytes as usize
                || !oldest.is_within(rule, now))
        {
            self.drop_oldest();
        }
    }

    /// Drops the oldest frame. Returns its bytes and its pushes.
    fn drop_oldest(&mut self) -> Option<(usize, u32)> {
        let oldest = self.frames.pop_front()?;
        let (bytes, pushes) = (oldest.bytes(), oldest.pushes);
        self.floor = oldest.offset;
        (self.bytes, self.pushes) = (self.bytes - bytes, self.pushes - pushes);
        Some((bytes, pushes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: RoomHandle = RoomHandle(3);
    const MOST: usize = 1 << 20;

    fn rule() -> HistoryRule {
        HistoryRule { prefix: "h".into(), pushes: 5, bytes: 1_000, age_ms: 100 }
    }

    fn frame(operation: i32, body: &[u8]) -> Encoded {
        Encoded::frame(&Frame { version: VERSION, operation, sequence: 0, body })
    }

    struct Histories(RoomHistories, usize);

    impl Histories {
        fn new(memory: usize) -> Self {
            Self(RoomHistories::new(7, false), memory)
        }

        fn add(&mut self, room: &str, body: &[u8], now: u64) -> u64 {
            self.0.add(&room.into(), &rule(), &frame(5, body), Millis(now), self.1).offset
        }

        fn recover(
            &mut self,
            room: &str,
            since: Option<Position>,
            now: u64,
            most: usize,
        ) -> Recovery {
            let most = (Millis(now), most);
            self.0.recover(room, &rule(), since, HANDLE, most, &mut Budget::slice())
        }

        fn position(&mut self, room: &str, now: u64) -> Position {
            self.recover(room, None, now, MOST).position
        }

        /// The bodies of the pushes after `offset`, if the room has all of them.
        fn after(&mut self, room: &str, offset: u64, now: u64) -> Option<Vec<Vec<u8>>> {
            let Position { epoch, .. } = self.position(room, now);
            let since = Some(Position { epoch, offset });
            let recovery = self.recover(room, since, now, MOST);
            let missed = recovery.recovered?;
            let mut bodies = Vec::new();
            if let Some(chunk) = recovery.chunk {
                let (frame, _) = decode(chunk.for_tcp(), MOST).unwrap().unwrap();
                let push = comet_proto::RoomPush::decode(frame.body).unwrap();
                assert_eq!((push.handle, push.operation), (HANDLE, op::RAW));
                assert_eq!(push.offset, recovery.position.offset);
                let mut run = push.body;
                while let Some((frame, consumed)) = decode(run, MOST).unwrap() {
                    bodies.push(frame.body.to_vec());
                    run = &run[consumed..];
                }
            }
            assert_eq!(bodies.len(), missed as usize);
            Some(bodies)
        }
    }

    #[test]
    fn a_room_keeps_its_last_pushes_and_gives_all_that_were_missed_or_none() {
        let mut all = Histories::new(MOST);
        for number in 1..=8 {
            assert_eq!(all.add("h", &[number], 0), number.into());
        }
        assert_eq!(all.after("h", 8, 0), Some(vec![]));
        assert_eq!(all.after("h", 6, 0), Some(vec![vec![7], vec![8]]));
        assert_eq!(all.after("h", 3, 0).map(|bodies| bodies.len()), Some(5));
        assert_eq!(all.after("h", 2, 0), None);
        assert_eq!(all.after("h", 9, 0), None, "an offset from the future");
        assert_eq!(all.after("h", u64::MAX, 0), None);
        assert_eq!(all.after("h", 7, 99), Some(vec![vec![8]]));
        assert_eq!(all.after("h", 7, 100), None, "it is too old");
        assert_eq!(all.add("h", b"later", 100), 9);
        assert_eq!(all.after("h", 8, 100), Some(vec![b"later".to_vec()]));
        assert_eq!(all.after("h", 7, 100), None);
        // The rule also bounds the bytes.
        all.add("h", &[b'x'; 900], 100);
        assert_eq!(all.after("h", 8, 100), None);
        assert_eq!(all.0.evicted(), 0);
    }

    #[test]
    fn a_batch_has_consecutive_offsets_and_may_be_cut() {
        let mut all = Histories::new(MOST);
        all.add("h", b"1", 0);
        let run = [2, 3, 4].map(|body| frame(5, &[body]).for_tcp().to_vec()).concat();
        let batch = frame(op::RAW, &run);
        let place = all.0.add(&"h".into(), &rule(), &batch, Millis(0), MOST);
        assert_eq!(place, PushPlace { offset: 4, number: 4 });
        assert_eq!(all.after("h", 2, 0), Some(vec![vec![3], vec![4]]));
        assert_eq!(all.add("h", b"5", 0), 5);
        assert_eq!(all.after("h", 3, 0), Some(vec![vec![4], b"5".to_vec()]));
    }

    #[test]
    fn another_epoch_recovers_nothing() {
        let mut all = Histories::new(MOST);
        let before = all.position("h", 0);
        all.add("h", b"1", 0);
        all.add("other", b"1", 0);
        assert_eq!(all.position("h", 0).epoch, before.epoch);
        let other = all.position("other", 0);
        assert_ne!(before.epoch, other.epoch);
        let recovery = all.recover("h", Some(other), 0, MOST);
        assert_eq!((recovery.recovered, recovery.chunk.is_none()), (None, true));
        let next_start = RoomHistories::new(8, false).epoch_of("h");
        assert_ne!(next_start, before.epoch);
    }

    /// Clients that come back together share a chunk. One that is too long is not made.
    #[test]
    fn the_same_pushes_are_encoded_once() {
        let mut all = Histories::new(MOST);
        (1..=3).for_each(|number| _ = all.add("h", &[number], 0));
        let since = Some(Position { offset: 1, ..all.position("h", 0) });
        let mut chunk = |most| {
            let recovery = all.recover("h", since, 0, most);
            recovery.chunk.map(|chunk| chunk.for_tcp().as_ptr())
        };
        assert!(chunk(16).is_none());
        assert_eq!(chunk(33), chunk(20), "the first of both");
        assert_eq!(chunk(34), chunk(34));
        assert_ne!(chunk(33), chunk(34));
        assert!(chunk(34).is_some());
    }

    #[test]
    fn rooms_without_pushes_for_long_lose_their_frames_first_and_keep_their_position() {
        let mut all = Histories::new(3 * (10 + 18 + ENTRY));
        let epoch = all.position("a", 0).epoch;
        for room in ["a", "b", "a", "c"] {
            all.add(room, &[0; 10], 0);
        }
        assert_eq!(all.0.evicted(), 1);
        assert_eq!((all.after("b", 0, 0), all.after("b", 1, 0)), (None, Some(vec![])));
        assert_eq!(all.after("a", 0, 0).map(|bodies| bodies.len()), Some(2));
        all.add("c", &[0; 10], 0);
        assert_eq!(all.after("a", 0, 0), None);
        assert_eq!(all.after("a", 1, 0).map(|bodies| bodies.len()), Some(1));
        assert_eq!(all.position("a", 0), Position { epoch, offset: 2 });
        assert!(all.0.bytes() <= all.1);
    }

    /// The table of positions is bounded, too. A room that was forgotten begins a new epoch.
    #[test]
    fn a_room_that_was_forgotten_has_another_epoch() {
        let mut all = Histories::new(MOST);
        let first = all.position("first", 0).epoch;
        all.add("first", b"", 0);
        for number in 0..HISTORY_ROOMS_MAX {
            all.add(&format!("h{number}"), b"", 0);
        }
        assert_eq!(all.0.rooms.len(), HISTORY_ROOMS_MAX);
        let Position { epoch, offset } = all.position("first", 0);
        assert_ne!(epoch, first);
        assert_eq!(offset, 0);
        assert_eq!(all.0.with_frames.len() + all.0.without_frames.len(), HISTORY_ROOMS_MAX);
    }
}
