//! Coalescing: pushes to a room, or to all connections, wait for others, so that a member gets all of them in one send.
//!
//! Each shard has its own window for its members of a room. A window begins with the first push that a [`CoalesceRule`]
//! covers, and takes all that follow until it ends: when its time is over, when it is full, or before a push to the
//! same destination that no rule covers. So the order of a room is kept, and the uncovered push does not wait. Then the
//! pushes begin in order, as if they had arrived at that moment. The members of that moment get them, and their tallies
//! are exact.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;
use comet_proto::count_frames;

use crate::budget::MessageBudget;
use crate::coalesce::CoalesceRule;
use crate::ids::Slot;
use crate::ledger::{DropReason, Tally};
use crate::limits::{GATHERED_BYTES_MAX, GATHERED_MAX, Limits};
use crate::message::{Message, Report};
use crate::outbox::CollapseKey;
use crate::time::Millis;

use super::Shard;
use super::push_task::{Crowd, Progress, PushTask, TallyKind, Target};

/// The destination of the pushes of a window: the members of a room. `None`: all connections.
type Destination = Option<Arc<str>>;

/// All waiting pushes.
pub(super) struct Gathering {
    windows: HashMap<Destination, Window, RandomState>,
    /// Each window with its end, the next one first.
    ends: BTreeSet<(Millis, Destination)>,
    pushes: usize,
    bytes: usize,
    /// When the last turn began and ended.
    last_turn: [Millis; 2],
}

/// Pushes to one destination, in the order of arrival.
struct Window {
    ends_at: Millis,
    pushes: Vec<Progress>,
    bytes: usize,
}

impl Gathering {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            windows: HashMap::with_hasher(RandomState::with_seeds(seed, 16, 17, 18)),
            ends: BTreeSet::new(),
            pushes: 0,
            bytes: 0,
            last_turn: [Millis(0); 2],
        }
    }

    /// A turn that began at `begin` took `micros`.
    pub(super) fn note_turn(&mut self, begin: Millis, micros: u64) {
        self.last_turn = [begin, begin.after(micros.div_ceil(1_000))];
    }

    /// When the window of a push ends that is taken in the turn of `now`. The window counts from the begin of the turn
    /// before, if that turn has only just ended: the push may have waited for its sends, which take milliseconds, as
    /// many pushes do at a steady rate. After a turn longer than half the window, the push still waits half a window
    /// for the others that came meanwhile.
    fn end_of(&self, now: Millis, window_ms: u64) -> Millis {
        let [begin, end] = self.last_turn;
        let came_at = if now <= end { begin } else { now };
        came_at.after(window_ms).max(now.after(window_ms / 2))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// When the next window ends.
    pub(super) fn next_end(&self) -> Option<Millis> {
        self.ends.first().map(|(ends_at, _)| *ends_at)
    }

    /// The number of waiting pushes.
    pub(super) fn pushes(&self) -> usize {
        self.pushes
    }

    /// The bytes of their frames.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much waits that a window has to end early.
    fn is_full(&self) -> bool {
        self.pushes >= GATHERED_MAX || self.bytes >= GATHERED_BYTES_MAX
    }

    /// The destination of the window that ends next, if it has ended by `now`.
    fn ended(&self, now: Millis) -> Option<Destination> {
        self.ends
            .first()
            .filter(|(ends_at, _)| *ends_at <= now)
            .map(|(_, destination)| destination.clone())
    }

    /// Puts `progress` behind the waiting pushes to `destination`. The window ends at `ends_at` at the latest.
    fn add(&mut self, destination: &Destination, ends_at: Millis, progress: Progress) -> &Window {
        let window = self.windows.entry(destination.clone()).or_insert_with(|| {
            self.ends.insert((ends_at, destination.clone()));
            Window { ends_at, pushes: Vec::new(), bytes: 0 }
        });
        if ends_at < window.ends_at {
            self.ends.remove(&(window.ends_at, destination.clone()));
            self.ends.insert((ends_at, destination.clone()));
            window.ends_at = ends_at;
        }
        let bytes = bytes_of(&progress);
        (self.pushes, self.bytes) = (self.pushes + 1, self.bytes + bytes);
        window.bytes += bytes;
        window.pushes.push(progress);
        window
    }

    /// Removes the waiting push to `destination` that has the collapse id of `newer`.
    fn take_older(&mut self, destination: &Destination, newer: &mut Progress) -> Option<Progress> {
        let id = newer.push.collapse_id.as_ref()?;
        let window = self.windows.get_mut(destination)?;
        let has_id = |older: &Progress| older.push.collapse_id.as_ref() == Some(id);
        let at = window.pushes.iter().position(has_id)?;
        let older = window.pushes.remove(at);
        let frames = count_frames(older.push.frame.for_tcp()).unwrap_or(1) as u64;
        window.pushes.get_mut(at).unwrap_or(newer).outdated += older.outdated + frames;
        let bytes = bytes_of(&older);
        (self.pushes, self.bytes) = (self.pushes - 1, self.bytes - bytes);
        window.bytes -= bytes;
        Some(older)
    }

    /// Removes the window of `destination`.
    fn take(&mut self, destination: &Destination) -> Option<Vec<Progress>> {
        let Window { ends_at, pushes, bytes } = self.windows.remove(destination)?;
        self.ends.remove(&(ends_at, destination.clone()));
        (self.pushes, self.bytes) = (self.pushes - pushes.len(), self.bytes - bytes);
        Some(pushes)
    }
}

impl Window {
    /// Whether it has half of the pushes or bytes that a turn may take, so that the window and a turn's pushes fit into
    /// an outbox together.
    fn is_full(&self, limits: &Limits) -> bool {
        MessageBudget::new(limits).is_half_spent_by(self.pushes.len(), self.bytes)
    }
}

fn bytes_of(progress: &Progress) -> usize {
    progress.push.frame.for_websocket().len()
}

impl Shard {
    /// Begins a push to a crowd, or has it wait in a window.
    pub(super) fn begin_to_crowd(&mut self, crowd: Crowd, progress: Progress) {
        if self.context.limits.coalesce_rules.is_empty() && self.gathering.is_empty() {
            return self.add_task(Target::Crowd(crowd), progress);
        }
        let destination = match &crowd {
            Crowd::Room(name) => Some(Arc::clone(name)),
            Crowd::All(_) => None,
            // Rules are about rooms and broadcasts.
            Crowd::Conns(_) => return self.add_task(Target::Crowd(crowd), progress),
        };
        match self.coalesce_rule(&destination, &progress) {
            Some((window_ms, keep_latest)) => {
                self.gather(&destination, window_ms, keep_latest, progress);
            }
            None => {
                self.end_window(&destination);
                self.add_task(Target::Crowd(crowd), progress);
            }
        }
    }

    /// The length of the window for a push, and whether only the latest push with its id is kept. A kick never waits.
    fn coalesce_rule(&self, destination: &Destination, progress: &Progress) -> Option<(u32, bool)> {
        if progress.push.is_kick() || self.is_draining() {
            return None;
        }
        let operation = progress.push.operation;
        let mut rules = self.context.limits.coalesce_rules.iter();
        let rule = rules.find(|rule| rule.covers(destination.as_deref(), operation))?;
        let CoalesceRule { window_ms, keep_latest, .. } = *rule;
        Some((window_ms, keep_latest))
    }

    fn gather(
        &mut self,
        destination: &Destination,
        window_ms: u32,
        keep_latest: bool,
        mut progress: Progress,
    ) {
        self.announce_rest(&mut progress);
        match &progress.push.collapse_id {
            Some(id) if keep_latest => {
                // Such a state is also superseded in the outbox of a slow client, which then gets only the latest.
                progress.items.set_collapse_key(CollapseKey {
                    room: destination.clone(),
                    id: Arc::clone(id),
                });
            }
            _ => progress.push.collapse_id = None,
        }
        // The newer push goes to the end of the window, which is its own place in the order.
        if let Some(older) = self.gathering.take_older(destination, &mut progress) {
            self.supersede(destination, older);
        }
        let ends_at = self.gathering.end_of(self.context.now, window_ms.into());
        let window = self.gathering.add(destination, ends_at, progress);
        if window.is_full(&self.context.limits) {
            self.end_window(destination);
        }
        while self.gathering.is_full()
            && let Some(destination) = self.gathering.ended(Millis(u64::MAX))
        {
            self.end_window(&destination);
        }
    }

    /// Reports the tally of a push before it waits, and announces a partial tally. So a waiting push holds back none of
    /// the pushes that control has for this shard.
    fn announce_rest(&mut self, progress: &mut Progress) {
        let TallyKind::Tally { partials } = progress.tally_kind else { return };
        let (call, tally, partials) = (progress.call, progress.tally, partials + 1);
        match call.shard() {
            None => {
                let shard = self.context.shard;
                self.reports.push(Report::Tally { call, shard, tally, partials });
            }
            Some(shard) => {
                let tally = Box::new(tally);
                self.messages.send(shard, Message::Tallied { call, tally, partials });
            }
        }
        (progress.tally, progress.tally_kind) =
            (Tally::default(), TallyKind::PartialTally { settles: 1 });
    }

    /// A newer push has replaced `older`. The present members do not get the older one.
    fn supersede(&mut self, destination: &Destination, mut older: Progress) {
        let connections = match destination {
            Some(room) => {
                self.rooms.find(room).map_or(0, |room| self.rooms[room].members.len() as u64)
            }
            None => self.counters.live,
        };
        let mut dropped = Tally::default();
        dropped.drop_as(DropReason::Superseded, connections);
        self.counters.pushes += 1;
        self.counters.deliveries += dropped;
        older.tally += dropped;
        self.report(older);
    }

    /// Begins the pushes of a window that has ended, if the shard takes pushes, and spends them from `budget`, because
    /// a client may be in all rooms whose windows end at one time. [`Shard::handle_pushes`] continues them. `false`: no
    /// window has ended, or no push may begin.
    pub fn end_due_window(&mut self, budget: &mut MessageBudget) -> bool {
        if self.gathering.is_empty() || !budget.is_left() || !self.takes_pushes() {
            return false;
        }
        let Some(destination) = self.gathering.ended(self.context.now) else { return false };
        self.end_window(&destination);
        for PushTask { progress, .. } in &self.pushes {
            budget.spend_bytes(bytes_of(progress));
        }
        true
    }

    /// Whether pushes wait in windows.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Ends all windows. While the shard drains, no window begins.
    pub(super) fn end_all_windows(&mut self) {
        while let Some(destination) = self.gathering.ended(Millis(u64::MAX)) {
            self.end_window(&destination);
        }
    }

    pub(super) fn end_window(&mut self, destination: &Destination) {
        let Some(pushes) = self.gathering.take(destination) else { return };
        self.counters.coalesce_windows += 1;
        self.counters.coalesced += pushes.len() as u64;
        for progress in pushes {
            let crowd = destination.clone().map_or(Crowd::All(Slot(0)), Crowd::Room);
            self.add_task(Target::Crowd(crowd), progress);
        }
    }
}
