//! The handle through which the cluster's decisions reach the client.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use comet_hub::cluster::{
    Command, Engine, EngineCounts, Part, ReplyTo, StreamCounts, StreamPlace, keys_bytes,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::handover::Turn;
use crate::{Counts, ORDERS_BYTES_MAX, ORDERS_RESERVED, Shared, StreamReading};

/// A task for the writer.
pub(crate) enum Order {
    Command(Command),
    Answer(ReplyTo, Part),
}

impl Order {
    /// Whether it announces this host or its leave. If it is lost, other hosts consider this one dead, and announce all
    /// their rooms to it later.
    fn is_of_presence(&self) -> bool {
        matches!(self, Self::Command(Command::Announce { .. } | Command::Leave))
    }

    /// Bytes that it holds while it waits.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Command(
                Command::Publish { publication, .. } | Command::Store { publication, .. },
            ) => publication.bytes(),
            Self::Command(Command::PublishOrder { order, .. }) => order.bytes(),
            Self::Command(Command::TellKeys { keys, .. }) => keys_bytes(keys),
            Self::Command(Command::AnswerNoMembers { to } | Command::Refuse { to }) => to.0.len(),
            Self::Answer(ReplyTo(to), part) => to.len() + part.bytes(),
            // These names are held by this host in any case.
            Self::Command(_) => 0,
        }
    }
}

/// An engine that uses NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    orders: mpsc::Sender<Order>,
    turns: mpsc::UnboundedSender<Turn>,
    shared: Arc<Shared>,
}

impl Nats {
    pub(crate) fn new(
        orders: mpsc::Sender<Order>,
        turns: mpsc::UnboundedSender<Turn>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { orders, turns, shared }
    }

    /// Returns the order if there is no space for it.
    fn order(&self, order: Order) -> Option<Order> {
        let Shared { counts, waiting_bytes, .. } = &*self.shared;
        let bytes = order.bytes();
        let has_room = order.is_of_presence() || self.orders.capacity() > ORDERS_RESERVED;
        let bytes_after = waiting_bytes.fetch_add(bytes, Relaxed) + bytes;
        let refused = match has_room && bytes_after <= ORDERS_BYTES_MAX {
            true => self.orders.try_send(order).err().map(TrySendError::into_inner),
            false => Some(order),
        };
        if refused.is_some() {
            waiting_bytes.fetch_sub(bytes, Relaxed);
            Counts::add(&counts.untold);
        }
        refused
    }
}

impl Engine for Nats {
    fn submit(&self, command: Command) -> Result<(), Command> {
        match self.order(Order::Command(command)) {
            Some(Order::Command(command)) => Err(command),
            _ => Ok(()),
        }
    }

    fn answer(&self, to: ReplyTo, part: Part) -> bool {
        self.order(Order::Answer(to, part)).is_none()
    }

    fn note_taken(&self, bytes: usize) {
        self.shared.events_bytes.fetch_sub(bytes, Relaxed);
    }

    fn stream_counts(&self) -> Option<StreamCounts> {
        let Some(StreamReading { read, lost, waiting, is_read }) = &self.shared.stream else {
            return None;
        };
        Some(StreamCounts {
            read: read.load(Relaxed),
            lost: lost.load(Relaxed),
            waiting: waiting.load(Relaxed),
            is_read: is_read.load(Relaxed),
        })
    }

    fn hold(&self) {
        // Fails only if the engine has ended.
        let _ = self.turns.send(Turn::Hold);
    }

    fn release(&self) {
        let _ = self.turns.send(Turn::Release);
    }

    fn take_over(&self, stream: Option<StreamPlace>) {
        self.shared.takes_over.store(true, Relaxed);
        *self.shared.resumed() = stream;
        self.shared.awaits_former.store(true, Relaxed);
    }

    fn has_taken_over(&self) -> bool {
        self.turns.is_closed() || !self.shared.awaits_former.load(Relaxed)
    }

    fn withdraw(&self) {
        self.shared.is_withdrawn.notify_one();
    }

    fn passed_on(&self) -> Option<u64> {
        let Shared { is_held, passed_on, .. } = &*self.shared;
        // Passed-on events are counted before the reader holds the rest. A reader that has ended passes on no more.
        let is_over = is_held.load(Acquire) || self.turns.is_closed();
        is_over.then(|| passed_on.load(Acquire))
    }

    fn counts(&self) -> EngineCounts {
        let Counts { dropped, dropped_notices, dropped_bytes, dropped_early, .. } =
            &self.shared.counts;
        let Counts { invalid, untold, disconnects, .. } = &self.shared.counts;
        EngineCounts {
            dropped: dropped.load(Relaxed),
            dropped_notices: dropped_notices.load(Relaxed),
            dropped_bytes: dropped_bytes.load(Relaxed),
            dropped_early: dropped_early.load(Relaxed),
            invalid: invalid.load(Relaxed),
            untold: untold.load(Relaxed),
            disconnects: disconnects.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Otherwise the events of other hosts that it holds would be lost.
    #[test]
    fn an_engine_withdraws_however_many_orders_wait() {
        let (orders, _waiting) = mpsc::channel(1 + ORDERS_RESERVED);
        let (turns, _new) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let engine = Nats::new(orders, turns, Arc::clone(&shared));
        let order = || Command::Unsubscribe { room: "r".into() };
        assert!(engine.submit(order()).is_ok() && engine.submit(order()).is_err());
        engine.withdraw();
        assert!(shared.is_withdrawn.notified().now_or_never().is_some());
    }

    #[test]
    fn a_host_says_that_it_is_there_however_many_orders_wait() {
        let (orders, _waiting) = mpsc::channel(4 + ORDERS_RESERVED);
        let engine = Nats::new(orders, mpsc::unbounded_channel().0, Arc::default());
        while engine.submit(Command::Unsubscribe { room: "r".into() }).is_ok() {}
        assert!(engine.submit(Command::Announce { reads_stream: false }).is_ok());
        assert!(engine.submit(Command::Leave).is_ok());
        assert_eq!(engine.counts().untold, 1);
    }
}
