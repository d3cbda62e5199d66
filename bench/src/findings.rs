//! What the receiving side of a run has found, of one process or of several together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::accounting::Deliveries;
use crate::stats::{latency_histogram, pairs};

/// Everything that was booked since the books were opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// From the intended send to the read that brought it, in ns.
    #[serde(with = "pairs")]
    pub latencies: Histogram<u64>,
    /// The same of connections that are slow to read.
    #[serde(with = "pairs")]
    pub impaired_latencies: Histogram<u64>,
    /// From connect(2), or when it was due, to the reply to the authentication, in ns.
    #[serde(with = "pairs")]
    pub handshakes: Histogram<u64>,
    /// From when a heartbeat was due to its reply, in ns.
    #[serde(with = "pairs")]
    pub round_trips: Histogram<u64>,
    pub heartbeats_sent: u64,
    /// Connections that the server closed, by reason; over all restarts.
    pub closed: BTreeMap<String, u64>,
    /// Of these, those that read at once.
    pub healthy_closed: u64,
}

/// What guests did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GuestSums {
    pub arrived: u64,
    /// Were due to arrive, when there were as many as files allow.
    pub turned_away: u64,
    /// Left before their handshake was over.
    pub gave_up: u64,
    /// Have heard that they are in another room.
    pub moved: u64,
    /// The most there were at once.
    pub present_max: u64,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            deliveries: Deliveries::default(),
            healthy_expected: 0,
            healthy_lost: 0,
            open_lost: 0,
            visits: Deliveries::default(),
            guests: GuestSums::default(),
            latencies: latency_histogram(),
            impaired_latencies: latency_histogram(),
            handshakes: latency_histogram(),
            round_trips: latency_histogram(),
            heartbeats_sent: 0,
            closed: BTreeMap::new(),
            healthy_closed: 0,
        }
    }
}

impl Findings {
    /// Adds those of another process.
    pub(crate) fn add(&mut self, other: &Self) {
        self.deliveries.add(&other.deliveries);
        self.healthy_expected += other.healthy_expected;
        self.healthy_lost += other.healthy_lost;
        self.open_lost += other.open_lost;
        self.visits.add(&other.visits);
        self.guests.add(&other.guests);
        for (mine, theirs) in [
            (&mut self.latencies, &other.latencies),
            (&mut self.impaired_latencies, &other.impaired_latencies),
            (&mut self.handshakes, &other.handshakes),
            (&mut self.round_trips, &other.round_trips),
        ] {
            mine.add(theirs).expect("all latency histograms have the same bounds");
        }
        self.heartbeats_sent += other.heartbeats_sent;
        for (reason, count) in &other.closed {
            *self.closed.entry(reason.clone()).or_default() += count;
        }
        self.healthy_closed += other.healthy_closed;
    }

    /// Forgets all that is counted from a restart on, where the memory is.
    pub(crate) fn restart(&mut self) {
        self.latencies.reset();
        self.impaired_latencies.reset();
        self.handshakes.reset();
        self.round_trips.reset();
        self.heartbeats_sent = 0;
        self.guests = GuestSums::default();
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
pub(crate) fn close_fault(closed: &BTreeMap<String, u64>) -> Option<String> {
    let count: u64 = closed.values().sum();
    (count > 0).then(|| format!("{count} connections closed: {closed:?}"))
}

impl GuestSums {
    fn add(&mut self, other: &Self) {
        self.arrived += other.arrived;
        self.turned_away += other.turned_away;
        self.gave_up += other.gave_up;
        self.moved += other.moved;
        // Not at the same moment in all processes, but close.
        self.present_max += other.present_max;
    }
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
        one.closed.insert("replaced".to_owned(), 1);
        (one.open_lost, one.healthy_closed) = (1, 1);
        let line = serde_json::to_string(&one).unwrap();
        assert!(!line.contains('\n'));
        let read: Findings = serde_json::from_str(&line).unwrap();
        assert_eq!(read.latencies, one.latencies);
        let mut both = one.clone();
        both.add(&read);
        assert_eq!(both.latencies.len(), 8);
        assert_eq!((both.deliveries.expected, both.lost()), (10, 2));
        assert_eq!((both.visits.received, both.guests.arrived), (14, 4));
        assert_eq!((both.unanswered(), Findings::default().idle_faults().count()), (6, 0));
        assert_eq!((both.open_lost, both.healthy_closed), (2, 2));
        let faults: Vec<_> = both.idle_faults().collect();
        assert_eq!(faults, ["6 heartbeats unanswered", "2 connections closed: {\"replaced\": 2}"]);
    }
}
