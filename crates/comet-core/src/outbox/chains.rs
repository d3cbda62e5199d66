//! The store of chains: frames that outboxes share.
//!
//! Reference counts here are plain integers of one shard. The bytes of a chain keep their address for as long
//! as an outbox has it in flight, because the kernel reads them.

use comet_proto::{Encoded, decode};

use crate::index::Index;
use crate::limits::{JOIN_MAX, JOINED_BYTES_MAX};
use crate::slab::Slab;
use crate::transport::Transport;

use super::{AppendMemo, ChainId, Item, Load, Outbox, Remains, SendProgress, Serial};

pub(crate) struct Chains {
    chains: Slab<ChainId, Chain>,
    /// The one-frame chain made last.
    first: ChainId,
    serial: Serial,
    joined_bytes: usize,
}

/// The frame of `item` after everything in `before`. Totals are over the whole chain.
struct Chain {
    item: Item,
    before: ChainId,
    /// Outboxes and longer chains that name this one.
    references: u32,
    /// The longer chain made from this one last. Most likely the next outbox needs that one as well.
    longer: ChainId,
    frames: u32,
    pushes: u32,
    bytes: [u32; 2],
    /// The joined bytes for each transport, from the first send on.
    joined: [Option<Box<[u8]>>; 2],
}

impl Chains {
    pub(crate) fn new() -> Self {
        Self { chains: Slab::new(), first: ChainId::NONE, serial: Serial(0), joined_bytes: 0 }
    }

    /// A frame to hand out with [`Chains::append`].
    pub(crate) fn item(&mut self, frame: Encoded, is_push: bool) -> Item {
        self.serial = Serial(self.serial.0.wrapping_add(1));
        Item { serial: self.serial, frame, is_push }
    }

    pub(crate) fn load(&self, outbox: &Outbox, transport: Transport) -> Load {
        let mut load = Load::default();
        for index in [outbox.pending, outbox.in_flight] {
            if index != ChainId::NONE {
                let chain = &self.chains[index];
                load.pushes += chain.pushes;
                load.replies += chain.frames - chain.pushes;
                load.bytes += chain.bytes[transport as usize];
            }
        }
        load
    }

    /// Adds a frame at the end. Bounds are the caller's: see [`Chains::load`].
    #[inline]
    pub(crate) fn append(&mut self, outbox: &mut Outbox, item: &Item) {
        let before = outbox.pending;
        let likely = if before == ChainId::NONE { self.first } else { self.chains[before].longer };
        outbox.pending =
            if likely != ChainId::NONE && self.chains[likely].item.serial == item.serial {
                self.chains[likely].references += 1;
                // The outbox named `before` and now names it through the longer chain, which holds its
                // own reference.
                self.release(before);
                likely
            } else {
                self.lengthen(before, item)
            };
    }

    /// As [`Chains::append`]; notes the result in `memo`, which must be settled.
    pub(crate) fn append_and_note(
        &mut self,
        memo: &mut AppendMemo,
        outbox: &mut Outbox,
        item: &Item,
    ) {
        debug_assert_eq!(memo.uncounted, 0, "a memo is settled before it changes");
        let Outbox { pending, in_flight, .. } = *outbox;
        self.append(outbox, item);
        *memo = AppendMemo { pending, in_flight, lengthened: outbox.pending, uncounted: 0 };
    }

    /// Adds the outboxes that [`AppendMemo::repeat`] changed to the reference counts. Until then the longer
    /// chain has too few references, and the shorter one has some to spare: nothing may be released.
    pub(crate) fn settle(&mut self, memo: &mut AppendMemo) {
        let moved = std::mem::take(&mut memo.uncounted);
        if moved == 0 {
            return;
        }
        self.chains[memo.lengthened].references += moved;
        if memo.pending != ChainId::NONE {
            // These are not the last references: the longer chain holds one.
            self.chains[memo.pending].references -= moved;
        }
    }

    /// Makes the chain `before` + `item`; takes over the caller's reference to `before`.
    fn lengthen(&mut self, before: ChainId, item: &Item) -> ChainId {
        let added = [item.frame.for_tcp().len() as u32, item.frame.for_websocket().len() as u32];
        let mut chain = Chain {
            item: item.clone(),
            before,
            references: 1,
            longer: ChainId::NONE,
            frames: 1,
            pushes: u32::from(item.is_push),
            bytes: added,
            joined: [None, None],
        };
        if before != ChainId::NONE {
            let shorter = &self.chains[before];
            chain.frames += shorter.frames;
            chain.pushes += shorter.pushes;
            chain.bytes = [added[0] + shorter.bytes[0], added[1] + shorter.bytes[1]];
        }
        let index = self.chains.insert(chain);
        if before == ChainId::NONE {
            self.first = index;
        } else {
            self.chains[before].longer = index;
        }
        index
    }

    /// Begins a send of all that is pending, if nothing is in flight. `false`: nothing to send.
    pub(crate) fn start(&mut self, outbox: &mut Outbox) -> bool {
        debug_assert!(!outbox.is_sending());
        outbox.in_flight = std::mem::replace(&mut outbox.pending, ChainId::NONE);
        outbox.taken = 0;
        outbox.is_sending()
    }

    /// The bytes to send next: the rest of the chain in flight where it is one frame or was joined,
    /// otherwise the rest of one frame. Empty when a frame has no bytes on this transport.
    pub(crate) fn slice(&mut self, outbox: &Outbox, transport: Transport) -> &[u8] {
        let index = outbox.in_flight;
        let chain = &self.chains[index];
        if chain.frames > 1
            && chain.joined[transport as usize].is_none()
            && chain.bytes[transport as usize] as usize <= JOIN_MAX
            && self.joined_bytes + chain.bytes[transport as usize] as usize <= JOINED_BYTES_MAX
        {
            self.join(index, transport);
        }
        let taken = outbox.taken as usize;
        let chain = &self.chains[index];
        if let Some(joined) = &chain.joined[transport as usize] {
            return &joined[taken..];
        }
        // Walk back to the frame that holds the first byte not taken yet.
        let mut at = chain;
        let mut begin = self.begin(at, transport);
        while begin > taken {
            at = &self.chains[at.before];
            begin = self.begin(at, transport);
        }
        &transport.bytes(&at.item.frame)[taken - begin..]
    }

    /// Where the last frame of `chain` begins.
    fn begin(&self, chain: &Chain, transport: Transport) -> usize {
        if chain.before == ChainId::NONE {
            0
        } else {
            self.chains[chain.before].bytes[transport as usize] as usize
        }
    }

    fn join(&mut self, index: ChainId, transport: Transport) {
        let mut end = self.chains[index].bytes[transport as usize] as usize;
        let mut joined = vec![0; end].into_boxed_slice();
        self.joined_bytes += joined.len();
        let mut at = index;
        while at != ChainId::NONE {
            let chain = &self.chains[at];
            let bytes = transport.bytes(&chain.item.frame);
            joined[end - bytes.len()..end].copy_from_slice(bytes);
            end -= bytes.len();
            at = chain.before;
        }
        self.chains[index].joined[transport as usize] = Some(joined);
    }

    /// The kernel took `bytes` more of what is in flight.
    pub(crate) fn advance(
        &mut self,
        outbox: &mut Outbox,
        transport: Transport,
        bytes: usize,
    ) -> SendProgress {
        let chain = &self.chains[outbox.in_flight];
        outbox.taken += u32::try_from(bytes).expect("a send is no longer than its chain");
        let total = chain.bytes[transport as usize];
        assert!(outbox.taken <= total, "the kernel took more than it was given");
        if outbox.taken < total {
            return SendProgress::Partial;
        }
        let pushes = chain.pushes;
        let done = std::mem::replace(&mut outbox.in_flight, ChainId::NONE);
        self.release(done);
        SendProgress::Done { pushes }
    }

    /// Operation, sequence and length of each frame whose last byte is among the next `bytes` of what is
    /// in flight. A batch counts as the frames in it. Bytes that are no frame of the protocol are left out.
    pub(crate) fn frames_taken(
        &self,
        outbox: &Outbox,
        transport: Transport,
        bytes: usize,
    ) -> Vec<(i32, i32, u32)> {
        let taken = outbox.taken as usize + 1..=outbox.taken as usize + bytes;
        let mut whole = Vec::new();
        let mut at = outbox.in_flight;
        while at != ChainId::NONE {
            let chain = &self.chains[at];
            if taken.contains(&(chain.bytes[transport as usize] as usize)) {
                whole.push(&chain.item.frame);
            }
            at = chain.before;
        }
        let mut frames = Vec::new();
        for encoded in whole.into_iter().rev() {
            let mut run = encoded.for_tcp();
            while let Ok(Some((frame, length))) = decode(run, usize::MAX) {
                frames.push((frame.operation, frame.sequence, length as u32));
                run = &run[length..];
            }
        }
        frames
    }

    /// Takes the oldest push that is not in flight out of the outbox; returns its length in bytes.
    /// `None`: there is none.
    pub(crate) fn drop_oldest(
        &mut self,
        outbox: &mut Outbox,
        transport: Transport,
    ) -> Option<usize> {
        let mut items = Vec::new();
        let mut at = outbox.pending;
        while at != ChainId::NONE {
            let chain = &self.chains[at];
            items.push(chain.item.clone());
            at = chain.before;
        }
        let oldest = items.iter().rposition(|item| item.is_push)?;
        let dropped = items.remove(oldest);
        let pending = std::mem::replace(&mut outbox.pending, ChainId::NONE);
        for item in items.iter().rev() {
            self.append(outbox, item);
        }
        self.release(pending);
        Some(transport.bytes(&dropped.frame).len())
    }

    /// Drops what is pending. What is in flight stays.
    pub(crate) fn clear_pending(&mut self, outbox: &mut Outbox, transport: Transport) -> Remains {
        let index = std::mem::replace(&mut outbox.pending, ChainId::NONE);
        if index == ChainId::NONE {
            return Remains::default();
        }
        let Chain { pushes, bytes, .. } = self.chains[index];
        self.release(index);
        Remains { sent: 0, lost: pushes, bytes: bytes[transport as usize] }
    }

    /// Drops what is in flight, after its last completion.
    pub(crate) fn clear_in_flight(&mut self, outbox: &mut Outbox, transport: Transport) -> Remains {
        let index = std::mem::replace(&mut outbox.in_flight, ChainId::NONE);
        if index == ChainId::NONE {
            return Remains::default();
        }
        let Chain { pushes, bytes, .. } = self.chains[index];
        let mut at = index;
        while at != ChainId::NONE && self.chains[at].bytes[transport as usize] > outbox.taken {
            at = self.chains[at].before;
        }
        let sent = if at == ChainId::NONE { 0 } else { self.chains[at].pushes };
        self.release(index);
        let bytes = bytes[transport as usize] - outbox.taken;
        Remains { sent, lost: pushes - sent, bytes }
    }

    #[inline]
    fn release(&mut self, mut index: ChainId) {
        while index != ChainId::NONE {
            let chain = &mut self.chains[index];
            chain.references -= 1;
            if chain.references > 0 {
                return;
            }
            let chain = self.chains.remove(index);
            for joined in chain.joined.iter().flatten() {
                self.joined_bytes -= joined.len();
            }
            if chain.before == ChainId::NONE {
                if self.first == index {
                    self.first = ChainId::NONE;
                }
            } else if self.chains[chain.before].longer == index {
                self.chains[chain.before].longer = ChainId::NONE;
            }
            index = chain.before;
        }
    }

    /// Nothing is left when every outbox is empty.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.chains.len() == 0 && self.joined_bytes == 0
    }
}

#[cfg(test)]
mod tests;
