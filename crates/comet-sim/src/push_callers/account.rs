//! What push callers know of their pushes.

use comet_core::{DropReason, STATUS_CODES, Tally};
use comet_proto::push_frame::{PushLedger, PushTarget};

use crate::wire::Kind;

/// A push of a caller.
pub(crate) struct MadePush {
    /// In its bodies.
    pub(crate) stamp: u64,
    /// The last call that control had made before.
    pub(crate) after: u64,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
    pub(crate) key: Option<Box<str>>,
    pub(crate) user: Option<i64>,
    /// Once it is answered.
    pub(crate) tally: Tally,
}

impl MadePush {
    pub(super) fn new(
        stamp: u64,
        after: u64,
        (kind, operation): (Kind, i32),
        target: PushTarget<'_>,
    ) -> Self {
        let key = if let PushTarget::Key(key) = target { Some(key.into()) } else { None };
        // User 0 is everybody without an id, and nobody to push to.
        let user = if let PushTarget::User(user @ 1..) = target { Some(user) } else { None };
        Self { stamp, after, kind, operation, key, user, tally: Tally::default() }
    }

    /// A home drops in the mesh for as many members of a room as were last reported to it.
    pub(crate) fn is_estimated(&self) -> bool {
        let in_mesh = self.tally.dropped[DropReason::MeshFull as usize];
        in_mesh > 0 && matches!(self.kind, Kind::Room(_))
    }
}

#[derive(Default)]
pub(crate) struct Account {
    /// Pushes since the last quiet point whose ledger the caller has read.
    pub(crate) made: Vec<MadePush>,
    /// Stamps of those that nobody must get.
    pub(crate) refused: Vec<u64>,
    /// Of all that were ever made.
    pub(crate) total: Tally,
    /// Pushes of which nobody was told what became of them.
    pub(crate) unknown: u64,
    /// Hosts that the ledgers count as without an answer.
    pub(crate) unanswered: u64,
    /// Replies read, by status.
    pub(crate) statuses: [u64; STATUS_CODES],
}

impl Account {
    /// Adds a push with the ledger of its reply.
    pub(super) fn add(&mut self, mut push: MadePush, ledger: &[u8]) -> Result<(), String> {
        let ledger = PushLedger::decode(ledger).ok_or("no ledger")?;
        let PushLedger { matched, queued, absent, parked, unanswered, dropped } = ledger;
        self.unanswered += unanswered;
        let mut tally = Tally { matched, queued, absent, parked, ..Tally::default() };
        for (number, count) in &dropped {
            let reason = (*number as usize).checked_sub(1).filter(|at| *at < DropReason::COUNT);
            tally.dropped[reason.ok_or("an unknown reason")?] += count;
        }
        let is_sound = match push.kind {
            // Nobody or one connection holds a key.
            Kind::Keys => matched + absent + parked == 1,
            Kind::Users => absent <= 1,
            Kind::Room(_) | Kind::All | Kind::Paced => absent + parked == 0,
        };
        if !is_sound || matched != queued + tally.dropped_total() {
            return Err(format!("{:?} adds up to {tally:?}", push.kind));
        }
        self.total += tally;
        push.tally = tally;
        self.made.push(push);
        Ok(())
    }

    /// Forgets the pushes before a quiet point.
    pub(crate) fn clear(&mut self) {
        self.made.clear();
        self.refused.clear();
    }
}
