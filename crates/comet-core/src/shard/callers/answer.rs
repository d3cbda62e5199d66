//! The state of a request, and its reply.

use comet_proto::push_frame::PushReply;

use crate::callers::OtherHostsTally;
use crate::ledger::{DropReason, Tally};

/// The state of a request: what became of its push so far.
pub(crate) struct CallState {
    /// The number of shards that have not reported.
    reports: u32,
    /// Partial tallies that were announced and have not arrived. Negative if they arrived before they were announced.
    partials: i64,
    tally: Tally,
    /// Whether the answer of the other hosts is still to come.
    awaits_hosts: bool,
    /// How many keys or users of the push other hosts hold, and how many hosts have not answered.
    held: u32,
    unanswered: u32,
    pub(super) failure: Option<Failure>,
    is_token: bool,
}

/// Why a request failed: a gRPC status code and a sentence.
pub(crate) struct Failure {
    status: u32,
    sentence: String,
}

impl Failure {
    /// The caller left.
    pub(crate) const CANCELLED: u32 = 1;
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const DEADLINE_EXCEEDED: u32 = 4;
    pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(super) const OUT_OF_RANGE: u32 = 11;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;

    pub(super) fn new(status: u32, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }

    pub(super) fn invalid(sentence: impl Into<String>) -> Self {
        Self::new(Self::INVALID_ARGUMENT, sentence)
    }

    /// The queue to a shard is full.
    pub(crate) fn mesh_full(shard: u16) -> Self {
        let sentence = format!("the queue to shard {shard} is full; try again later");
        Self::new(Self::RESOURCE_EXHAUSTED, sentence)
    }
}

impl CallState {
    pub(super) fn of_push(reports: u32) -> Self {
        Self {
            reports,
            partials: 0,
            tally: Tally::default(),
            awaits_hosts: false,
            held: 0,
            unanswered: 0,
            failure: None,
            is_token: false,
        }
    }

    /// A valid token is complete at once.
    pub(super) fn of_token() -> Self {
        Self { is_token: true, ..Self::of_push(0) }
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::of_push(0) }
    }

    /// `reports` shards are asked.
    pub(crate) fn expect(&mut self, reports: u32) {
        self.reports = reports;
    }

    /// The user or key has no connection.
    pub(crate) fn absent(&mut self) {
        self.reports = 0;
        self.tally.absent += 1;
    }

    pub(crate) fn add(&mut self, tally: Tally, partials: u32) {
        self.tally += tally;
        self.reports = self.reports.saturating_sub(1);
        self.partials += i64::from(partials);
    }

    pub(crate) fn add_partial(&mut self, tally: Tally, settles: u32) {
        self.tally += tally;
        self.partials -= i64::from(settles);
    }

    pub(crate) fn expect_elsewhere(&mut self) {
        self.awaits_hosts = true;
    }

    pub(crate) fn add_elsewhere(&mut self, others: &OtherHostsTally) {
        let OtherHostsTally { tally, held, unanswered, bytes: _ } = *others;
        // The wait for other hosts may have been given up.
        if std::mem::take(&mut self.awaits_hosts) {
            self.tally += tally;
            (self.held, self.unanswered) = (held, unanswered);
        }
    }

    /// Stops waiting for other hosts. The number of those that have not answered is unknown, and counts as one.
    pub(super) fn give_up_hosts(&mut self) {
        if std::mem::take(&mut self.awaits_hosts) {
            self.unanswered = 1;
        }
    }

    /// A shard could not be asked.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.reports = self.reports.saturating_sub(1);
        self.failure = Some(failure);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.reports == 0 && self.partials == 0 && !self.awaits_hosts
    }

    /// Ends the call before all reports have arrived.
    pub(super) fn give_up(&mut self, status: u32, sentence: &str) {
        let Tally { matched, queued, absent, .. } = self.tally;
        let known = format!("known so far: matched {matched}, queued {queued}, absent {absent}");
        *self = Self::failed(Failure::new(status, format!("{sentence}; {known}")));
    }

    /// Appends the reply, and returns its status.
    pub(super) fn encode(&self, id: u32, output: &mut Vec<u8>) -> u32 {
        if let Some(Failure { status, sentence }) = &self.failure {
            let reply = PushReply { status: *status, id, body: sentence.as_bytes() };
            reply.encode(output);
            return *status;
        }
        if self.is_token {
            PushReply { status: 0, id, body: &[] }.encode(output);
            return 0;
        }
        let Tally { matched, queued, absent, parked, dropped, .. } = self.tally;
        let dropped = DropReason::ALL.iter().map(|reason| dropped[*reason as usize]);
        let dropped = (1..).zip(dropped).filter(|(_, count)| *count > 0);
        // A key or user that is absent here may be held on another host.
        let absent = absent.saturating_sub(self.held.into());
        let counts = (matched, queued, absent);
        PushReply::encode_ledger(output, id, counts, (parked, self.unanswered.into()), dropped);
        0
    }
}
