//! Accounts of connections that receive several streams, or come and go while a stream flows.
//!
//! A visitor receives a stream from some message on, and then without a gap and in order until it leaves:
//! what is missing in between is as lost as anywhere else. What came before it did, and after it went,
//! is not known here. A visitor that was there before the first message is to get them all.

use serde::{Deserialize, Serialize};

/// Kinds of streams, which number their streams each for itself.
pub(crate) const STREAM_KINDS: u32 = 3;

/// A stream: a room, a key, or everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamId {
    /// Below [`STREAM_KINDS`]; its messages have the run's number and this more.
    pub kind: u32,
    pub number: u32,
}

/// The visits of all connections that are no plain members of one stream.
#[derive(Default, Debug)]
pub(crate) struct Visits {
    /// By connection; empty for plain members.
    visitors: Vec<Vec<Visit>>,
    sums: VisitSums,
}

#[derive(Debug)]
struct Visit {
    stream: StreamId,
    /// The message expected next; unknown until the first has come to one who came late.
    next: Option<u64>,
    /// It is there to the end.
    stays: bool,
}

/// What became of the messages of visitors, as far as that is known.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VisitSums {
    /// Messages that came, and those that had to come and did not.
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    /// Came again, or after a later one of their stream.
    pub repeated: u64,
    /// Of a stream that the connection never was in.
    pub foreign: u64,
}

impl Visits {
    /// Distinct deliveries so far.
    pub(crate) fn received(&self) -> u64 {
        self.sums.received
    }

    /// Whether the connection is booked here.
    pub(crate) fn has(&self, connection: usize) -> bool {
        self.visitors.get(connection).is_some_and(|visits| !visits.is_empty())
    }

    /// From now on the connection may receive `stream`; all of it where it is there `from_the_start`.
    pub(crate) fn begin(&mut self, connection: usize, stream: StreamId, from_the_start: bool) {
        if self.visitors.len() <= connection {
            self.visitors.resize_with(connection + 1, Vec::new);
        }
        let visits = &mut self.visitors[connection];
        // One who comes back to a room may have missed messages in between.
        visits.retain(|visit| visit.stream != stream);
        let next = from_the_start.then_some(0);
        visits.push(Visit { stream, next, stays: from_the_start });
    }

    /// The connection is gone: what it has not received by now it does not need to.
    pub(crate) fn end(&mut self, connection: usize) {
        for visit in self.visitors.get_mut(connection).into_iter().flatten() {
            visit.stays = false;
        }
    }

    /// Books a delivery to a connection that is booked here.
    pub(crate) fn record(&mut self, connection: usize, stream: StreamId, sequence: u64) {
        let sums = &mut self.sums;
        let visits = &mut self.visitors[connection];
        let Some(visit) = visits.iter_mut().find(|visit| visit.stream == stream) else {
            sums.foreign += 1;
            return;
        };
        let next = visit.next.unwrap_or(sequence);
        if sequence < next {
            sums.repeated += 1;
            return;
        }
        sums.received += 1;
        sums.lost += sequence - next;
        visit.next = Some(sequence + 1);
    }

    /// Closes the books: `sent` has the number of messages of each stream, by kind.
    pub(crate) fn close(&self, sent: &[Vec<u64>]) -> VisitSums {
        let mut sums = self.sums;
        for visit in self.visitors.iter().flatten().filter(|visit| visit.stays) {
            let StreamId { kind, number } = visit.stream;
            let sent = sent.get(kind as usize).and_then(|streams| streams.get(number as usize));
            let sent = sent.copied().unwrap_or(0);
            sums.lost += sent.saturating_sub(visit.next.unwrap_or(0));
        }
        sums.expected = sums.received + sums.lost;
        sums
    }
}

impl VisitSums {
    /// Adds those of other connections.
    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.foreign += other.foreign;
    }

    /// What cannot be explained by anything the server dropped, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let faults = [
            (self.repeated, "received twice or late by those who come and go"),
            (self.foreign, "at one who was never in their room"),
        ];
        let faults = faults.into_iter().filter(|(count, _)| *count > 0);
        faults.map(|(count, what)| format!("{count} deliveries {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: StreamId = StreamId { kind: 0, number: 1 };
    const OTHER: StreamId = StreamId { kind: 0, number: 0 };
    const KEY: StreamId = StreamId { kind: 1, number: 1 };

    /// Expected, received, lost, repeated, foreign.
    fn figures(visits: &Visits, sent: &[Vec<u64>]) -> [u64; 5] {
        let is = visits.close(sent);
        [is.expected, is.received, is.lost, is.repeated, is.foreign]
    }

    /// A connection in room 1 gets `sequences`, of which 10 are sent.
    fn check(from_the_start: bool, sequences: &[u64], expected: [u64; 4]) {
        let mut visits = Visits::default();
        visits.begin(3, ROOM, from_the_start);
        for &sequence in sequences {
            visits.record(3, ROOM, sequence);
        }
        let [all, received, lost, repeated, foreign] = figures(&visits, &[vec![0, 10]]);
        assert_eq!([all, received, lost, repeated], expected, "{sequences:?}");
        assert_eq!(foreign, 0);
    }

    #[test]
    fn a_guest_is_to_miss_nothing_between_its_first_and_its_last() {
        check(false, &[], [0, 0, 0, 0]);
        check(false, &[4, 5, 6], [3, 3, 0, 0]);
        check(false, &[4, 7], [4, 2, 2, 0]);
        check(false, &[4, 5, 5, 4], [2, 2, 0, 2]);
    }

    #[test]
    fn who_was_there_from_the_start_is_to_get_everything() {
        check(true, &[], [10, 0, 10, 0]);
        check(true, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 10, 0, 0]);
        check(true, &[1, 2], [10, 2, 8, 0]);
    }

    #[test]
    fn the_end_of_a_visit_is_the_end_of_what_is_due() {
        let mut visits = Visits::default();
        visits.begin(0, ROOM, true);
        visits.record(0, ROOM, 0);
        visits.end(0);
        visits.end(7);
        assert_eq!(figures(&visits, &[vec![0, 10]]), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_visitor_has_several_streams_and_may_come_back_to_one() {
        let mut visits = Visits::default();
        assert!(!visits.has(0));
        visits.begin(0, ROOM, false);
        visits.begin(0, KEY, true);
        visits.record(0, ROOM, 5);
        visits.record(0, KEY, 0);
        visits.begin(0, OTHER, false);
        visits.record(0, OTHER, 100);
        visits.begin(0, ROOM, false);
        visits.record(0, ROOM, 90);
        visits.record(0, StreamId { kind: 2, number: 0 }, 0);
        assert!(visits.has(0) && !visits.has(1));
        assert_eq!(figures(&visits, &[vec![200, 100], vec![0, 1]]), [4, 4, 0, 0, 1]);
        assert_eq!(visits.close(&[]).faults().len(), 1);
    }
}
