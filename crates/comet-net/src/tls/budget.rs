//! How much ciphertext the sessions of a core may hold for the kernel.

use std::cell::Cell;
use std::rc::Rc;

/// Most plaintext of transmits under way on a core, beyond one record of each. Within this bound a client is sent whole
/// transmits; beyond it a send is one record.
pub const TLS_TRANSMITS_MAX: usize = 64 << 20;

/// The budget of a core; clones share it.
#[derive(Clone, Default)]
pub(crate) struct TransmitBudget {
    leased: Rc<Cell<usize>>,
}

impl TransmitBudget {
    /// Takes `bytes` off the budget until the lease is dropped. `None`: `bytes` is 0, or less is left.
    pub(super) fn lease(&self, bytes: usize) -> Option<Lease> {
        let leased = self.leased.get() + bytes;
        (bytes > 0 && leased <= TLS_TRANSMITS_MAX).then(|| {
            self.leased.set(leased);
            Lease { budget: self.clone(), bytes }
        })
    }

    /// Takes `bytes` off the budget even if less is left: they come from another process, which had its own budget.
    pub(super) fn lease_anyway(&self, bytes: usize) -> Option<Lease> {
        (bytes > 0).then(|| {
            self.leased.set(self.leased.get() + bytes);
            Lease { budget: self.clone(), bytes }
        })
    }
}

pub(super) struct Lease {
    budget: TransmitBudget,
    bytes: usize,
}

impl Lease {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.leased.set(self.budget.leased.get() - self.bytes);
    }
}
