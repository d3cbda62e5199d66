//! The handle by which the cluster's decisions reach the client.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use comet_hub::cluster::{Command, Engine, EngineCounts, Part, ReplyTo};
use tokio::sync::mpsc;

use crate::{Counts, Shared};

/// What the writer is to do.
pub(crate) enum Order {
    Command(Command),
    Answer(ReplyTo, Part),
}

/// An engine by NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

impl Nats {
    pub(crate) fn new(orders: mpsc::Sender<Order>, shared: Arc<Shared>) -> Self {
        Self { orders, shared }
    }

    fn order(&self, order: Order) -> bool {
        let is_taken = self.orders.try_send(order).is_ok();
        if !is_taken {
            Counts::add(&self.shared.counts.untold);
        }
        is_taken
    }
}

impl Engine for Nats {
    fn submit(&self, command: Command) -> bool {
        self.order(Order::Command(command))
    }

    fn answer(&self, to: ReplyTo, part: Part) -> bool {
        self.order(Order::Answer(to, part))
    }

    fn counts(&self) -> EngineCounts {
        let Counts { dropped, invalid, untold, disconnects } = &self.shared.counts;
        EngineCounts {
            dropped: dropped.load(Relaxed),
            invalid: invalid.load(Relaxed),
            untold: untold.load(Relaxed),
            disconnects: disconnects.load(Relaxed),
        }
    }
}
