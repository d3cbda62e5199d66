//! Accounts for every delivery: received once and in order, or lost, late or doubled.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A jump beyond this many sequence numbers is no gap but a foreign message.
const GAP_MAX: u64 = 1 << 24;

/// The books of all connections of a run. A connection receives one stream: its room's or its key's.
#[derive(Debug)]
pub(crate) struct Accounts {
    connections: Vec<Account>,
    /// Who take turns at each stream: a message has to come after those that its own caller sent before it,
    /// and no others.
    pub callers: u64,
    received: u64,
    out_of_order: u64,
    duplicate: u64,
    foreign: u64,
}

#[derive(Debug)]
struct Account {
    stream: u32,
    /// The sequence number after the highest seen.
    next: u64,
    /// Sequence numbers below `next` that have not come, ascending; nearly always empty.
    missing: Vec<Range<u64>>,
}

/// What became of the messages of a run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Deliveries {
    /// Messages sent to each stream, times its connections.
    pub expected: u64,
    /// Came, each counted once.
    pub received: u64,
    /// Never came.
    pub lost: u64,
    /// Came after a later one of their caller and stream.
    pub out_of_order: u64,
    /// Came again.
    pub duplicate: u64,
    /// Came to a connection that they were not for, or were sent by somebody else.
    pub foreign: u64,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            connections: Vec::new(),
            callers: 1,
            received: 0,
            out_of_order: 0,
            duplicate: 0,
            foreign: 0,
        }
    }
}

impl Accounts {
    /// Opens the account of the next connection, which is to receive `stream`.
    pub(crate) fn open(&mut self, stream: u32) {
        self.connections.push(Account { stream, next: 0, missing: Vec::new() });
    }

    /// Empties the books; the connections and their streams stay.
    pub(crate) fn restart(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        for account in &mut connections {
            account.next = 0;
            account.missing.clear();
        }
        *self = Self { connections, callers: self.callers, ..Self::default() };
    }

    /// Distinct deliveries so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The stream of a connection, and the sequence number after the highest it has seen.
    pub(crate) fn next(&self, connection: usize) -> (u32, u64) {
        let account = &self.connections[connection];
        (account.stream, account.next)
    }

    /// Books `count` deliveries that came in order, the first of them being the next one.
    pub(crate) fn record_next(&mut self, connection: usize, count: u64) {
        self.connections[connection].next += count;
        self.received += count;
    }

    /// Books a delivery.
    pub(crate) fn record(&mut self, connection: usize, stream: u32, sequence: u64) {
        let account = &mut self.connections[connection];
        if account.stream != stream {
            self.foreign += 1;
        } else if sequence == account.next {
            account.next += 1;
            self.received += 1;
        } else if sequence > account.next {
            if sequence - account.next > GAP_MAX {
                self.foreign += 1;
                return;
            }
            account.missing.push(account.next..sequence);
            account.next = sequence + 1;
            self.received += 1;
        } else if account.fill(sequence) {
            self.out_of_order += u64::from(account.has_later(sequence, self.callers));
            self.received += 1;
        } else {
            self.duplicate += 1;
        }
    }

    /// Books what no bench of this run has sent.
    pub(crate) fn record_foreign(&mut self) {
        self.foreign += 1;
    }

    /// Closes the books: `sent` has the number of messages of each stream.
    pub(crate) fn close(&self, sent: &[u64]) -> Deliveries {
        let (expected, lost) = self.lost_by(sent, |_| true);
        Deliveries {
            expected,
            received: self.received,
            lost,
            out_of_order: self.out_of_order,
            duplicate: self.duplicate,
            foreign: self.foreign,
        }
    }

    /// What the connections of a part were to receive, and did not.
    pub(crate) fn lost_by(&self, sent: &[u64], part: impl Fn(usize) -> bool) -> (u64, u64) {
        let mut expected = 0;
        let mut lost = 0;
        for (_, account) in self.connections.iter().enumerate().filter(|(index, _)| part(*index)) {
            let sent = sent.get(account.stream as usize).copied().unwrap_or(0);
            let missing: u64 = account.missing.iter().map(|gap| gap.end - gap.start).sum();
            expected += sent;
            lost += missing + sent.saturating_sub(account.next);
        }
        (expected, lost)
    }
}

impl Account {
    /// A message that the caller of `sequence`, one of so many, sent after it has come.
    fn has_later(&self, sequence: u64, callers: u64) -> bool {
        let is_missing = |later| self.missing.iter().any(|gap| gap.contains(&later));
        let mut later = (sequence + callers..self.next).step_by(callers as usize);
        later.any(|later| !is_missing(later))
    }

    /// Takes `sequence` from what is missing; false where it is not.
    fn fill(&mut self, sequence: u64) -> bool {
        let Some(index) = self.missing.iter().position(|gap| gap.contains(&sequence)) else {
            return false;
        };
        let gap = self.missing[index].clone();
        let halves = [gap.start..sequence, sequence + 1..gap.end];
        self.missing.splice(index..=index, halves.into_iter().filter(|half| !half.is_empty()));
        true
    }
}

impl Deliveries {
    /// Adds those of other connections.
    pub(crate) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.out_of_order += other.out_of_order;
        self.duplicate += other.duplicate;
        self.foreign += other.foreign;
    }

    /// The faults, in words; none where each message came once and in order, and the server said that it
    /// had dropped exactly what did not come.
    pub(crate) fn faults(&self, dropped: u64) -> Vec<String> {
        let mut faults = Vec::new();
        if self.lost != dropped {
            faults.push(format!(
                "{} of {} deliveries lost, where the server owned to {dropped}",
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

    /// One connection of stream 0 gets `sequences` of `sent` messages.
    fn check(sequences: &[u64], sent: u64, expected: [u64; 4]) {
        let mut accounts = Accounts::default();
        accounts.open(0);
        for &sequence in sequences {
            accounts.record(0, 0, sequence);
        }
        let is = accounts.close(&[sent]);
        assert_eq!(is.expected, sent);
        assert_eq!(
            [is.received, is.lost, is.out_of_order, is.duplicate],
            expected,
            "received, lost, out of order, duplicate of {sequences:?}"
        );
    }

    #[test]
    fn each_fate_is_told_from_the_others() {
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
            let mut accounts = Accounts { callers: 3, ..Accounts::default() };
            accounts.open(0);
            for &sequence in sequences {
                accounts.record(0, 0, sequence);
            }
            accounts.record(0, 0, 9);
            let is = accounts.close(&[10]);
            let fates = [is.received, is.lost, is.out_of_order, is.duplicate];
            assert_eq!(fates, expected, "of {sequences:?} and 9");
        };
        check(&[2, 0, 1, 5, 3, 4, 8, 7, 6], [10, 0, 0, 0]);
        check(&[0, 3, 6, 1, 4, 7, 2, 5, 8], [10, 0, 0, 0]);
        // 3 after 6, and 1 after 4 and 7.
        check(&[0, 6, 3, 4, 7, 1, 2, 5, 8], [10, 0, 2, 0]);
        // 4 is lost, and 1 comes before it could.
        check(&[0, 3, 6, 2, 1, 7, 5, 8], [9, 1, 0, 0]);
        check(&[8, 0, 3, 0, 8, 6], [5, 5, 0, 2]);
    }

    #[test]
    fn a_gap_is_split_by_what_fills_its_middle() {
        let mut accounts = Accounts::default();
        accounts.open(0);
        accounts.record(0, 0, 10);
        accounts.record(0, 0, 5);
        assert_eq!(accounts.connections[0].missing, [0..5, 6..10]);
        accounts.record(0, 0, 0);
        accounts.record(0, 0, 9);
        assert_eq!(accounts.connections[0].missing, [1..5, 6..9]);
    }

    #[test]
    fn strangers_are_foreign() {
        let mut accounts = Accounts::default();
        accounts.open(0);
        accounts.open(1);
        accounts.record(0, 1, 0);
        accounts.record(1, 1, GAP_MAX + 1);
        accounts.record_foreign();
        let is = accounts.close(&[1, 1]);
        assert_eq!((is.received, is.foreign, is.lost), (0, 3, 2));
    }

    #[test]
    fn restarted_books_begin_anew() {
        let mut accounts = Accounts::default();
        accounts.open(7);
        accounts.record(0, 7, 3);
        accounts.record(0, 8, 0);
        accounts.restart();
        accounts.record(0, 7, 0);
        let is = accounts.close(&[0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(is, Deliveries { expected: 1, received: 1, ..Deliveries::default() });
    }

    #[test]
    fn losses_the_server_owned_to_are_no_fault() {
        let deliveries = Deliveries { expected: 10, received: 8, lost: 2, ..Default::default() };
        assert!(deliveries.faults(2).is_empty());
        assert_eq!(deliveries.faults(1).len(), 1);
        assert_eq!(deliveries.faults(3).len(), 1, "a false confession");
        let worse = Deliveries { out_of_order: 1, duplicate: 1, foreign: 1, ..deliveries };
        assert_eq!(worse.faults(0).len(), 4);
    }
}
