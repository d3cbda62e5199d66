//! One chain: a run of a log, its totals, and the chains that outboxes moved to from it.

use crate::transport::Transport;

use super::log::Run;
use super::window::Window;
use super::{Cut, Item, LogId, Serial, WeakChain};

pub(super) struct Chain {
    pub(super) log: LogId,
    pub(super) run: Run,
    pub(super) totals: Totals,
    /// The serial of the last frame.
    pub(super) last: Serial,
    /// The number of outboxes that name this chain.
    pub(super) references: u32,
    /// The chain that the last outbox moved to by appending a frame, and the pushes that it dropped for that.
    pub(super) longer: WeakChain,
    pub(super) cut: Cut,
    /// The chains that the last outbox moved to by beginning a send: its frames in flight, and the rest.
    pub(super) halves: [WeakChain; 2],
    /// One for each encoding of the frames, from the first send on; none for a single frame.
    pub(super) windows: [Option<Box<Window>>; 2],
}

#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) frames: u32,
    pub(super) pushes: u32,
    pub(super) replies: u32,
    pub(super) bytes: [u32; 2],
}

impl Chain {
    pub(super) fn new(log: LogId, run: Run, totals: Totals, last: Serial) -> Self {
        Self {
            log,
            run,
            totals,
            last,
            references: 1,
            longer: WeakChain::NONE,
            cut: Cut::default(),
            halves: [WeakChain::NONE; 2],
            windows: [None, None],
        }
    }
}

impl Totals {
    pub(super) fn add(&mut self, item: &Item) {
        self.frames += 1;
        self.pushes += item.pushes;
        self.replies += u32::from(!item.is_push());
        self.bytes[0] += item.frame.for_tcp().len() as u32;
        self.bytes[1] += item.frame.for_websocket().len() as u32;
    }

    /// The bytes on a WebSocket, where every frame is at least as long as on TCP.
    pub(super) fn longest(&self) -> usize {
        self.bytes[Transport::WebSocket.encoding()] as usize
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self {
            frames: self.frames - other.frames,
            pushes: self.pushes - other.pushes,
            replies: self.replies - other.replies,
            bytes: [self.bytes[0] - other.bytes[0], self.bytes[1] - other.bytes[1]],
        }
    }
}
