//! A log: frames in the order in which they were appended. A frame is kept while a held run includes it.

use std::collections::{VecDeque, vec_deque};

use super::frames::{ENTRY_BYTES, FrameStore};
use super::{FrameId, Item, WeakChain};

/// The place of a frame in its log. It does not change when earlier frames are dropped. It wraps around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(super) struct LogIndex(u32);

impl LogIndex {
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// The number of frames from `earlier` up to this place.
    pub(super) fn since(self, earlier: Self) -> usize {
        self.0.wrapping_sub(earlier.0) as usize
    }
}

/// A part of a log: its frames from `from` to before `to`. Of the frames before `floor` only replies belong to it; the
/// pushes were superseded. The frame at `from` is part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) from: LogIndex,
    pub(super) floor: LogIndex,
    pub(super) to: LogIndex,
}

pub(super) struct Log {
    frames: VecDeque<Logged>,
    /// The place of the first frame of `frames`.
    begin: LogIndex,
}

struct Logged {
    frame: FrameId,
    /// The number of held runs that begin here.
    begins: u32,
    /// The number of held runs that end with this frame.
    ends: u32,
    /// The chain of the latest of these.
    latest_ending: WeakChain,
}

const _: () = assert!(size_of::<Logged>() == ENTRY_BYTES);

/// The memory of an unused log.
pub(super) struct Spare(VecDeque<Logged>);

impl Log {
    pub(super) fn new(memory: Option<Spare>) -> Self {
        let frames = memory.map_or_else(VecDeque::new, |Spare(frames)| frames);
        Self { frames, begin: LogIndex(0) }
    }

    /// The memory of an empty log.
    pub(super) fn into_spare(self) -> Spare {
        debug_assert!(self.frames.is_empty());
        Spare(self.frames)
    }

    /// The number of frames that fit into the memory.
    pub(super) fn capacity(&self) -> usize {
        self.frames.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn begin(&self) -> LogIndex {
        self.begin
    }

    /// One past the last frame.
    pub(super) fn end(&self) -> LogIndex {
        LogIndex(self.begin.0.wrapping_add(self.frames.len() as u32))
    }

    /// An empty run at the beginning.
    pub(super) fn run_before_first(&self) -> Run {
        Run { from: self.begin, floor: self.begin, to: self.begin }
    }

    /// Appends a frame. The caller has counted it for this log.
    pub(super) fn push(&mut self, frame: FrameId) {
        self.frames.push_back(Logged { frame, begins: 0, ends: 0, latest_ending: WeakChain::NONE });
    }

    pub(super) fn get(&self, at: LogIndex) -> Option<FrameId> {
        self.frames.get(at.since(self.begin)).map(|logged| logged.frame)
    }

    /// The last frame of `run`, which must not be empty.
    pub(super) fn last(&self, run: Run) -> FrameId {
        self.frames[run.to.previous().since(self.begin)].frame
    }

    /// The frames of `run` in `store`, in order.
    pub(super) fn frames<'a>(&'a self, store: &'a FrameStore, run: Run) -> Frames<'a> {
        let range = run.from.since(self.begin)..run.to.since(self.begin);
        Frames {
            store,
            logged: self.frames.range(range),
            next: run.from,
            below_floor: run.floor.since(run.from),
        }
    }

    /// Keeps the frames of `run`, the run of `chain`, until [`Log::release`]. It must not be empty.
    pub(super) fn hold(&mut self, run: Run, chain: WeakChain) {
        self.at(run.from).begins += 1;
        let last = self.at(run.to.previous());
        last.ends += 1;
        last.latest_ending = chain;
    }

    /// The chain of the latest held run that ended before `to`. It may be gone.
    pub(super) fn latest_ending(&self, to: LogIndex) -> WeakChain {
        self.frames[to.previous().since(self.begin)].latest_ending
    }

    /// Releases a held run. Frames before the first held run and behind the last one are released in `store`.
    pub(super) fn release(&mut self, store: &mut FrameStore, run: Run) {
        self.at(run.from).begins -= 1;
        self.at(run.to.previous()).ends -= 1;
        while let Some(first) = self.frames.pop_front_if(|first| first.begins == 0) {
            store.release(first.frame);
            self.begin = self.begin.next();
        }
        while let Some(last) = self.frames.pop_back_if(|last| last.ends == 0) {
            store.release(last.frame);
        }
    }

    fn at(&mut self, at: LogIndex) -> &mut Logged {
        let begin = self.begin;
        &mut self.frames[at.since(begin)]
    }
}

/// The frames of a [`Run`], and their places in the log.
#[derive(Clone)]
pub(super) struct Frames<'a> {
    store: &'a FrameStore,
    logged: vec_deque::Iter<'a, Logged>,
    next: LogIndex,
    /// The number of frames before the floor that are still to come.
    below_floor: usize,
}

impl<'a> Iterator for Frames<'a> {
    type Item = (LogIndex, &'a Item);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = &self.store[self.logged.next()?.frame];
            #[cfg(test)]
            visits::count();
            let at = self.next;
            self.next = at.next();
            let is_below_floor = self.below_floor > 0;
            self.below_floor = self.below_floor.saturating_sub(1);
            if !(is_below_floor && item.is_droppable()) {
                return Some((at, item));
            }
        }
    }

    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        if self.below_floor == 0 && n > 0 {
            self.logged.nth(n - 1)?;
            self.next = LogIndex(self.next.0.wrapping_add(n as u32));
            return self.next();
        }
        (0..n).try_for_each(|_| self.next().map(|_| ()))?;
        self.next()
    }
}

/// The number of frames that a log has looked at in tests of this thread.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    thread_local!(static VISITS: Cell<u64> = const { Cell::new(0) });

    pub(super) fn count() {
        VISITS.set(VISITS.get() + 1);
    }

    /// The visits since the last call.
    pub(crate) fn take() -> u64 {
        VISITS.take()
    }
}
