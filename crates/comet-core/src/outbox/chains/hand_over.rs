//! Outboxes on their way to another process.

use std::sync::Arc;

use comet_proto::Encoded;

use crate::index::Index;
use crate::outbox::chain::Chain;
use crate::outbox::{ChainId, Item, Outbox, Serial, State};
use crate::parking::ParkedPush;
use crate::transport::Transport;

use super::Chains;

/// A frame as plain data.
pub(crate) struct ItemParts<'a> {
    /// Within a shard an equal serial is the same frame.
    pub(crate) serial: u32,
    pub(crate) frame: &'a Encoded,
    pub(crate) is_push: bool,
    pub(crate) state: Option<&'a State>,
    pub(crate) direct: Option<&'a ParkedPush>,
}

impl Chains {
    /// The frames of an outbox that the kernel has not taken whole, and how many bytes of the first one it took.
    pub(crate) fn hand_over(
        &self,
        outbox: &Outbox,
        transport: Transport,
    ) -> (Vec<ItemParts<'_>>, u32) {
        let Outbox { pending, in_flight, mut taken } = *outbox;
        let mut items = Vec::new();
        for index in [in_flight, pending].into_iter().filter(|index| *index != ChainId::NONE) {
            let Chain { log, run, .. } = self.chains[index];
            items.extend(self.logs[log].frames(&self.frames, run).map(|(_, item)| item));
        }
        let mut skipped = 0;
        while taken > 0 {
            let length = transport.bytes(&items[skipped].frame).len() as u32;
            if taken < length {
                break;
            }
            taken -= length;
            skipped += 1;
        }
        let items = items.into_iter().skip(skipped).map(|item| {
            let Item { serial: Serial(serial), frame, is_push, state, direct, stored: _ } = item;
            let (state, direct) = (state.as_deref(), direct.as_deref());
            ItemParts { serial: *serial, frame, is_push: *is_push, state, direct }
        });
        (items.collect(), taken)
    }

    /// A frame of another process.
    pub(crate) fn arrived_item(
        &mut self,
        frame: Encoded,
        is_push: bool,
        state: Option<Arc<State>>,
        direct: Option<Arc<ParkedPush>>,
    ) -> Item {
        let mut item = self.item(frame, is_push);
        item.set_state(state);
        item.set_direct(direct);
        item
    }

    /// An outbox with these frames. If a send has begun, of whose first frame the kernel took so many bytes, it goes on as one
    /// that was cut short with that frame alone; the others wait.
    pub(crate) fn take_over<'a>(
        &mut self,
        mut items: impl Iterator<Item = &'a Item>,
        begun: Option<u32>,
    ) -> Outbox {
        let mut outbox = Outbox::EMPTY;
        if let Some(taken) = begun
            && let Some(first) = items.next()
        {
            self.append(&mut outbox, first);
            outbox.in_flight = std::mem::replace(&mut outbox.pending, ChainId::NONE);
            outbox.taken = taken;
        }
        for item in items {
            self.append(&mut outbox, item);
        }
        outbox
    }
}
