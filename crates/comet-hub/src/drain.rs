//! The drain of a process that keeps running: its stage, and the times of its steps.

use comet_core::Millis;

/// The parameters of a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainOrder {
    /// How long after the beginning new clients are still accepted, milliseconds.
    pub delay_ms: u64,
    /// Clients closed per second; 0: as configured.
    pub per_second: u32,
    /// The longest retry time that a client is told; 0: it is told none.
    pub retry_after_ms: u32,
    /// Clients are neither refused nor closed.
    pub keeps_clients: bool,
}

/// The stage of a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainStage {
    /// There is no drain.
    Serving,
    /// The server left discovery and is not healthy, but still accepts new clients.
    Leaving,
    /// Clients are refused and closed.
    Closing,
    /// The last client is gone.
    Drained,
    /// A signal ends the process, which no longer takes orders.
    Ending,
}

/// A drain by an order, which may be taken back. The end of the process overrides it.
///
/// The driver calls [`handle_timeout`](Self::handle_timeout) after each order and when
/// [`poll_timeout`](Self::poll_timeout) is due.
#[derive(Debug)]
pub struct Drain {
    stage: DrainStage,
    /// When it began.
    since: Millis,
    order: DrainOrder,
    /// The shards do not know the order yet.
    is_news: bool,
}

impl Default for Drain {
    fn default() -> Self {
        let order =
            DrainOrder { delay_ms: 0, per_second: 0, retry_after_ms: 0, keeps_clients: false };
        Self { stage: DrainStage::Serving, since: Millis(0), order, is_news: false }
    }
}

impl Drain {
    /// The stage.
    #[must_use]
    pub fn stage(&self) -> DrainStage {
        self.stage
    }

    /// The order in effect, if there is one.
    #[must_use]
    pub fn order(&self) -> Option<DrainOrder> {
        let is_ordered = !matches!(self.stage, DrainStage::Serving | DrainStage::Ending);
        is_ordered.then_some(self.order)
    }

    /// Begins a drain, or changes the one under way. Clients that are refused already stay refused, unless the new
    /// order keeps clients. `false`: the process is ending, and takes no orders.
    pub fn begin(&mut self, now: Millis, order: DrainOrder) -> bool {
        match self.stage {
            DrainStage::Ending => return false,
            DrainStage::Serving => (self.stage, self.since) = (DrainStage::Leaving, now),
            DrainStage::Closing | DrainStage::Drained if order.keeps_clients => {
                self.stage = DrainStage::Leaving;
            }
            _ => {}
        }
        (self.order, self.is_news) = (order, true);
        true
    }

    /// Ends the drain. `false`: there is none, or the process is ending.
    pub fn undrain(&mut self) -> bool {
        let is_ended = self.order().is_some();
        if is_ended {
            self.stage = DrainStage::Serving;
        }
        is_ended
    }

    /// Marks the end of the process. Returns how long it waits before it refuses clients: `delay_ms`, less the time for
    /// which a drain has been under way.
    pub fn end(&mut self, now: Millis, delay_ms: u64) -> u64 {
        let stage = std::mem::replace(&mut self.stage, DrainStage::Ending);
        match stage {
            DrainStage::Serving => delay_ms,
            DrainStage::Leaving => delay_ms.saturating_sub(now.0.saturating_sub(self.since.0)),
            DrainStage::Closing | DrainStage::Drained | DrainStage::Ending => 0,
        }
    }

    /// When clients will be refused and closed, if they are not yet.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let waits = self.stage == DrainStage::Leaving && !self.order.keeps_clients;
        waits.then(|| self.since.after(self.order.delay_ms))
    }

    /// The next order to the shards; `None`: no change.
    pub fn handle_timeout(&mut self, now: Millis) -> Option<ShardOrder> {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            (self.stage, self.is_news) = (DrainStage::Closing, true);
        }
        let is_news = std::mem::take(&mut self.is_news);
        match self.stage {
            DrainStage::Closing if is_news => Some(ShardOrder::Close(self.order)),
            DrainStage::Leaving if is_news => Some(ShardOrder::Keep),
            _ => None,
        }
    }

    /// Notes the number of connections. `true`: the last connection of a drain is gone.
    pub fn handle_connections(&mut self, connections: u64) -> bool {
        let is_last = self.stage == DrainStage::Closing && connections == 0;
        if is_last {
            self.stage = DrainStage::Drained;
        }
        is_last
    }
}

/// The task of the shards in a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardOrder {
    /// They accept clients and close none.
    Keep,
    /// They refuse clients, and close those there are.
    Close(DrainOrder),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: DrainOrder =
        DrainOrder { delay_ms: 100, per_second: 7, retry_after_ms: 0, keeps_clients: false };

    #[test]
    fn clients_are_closed_after_the_delay() {
        let mut drain = Drain::default();
        assert_eq!((drain.stage(), drain.poll_timeout()), (DrainStage::Serving, None));
        assert!(drain.begin(Millis(1_000), ORDER));
        assert_eq!(drain.handle_timeout(Millis(1_000)), Some(ShardOrder::Keep));
        // A second order changes the parameters, and does not restart the drain.
        assert!(drain.begin(Millis(1_050), DrainOrder { delay_ms: 80, ..ORDER }));
        assert_eq!(drain.poll_timeout(), Some(Millis(1_080)));
        assert_eq!(drain.handle_timeout(Millis(1_079)), Some(ShardOrder::Keep));
        assert!(!drain.handle_connections(0), "clients may still come");
        let close =
            |per_second| Some(ShardOrder::Close(DrainOrder { delay_ms: 80, per_second, ..ORDER }));
        assert_eq!(drain.handle_timeout(Millis(1_080)), close(7));
        assert_eq!((drain.handle_timeout(Millis(9_000)), drain.poll_timeout()), (None, None));
        assert!(drain.begin(Millis(9_000), DrainOrder { delay_ms: 80, per_second: 9, ..ORDER }));
        assert_eq!(drain.handle_timeout(Millis(9_000)), close(9));
        assert!(!drain.handle_connections(1));
        assert!(drain.handle_connections(0) && !drain.handle_connections(0), "once");
        assert_eq!(drain.stage(), DrainStage::Drained);
    }

    #[test]
    fn a_drain_is_taken_back_however_far_it_is() {
        for until in [0, 50, 100, 200] {
            let mut drain = Drain::default();
            assert!(!drain.undrain());
            drain.begin(Millis(0), ORDER);
            drain.handle_timeout(Millis(until));
            drain.handle_connections(0);
            assert!(drain.undrain() && !drain.undrain());
            assert_eq!((drain.stage(), drain.order()), (DrainStage::Serving, None));
            assert_eq!(drain.handle_timeout(Millis(1_000)), None);
        }
    }

    #[test]
    fn maintenance_keeps_clients() {
        let mut drain = Drain::default();
        let keep = DrainOrder { keeps_clients: true, ..ORDER };
        drain.begin(Millis(0), keep);
        assert_eq!(drain.handle_timeout(Millis(1_000_000)), Some(ShardOrder::Keep));
        assert_eq!(drain.poll_timeout(), None);
        drain.begin(Millis(1_000_000), ORDER);
        assert_eq!(drain.handle_timeout(Millis(1_000_000)), Some(ShardOrder::Close(ORDER)));
        drain.begin(Millis(1_000_000), keep);
        assert_eq!(drain.handle_timeout(Millis(1_000_000)), Some(ShardOrder::Keep));
        assert_eq!(drain.stage(), DrainStage::Leaving);
    }

    #[test]
    fn the_end_of_the_process_waits_for_the_remaining_delay() {
        let check = |ordered: Option<DrainOrder>, expected| {
            let mut drain = Drain::default();
            if let Some(order) = ordered {
                drain.begin(Millis(0), order);
                drain.handle_timeout(Millis(60));
            }
            assert_eq!(drain.end(Millis(60), 200), expected, "{ordered:?}");
            assert!(!drain.begin(Millis(61), ORDER) && !drain.undrain());
            assert_eq!((drain.handle_timeout(Millis(500)), drain.poll_timeout()), (None, None));
            assert_eq!(drain.end(Millis(62), 200), 0, "it waits once");
        };
        check(None, 200);
        check(Some(ORDER), 140);
        check(Some(DrainOrder { delay_ms: 60, ..ORDER }), 0);
    }
}
