//! What waits to be sent: an outbox is three numbers, and equal outboxes are stored once.
//!
//! The frames a connection has pending form a *chain*: the last frame, and the chain before it.
//! Chains live in one store per shard and are shared: when a room of a thousand idle members gets a
//! push, all thousand outboxes name the same one-frame chain; the next push takes all of them to the
//! same two-frame chain. So a push costs each member one comparison, and the chains' reference counts
//! one addition for a whole run of members that are alike; its bytes are shared by all, and where
//! frames are joined into one buffer for sending, that buffer is built once for everybody who has the
//! same frames pending.
//!
//! Reference counts here are plain integers of one shard. The bytes of a chain stay where they are
//! for as long as an outbox has it in flight: the kernel reads them.

use comet_proto::{Encoded, decode};

use crate::limits::{JOIN_MAX, JOINED_BYTES_MAX};
use crate::slab::{Index, Slab, index};
use crate::transport::Transport;

/// A chain of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct ChainId(u32);

index!(ChainId);

/// Tells the frames that are handed out on a shard apart, while they are: equal serials are equal frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct Serial(u32);

/// The frames of one connection that are not sent yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbox {
    /// Frames that wait.
    pending: ChainId,
    /// Frames of the send that is under way.
    in_flight: ChainId,
    /// Bytes of `in_flight` that the kernel took already.
    taken: u32,
}

impl Outbox {
    pub(crate) const EMPTY: Self =
        Self { pending: ChainId::NONE, in_flight: ChainId::NONE, taken: 0 };

    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight != ChainId::NONE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight == ChainId::NONE && self.pending == ChainId::NONE
    }
}

/// One frame on its way into any number of outboxes.
#[derive(Clone)]
pub(crate) struct Item {
    /// Unique on this shard while the frame is being handed out: equal serials are equal frames.
    serial: Serial,
    frame: Encoded,
    /// Counted in the ledger; otherwise a reply.
    is_push: bool,
}

/// What the outboxes of a walk are like, as long as one after the other is like the one before it.
#[derive(Clone, Copy)]
pub(crate) struct Alike {
    pending: ChainId,
    in_flight: ChainId,
    /// What such an outbox has pending once it got the walk's frame.
    lengthened: ChainId,
    /// Outboxes that got it and are not in the chains' reference counts yet.
    uncounted: u32,
}

impl Alike {
    /// Like no outbox.
    pub(crate) const NONE: Self = Self {
        pending: ChainId::NONE,
        in_flight: ChainId::NONE,
        lengthened: ChainId::NONE,
        uncounted: 0,
    };

    /// Gives `outbox` the walk's frame if it is like the one before it.
    #[inline]
    pub(crate) fn append(&mut self, outbox: &mut Outbox) -> bool {
        let is_alike = outbox.pending == self.pending
            && outbox.in_flight == self.in_flight
            && self.lengthened != ChainId::NONE;
        if is_alike {
            outbox.pending = self.lengthened;
            self.uncounted += 1;
        }
        is_alike
    }
}

/// A chain: `frame` after everything in `before`. Totals are over the whole chain.
struct Chain {
    item: Item,
    before: ChainId,
    /// Outboxes and longer chains that name this one.
    references: u32,
    /// The longer chain made from this one last; most likely the one the next outbox needs too.
    longer: ChainId,
    frames: u32,
    pushes: u32,
    bytes: [u32; 2],
    /// The joined bytes for each transport, once somebody sends them.
    joined: [Option<Box<[u8]>>; 2],
}

/// What a completed send meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendProgress {
    /// More of the same chain must be sent.
    Partial,
    /// All of it was taken: so many pushes.
    Done { pushes: u32 },
}

pub(crate) struct Chains {
    chains: Slab<ChainId, Chain>,
    /// The one-frame chain made last.
    first: ChainId,
    serial: Serial,
    joined_bytes: usize,
}

/// What was left of an outbox when its connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Remains {
    /// Pushes that the kernel took to the last byte.
    pub(crate) sent: u32,
    /// Pushes that it did not.
    pub(crate) lost: u32,
    /// Bytes that it did not.
    pub(crate) bytes: u32,
}

/// Totals of one outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Load {
    pub(crate) pushes: u32,
    pub(crate) replies: u32,
    pub(crate) bytes: u32,
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

    /// As [`Chains::append`]; `alike` is what outboxes after it are compared with.
    pub(crate) fn append_as(&mut self, alike: &mut Alike, outbox: &mut Outbox, item: &Item) {
        debug_assert_eq!(alike.uncounted, 0, "counted before anything else happens to chains");
        let Outbox { pending, in_flight, .. } = *outbox;
        self.append(outbox, item);
        *alike = Alike { pending, in_flight, lengthened: outbox.pending, uncounted: 0 };
    }

    /// Counts the outboxes that [`Alike::append`] took from one chain to another. Until then their chains
    /// have references to spare, and the longer one too few: nothing else may happen to it.
    pub(crate) fn count(&mut self, alike: &mut Alike) {
        let moved = std::mem::take(&mut alike.uncounted);
        if moved == 0 {
            return;
        }
        self.chains[alike.lengthened].references += moved;
        if alike.pending != ChainId::NONE {
            // Not the last ones: the longer chain has a reference of its own.
            self.chains[alike.pending].references -= moved;
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
    /// in flight. A batch is the frames in it; what is no frame of the protocol is left out.
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

    /// Takes the oldest push that is not in flight out of the outbox, and says how many bytes that was.
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

    /// Drops what waits. What is in flight stays.
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
