//! The findings of the receiving side of a run, from one process or from several together.

use derive_more::AddAssign;
use serde::{Deserialize, Serialize};

use crate::accounting::Deliveries;
use crate::stats::{Latencies, Reasons};

/// Everything that was counted since the last restart.
#[derive(Clone, Default, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct Findings {
    /// Deliveries to connections that are present from beginning to end.
    pub deliveries: Deliveries,
    /// Of these, the deliveries expected and lost at connections that do not read slowly.
    pub healthy_expected: u64,
    pub healthy_lost: u64,
    /// Of all lost deliveries, those to connections that are still open.
    pub open_lost: u64,
    /// Deliveries to all other connections.
    pub visits: Deliveries,
    pub guests: GuestSums,
    pub joins: JoinSums,
    pub talk: TalkSums,
    /// From the intended send to the read that brought it, in ns.
    pub latencies: Latencies,
    /// The same for connections that read slowly.
    pub impaired_latencies: Latencies,
    /// From connect(2), or from when it was due, to the reply to the authentication, in ns.
    pub handshakes: Latencies,
    /// From when a heartbeat was due to its reply, in ns.
    pub round_trips: Latencies,
    /// For each connection, the longest time without a message of its room, less the time between two messages, in ns;
    /// only while this is measured.
    pub pauses: Latencies,
    pub heartbeats_sent: u64,
    /// Bytes received on all connections.
    pub received_bytes: u64,
    /// Connections that the server closed, by reason; over all restarts.
    pub closed: Reasons,
    /// Of these, connections that do not read slowly.
    pub healthy_closed: u64,
}

/// What guests did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct GuestSums {
    pub arrived: u64,
    /// Guests that were due to arrive when there were as many as the limit of open files allows.
    pub turned_away: u64,
    /// Guests that left before their handshake was over.
    pub gave_up: u64,
    /// Guests that were told that they are in another room.
    pub moved: u64,
    /// The most that were present at once. The maxima of several processes were not at exactly the same moment, but
    /// close.
    pub present_max: u64,
}

/// The messages of clients to logic.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct TalkSums {
    pub sent: u64,
    pub answered: u64,
}

/// The server's answers to requests for further rooms.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct JoinSums {
    pub joined: u64,
    pub refused: u64,
    /// Rooms that were left at the request of their visitors.
    pub left: u64,
    /// Requests of visitors to enter and to leave.
    pub asked: u64,
}

impl JoinSums {
    pub(crate) fn answered(self) -> u64 {
        self.joined + self.refused
    }
}

impl Findings {
    /// Resets everything that is counted from a restart on, and keeps its memory.
    pub(crate) fn restart(&mut self) {
        self.latencies.reset();
        self.impaired_latencies.reset();
        self.handshakes.reset();
        self.round_trips.reset();
        self.heartbeats_sent = 0;
        self.received_bytes = 0;
        self.guests = GuestSums::default();
        self.joins = JoinSums::default();
        self.talk = TalkSums::default();
    }

    /// Deliveries that were expected and not made.
    pub(crate) fn lost(&self) -> u64 {
        self.deliveries.lost + self.visits.lost
    }

    /// Heartbeats whose reply has not arrived.
    pub(crate) fn unanswered(&self) -> u64 {
        self.heartbeats_sent.saturating_sub(self.round_trips.len())
    }

    /// The faults of connections that only send heartbeats, as sentences: some heartbeats are unanswered, or
    /// connections closed.
    pub(crate) fn idle_faults(&self) -> impl Iterator<Item = String> {
        let unanswered = Some(self.unanswered()).filter(|&count| count > 0);
        let silence = unanswered.map(|count| format!("{count} heartbeats unanswered"));
        silence.into_iter().chain(close_fault(&self.closed))
    }
}

/// A sentence on the connections that the server closed, with the number for each reason.
pub(crate) fn close_fault(closed: &Reasons) -> Option<String> {
    let count = closed.total();
    (count > 0).then(|| format!("{count} connections closed: {:?}", **closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_processes_add_up_over_a_pipe() {
        let mut one = Findings::default();
        for value in [1, 999, 1_000_003, u64::MAX] {
            one.latencies.saturating_record(value);
        }
        one.deliveries = Deliveries { expected: 5, received: 4, lost: 1, ..Deliveries::default() };
        one.visits.received = 7;
        one.heartbeats_sent = 4;
        one.round_trips.saturating_record(1);
        one.guests.arrived = 2;
        one.closed.add("replaced", 1);
        (one.open_lost, one.healthy_closed) = (1, 1);
        let line = serde_json::to_string(&one).unwrap();
        assert!(!line.contains('\n'));
        let read: Findings = serde_json::from_str(&line).unwrap();
        assert_eq!(read.latencies, one.latencies);
        let mut both = one.clone();
        both += read;
        assert_eq!(both.latencies.len(), 8);
        assert_eq!((both.deliveries.expected, both.lost()), (10, 2));
        assert_eq!((both.visits.received, both.guests.arrived), (14, 4));
        assert_eq!((both.unanswered(), Findings::default().idle_faults().count()), (6, 0));
        assert_eq!((both.open_lost, both.healthy_closed), (2, 2));
        let faults: Vec<_> = both.idle_faults().collect();
        assert_eq!(faults, ["6 heartbeats unanswered", "2 connections closed: {\"replaced\": 2}"]);
    }
}
