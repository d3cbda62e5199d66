//! Pages of the histories of rooms, for callers.

use comet_proto::Position;

use crate::history::{HistoryPage, HistoryQuery, HistoryRule, HistoryRun};
use crate::limits::HISTORY_PAGE_MAX;
use crate::time::Millis;

use super::{HistoryFrame, RoomHistories};

impl RoomHistories {
    /// The page for `query`, about a room for which `rule` holds. It shares the frames, so its cost is that of its
    /// entries.
    pub(crate) fn page(
        &self,
        query: &HistoryQuery,
        rule: &HistoryRule,
        now: Millis,
    ) -> HistoryPage {
        let Some(known) = self.rooms.get(&*query.room) else { return HistoryPage::default() };
        let before = query.before.unwrap_or(u64::MAX);
        // Frames are sorted by offset and by time.
        let fresh = known.frames.partition_point(|kept| !kept.is_within(rule, now));
        let end = known.frames.partition_point(|kept| kept.first() < before);
        let (mut pushes, mut bytes, mut runs) = (0, 0, Vec::new());
        for kept in known.frames.range(fresh.min(end)..end).rev() {
            bytes += kept.frame.for_tcp().len();
            if pushes >= u64::from(query.limit) || (bytes > HISTORY_PAGE_MAX && !runs.is_empty()) {
                break;
            }
            pushes += before.min(kept.offset + 1) - kept.first();
            let age_ms = kept.at.age_ms(now);
            let (frame, first) = (kept.frame.clone(), kept.first());
            runs.push(HistoryRun { frame, first, age_ms });
        }
        HistoryPage {
            position: Some(Position { epoch: known.epoch, offset: known.last_offset }),
            oldest: known.frames.get(fresh).map(HistoryFrame::first),
            runs,
        }
    }
}

impl HistoryFrame {
    /// The offset of its first push.
    fn first(&self) -> u64 {
        self.offset + 1 - u64::from(self.pushes)
    }
}

#[cfg(test)]
mod tests {
    use comet_proto::{Encoded, Frame, VERSION, op};

    use super::*;

    fn rule() -> HistoryRule {
        HistoryRule { prefix: "h".into(), pushes: 5, bytes: 4 << 20, age_ms: 100 }
    }

    fn frame(operation: i32, body: &[u8]) -> Encoded {
        Encoded::frame(&Frame { version: VERSION, operation, sequence: 0, body })
    }

    fn add(histories: &mut RoomHistories, frame: &Encoded, now: u64) {
        histories.add(&"h".into(), &rule(), frame, Millis(now), 64 << 20);
    }

    /// Offsets, bodies and ages, and the offset of the oldest stored push.
    type Told = (Vec<(u64, Vec<u8>, u64)>, Option<u64>);

    fn page(histories: &RoomHistories, before: Option<u64>, limit: u32, now: u64) -> Told {
        let query = HistoryQuery { room: "h".into(), before, limit };
        let page = histories.page(&query, &rule(), Millis(now));
        let entry = |entry: crate::HistoryEntry<'_>| {
            assert_eq!(entry.operation, 5);
            (entry.offset, entry.body.to_vec(), entry.age_ms)
        };
        (page.entries(&query).into_iter().map(entry).collect(), page.oldest)
    }

    #[test]
    fn pages_go_back_from_the_latest_push_and_may_begin_and_end_within_a_batch() {
        let mut all = RoomHistories::new(7, false);
        let unknown = HistoryQuery { room: "h".into(), before: None, limit: 9 };
        assert_eq!(all.page(&unknown, &rule(), Millis(0)).position, None);
        add(&mut all, &frame(5, b"1"), 0);
        let run = [2, 3, 4].map(|body| frame(5, &[b'0' + body]).for_tcp().to_vec()).concat();
        add(&mut all, &frame(op::RAW, &run), 10);
        add(&mut all, &frame(5, b"5"), 20);
        let entry = |offset: u8, age_ms| (u64::from(offset), vec![b'0' + offset], age_ms);
        let latest = vec![entry(5, 30), entry(4, 40)];
        assert_eq!(page(&all, None, 2, 50), (latest, Some(1)));
        assert_eq!(page(&all, Some(4), 1, 50), (vec![entry(3, 40)], Some(1)));
        let rest = vec![entry(2, 40), entry(1, 50)];
        assert_eq!(page(&all, Some(3), 9, 50), (rest, Some(1)));
        assert_eq!(page(&all, Some(1), 9, 50), (vec![], Some(1)));
        // A push that is too old is on no page, even if no later push has displaced it.
        assert_eq!(page(&all, Some(3), 9, 100), (vec![entry(2, 90)], Some(2)));
        assert_eq!(page(&all, None, 9, 120), (vec![], None));
    }

    #[test]
    fn a_page_has_a_bound_in_bytes_and_one_push_at_least() {
        let mut all = RoomHistories::new(7, false);
        (0..3).for_each(|_| add(&mut all, &frame(5, &[b'x'; 600 << 10]), 0));
        let offsets = |before| {
            let (entries, oldest) = page(&all, before, 9, 0);
            assert_eq!(oldest, Some(1));
            entries.iter().map(|entry| entry.0).collect::<Vec<_>>()
        };
        assert_eq!(
            (offsets(None), offsets(Some(3)), offsets(Some(2))),
            (vec![3], vec![2], vec![1])
        );
        add(&mut all, &frame(5, &[b'x'; HISTORY_PAGE_MAX + 1]), 0);
        assert_eq!(page(&all, None, 9, 0).0.len(), 1);
    }
}
