//! What a frozen core does with its ring.

use std::time::Duration;

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::{BUFFER_GROUP, Operation, Ring, register_buffers};
use crate::buffers::Buffers;
use crate::ids::ListenerIndex;

impl Ring {
    /// Takes the receive buffers back. From now on a receive takes nothing from its socket, whenever the kernel comes to run it: it
    /// completes with ENOBUFS. Receives need not be cancelled then, and their sockets may be used by another process. Completions
    /// that are posted already name their buffers as before.
    ///
    /// # Panics
    /// If the ring has none.
    pub(crate) fn take_buffers_back(&mut self) {
        let taken = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
        taken.expect("the buffers are registered until they are taken back");
        self.has_buffers = false;
    }

    /// Gives them again. All are to be offered anew.
    ///
    /// # Panics
    /// If the kernel does not take what it took before.
    pub(crate) fn give_buffers(&mut self, buffers: &mut Buffers) {
        if !self.has_buffers {
            buffers.reset();
            register_buffers(&self.ring, buffers).expect("the kernel took these buffers before");
            buffers.offer_all();
            self.has_buffers = true;
        }
    }

    /// Cancels an operation. It completes once more: with what it has done, or with ECANCELED if that is nothing.
    pub(crate) fn cancel(&mut self, operation: Operation) {
        let entry = opcode::AsyncCancel::new(operation.to_user_data()).build();
        self.push(entry, Operation::Cancel);
    }

    /// Cancels all accepts of a listener. Each completes once more, as in [`Ring::cancel`].
    pub(crate) fn cancel_accepts(&mut self, index: ListenerIndex) {
        let accepts = CancelBuilder::user_data(Operation::Accept(index).to_user_data()).all();
        self.push(opcode::AsyncCancel2::new(accepts).build(), Operation::Cancel);
    }

    /// Operations in flight, queued ones among them, that change something by themselves: not receives, which need buffers.
    pub(crate) fn effects_in_flight(&self) -> usize {
        self.effects
    }

    /// Submits what is queued, and waits until these have completed, or as many as the completion queue has space for, for
    /// `timeout` at the longest. One call that waits for many runs all deferred completions; one that waits for a few runs 20.
    pub(crate) fn wait_for_effects(&mut self, timeout: Duration) {
        let space = self.ring.completion().capacity() / 2;
        self.enter(self.effects.min(space) as u32, Some(timeout));
    }

    /// Whether the kernel keeps completions that the queue had no space for.
    pub(crate) fn has_overflown(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }
}
