//! One push on its way to several comets.

use std::collections::{BTreeMap, VecDeque};
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

/// Why a comet did not take its part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallFailure {
    /// The comet says that the request is invalid; another comet would say so too.
    pub is_bad_request: bool,
    /// A message for the caller.
    pub message: String,
}

/// A comet that did not take its part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedComet {
    /// Its server id.
    pub server: String,
    /// Why.
    pub message: String,
}

/// The result of a push that some comet took, or that concerned none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pushed {
    /// The sum of the comets' ledgers.
    pub ledger: LedgerSum,
    /// The comets that did not take their part, by server id.
    pub failed: Vec<FailedComet>,
}

/// Why no comet took a push that concerned at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The request is invalid; with the message of a comet.
    BadRequest(String),
    /// No comet took it; with the message of each.
    Unavailable(String),
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
        self.failed.push(FailedComet { server, message });
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
            Err(CallFailure { is_bad_request, message }) => {
                if is_bad_request {
                    self.bad.get_or_insert_with(|| message.clone());
                }
                let server = entry.server.clone();
                self.failed.push(FailedComet { server, message });
            }
        }
    }

    /// Gives up waiting for the comets whose time is over at `now`.
    pub fn handle_timeout(&mut self, now: Millis) {
        let limit = Duration::from_millis(self.limit_ms);
        for part in 0..self.parts.len() {
            if self.parts[part].due.is_some_and(|due| due <= now) {
                self.fail(PartId(part), format!("no answer within {limit:?}"));
            }
        }
    }

    /// Gives up waiting for each comet for which `message` returns a text.
    pub(super) fn give_up(&mut self, message: impl Fn(CometNumber) -> Option<String>) {
        for part in 0..self.parts.len() {
            let Part { comet, due: Some(_), .. } = self.parts[part] else { continue };
            if let Some(message) = message(comet) {
                self.fail(PartId(part), message);
            }
        }
    }

    fn fail(&mut self, part: PartId, message: String) {
        self.handle_answer(part, Err(CallFailure { is_bad_request: false, message }));
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

    /// The comets that did not take their part so far.
    #[must_use]
    pub fn failed(&self) -> &[FailedComet] {
        &self.failed
    }

    /// The result of the push.
    ///
    /// # Errors
    /// If no comet took it.
    ///
    /// # Panics
    /// If it is not complete.
    pub fn finish(mut self) -> Result<Pushed, Refused> {
        assert!(self.is_complete(), "each part has an outcome");
        if self.taken.is_empty() && !self.failed.is_empty() {
            return Err(match self.bad {
                Some(message) => Refused::BadRequest(message),
                None => {
                    let each = self.failed.iter();
                    let each = each.map(|failed| format!("{}: {}", failed.server, failed.message));
                    let each: Vec<_> = each.collect();
                    Refused::Unavailable(format!("no comet took it: {}", each.join("; ")))
                }
            });
        }
        self.failed.sort_by(|one, other| one.server.cmp(&other.server));
        Ok(Pushed { ledger: self.ledger, failed: self.failed })
    }
}
