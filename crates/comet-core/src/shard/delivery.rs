//! One push on its way into the outboxes of one shard.

use crate::conn::Conn;
use crate::ids::{LocalConnId, Slot};
use crate::ledger::{DropReason, Tally};
use crate::limits::{Limits, SlowConsumer};
use crate::message::Push;
use crate::outbox::{AppendMemo, Item};

use super::connections::Connections;
use super::outboxes::Outboxes;

/// Connections that one walk is to close before it should end.
const SLOW_MAX: usize = 256;

/// Whether the push's operation must be among those a connection accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Off,
    On,
}

/// A walk over connections that offers each of them the same push.
pub(super) struct Delivery<'a> {
    conns: &'a mut Connections,
    outboxes: &'a mut Outboxes,
    limits: &'a Limits,
    item: Item,
    operation: i32,
    filter: Filter,
    /// Length of the frame on each transport.
    bytes: [u32; 2],
    /// The latest append on each transport.
    memos: [AppendMemo; 2],
    /// Outboxes that took the push, by transport.
    queued: [u64; 2],
    /// Connections that did not get it.
    tally: Tally,
    superseded: u64,
    /// To be closed when the walk is over.
    slow: Vec<Slot>,
}

/// What a [`Delivery`] led to.
pub(super) struct Delivered {
    pub(super) tally: Tally,
    /// Older pushes that were dropped for this one.
    pub(super) superseded: u64,
    /// Connections to close as slow consumers.
    pub(super) slow: Vec<Slot>,
}

impl<'a> Delivery<'a> {
    /// `item` is the frame of `push`, the same in all walks of it.
    pub(super) fn new(
        conns: &'a mut Connections,
        outboxes: &'a mut Outboxes,
        limits: &'a Limits,
        push: &Push,
        item: Item,
        filter: Filter,
    ) -> Self {
        Self {
            conns,
            outboxes,
            limits,
            item,
            operation: push.operation,
            filter,
            bytes: [push.frame.for_tcp().len() as u32, push.frame.for_websocket().len() as u32],
            memos: [AppendMemo::NONE; 2],
            queued: [0, 0],
            tally: Tally::default(),
            superseded: 0,
            slow: Vec::new(),
        }
    }

    /// Puts the push into the outbox of a connection that takes pushes, or counts why not.
    #[inline]
    pub(super) fn offer(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot];
        debug_assert!(conn.takes_pushes().is_ok());
        if self.filter == Filter::On && !conn.accepts.contains(self.operation) {
            return self.tally.drop_as(DropReason::Filtered, 1);
        }
        let transport = conn.transport as usize;
        // Members of a room mostly have the same frames pending. Then the result of the latest append
        // holds for the next outbox, and the chains are not looked at.
        if !self.memos[transport].repeat(&mut conn.outbox) && !self.append(slot) {
            return self.tally.drop_as(DropReason::OutboxFull, 1);
        }
        self.queued[transport] += 1;
        let conn = &mut self.conns[slot];
        if !conn.outbox.is_sending() {
            self.outboxes.mark_ready(slot, conn);
        }
    }

    /// Offers the push to `conn`, or counts why it takes none.
    pub(super) fn offer_to(&mut self, conn: LocalConnId) {
        match self.conns.get(conn).map_or(Err(DropReason::Closing), |conn| conn.takes_pushes()) {
            Ok(()) => self.offer(conn.slot),
            Err(reason) => self.tally.drop_as(reason, 1),
        }
    }

    /// Offers the push to whichever connection is in `slot`. `false`: there is none that takes pushes, and
    /// nothing is counted.
    pub(super) fn offer_in_slot(&mut self, slot: Slot) -> bool {
        let takes_pushes = self.conns.in_slot(slot).is_some_and(|conn| conn.takes_pushes().is_ok());
        if takes_pushes {
            self.offer(slot);
        }
        takes_pushes
    }

    /// So many connections are to be closed that the walk should end.
    pub(super) fn is_strained(&self) -> bool {
        self.slow.len() >= SLOW_MAX
    }

    /// Ends the walk.
    pub(super) fn finish(mut self) -> Delivered {
        self.settle_memos();
        let Self { queued, bytes, mut tally, superseded, slow, .. } = self;
        for (queued, bytes) in queued.into_iter().zip(bytes) {
            tally.matched += queued;
            tally.queued += queued;
            self.outboxes.bytes_queued += queued * u64::from(bytes);
        }
        Delivered { tally, superseded, slow }
    }

    /// Appends the push to one outbox. `false`: the outbox is full.
    fn append(&mut self, slot: Slot) -> bool {
        self.settle_memos();
        let conn = &self.conns[slot];
        let transport = conn.transport as usize;
        let is_full = self.is_full(conn);
        if is_full && !self.make_space(slot) {
            return false;
        }
        let conn = &mut self.conns[slot];
        let chains = &mut self.outboxes.chains;
        if is_full {
            // Other outboxes are as they were: only this one lost its oldest push.
            self.memos[transport] = AppendMemo::NONE;
            chains.append(&mut conn.outbox, &self.item);
        } else {
            chains.append_and_note(&mut self.memos[transport], &mut conn.outbox, &self.item);
        }
        true
    }

    fn is_full(&self, conn: &Conn) -> bool {
        let load = self.outboxes.chains.load(&conn.outbox, conn.transport);
        let bytes = self.bytes[conn.transport as usize];
        load.pushes >= u32::from(self.limits.svr_proto)
            || load.bytes.saturating_add(bytes) > self.limits.outbox_bytes
    }

    /// Adds the outboxes that took the push by memo to the chains' reference counts. Due before anything but
    /// a look is done with the chains.
    fn settle_memos(&mut self) {
        for memo in &mut self.memos {
            self.outboxes.chains.settle(memo);
        }
    }

    /// Does with a full outbox what the limits say. `false`: the push is dropped.
    #[cold]
    fn make_space(&mut self, slot: Slot) -> bool {
        match self.limits.slow_consumer {
            SlowConsumer::DropNewest => false,
            SlowConsumer::Close => {
                self.slow.push(slot);
                false
            }
            SlowConsumer::DropOldest => self.drop_oldest(slot),
        }
    }

    fn drop_oldest(&mut self, slot: Slot) -> bool {
        let transport = self.conns[slot].transport;
        if self.bytes[transport as usize] > self.limits.outbox_bytes {
            // It would not fit into an empty outbox either.
            return false;
        }
        // By count one is enough; by bytes it may take several. What is in flight cannot be taken back:
        // where that alone fills the outbox, the newest push waits beside it.
        while self.is_full(&self.conns[slot]) {
            let outbox = &mut self.conns[slot].outbox;
            let Some(bytes) = self.outboxes.chains.drop_oldest(outbox, transport) else { break };
            self.superseded += 1;
            self.outboxes.bytes_dropped += bytes as u64;
        }
        true
    }
}
