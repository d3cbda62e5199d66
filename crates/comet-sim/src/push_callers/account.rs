//! What push callers know about their pushes.

use comet_core::{DropReason, STATUS_CODES, Tally};
use comet_proto::push_frame::{PushLedger, PushTarget};

use crate::wire::Kind;

/// A push of a caller.
pub(crate) struct MadePush {
    /// The id that its body contains.
    pub(crate) stamp: u64,
    /// The last call that control had made before it.
    pub(crate) after: u64,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
    pub(crate) key: Option<Box<str>>,
    pub(crate) user: Option<i64>,
    /// Set when it is answered.
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
        // User 0 stands for all anonymous users, and cannot be pushed to.
        let user = if let PushTarget::User(user @ 1..) = target { Some(user) } else { None };
        Self { stamp, after, kind, operation, key, user, tally: Tally::default() }
    }

    /// Whether its numbers are estimates: for a drop in the mesh, a home counts as many members of a room as were last
    /// reported.
    pub(crate) fn is_estimated(&self) -> bool {
        let in_mesh = self.tally.dropped[DropReason::MeshFull as usize];
        in_mesh > 0 && matches!(self.kind, Kind::Room(_))
    }
}

#[derive(Default)]
pub(crate) struct Account {
    /// Pushes since the last quiet point whose ledger the caller has read.
    pub(crate) made: Vec<MadePush>,
    /// The stamps of pushes that no client may get.
    pub(crate) refused: Vec<u64>,
    /// The sum of all pushes ever made.
    pub(crate) total: Tally,
    /// The number of pushes whose result no caller was told.
    pub(crate) unknown: u64,
    /// The number of hosts that the ledgers count as unanswered.
    pub(crate) unanswered: u64,
    /// The number of replies read, by status.
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
            // A key is held by at most one connection.
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
