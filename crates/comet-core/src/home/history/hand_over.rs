//! The hand-over of histories to another process.

use std::collections::VecDeque;
use std::sync::Arc;

use comet_handover as handed;
use comet_proto::Encoded;

use crate::history::StreamState;
use crate::limits::Limits;
use crate::time::Millis;

use super::{CameAt, HistoryFrame, RoomHistories, RoomHistory};

impl RoomHistories {
    /// The histories of all rooms that have one, and the positions of those of `rooms` that had no push yet, because
    /// their members may know these. The room whose last push is the oldest comes first.
    pub(crate) fn hand_over<'a>(
        &self,
        rooms: impl Iterator<Item = &'a str>,
        now: Millis,
    ) -> Vec<handed::History> {
        // If hosts share the histories, such a room has no position of its own.
        let is_own = self.shared.is_none();
        let without_push = rooms.filter(|room| is_own && !self.rooms.contains_key(*room));
        let mut histories: Vec<_> = without_push
            .map(|room| handed::History {
                room: room.into(),
                epoch: self.epoch_of(room),
                top: 0,
                frames: Vec::new(),
                floor: None,
            })
            .collect();
        histories.sort_unstable_by(|one, other| one.room.cmp(&other.room));
        let is_whole = self.stream().is_none_or(|stream| stream.epoch != 0);
        let mut known: Vec<_> = self.rooms.iter().filter(|_| is_whole).collect();
        known.sort_unstable_by_key(|(_, known)| known.recency);
        histories.extend(known.into_iter().map(|(room, known)| {
            let RoomHistory {
                epoch,
                last_offset,
                last_number: _,
                losses: _,
                floor,
                frames,
                bytes: _,
                pushes: _,
                recency: _,
            } = known;
            let frames = frames.iter().map(|kept| handed_frame(kept, now)).collect();
            // If offsets have holes, the floor cannot be derived from the oldest push.
            let floor = (!is_own).then_some(*floor);
            handed::History {
                room: room.as_ref().into(),
                epoch: *epoch,
                top: *last_offset,
                frames,
                floor,
            }
        }));
        histories
    }

    /// The offset of the latest push of the stream to a forgotten room.
    pub(crate) fn forgotten_in_stream(&self) -> u64 {
        self.shared.as_ref().map_or(0, super::shared::Shared::forgotten)
    }

    /// The number of rooms that have lost their position.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes over the histories of rooms that a rule of `limits` covers. There must be none yet.
    pub(crate) fn take_over(
        &mut self,
        (histories, stream, forgotten_in_stream): (Vec<handed::History>, StreamState, u64),
        forgotten: u64,
        evicted: u64,
        limits: &Limits,
        now: Millis,
    ) {
        self.set_stream(stream);
        if let Some(shared) = &mut self.shared {
            shared.forget(forgotten_in_stream);
        }
        (self.forgotten, self.evicted) = (forgotten, evicted);
        for handed::History { room, epoch, top: last_offset, frames, floor } in histories {
            // The history belongs to another stream, or it was shared and this host's are not, or the other way round.
            let is_foreign = match &self.shared {
                Some(shared) => epoch != shared.epoch(),
                None => stream.epoch != 0 && epoch == stream.epoch,
            };
            if is_foreign {
                continue;
            }
            if limits.history_rule(&room).is_none() {
                if let Some(shared) = &mut self.shared {
                    // If a rule covers the room again, its earlier pushes count as lost.
                    shared.forget(last_offset);
                }
                continue;
            }
            let frames: Option<VecDeque<HistoryFrame>> =
                frames.into_iter().map(|kept| arrived(kept, last_offset, now)).collect();
            // With a malformed frame no frame is taken. The position stays.
            let (frames, floor) = frames.map_or((VecDeque::new(), None), |frames| (frames, floor));
            let bytes = frames.iter().map(HistoryFrame::bytes).sum();
            let pushes = frames.iter().map(|kept| kept.pushes).fold(0, u32::saturating_add);
            self.latest += 1;
            let recency = self.latest;
            self.bytes += bytes;
            // The former counts are not known. Members number the pushes by their offsets.
            let before =
                frames.front().map_or(last_offset, |kept| kept.offset - u64::from(kept.pushes));
            let floor = floor.map_or(before, |floor| floor.min(before));
            let known = RoomHistory {
                epoch,
                last_offset,
                last_number: last_offset,
                losses: 0,
                floor,
                frames,
                bytes,
                pushes,
                recency,
            };
            self.put(Arc::from(room), known);
        }
        self.evict(limits.history_memory);
    }
}

fn handed_frame(kept: &HistoryFrame, now: Millis) -> handed::Kept {
    let HistoryFrame { frame, offset, pushes, at } = kept;
    let (bytes, tcp_at) = frame.parts();
    let item = handed::Item {
        bytes: bytes.to_vec(),
        tcp_at: tcp_at as u32,
        is_push: true,
        state: None,
        offsets: None,
        direct: None,
    };
    let age_ms = at.age_ms(now);
    handed::Kept { frame: Some(item), offset: *offset, pushes: *pushes, age_ms }
}

/// `None`: it cannot be a push of a room whose latest push has the offset `last_offset`.
fn arrived(kept: handed::Kept, last_offset: u64, now: Millis) -> Option<HistoryFrame> {
    let handed::Kept { frame, offset, pushes, age_ms } = kept;
    let handed::Item { bytes, tcp_at, is_push: _, state: _, offsets: _, direct: _ } = frame?;
    let frame = Encoded::from_parts(&bytes, tcp_at as usize)?;
    let has_pushes = comet_proto::count_frames(frame.for_tcp()) == Ok(pushes as usize);
    let is_sound = has_pushes && pushes > 0 && offset <= last_offset && u64::from(pushes) <= offset;
    is_sound.then(|| HistoryFrame { frame, offset, pushes, at: CameAt::ago(now, age_ms) })
}
