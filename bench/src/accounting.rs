//! Accounts for every delivery: received once and in order, or lost, late or doubled.
//!
//! A connection either receives one stream from its first message to the last, or it subscribes to several: then it may
//! join late, leave early and change its room. The messages of a late subscriber count from the first one that it
//! received, those of one that left up to the last one. In between none may be missing.

pub(crate) mod visits;

use std::ops::Range;

use derive_more::AddAssign;
use serde::{Deserialize, Serialize};

/// A jump of more sequence numbers than this is not a gap but a foreign message.
const GAP_MAX: u64 = 1 << 24;

/// A stream of messages: of a room, of a key or of the broadcasts. As their run, its messages carry the number of the
/// run plus that of the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StreamId {
    pub kind: u32,
    pub number: u32,
}

impl StreamId {
    pub(crate) const ROOM: u32 = 0;
    pub(crate) const KEY: u32 = 1;
    pub(crate) const BROADCAST: u32 = 2;
    /// Rooms that connections visit besides their own.
    pub(crate) const FURTHER: u32 = 3;
    /// The number of kinds.
    pub(crate) const KINDS: u32 = 4;

    pub(crate) fn room(number: usize) -> Self {
        Self { kind: Self::ROOM, number: as_u32(number) }
    }

    pub(crate) fn key(number: usize) -> Self {
        Self { kind: Self::KEY, number: as_u32(number) }
    }

    pub(crate) fn further(number: usize) -> Self {
        Self { kind: Self::FURTHER, number: as_u32(number) }
    }

    pub(crate) fn broadcast() -> Self {
        Self { kind: Self::BROADCAST, number: 0 }
    }
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).expect("connections and rooms are numbered by u32")
}

/// The accounts of all connections in a run.
#[derive(Default, Debug)]
pub(crate) struct Accounts {
    /// By connection; unused where the connection has subscriptions.
    single: Vec<Account>,
    /// By connection; empty for those with a single stream. Shorter than the number of connections if the last ones
    /// have none.
    subscriptions: Vec<Vec<Account>>,
    /// The number of callers that take turns at each stream: a message must come after those that its own caller sent
    /// before it, in any order with those of the others. 0 means one.
    pub callers: u64,
    of_single: Deliveries,
    of_subscribers: Deliveries,
}

/// One connection's account of one stream.
#[derive(Debug)]
struct Account {
    stream: StreamId,
    /// The sequence number after the highest received.
    next: u64,
    /// Sequence numbers below `next` that have not arrived, ascending; nearly always empty.
    missing: Vec<Range<u64>>,
    /// Sequence numbers from `next` on that need not arrive; nearly always empty.
    excused: Vec<u64>,
    /// Whether `next` is known: false for a late subscriber before its first message.
    has_joined: bool,
    /// Whether the connection is expected to receive everything up to the last message.
    stays: bool,
}

/// The outcome of the messages in a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct Deliveries {
    /// Messages sent to each stream, times its connections. For subscribers, the sum of received and lost.
    pub expected: u64,
    /// Messages that arrived, each counted once.
    pub received: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Messages that arrived after a later one of the same caller and stream.
    pub out_of_order: u64,
    /// Messages that arrived again.
    pub duplicate: u64,
    /// Messages that arrived at a connection that they were not for, or that somebody else sent.
    pub foreign: u64,
}

impl Accounts {
    /// Opens the account of the next connection, which is expected to receive this one stream.
    pub(crate) fn open(&mut self, stream: u32) {
        let stream = StreamId { kind: StreamId::ROOM, number: stream };
        self.single.push(Account::new(stream, true));
    }

    /// Empties all accounts and ends all subscriptions; the connections and their single streams stay.
    pub(crate) fn restart(&mut self) {
        let mut single = std::mem::take(&mut self.single);
        for account in &mut single {
            account.next = 0;
            account.missing.clear();
        }
        *self = Self { single, callers: self.callers, ..Self::default() };
    }

    /// From now on the connection may receive `stream`, and must receive all of it if `from_the_start` is set. Its
    /// single stream no longer counts.
    pub(crate) fn subscribe(&mut self, connection: usize, stream: StreamId, from_the_start: bool) {
        if self.subscriptions.len() <= connection {
            self.subscriptions.resize_with(connection + 1, Vec::new);
        }
        let accounts = &mut self.subscriptions[connection];
        // A connection that comes back to a room may have missed messages in between.
        for earlier in accounts.extract_if(.., |account| account.stream == stream) {
            self.of_subscribers.lost += earlier.missing();
        }
        accounts.push(Account::new(stream, from_the_start));
    }

    /// The connection is closed: what its subscriptions have not delivered by now is not missing.
    pub(crate) fn unsubscribe(&mut self, connection: usize) {
        for account in self.subscriptions.get_mut(connection).into_iter().flatten() {
            account.stays = false;
        }
    }

    /// No subscriber needs to receive this message: its caller was told that the push had failed.
    pub(crate) fn excuse(&mut self, stream: StreamId, sequence: u64) {
        let accounts = self.subscriptions.iter_mut().flatten();
        for account in accounts.filter(|account| account.stream == stream) {
            if sequence >= account.next {
                account.excused.push(sequence);
            } else {
                account.fill(sequence);
            }
        }
    }

    /// Whether the connection has subscriptions.
    pub(crate) fn is_subscriber(&self, connection: usize) -> bool {
        self.subscriptions.get(connection).is_some_and(|accounts| !accounts.is_empty())
    }

    /// Distinct deliveries so far.
    pub(crate) fn received(&self) -> u64 {
        self.of_single.received + self.of_subscribers.received
    }

    /// The single stream of a connection, and the sequence number after the highest one received.
    pub(crate) fn next(&self, connection: usize) -> (u32, u64) {
        let account = &self.single[connection];
        (account.stream.number, account.next)
    }

    /// Records `count` deliveries of a single stream that arrived in order, beginning with the next one expected.
    pub(crate) fn record_next(&mut self, connection: usize, count: u64) {
        self.single[connection].next += count;
        self.of_single.received += count;
    }

    /// Records a delivery.
    pub(crate) fn record(&mut self, connection: usize, stream: StreamId, sequence: u64) {
        let callers = self.callers.max(1);
        let (accounts, sums) = if self.is_subscriber(connection) {
            (self.subscriptions[connection].as_mut_slice(), &mut self.of_subscribers)
        } else {
            (std::slice::from_mut(&mut self.single[connection]), &mut self.of_single)
        };
        match accounts.iter_mut().find(|account| account.stream == stream) {
            Some(account) => account.record(sequence, callers, sums),
            None => sums.foreign += 1,
        }
    }

    /// Records a message that the bench did not send in this run.
    pub(crate) fn record_foreign(&mut self) {
        self.of_single.foreign += 1;
    }

    /// The outcome of the messages to connections with a single stream, and of those to subscribers. Both arguments
    /// hold the number of messages sent to each stream, by kind; they are empty if there are no such connections.
    pub(crate) fn close(&self, to_single: &[Vec<u64>], sent: &[Vec<u64>]) -> [Deliveries; 2] {
        let (expected, lost) = self.lost_by(to_single, |_| true);
        let single = Deliveries { expected, lost, ..self.of_single };
        let mut subscribers = self.of_subscribers;
        let accounts = self.subscriptions.iter().flatten();
        subscribers.lost += accounts.map(|account| account.lost(sent)).sum::<u64>();
        subscribers.expected = subscribers.received + subscribers.lost;
        [single, subscribers]
    }

    /// The number of messages that the connections with a single stream for which `is_one` holds should have received,
    /// and of those they did not receive.
    pub(crate) fn lost_by(&self, sent: &[Vec<u64>], is_one: impl Fn(usize) -> bool) -> (u64, u64) {
        let accounts = self.single.iter().enumerate();
        let those = accounts.filter(|(index, _)| !self.is_subscriber(*index) && is_one(*index));
        those.fold((0, 0), |(expected, lost), (_, account)| {
            (expected + account.sent(sent), lost + account.lost(sent))
        })
    }
}

impl Account {
    fn new(stream: StreamId, from_the_start: bool) -> Self {
        let (has_joined, stays) = (from_the_start, from_the_start);
        let (missing, excused) = (Vec::new(), Vec::new());
        Self { stream, next: 0, missing, excused, has_joined, stays }
    }

    fn record(&mut self, sequence: u64, callers: u64, sums: &mut Deliveries) {
        if !std::mem::replace(&mut self.has_joined, true) {
            self.next = sequence;
        }
        let next = self.next;
        if sequence >= next {
            if sequence - next > GAP_MAX {
                sums.foreign += 1;
                return;
            }
            if sequence > next {
                self.missing.push(next..sequence);
            }
            self.next = sequence + 1;
            for excused in self.excused.extract_if(.., |at| *at <= sequence).collect::<Vec<_>>() {
                self.fill(excused);
            }
            sums.received += 1;
        } else if self.fill(sequence) {
            sums.out_of_order += u64::from(self.has_later(sequence, callers));
            sums.received += 1;
        } else {
            sums.duplicate += 1;
        }
    }

    /// Whether a later message of the same caller as `sequence`, one of `callers`, has arrived.
    fn has_later(&self, sequence: u64, callers: u64) -> bool {
        let is_missing = |later| self.missing.iter().any(|gap| gap.contains(&later));
        (sequence + callers..self.next).step_by(callers as usize).any(|later| !is_missing(later))
    }

    /// Removes `sequence` from the missing ones; false if it is not missing.
    fn fill(&mut self, sequence: u64) -> bool {
        let Some(index) = self.missing.iter().position(|gap| gap.contains(&sequence)) else {
            return false;
        };
        let gap = self.missing[index].clone();
        let halves = [gap.start..sequence, sequence + 1..gap.end];
        self.missing.splice(index..=index, halves.into_iter().filter(|half| !half.is_empty()));
        true
    }

    fn missing(&self) -> u64 {
        self.missing.iter().map(|gap| gap.end - gap.start).sum()
    }

    fn sent(&self, sent: &[Vec<u64>]) -> u64 {
        let streams = sent.get(self.stream.kind as usize);
        let sent = streams.and_then(|streams| streams.get(self.stream.number as usize));
        sent.copied().unwrap_or(0)
    }

    fn lost(&self, sent: &[Vec<u64>]) -> u64 {
        let to_come = self.sent(sent).saturating_sub(self.next);
        let to_come = to_come.saturating_sub(self.excused.len() as u64);
        self.missing() + if self.stays { to_come } else { 0 }
    }
}

impl Deliveries {
    /// The difference to `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            expected: self.expected - earlier.expected,
            received: self.received - earlier.received,
            // A missing message may still arrive.
            lost: self.lost.saturating_sub(earlier.lost),
            out_of_order: self.out_of_order - earlier.out_of_order,
            duplicate: self.duplicate - earlier.duplicate,
            foreign: self.foreign - earlier.foreign,
        }
    }

    /// The faults as sentences; none if each message arrived once and in order, and the server counted exactly those as
    /// `dropped` that did not arrive.
    pub(crate) fn faults(&self, dropped: u64) -> Vec<String> {
        let mut faults = Vec::new();
        if self.lost != dropped {
            faults.push(format!(
                "{} of {} deliveries lost, where the server counted {dropped} as dropped",
                self.lost, self.expected
            ));
        }
        for (count, what) in [
            (self.out_of_order, "out of order"),
            (self.duplicate, "received twice"),
            (self.foreign, "at a connection they were not for"),
        ] {
            if count > 0 {
                faults.push(format!("{count} deliveries {what}"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: StreamId = StreamId { kind: StreamId::ROOM, number: 1 };

    /// Received, lost, out of order, duplicate and foreign.
    fn figures(is: Deliveries) -> [u64; 5] {
        [is.received, is.lost, is.out_of_order, is.duplicate, is.foreign]
    }

    #[test]
    fn pushes_reported_as_failed_do_not_count_as_lost() {
        let mut accounts = Accounts::default();
        accounts.open(0);
        accounts.subscribe(0, ROOM, true);
        for sequence in [0, 2, 3] {
            accounts.record(0, ROOM, sequence);
        }
        // Already missing, received nevertheless, missing later, and missing at the end.
        for sequence in [1, 2, 5, 8] {
            accounts.excuse(ROOM, sequence);
        }
        accounts.record(0, ROOM, 7);
        let [_, found] = accounts.close(&[], &[vec![0, 9]]);
        assert_eq!(figures(found), [4, 2, 0, 0, 0], "4 and 6");
    }

    /// Accounts of one connection to stream 0, whose messages come from `callers` callers.
    fn single(callers: u64, sequences: &[u64]) -> Accounts {
        let mut accounts = Accounts { callers, ..Accounts::default() };
        accounts.open(0);
        for &sequence in sequences {
            accounts.record(0, StreamId::room(0), sequence);
        }
        accounts
    }

    #[test]
    fn each_outcome_is_distinguished() {
        let check = |sequences: &[u64], sent, expected: [u64; 4]| {
            let [is, _] = single(1, sequences).close(&[vec![sent]], &[vec![sent]]);
            assert_eq!(is.expected, sent);
            assert_eq!(figures(is)[..4], expected, "{sequences:?}");
        };
        check(&[0, 1, 2], 3, [3, 0, 0, 0]);
        check(&[], 3, [0, 3, 0, 0]);
        check(&[0, 1], 3, [2, 1, 0, 0]);
        check(&[0, 2], 3, [2, 1, 0, 0]);
        check(&[0, 2, 1], 3, [3, 0, 1, 0]);
        check(&[2, 1, 0], 3, [3, 0, 2, 0]);
        check(&[0, 0, 1, 1, 2], 3, [3, 0, 0, 2]);
        check(&[0, 5, 3, 3], 8, [3, 5, 1, 1]);
    }

    #[test]
    fn callers_overtake_each_other_and_not_themselves() {
        let check = |sequences: &[u64], expected: [u64; 4]| {
            let [is, _] = single(3, &[sequences, &[9]].concat()).close(&[vec![10]], &[vec![10]]);
            assert_eq!(figures(is)[..4], expected, "of {sequences:?} and 9");
        };
        check(&[2, 0, 1, 5, 3, 4, 8, 7, 6], [10, 0, 0, 0]);
        check(&[0, 3, 6, 1, 4, 7, 2, 5, 8], [10, 0, 0, 0]);
        // 3 after 6, and 1 after 4 and 7.
        check(&[0, 6, 3, 4, 7, 1, 2, 5, 8], [10, 0, 2, 0]);
        // 4 is lost, and 1 arrives before it, out of order.
        check(&[0, 3, 6, 2, 1, 7, 5, 8], [9, 1, 0, 0]);
        check(&[8, 0, 3, 0, 8, 6], [5, 5, 0, 2]);
    }

    #[test]
    fn a_gap_is_split_by_a_message_in_its_middle() {
        let mut accounts = single(1, &[10, 5]);
        assert_eq!(accounts.single[0].missing, [0..5, 6..10]);
        accounts.record(0, StreamId::room(0), 0);
        accounts.record(0, StreamId::room(0), 9);
        assert_eq!(accounts.single[0].missing, [1..5, 6..9]);
    }

    #[test]
    fn messages_for_others_are_foreign() {
        let mut accounts = single(1, &[]);
        accounts.open(1);
        accounts.record(0, ROOM, 0);
        accounts.record(0, StreamId::key(0), 0);
        accounts.record(1, ROOM, GAP_MAX + 1);
        accounts.record_foreign();
        let [is, _] = accounts.close(&[vec![1, 1]], &[vec![1, 1]]);
        assert_eq!(figures(is), [0, 2, 0, 0, 4]);
    }

    #[test]
    fn restarted_accounts_are_empty() {
        let mut accounts = single(1, &[3]);
        accounts.record(0, ROOM, 0);
        accounts.subscribe(0, ROOM, true);
        accounts.restart();
        accounts.record(0, StreamId::room(0), 0);
        let received = Deliveries { expected: 1, received: 1, ..Deliveries::default() };
        assert_eq!(accounts.close(&[vec![1, 9]], &[vec![1, 9]]), [received, Deliveries::default()]);
    }

    #[test]
    fn losses_that_the_server_counted_are_no_fault() {
        let deliveries = Deliveries { expected: 10, received: 8, lost: 2, ..Default::default() };
        assert!(deliveries.faults(2).is_empty());
        assert_eq!(deliveries.faults(1).len(), 1);
        assert_eq!(deliveries.faults(3).len(), 1, "more dropped than lost");
        let worse = Deliveries { out_of_order: 1, duplicate: 1, foreign: 1, ..deliveries };
        assert_eq!(worse.faults(0).len(), 4);
    }

    #[test]
    fn a_subscriber_misses_nothing_between_its_first_and_its_last() {
        let check = |from_the_start, sequences: &[u64], expected: [u64; 4]| {
            let mut accounts = Accounts::default();
            accounts.subscribe(3, ROOM, from_the_start);
            for &sequence in sequences {
                accounts.record(3, ROOM, sequence);
            }
            let [_, is] = accounts.close(&[vec![0, 10]], &[vec![0, 10]]);
            assert_eq!(figures(is)[..4], expected, "{sequences:?}");
            assert_eq!(is.expected, is.received + is.lost);
        };
        check(false, &[], [0, 0, 0, 0]);
        check(false, &[4, 5, 6], [3, 0, 0, 0]);
        check(false, &[4, 7], [2, 2, 0, 0]);
        check(false, &[4, 7, 5], [3, 1, 1, 0]);
        check(false, &[4, 5, 5, 4], [2, 0, 0, 2]);
        check(true, &[], [0, 10, 0, 0]);
        check(true, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 0, 0, 0]);
        check(true, &[1, 2], [2, 8, 0, 0]);
    }

    #[test]
    fn messages_after_a_connection_closed_do_not_count_as_lost() {
        let mut accounts = Accounts::default();
        accounts.subscribe(0, ROOM, true);
        accounts.record(0, ROOM, 0);
        accounts.unsubscribe(0);
        accounts.unsubscribe(7);
        let [_, is] = accounts.close(&[vec![0, 10]], &[vec![0, 10]]);
        assert_eq!(figures(is), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn a_subscriber_has_several_streams_and_may_come_back_to_one() {
        let mut accounts = Accounts::default();
        assert!(!accounts.is_subscriber(0));
        accounts.subscribe(0, ROOM, false);
        accounts.subscribe(0, StreamId::key(1), true);
        accounts.record(0, ROOM, 5);
        accounts.record(0, ROOM, 7);
        accounts.record(0, StreamId::key(1), 0);
        accounts.subscribe(0, StreamId::room(0), false);
        accounts.record(0, StreamId::room(0), 100);
        accounts.subscribe(0, ROOM, false);
        accounts.record(0, ROOM, 90);
        accounts.record(0, StreamId::broadcast(), 0);
        assert!(accounts.is_subscriber(0) && !accounts.is_subscriber(1));
        let [_, is] = accounts.close(&[vec![200, 100], vec![0, 1]], &[vec![200, 100], vec![0, 1]]);
        assert_eq!(figures(is), [5, 1, 0, 0, 1]);
    }
}
