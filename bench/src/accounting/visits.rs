//! Accounts of connections that enter a room and leave it again, where the messages of the room are sent at regular
//! times. So it also shows if the first messages after the connection entered are missing, or the last ones before it
//! left.

use std::collections::HashMap;

use super::{Account, Deliveries, StreamId};
use crate::clock::SECOND_NS;

/// A message that was due this long before the request to leave must have been delivered by then.
const MARGIN_NS: u64 = 2 * SECOND_NS;

/// The visits of all connections.
#[derive(Default, Debug)]
pub(crate) struct VisitAccounts {
    /// Time between two messages of a room.
    period_ns: u64,
    /// The visits under way, by connection.
    present: HashMap<usize, Vec<Visit>>,
    ended: Vec<Account>,
    sums: Deliveries,
    /// The number of visits that began.
    pub begun: u64,
}

#[derive(Debug)]
struct Visit {
    account: Account,
    /// When the last message received was due; before the first one, when the connection was told that it had entered.
    last_ns: u64,
    is_empty: bool,
    /// When the request to leave was sent.
    leaves_ns: Option<u64>,
}

impl VisitAccounts {
    /// Clears everything. `period_ns` is the time between two messages of a room.
    pub(crate) fn restart(&mut self, period_ns: u64) {
        *self = Self { period_ns, ..Self::default() };
    }

    /// The connection was told that it is in the room.
    pub(crate) fn begin(&mut self, connection: usize, stream: StreamId, now_ns: u64) {
        let account = Account::new(stream, false);
        let visit = Visit { account, last_ns: now_ns, is_empty: true, leaves_ns: None };
        self.present.entry(connection).or_default().push(visit);
        self.begun += 1;
    }

    /// The connection asks to leave.
    pub(crate) fn leave(&mut self, connection: usize, stream: StreamId, now_ns: u64) {
        if let Some(visit) = self.find(connection, stream) {
            visit.leaves_ns = Some(now_ns);
        }
    }

    /// The connection was told that it has left; false if it was not there.
    pub(crate) fn end(&mut self, connection: usize, stream: StreamId) -> bool {
        let period_ns = self.period_ns;
        let Some(visits) = self.present.get_mut(&connection) else { return false };
        let Some(at) = visits.iter().position(|visit| visit.account.stream == stream) else {
            return false;
        };
        let Visit { mut account, last_ns, is_empty, leaves_ns } = visits.swap_remove(at);
        if visits.is_empty() {
            self.present.remove(&connection);
        }
        // Messages that were due after the last one received, and well before the request to leave. If none was
        // received, the first one may be a whole period away.
        let end_ns = leaves_ns.unwrap_or(last_ns).saturating_sub(MARGIN_NS);
        let missing = end_ns.saturating_sub(last_ns) / period_ns.max(1);
        if missing > 0 {
            let from = if is_empty { 0 } else { account.next };
            account.missing.push(from..from + missing);
        }
        self.ended.push(account);
        true
    }

    pub(crate) fn record(
        &mut self,
        connection: usize,
        stream: StreamId,
        (sequence, intended_ns): (u64, u64),
    ) {
        let period_ns = self.period_ns.max(1);
        let mut sums = self.sums;
        match self.find(connection, stream) {
            None => sums.foreign += 1,
            Some(visit) => {
                if std::mem::take(&mut visit.is_empty) {
                    // Messages that were due after the connection entered, and before this one.
                    let time_ns = intended_ns.saturating_sub(visit.last_ns + 1);
                    visit.account.has_joined = true;
                    visit.account.next = sequence.saturating_sub(time_ns / period_ns);
                }
                visit.last_ns = visit.last_ns.max(intended_ns);
                visit.account.record(sequence, 1, &mut sums);
            }
        }
        self.sums = sums;
    }

    /// As [`super::Accounts::excuse`].
    pub(crate) fn excuse(&mut self, stream: StreamId, sequence: u64) {
        let present = self.present.values_mut().flatten().map(|visit| &mut visit.account);
        let accounts = present.chain(&mut self.ended);
        for account in accounts.filter(|account| account.stream == stream) {
            if sequence >= account.next {
                account.excused.push(sequence);
            } else {
                account.fill(sequence);
            }
        }
    }

    /// The outcome of the messages.
    pub(crate) fn close(&self) -> Deliveries {
        let present = self.present.values().flatten().map(|visit| &visit.account);
        let lost = present.chain(&self.ended).map(Account::missing).sum();
        Deliveries { expected: self.sums.received + lost, lost, ..self.sums }
    }

    fn find(&mut self, connection: usize, stream: StreamId) -> Option<&mut Visit> {
        let visits = self.present.get_mut(&connection)?;
        visits.iter_mut().find(|visit| visit.account.stream == stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: StreamId = StreamId { kind: StreamId::FURTHER, number: 3 };
    const PERIOD_NS: u64 = SECOND_NS;

    /// One connection that is told at 10.5 s that it has entered, receives these messages, of which number n was due at
    /// n seconds, and asks to leave at 20.5 s.
    #[track_caller]
    fn check(sequences: &[u64], received: u64, lost: u64) {
        let mut accounts = VisitAccounts::default();
        accounts.restart(PERIOD_NS);
        accounts.begin(0, ROOM, 10_500_000_000);
        for &sequence in sequences {
            accounts.record(0, ROOM, (sequence, sequence * PERIOD_NS));
        }
        accounts.leave(0, ROOM, 20_500_000_000);
        assert!(accounts.end(0, ROOM) && !accounts.end(0, ROOM));
        let is = accounts.close();
        assert_eq!((is.received, is.lost, is.duplicate, is.foreign), (received, lost, 0, 0));
        assert_eq!(is.expected, received + lost);
    }

    #[test]
    fn messages_missing_at_the_ends_of_a_visit_are_found() {
        check(&[11, 12, 13, 14, 15, 16, 17, 18], 8, 0);
        // The client may be in the room before it learns that it has entered, and after it asked to leave.
        check(&[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], 11, 0);
        check(&[12, 13, 14, 15, 16, 17, 18], 7, 1);
        check(&[11, 12, 13, 14, 15, 16], 6, 2);
        check(&[11, 12, 14, 15, 16, 17, 18], 7, 1);
        check(&[], 0, 8);
    }

    #[test]
    fn messages_outside_of_visits_are_foreign_and_failed_pushes_are_no_loss() {
        let mut accounts = VisitAccounts::default();
        accounts.restart(PERIOD_NS);
        accounts.record(0, ROOM, (1, PERIOD_NS));
        accounts.begin(0, ROOM, PERIOD_NS);
        for sequence in [2, 4] {
            accounts.record(0, ROOM, (sequence, sequence * PERIOD_NS));
        }
        accounts.leave(0, ROOM, 4 * PERIOD_NS);
        accounts.end(0, ROOM);
        accounts.record(0, ROOM, (5, 5 * PERIOD_NS));
        accounts.excuse(ROOM, 3);
        let is = accounts.close();
        assert_eq!((is.received, is.lost, is.foreign), (2, 0, 2));
    }
}
