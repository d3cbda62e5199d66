//! What the receiving side of a run has found, of one process or of several together.

use derive_more::AddAssign;
use serde::{Deserialize, Serialize};

use crate::accounting::Deliveries;
use crate::stats::{Latencies, Reasons};

/// Everything that was booked since the books were opened.
#[derive(Clone, Default, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct Findings {
    /// Of those that are there from the beginning to the end.
    pub deliveries: Deliveries,
    /// Of these deliveries, what those that read at once were to receive, and did not.
    pub healthy_expected: u64,
    pub healthy_lost: u64,
    /// Of all that is lost of these deliveries, what connections miss that are open.
    pub open_lost: u64,
    /// Of all others.
    pub visits: Deliveries,
    pub guests: GuestSums,
    pub joins: JoinSums,
    pub talk: TalkSums,
    /// From the intended send to the read that brought it, in ns.
    pub latencies: Latencies,
    /// The same of connections that are slow to read.
    pub impaired_latencies: Latencies,
    /// From connect(2), or when it was due, to the reply to the authentication, in ns.
    pub handshakes: Latencies,
    /// From when a heartbeat was due to its reply, in ns.
    pub round_trips: Latencies,
    /// The longest time without a message of its room of each connection, less the time between two of them, in ns;
    /// while it is measured.
    pub pauses: Latencies,
    pub heartbeats_sent: u64,
    /// Bytes that came on all connections.
    pub received_bytes: u64,
    /// Connections that the server closed, by reason; over all restarts.
    pub closed: Reasons,
    /// Of these, those that read at once.
    pub healthy_closed: u64,
}

/// What guests did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct GuestSums {
    pub arrived: u64,
    /// Were due to arrive, when there were as many as files allow.
    pub turned_away: u64,
    /// Left before their handshake was over.
    pub gave_up: u64,
    /// Have heard that they are in another room.
    pub moved: u64,
    /// The most there were at once. Those of several processes were not at the same moment, but close.
    pub present_max: u64,
}

/// What clients said to logic.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct TalkSums {
    pub sent: u64,
    pub answered: u64,
}

/// What the server answered to requests for further rooms.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, AddAssign)]
pub(crate) struct JoinSums {
    pub joined: u64,
    pub refused: u64,
    /// Rooms that were left at the request of their visitors.
    pub left: u64,
    /// Requests of visitors, to enter and to leave.
    pub asked: u64,
}

impl JoinSums {
    pub(crate) fn answered(self) -> u64 {
        self.joined + self.refused
    }
}

impl Findings {
    /// Forgets all that is counted from a restart on, where the memory is.
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

    /// Deliveries that had to be made and were not.
    pub(crate) fn lost(&self) -> u64 {
        self.deliveries.lost + self.visits.lost
    }

    /// Heartbeats whose reply has not come.
    pub(crate) fn unanswered(&self) -> u64 {
        self.heartbeats_sent.saturating_sub(self.round_trips.len())
    }

    /// What is wrong with connections that only send heartbeats, in words: some are unanswered, or closed.
    pub(crate) fn idle_faults(&self) -> impl Iterator<Item = String> {
        let unanswered = Some(self.unanswered()).filter(|&count| count > 0);
        let silence = unanswered.map(|count| format!("{count} heartbeats unanswered"));
        silence.into_iter().chain(close_fault(&self.closed))
    }
}

/// Connections that the server closed, so many for each reason, in words.
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
