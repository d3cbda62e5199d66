//! The operations of a frozen core on its ring.

use std::time::Duration;

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::{BUFFER_GROUP, Operation, Ring, register_buffers};
use crate::buffers::Buffers;
use crate::ids::ListenerIndex;

impl Ring {
    /// Takes the receive buffers back from the kernel. A receive that the kernel runs after that takes nothing from its
    /// socket: it completes with ENOBUFS. So receives need not be cancelled, and another process may use their sockets.
    /// Completions that are already posted still name their buffers.
    ///
    /// # Panics
    /// If the kernel does not have them.
    pub(crate) fn take_buffers_back(&mut self) {
        let taken = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
        taken.expect("the buffers are registered until they are taken back");
        self.has_buffers = false;
    }

    /// Gives the receive buffers to the kernel again. All of them have to be offered anew.
    ///
    /// # Panics
    /// If the kernel refuses to register the buffers again.
    pub(crate) fn give_buffers(&mut self, buffers: &mut Buffers) {
        if !self.has_buffers {
            buffers.reset();
            register_buffers(&self.ring, buffers).expect("the kernel took these buffers before");
            buffers.offer_all();
            self.has_buffers = true;
        }
    }

    /// Cancels an operation. It completes once more: with its result so far, or with ECANCELED if there is none.
    pub(crate) fn cancel(&mut self, operation: Operation) {
        let entry = opcode::AsyncCancel::new(operation.to_user_data()).build();
        self.push(entry, Operation::Cancel);
    }

    /// Cancels all accepts of a listener. Each completes once more, as in [`Ring::cancel`].
    pub(crate) fn cancel_accepts(&mut self, index: ListenerIndex) {
        let accepts = CancelBuilder::user_data(Operation::Accept(index).to_user_data()).all();
        self.push(opcode::AsyncCancel2::new(accepts).build(), Operation::Cancel);
    }

    /// Operations queued or in flight that have an effect of their own. Receives are not among them, because they need
    /// buffers.
    pub(crate) fn effects_in_flight(&self) -> usize {
        self.effects
    }

    /// Submits what is queued, and waits up to `timeout` until these operations have completed, or as many as the
    /// completion queue has space for. One call that waits for many runs all deferred completions; one that waits for a
    /// few runs only 20.
    pub(crate) fn wait_for_effects(&mut self, timeout: Duration) {
        let space = self.ring.completion().capacity() / 2;
        self.enter(self.effects.min(space) as u32, Some(timeout));
    }

    /// Whether the kernel keeps completions for which the queue had no space.
    pub(crate) fn has_overflown(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }
}
