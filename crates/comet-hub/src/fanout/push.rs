//! One push on its way to several comets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::ops::AddAssign;
use std::time::Duration;

use comet_core::Millis;

use super::number::CometNumber;

/// The result of a push on one comet, or a sum over several; the fields are those of the wire's ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct LedgerSum {
    pub matched: u64,
    pub queued: u64,
    pub dropped: BTreeMap<String, u64>,
    pub absent: u64,
    pub scheduled: u64,
    pub parked: u64,
}

impl AddAssign for LedgerSum {
    fn add_assign(&mut self, other: Self) {
        // A comet may report any numbers.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.matched, other.matched);
        add(&mut self.queued, other.queued);
        add(&mut self.absent, other.absent);
        add(&mut self.scheduled, other.scheduled);
        add(&mut self.parked, other.parked);
        for (reason, connections) in other.dropped {
            add(self.dropped.entry(reason).or_default(), connections);
        }
    }
}

/// The receivers of a push at one comet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The connections that hold these keys.
    Keys(Vec<String>),
    /// The members of the push's room.
    Room,
    /// All connections: at once, or at `speed` connections a second.
    All {
        /// The comet's share.
        speed: Option<NonZeroU32>,
    },
}

/// A comet's part of a push; a comet may have several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PartId(usize);

/// A call to make. Report its answer with [`PushFanout::handle_answer`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The id for reporting the answer.
    pub part: PartId,
    /// The comet.
    pub comet: CometNumber,
    /// The receivers.
    pub target: Target,
}

/// Why a comet is not known to have taken its part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallFailure {
    /// What is known of the part.
    pub kind: FailureKind,
    /// For whoever pushes.
    pub message: String,
}

/// What is known of a part that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The comet says that the request is bad, as another one would.
    BadRequest,
    /// The comet surely did not take it.
    NotTaken,
    /// The comet may have taken it. Whoever pushes again may double it.
    Unknown,
}

/// A comet that is not known to have taken its part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedComet {
    /// Its server id.
    pub server: String,
    /// It may have taken the part.
    pub is_unknown: bool,
    /// Why.
    pub message: String,
}

impl FailedComet {
    /// What is known, and why, for whoever pushes.
    #[must_use]
    pub fn sentence(&self) -> String {
        let known = if self.is_unknown { "it may have taken its part: " } else { "" };
        format!("{known}{}", self.message)
    }
}

/// What became of a push that some comet took, or that concerned none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FanoutResult {
    /// The sum of the comets' ledgers.
    pub ledger: LedgerSum,
    /// Those that are not known to have taken their part, by server id.
    pub failed: Vec<FailedComet>,
}

/// Why a push that concerned somebody is not known to have been taken by anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PushError {
    /// The request is invalid; with the message of a comet.
    BadRequest(String),
    /// No comet took it; with the message of each.
    Unavailable(String),
    /// Some comets may have taken it.
    Unknown {
        /// What each comet says.
        sentence: String,
        /// The server ids of those that may have taken it.
        servers: Vec<String>,
    },
}

/// The server ids of those among `failed` that may have taken their part, each once.
#[must_use]
pub fn may_have_taken(failed: &[FailedComet]) -> Vec<String> {
    let unknown = failed.iter().filter(|failed| failed.is_unknown);
    let servers: BTreeSet<_> = unknown.map(|failed| failed.server.clone()).collect();
    servers.into_iter().collect()
}

struct Part {
    comet: CometNumber,
    server: String,
    /// The target, until the comet is called.
    target: Option<Target>,
    /// The deadline, from the call until there is an outcome.
    due: Option<Millis>,
}

/// One push.
///
/// First call [`Fanout::poll_call`](super::Fanout::poll_call) until `None`, then pass answers and
/// [`handle_timeout`](Self::handle_timeout) until [`is_complete`](Self::is_complete). Pass answers that have arrived
/// before the time.
pub struct PushFanout {
    limit_ms: u64,
    parts: Vec<Part>,
    /// Parts to be called.
    waiting: VecDeque<PartId>,
    /// Parts without an outcome.
    missing: usize,
    /// The comets that took a part.
    taken: Vec<CometNumber>,
    ledger: LedgerSum,
    failed: Vec<FailedComet>,
    bad: Option<String>,
}

impl PushFanout {
    pub(super) fn new(limit_ms: u64) -> Self {
        Self {
            limit_ms,
            parts: Vec::new(),
            waiting: VecDeque::new(),
            missing: 0,
            taken: Vec::new(),
            ledger: LedgerSum::default(),
            failed: Vec::new(),
            bad: None,
        }
    }

    pub(super) fn add(&mut self, comet: CometNumber, server: &str, target: Target) {
        self.waiting.push_back(PartId(self.parts.len()));
        self.missing += 1;
        let server = server.to_owned();
        self.parts.push(Part { comet, server, target: Some(target), due: None });
    }

    /// Counts keys held by a server that is not a comet of this service.
    pub(super) fn miss(&mut self, server: String, keys: usize) {
        let message =
            format!("{keys} keys are there: neither logic_server.comets nor discovery has it");
        self.failed.push(FailedComet { server, is_unknown: false, message });
    }

    pub(super) fn add_absent(&mut self, absent: u64) {
        self.ledger.absent += absent;
    }

    /// The next call to make. Its deadline counts from `now`.
    pub(super) fn poll_call(&mut self, now: Millis) -> Option<Call> {
        let part = self.waiting.pop_front()?;
        let entry = &mut self.parts[part.0];
        entry.due = Some(now.after(self.limit_ms));
        let target = entry.target.take().expect("each part is called once");
        Some(Call { part, comet: entry.comet, target })
    }

    /// Takes the answer of a comet. An answer after the deadline is ignored.
    pub fn handle_answer(&mut self, part: PartId, answer: Result<LedgerSum, CallFailure>) {
        let entry = &mut self.parts[part.0];
        if entry.due.take().is_none() {
            return;
        }
        self.missing -= 1;
        match answer {
            Ok(ledger) => {
                self.taken.push(entry.comet);
                self.ledger += ledger;
            }
            Err(CallFailure { kind, message }) => {
                if kind == FailureKind::BadRequest {
                    self.bad.get_or_insert_with(|| message.clone());
                }
                let (server, is_unknown) = (entry.server.clone(), kind == FailureKind::Unknown);
                self.failed.push(FailedComet { server, is_unknown, message });
            }
        }
    }

    /// Gives up waiting for the comets whose time is over at `now`. `take_back` keeps the call of a part from its comet,
    /// and says whether that is still possible. If not, the comet may have taken the part.
    pub fn handle_timeout(&mut self, now: Millis, take_back: impl Fn(PartId) -> bool) {
        let limit = Duration::from_millis(self.limit_ms);
        for part in 0..self.parts.len() {
            if self.parts[part].due.is_some_and(|due| due <= now) {
                self.fail(PartId(part), format!("no answer within {limit:?}"), &take_back);
            }
        }
    }

    /// Gives up waiting for the comets for which there is a message.
    pub(super) fn give_up(
        &mut self,
        message: impl Fn(CometNumber) -> Option<String>,
        take_back: impl Fn(PartId) -> bool,
    ) {
        for part in 0..self.parts.len() {
            let Part { comet, due: Some(_), .. } = self.parts[part] else { continue };
            if let Some(message) = message(comet) {
                self.fail(PartId(part), message, &take_back);
            }
        }
    }

    fn fail(&mut self, part: PartId, message: String, take_back: impl Fn(PartId) -> bool) {
        let kind = if take_back(part) { FailureKind::NotTaken } else { FailureKind::Unknown };
        self.handle_answer(part, Err(CallFailure { kind, message }));
    }

    /// When [`PushFanout::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.parts.iter().filter_map(|part| part.due).min()
    }

    /// Whether every part has an outcome.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The comets that took a part so far.
    pub(super) fn taken(&self) -> impl Iterator<Item = CometNumber> {
        self.taken.iter().copied()
    }

    /// Those whose part has failed so far.
    #[must_use]
    pub fn failed(&self) -> &[FailedComet] {
        &self.failed
    }

    /// The result of the push.
    ///
    /// # Errors
    /// Nobody is known to have taken it.
    ///
    /// # Panics
    /// If it is not complete.
    pub fn finish(mut self) -> Result<FanoutResult, PushError> {
        assert!(self.is_complete(), "each part has an outcome");
        if self.taken.is_empty() && !self.failed.is_empty() {
            return Err(self.into_error());
        }
        self.failed.sort_by(|one, other| one.server.cmp(&other.server));
        Ok(FanoutResult { ledger: self.ledger, failed: self.failed })
    }

    fn into_error(self) -> PushError {
        let each = self.failed.iter();
        let each = each.map(|failed| format!("{}: {}", failed.server, failed.sentence()));
        let each = each.collect::<Vec<_>>().join("; ");
        let servers = may_have_taken(&self.failed);
        match self.bad {
            // Whatever others say, one may have taken it.
            _ if !servers.is_empty() => {
                let sentence = format!("no comet is known to have taken it: {each}");
                PushError::Unknown { sentence, servers }
            }
            Some(message) => PushError::BadRequest(message),
            None => PushError::Unavailable(format!("no comet took it: {each}")),
        }
    }
}
