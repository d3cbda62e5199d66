//! What runs with logic services have covered.

use std::fmt;
use std::ops::AddAssign;

use crate::logic_faults::Fault;

/// What the services of a run have covered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogicSummary {
    /// Attempts of calls.
    pub attempts: u64,
    /// Of those, attempts after the first.
    pub retries: u64,
    /// Attempts that were given up at their deadline.
    pub abandoned: u64,
    /// Attempts with a fault, by fault.
    pub faults: [u64; 9],
    /// Calls carried out after the client had stopped waiting for their answer.
    pub late_deeds: u64,
    /// Sessions renewed.
    pub renewals: u64,
    /// Renewals that were given up and returned to the shards.
    pub renewals_failed: u64,
    /// Sessions that were ended.
    pub departures: u64,
    /// Sessions that expired.
    pub expired: u64,
    /// Client messages that were refused.
    pub failures: u64,
    /// Notices that were given up.
    pub notices_dropped: u64,
    /// Addresses that went down.
    pub outages: u64,
    /// Times that room counts of other servers arrived.
    pub room_counts: u64,
}

impl AddAssign for LogicSummary {
    fn add_assign(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.retries += other.retries;
        self.abandoned += other.abandoned;
        for (sum, count) in self.faults.iter_mut().zip(other.faults) {
            *sum += count;
        }
        self.late_deeds += other.late_deeds;
        self.renewals += other.renewals;
        self.renewals_failed += other.renewals_failed;
        self.departures += other.departures;
        self.expired += other.expired;
        self.failures += other.failures;
        self.notices_dropped += other.notices_dropped;
        self.outages += other.outages;
        self.room_counts += other.room_counts;
    }
}

impl fmt::Display for LogicSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, retries, abandoned, late_deeds, outages, .. } = self;
        writeln!(
            f,
            "attempts at logic: {attempts}, {retries} of them again, {abandoned} abandoned, \
             {late_deeds} deeds late; {outages} outages"
        )?;
        let Self { renewals, renewals_failed, departures, expired, failures, .. } = self;
        let Self { notices_dropped, room_counts, .. } = self;
        writeln!(
            f,
            "sessions at logic: {renewals} renewals, {renewals_failed} failed, {departures} \
             departures, {expired} expired, {notices_dropped} notices dropped"
        )?;
        writeln!(f, "messages refused: {failures}; room counts: {room_counts}")?;
        let named = Fault::RANDOM.into_iter().chain([Fault::Down]);
        let faults: Vec<_> = named.map(|fault| (fault, self.faults[fault as usize])).collect();
        write!(f, "faults of attempts: {faults:?}")
    }
}
