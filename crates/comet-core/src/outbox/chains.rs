//! The store of chains: frames that outboxes share.
//!
//! A chain is a [`Run`] of a [`Log`]. Chains are immutable. Each change of an outbox moves it from one chain to
//! another: a frame is appended, the oldest push is dropped, a send takes the first frames. Each chain remembers the
//! chain to which the last outbox moved, so the next outbox with the same content finds it.
//!
//! Reference counts are plain integers of one shard. The bytes of a chain keep their address while an outbox has the
//! chain in flight, because the kernel reads them.

pub(crate) mod hand_over;
mod sends;
#[cfg(test)]
mod tests;
mod unsent;

use std::cell::Cell;

use comet_proto::Encoded;

use crate::ids::Generation;
use crate::index::Index;
use crate::parking::ParkedFrames;
use crate::slab::Slab;
use crate::transport::Transport;

use super::chain::{Chain, Totals};
use super::frames::FrameStore;
use super::log::{Log, Run, Spare};
use super::window::Whole;
use super::{
    AppendMemo, ChainId, Cut, FrameId, Item, Load, LogId, Outbox, PushMeta, Serial, Superseded,
    WeakChain,
};

/// How many unused logs keep their memory, and the largest capacity of these.
const SPARE_MAX: usize = 64;
const SPARE_FRAMES_MAX: usize = 16;

pub(crate) struct Chains {
    chains: Slab<ChainId, Chain>,
    logs: Slab<LogId, Log>,
    frames: FrameStore,
    /// The memory of unused logs. Most logs are short and gone in the same turn.
    spare: Vec<Spare>,
    /// The latest one-frame chain, and the log that it began.
    first: WeakChain,
    first_log: (LogId, Generation),
    serial: Serial,
    joined_bytes: usize,
}

impl Chains {
    pub(crate) fn new() -> Self {
        Self {
            chains: Slab::new(),
            logs: Slab::new(),
            frames: FrameStore::new(),
            spare: Vec::new(),
            first: WeakChain::NONE,
            first_log: (LogId::NONE, Generation(0)),
            serial: Serial(0),
            joined_bytes: 0,
        }
    }

    /// A frame for [`Chains::append`].
    pub(crate) fn item(&mut self, frame: Encoded, is_push: bool) -> Item {
        self.serial = Serial(self.serial.0.wrapping_add(1));
        let stored = Cell::new((FrameId::NONE, Generation(0)));
        Item { serial: self.serial, frame, pushes: is_push.into(), meta: None, stored }
    }

    /// Parked pushes as one item for a client on `transport`.
    pub(crate) fn parcel(&mut self, pushes: ParkedFrames, transport: Transport) -> Item {
        let mut item = self.item(pushes.joined(transport), true);
        item.pushes = pushes.len() as u32;
        item.set_meta(PushMeta { parcel: Some(pushes), ..PushMeta::default() }.shared());
        item
    }

    /// What the kernel has not taken of an outbox.
    pub(crate) fn load(&self, outbox: &Outbox, transport: Transport) -> Load {
        let mut load = Load::default();
        for index in [outbox.pending, outbox.in_flight] {
            if index != ChainId::NONE {
                let Totals { pushes, replies, bytes, .. } = self.chains[index].totals;
                load.pushes += pushes;
                load.replies += replies;
                load.bytes += bytes[transport.encoding()];
            }
        }
        if outbox.taken > 0 {
            let Whole { pushes, replies, .. } =
                self.whole(outbox.in_flight, transport, outbox.taken);
            load.pushes -= pushes;
            load.replies -= replies;
            load.bytes -= outbox.taken;
        }
        load
    }

    // ---- what comes in -------------------------------------------------------------------------

    /// Adds a frame at the end. The caller checks the bounds: see [`Chains::load`].
    #[inline]
    pub(crate) fn append(&mut self, outbox: &mut Outbox, item: &Item) {
        self.append_for(outbox, item, Cut::default());
    }

    /// As [`Chains::append`], after dropping waiting pushes. Notes the result in `memo`, which must be settled.
    pub(crate) fn append_and_note(
        &mut self,
        memo: &mut AppendMemo,
        outbox: &mut Outbox,
        item: &Item,
        superseded: Superseded,
    ) {
        debug_assert_eq!(memo.uncounted, 0, "a memo is settled before it changes");
        let before = *outbox;
        self.append_for(outbox, item, superseded.cut);
        *memo = AppendMemo { before, lengthened: outbox.pending, superseded, uncounted: 0 };
    }

    /// Adds the outboxes that [`AppendMemo::repeat`] changed to the reference counts, and returns their number. Until
    /// then the longer chain has too few references and the shorter one too many, so nothing may be released.
    pub(crate) fn settle(&mut self, memo: &mut AppendMemo) -> u32 {
        let moved = std::mem::take(&mut memo.uncounted);
        if moved > 0 {
            self.chains[memo.lengthened].references += moved;
            self.release(memo.before.pending, moved);
        }
        moved
    }

    /// The oldest waiting pushes: as many as must be dropped until the load `fits`, or all of them.
    pub(crate) fn oldest(
        &self,
        outbox: &Outbox,
        transport: Transport,
        fits: impl Fn(Load) -> bool,
    ) -> Superseded {
        let mut load = self.load(outbox, transport);
        let mut superseded = Superseded::default();
        if outbox.pending == ChainId::NONE {
            return superseded;
        }
        let Chain { log, run, .. } = self.chains[outbox.pending];
        for (_, item) in self.logs[log].frames(&self.frames, Run { from: run.floor, ..run }) {
            if fits(load) {
                break;
            }
            if item.is_droppable() {
                let bytes = transport.bytes(&item.frame).len() as u32;
                load.pushes -= 1;
                load.bytes -= bytes;
                superseded.pushes += 1;
                superseded.bytes += bytes;
            }
        }
        superseded.cut = Cut::Oldest(superseded.pushes);
        superseded
    }

    /// The waiting pushes to drop for `newer`, which is about a state: all that are about the same state, and as many
    /// of the oldest about no state as must be dropped until what waits `fits`. What is in flight does not count,
    /// because it cannot be dropped, and the newest state must not be lost because of it. `None`: it does not fit.
    pub(crate) fn outdated(
        &self,
        outbox: &Outbox,
        transport: Transport,
        newer: &Item,
        fits: impl Fn(Load) -> bool,
    ) -> Option<Superseded> {
        let pending = Outbox { pending: outbox.pending, ..Outbox::EMPTY };
        let mut load = self.load(&pending, transport);
        let (mut superseded, mut plain) = (Superseded::default(), 0);
        let mut drop = |item: &Item, load: &mut Load| {
            let bytes = transport.bytes(&item.frame).len() as u32;
            load.pushes -= 1;
            load.bytes -= bytes;
            superseded.pushes += 1;
            superseded.bytes += bytes;
        };
        if outbox.pending != ChainId::NONE {
            let Chain { log, run, .. } = self.chains[outbox.pending];
            let frames = self.logs[log].frames(&self.frames, run).map(|(_, item)| item);
            for item in frames.clone().filter(|item| item.is_outdated_by(newer)) {
                drop(item, &mut load);
            }
            for item in frames.filter(|item| item.is_plain()) {
                if fits(load) {
                    break;
                }
                drop(item, &mut load);
                plain += 1;
            }
        }
        if superseded.pushes > 0 {
            superseded.cut = Cut::Outdated { plain };
        }
        fits(load).then_some(superseded)
    }

    /// The pushes that [`Chains::append_and_note`] drops for `newer`, and whether each is about the state of `newer`.
    pub(crate) fn cut_pushes(
        &self,
        outbox: &Outbox,
        newer: &Item,
        superseded: Superseded,
    ) -> impl Iterator<Item = (&Item, bool)> {
        let (mut plain, is_outdated) = match superseded.cut {
            Cut::Oldest(oldest) => (oldest, false),
            Cut::Outdated { plain } => (plain, true),
        };
        let waiting = (superseded.pushes > 0 && outbox.pending != ChainId::NONE)
            .then(|| &self.chains[outbox.pending]);
        let items = waiting.into_iter().flat_map(|chain| {
            self.logs[chain.log].frames(&self.frames, chain.run).map(|(_, item)| item)
        });
        let newer = newer.clone();
        let cut = items.filter_map(move |item| {
            if is_outdated && item.is_outdated_by(&newer) {
                return Some((item, true));
            }
            let is_cut =
                plain > 0 && if is_outdated { item.is_plain() } else { item.is_droppable() };
            plain -= u32::from(is_cut);
            is_cut.then_some((item, false))
        });
        cut.take(superseded.pushes as usize)
    }

    #[inline]
    fn append_for(&mut self, outbox: &mut Outbox, item: &Item, cut: Cut) {
        let before = outbox.pending;
        let (likely, likely_cut) = match before {
            ChainId::NONE => (self.first, Cut::default()),
            _ => (self.chains[before].longer, self.chains[before].cut),
        };
        outbox.pending = match self.chains.at(likely.chain, likely.generation) {
            Some(chain) if chain.last == item.serial && likely_cut == cut => {
                chain.references += 1;
                likely.chain
            }
            _ => self.lengthen(before, item, cut),
        };
        self.release(before, 1);
    }

    /// Finds or makes the chain `before` + `item`, without the pushes of `cut`.
    fn lengthen(&mut self, before: ChainId, item: &Item, cut: Cut) -> ChainId {
        let (id, run, mut totals) = if before == ChainId::NONE {
            let log = self.log_from(item);
            (log, self.logs[log].run_before_first(), Totals::default())
        } else {
            self.shorten(before, item, cut)
        };
        let log = &mut self.logs[id];
        if log.end() == run.to {
            log.push(self.frames.hold(item));
        }
        let run = Run { to: run.to.next(), ..run };
        let known = log.latest_ending(run.to);
        let longer = match self.chains.at(known.chain, known.generation) {
            Some(chain) if chain.run == run => {
                chain.references += 1;
                known
            }
            _ => {
                totals.add(item);
                self.add_chain(Chain::new(id, run, totals, item.serial))
            }
        };
        if before == ChainId::NONE {
            self.first = longer;
        } else {
            let before = &mut self.chains[before];
            (before.longer, before.cut) = (longer, cut);
        }
        longer.chain
    }

    /// A log that begins with `item`, or is empty.
    fn log_from(&mut self, item: &Item) -> LogId {
        let (id, generation) = self.first_log;
        let first = self.logs.at(id, generation).and_then(|log| log.get(log.begin()));
        if first.is_some_and(|first| self.frames[first].serial == item.serial) {
            return id;
        }
        let id = self.begin_log();
        self.first_log = (id, self.logs.generation(id));
        id
    }

    /// The frames of `before` without the pushes of `cut`, in a log that ends there or continues with `next`.
    fn shorten(&mut self, before: ChainId, next: &Item, cut: Cut) -> (LogId, Run, Totals) {
        let Chain { log: id, run, totals, .. } = self.chains[before];
        let log = &self.logs[id];
        let dropped = match cut {
            Cut::Oldest(dropped) => dropped,
            Cut::Outdated { plain } => {
                let left = without_outdated(log, &self.frames, run, next, plain);
                match left.oldest {
                    Some(dropped) => dropped,
                    None => {
                        let (id, run) = self.copy(&left.frames);
                        return (id, run, totals.without(left.gone));
                    }
                }
            }
        };
        let (run, totals) = without_oldest(log, &self.frames, run, totals, dropped);
        let is_next = |frame| self.frames[frame].serial == next.serial;
        let continues = log.get(run.to).is_none_or(is_next);
        // A log has at most as many frames before the chain as the chain has itself. So logs hold at most twice what
        // outboxes hold, and a copy costs no more than the drops and sends before it.
        if continues && run.floor.since(log.begin()) <= totals.frames as usize {
            return (id, run, totals);
        }
        let frames = log.frames(&self.frames, run);
        let frames: Vec<FrameId> = frames.filter_map(|(at, _)| log.get(at)).collect();
        let (id, run) = self.copy(&frames);
        (id, run, totals)
    }

    /// Makes a log of `frames`, which another log has.
    fn copy(&mut self, frames: &[FrameId]) -> (LogId, Run) {
        let id = self.begin_log();
        let log = &mut self.logs[id];
        let run = log.run_before_first();
        for &frame in frames {
            self.frames.hold_again(frame);
            log.push(frame);
        }
        (id, Run { to: log.end(), ..run })
    }

    fn begin_log(&mut self) -> LogId {
        self.logs.insert(Log::new(self.spare.pop()))
    }

    fn add_chain(&mut self, chain: Chain) -> WeakChain {
        let Chain { log, run, .. } = chain;
        let chain = self.chains.insert(chain);
        let weak = WeakChain { chain, generation: self.chains.generation(chain) };
        self.logs[log].hold(run, weak);
        weak
    }

    /// `outboxes` outboxes no longer name the chain.
    #[inline]
    fn release(&mut self, index: ChainId, outboxes: u32) {
        if index == ChainId::NONE {
            return;
        }
        let chain = &mut self.chains[index];
        chain.references -= outboxes;
        if chain.references == 0 {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: ChainId) {
        let chain = self.chains.remove(index);
        for window in chain.windows.iter().flatten() {
            self.joined_bytes -= window.joined().map_or(0, <[u8]>::len);
        }
        let log = &mut self.logs[chain.log];
        log.release(&mut self.frames, chain.run);
        if log.is_empty() {
            let log = self.logs.remove(chain.log);
            if self.spare.len() < SPARE_MAX && log.capacity() <= SPARE_FRAMES_MAX {
                self.spare.push(log.into_spare());
            }
        }
    }

    /// The memory of all outboxes, in bytes. A frame counts once, plus one entry for each log that has it.
    pub(crate) fn held_bytes(&self) -> usize {
        self.frames.held_bytes()
    }

    /// Whether nothing is stored, as it must be when every outbox is empty.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.chains.len() == 0
            && self.logs.len() == 0
            && self.joined_bytes == 0
            && self.frames.len() == 0
            && self.held_bytes() == 0
    }
}

/// `run` without its oldest `dropped` pushes.
fn without_oldest(
    log: &Log,
    store: &FrameStore,
    run: Run,
    mut totals: Totals,
    dropped: u32,
) -> (Run, Totals) {
    let mut left = dropped;
    let mut gone = Totals::default();
    let mut floor = run.floor;
    let mut first_reply = (run.from != run.floor).then_some(run.from);
    for (at, item) in log.frames(store, Run { from: run.floor, ..run }) {
        if left == 0 {
            break;
        }
        if item.is_droppable() {
            gone.add(item);
            left -= 1;
            floor = at.next();
        } else if first_reply.is_none() {
            first_reply = Some(at);
        }
    }
    totals = totals.without(gone);
    (Run { from: first_reply.unwrap_or(floor), floor, to: run.to }, totals)
}

/// The rest of a run without outdated pushes.
struct Left {
    frames: Vec<FrameId>,
    gone: Totals,
    /// Set if the dropped pushes are the oldest: their number.
    oldest: Option<u32>,
}

/// `run` without the pushes that are about the state of `newer`, and without the oldest `plain` pushes about no state.
fn without_outdated(log: &Log, store: &FrameStore, run: Run, newer: &Item, mut plain: u32) -> Left {
    let mut left = Left { frames: Vec::new(), gone: Totals::default(), oldest: Some(0) };
    let mut has_kept_push = false;
    for (at, item) in log.frames(store, run) {
        let is_oldest_plain = plain > 0 && item.is_plain();
        if is_oldest_plain || item.is_outdated_by(newer) {
            plain -= u32::from(is_oldest_plain);
            left.gone.add(item);
            left.oldest = (!has_kept_push).then_some(left.gone.pushes);
        } else {
            has_kept_push |= item.is_droppable();
            left.frames.extend(log.get(at));
        }
    }
    left
}
