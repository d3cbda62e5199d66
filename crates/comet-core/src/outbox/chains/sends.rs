//! Sends: the frames that an outbox has in flight, and how much of them the kernel has taken.

use comet_proto::{Frame, decode, text};

use crate::index::Index;
use crate::limits::{JOIN_MAX, JOINED_BYTES_MAX, WINDOW};
use crate::outbox::chain::{Chain, Totals};
use crate::outbox::log::Run;
use crate::outbox::slices::Slices;
use crate::outbox::window::{Whole, Window};
use crate::outbox::{ChainId, Item, Outbox, Remains, SendProgress, WeakChain};
use crate::transport::Transport;

use super::Chains;

impl Chains {
    /// Begins a send of the pending frames, or of one window of them if they are long. Nothing may be in flight.
    /// `false`: nothing is pending.
    pub(crate) fn start(&mut self, outbox: &mut Outbox) -> bool {
        debug_assert!(!outbox.is_sending());
        let pending = outbox.pending;
        if pending == ChainId::NONE {
            return false;
        }
        let (in_flight, pending) =
            if self.is_window(pending) { (pending, ChainId::NONE) } else { self.halve(pending) };
        *outbox = Outbox { pending, in_flight, taken: 0 };
        true
    }

    /// Inserts `replies` into a send of which the kernel has taken nothing, in order, each behind the given number of
    /// its frames. If no send is under way, one with the replies begins.
    pub(crate) fn insert(&mut self, outbox: &mut Outbox, replies: &[(usize, Item)]) {
        debug_assert!(outbox.taken == 0 && replies.is_sorted_by_key(|(place, _)| *place));
        let Some((_, last_reply)) = replies.last() else { return };
        let window = outbox.in_flight;
        let mut frames = Vec::new();
        let (mut totals, mut last) = (Totals::default(), last_reply.serial);
        if window != ChainId::NONE {
            let Chain { log, run, totals: waiting, last: latest, .. } = self.chains[window];
            let log = &self.logs[log];
            frames.extend(log.frames(&self.frames, run).filter_map(|(at, _)| log.get(at)));
            totals = waiting;
            last =
                if replies.iter().any(|(place, _)| *place >= frames.len()) { last } else { latest };
        }
        frames.iter().for_each(|&frame| self.frames.hold_again(frame));
        for (place, reply) in replies.iter().rev() {
            totals.add(reply);
            frames.insert(*place, self.frames.hold(reply));
        }
        let id = self.begin_log();
        let log = &mut self.logs[id];
        frames.into_iter().for_each(|frame| log.push(frame));
        let run = Run { to: log.end(), ..log.run_before_first() };
        outbox.in_flight = self.add_chain(Chain::new(id, run, totals, last)).chain;
        self.release(window, 1);
    }

    /// The frames of the send under way, and the pending frames behind it.
    pub(crate) fn waiting_frames(&self, outbox: &Outbox) -> [Vec<&Item>; 2] {
        [outbox.in_flight, outbox.pending].map(|index| {
            if index == ChainId::NONE {
                return Vec::new();
            }
            let Chain { log, run, .. } = self.chains[index];
            self.logs[log].frames(&self.frames, run).map(|(_, item)| item).collect()
        })
    }

    /// Whether the whole chain fits into one send.
    fn is_window(&self, index: ChainId) -> bool {
        let Chain { log, run, totals, .. } = self.chains[index];
        let bytes = totals.longest();
        let last = || self.frames[self.logs[log].last(run)].frame.for_websocket().len();
        bytes <= WINDOW || bytes - last() <= WINDOW
    }

    /// Divides a chain into the frames of one send and the rest. Takes over the caller's reference.
    fn halve(&mut self, index: ChainId) -> (ChainId, ChainId) {
        let [window, rest] = self.chains[index].halves;
        let is_known = self.chains.at(window.chain, window.generation).is_some()
            && self.chains.at(rest.chain, rest.generation).is_some();
        if is_known {
            self.chains[window.chain].references += 1;
            self.chains[rest.chain].references += 1;
        } else {
            self.chains[index].halves = self.make_halves(index);
        }
        let [window, rest] = self.chains[index].halves;
        self.release(index, 1);
        (window.chain, rest.chain)
    }

    fn make_halves(&mut self, index: ChainId) -> [WeakChain; 2] {
        let Chain { log, run, totals, last, .. } = self.chains[index];
        let mut frames = self.logs[log].frames(&self.frames, run);
        let mut window = Totals::default();
        let (to, serial) = frames
            .by_ref()
            .find_map(|(at, item)| {
                window.add(item);
                (window.longest() > WINDOW).then_some((at.next(), item.serial))
            })
            .expect("the chain is longer than a window");
        let (from, _) = frames.next().expect("the chain is longer than a window");
        let ends_below_floor = to.since(run.from) <= run.floor.since(run.from);
        let (window_floor, rest_floor) =
            if ends_below_floor { (to, run.floor) } else { (run.floor, from) };
        let rest = totals.without(window);
        let window = Chain::new(log, Run { to, floor: window_floor, ..run }, window, serial);
        let rest = Chain::new(log, Run { from, floor: rest_floor, to: run.to }, rest, last);
        [self.add_chain(window), self.add_chain(rest)]
    }

    /// The bytes to send next: everything in flight that is not taken.
    pub(crate) fn slices(&mut self, outbox: &Outbox, transport: Transport) -> Slices<'_> {
        let (index, taken) = (outbox.in_flight, outbox.taken as usize);
        let chain = &self.chains[index];
        if chain.totals.frames == 1 {
            let only = &self.frames[self.logs[chain.log].last(chain.run)];
            return Slices::one(&transport.bytes(&only.frame)[taken..]);
        }
        if chain.windows[transport.encoding()].is_none() {
            self.make_window(index, transport);
        }
        let chain = &self.chains[index];
        let window = chain.windows[transport.encoding()].as_deref();
        if let Some(joined) = window.and_then(Window::joined) {
            return Slices::one(&joined[taken..]);
        }
        let whole = window.map_or(Whole::default(), |window| window.whole(outbox.taken));
        let frames = self.logs[chain.log].frames(&self.frames, chain.run);
        Slices::of_frames(frames, transport, whole.frames as usize, taken - whole.bytes as usize)
    }

    pub(super) fn make_window(&mut self, index: ChainId, transport: Transport) {
        let Chain { log, run, totals, .. } = self.chains[index];
        let bytes = totals.bytes[transport.encoding()] as usize;
        let joins = bytes <= JOIN_MAX && self.joined_bytes + bytes <= JOINED_BYTES_MAX;
        let joined = joins.then(|| Vec::with_capacity(bytes));
        self.joined_bytes += if joins { bytes } else { 0 };
        let frames = self.logs[log].frames(&self.frames, run);
        let frames = frames.map(|(_, item)| (transport.bytes(&item.frame), item.pushes));
        let window = Window::new(frames, joined);
        self.chains[index].windows[transport.encoding()] = Some(Box::new(window));
    }

    /// The frames in flight that end within the first `taken` bytes.
    pub(super) fn whole(&self, index: ChainId, transport: Transport, taken: u32) -> Whole {
        let chain = &self.chains[index];
        let Totals { frames, pushes, replies, bytes } = chain.totals;
        let bytes = bytes[transport.encoding()];
        let mut whole = match &chain.windows[transport.encoding()] {
            _ if taken == bytes => return Whole { frames, pushes, replies, bytes },
            Some(window) => window.whole(taken),
            // It is one frame, or nothing was sent yet.
            None => Whole::default(),
        };
        if let Some((pushes, _)) = self.whole_of_parcel(index, transport, whole, taken) {
            whole.pushes += pushes;
        }
        whole
    }

    /// If a parcel follows the `whole` frames: how many of its pushes end within the first `taken` bytes in flight, and
    /// their length.
    pub(super) fn whole_of_parcel(
        &self,
        index: ChainId,
        transport: Transport,
        whole: Whole,
        taken: u32,
    ) -> Option<(u32, u32)> {
        if taken == whole.bytes {
            return None;
        }
        let Chain { log, run, .. } = self.chains[index];
        let (_, item) = self.logs[log].frames(&self.frames, run).nth(whole.frames as usize)?;
        Some(item.parcel()?.whole(transport, taken - whole.bytes))
    }

    /// The kernel took `bytes` more bytes of the frames in flight.
    pub(crate) fn advance(
        &mut self,
        outbox: &mut Outbox,
        transport: Transport,
        bytes: usize,
    ) -> SendProgress {
        let index = outbox.in_flight;
        let before = self.whole(index, transport, outbox.taken);
        outbox.taken += u32::try_from(bytes).expect("a send is no longer than its chain");
        let total = self.chains[index].totals.bytes[transport.encoding()];
        assert!(outbox.taken <= total, "the kernel took more than it was given");
        let after = self.whole(index, transport, outbox.taken);
        let is_done = outbox.taken == total;
        if is_done {
            self.end_send(outbox);
        }
        SendProgress { pushes: after.pushes - before.pushes, is_done }
    }

    /// The operation, sequence and length of each frame whose last byte is among the next `bytes` bytes in flight. A
    /// batch counts as the frames in it. Bytes that are no frame of the protocol are skipped.
    pub(crate) fn frames_taken(
        &self,
        outbox: &Outbox,
        transport: Transport,
        bytes: usize,
    ) -> Vec<(i32, i32, u32)> {
        let whole = |taken| self.whole(outbox.in_flight, transport, taken).frames as usize;
        let (from, to) = (whole(outbox.taken), whole(outbox.taken + bytes as u32));
        let Chain { log, run, .. } = self.chains[outbox.in_flight];
        let mut frames = Vec::new();
        for (_, item) in self.logs[log].frames(&self.frames, run).skip(from).take(to - from) {
            if let Some(message) = item.frame.text() {
                for object in text::objects(message) {
                    let request = text::read(object).expect("what was written can be read");
                    let Frame { operation, sequence, .. } = request.frame();
                    frames.push((operation, sequence, object.len() as u32));
                }
                continue;
            }
            let mut decode_run = |mut run| {
                while let Ok(Some((frame, length))) = decode(run, usize::MAX) {
                    frames.push((frame.operation, frame.sequence, length as u32));
                    run = &run[length..];
                }
            };
            match item.parcel() {
                None => decode_run(item.frame.for_tcp()),
                Some(parcel) => parcel.iter().for_each(|push| decode_run(push.on(Transport::Tcp))),
            }
        }
        frames
    }

    /// Drops what is pending, but not what is in flight.
    pub(crate) fn clear_pending(&mut self, outbox: &mut Outbox, transport: Transport) -> Remains {
        let index = std::mem::replace(&mut outbox.pending, ChainId::NONE);
        if index == ChainId::NONE {
            return Remains::default();
        }
        let Totals { pushes, bytes, .. } = self.chains[index].totals;
        self.release(index, 1);
        Remains { pushes, bytes: bytes[transport.encoding()] }
    }

    /// Drops what is in flight, after its last completion.
    pub(crate) fn clear_in_flight(&mut self, outbox: &mut Outbox, transport: Transport) -> Remains {
        let index = outbox.in_flight;
        if index == ChainId::NONE {
            return Remains::default();
        }
        let Totals { pushes, bytes, .. } = self.chains[index].totals;
        let whole = self.whole(index, transport, outbox.taken);
        let bytes = bytes[transport.encoding()] - outbox.taken;
        self.end_send(outbox);
        Remains { pushes: pushes - whole.pushes, bytes }
    }

    fn end_send(&mut self, outbox: &mut Outbox) {
        self.release(outbox.in_flight, 1);
        outbox.in_flight = ChainId::NONE;
        outbox.taken = 0;
    }
}
