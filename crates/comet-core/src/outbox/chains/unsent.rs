//! What an outbox holds of pushes to keys and users: they are parked if the connection ends first.

use crate::index::Index;
use crate::outbox::chain::Chain;
use crate::outbox::{ChainId, Outbox};
use crate::parking::ParkedPush;
use crate::transport::Transport;

use super::Chains;

impl Chains {
    /// Of the frames that wait. What is in flight is left out.
    pub(crate) fn direct_waiting(&self, outbox: &Outbox) -> Vec<ParkedPush> {
        self.direct(outbox.pending, 0)
    }

    /// Of the frames in flight that the kernel has not taken to the last byte.
    pub(crate) fn direct_in_flight(
        &self,
        outbox: &Outbox,
        transport: Transport,
    ) -> Vec<ParkedPush> {
        let taken = match outbox.taken {
            0 => 0,
            taken => self.whole(outbox.in_flight, transport, taken).frames,
        };
        self.direct(outbox.in_flight, taken as usize)
    }

    fn direct(&self, index: ChainId, skipped: usize) -> Vec<ParkedPush> {
        if index == ChainId::NONE {
            return Vec::new();
        }
        let Chain { log, run, .. } = self.chains[index];
        let items = self.logs[log].frames(&self.frames, run).skip(skipped);
        items.filter_map(|(_, item)| item.direct().cloned()).collect()
    }
}
