//! How much ciphertext the sessions of a core may hold for the kernel.

use std::cell::Cell;
use std::rc::Rc;

/// Plaintext of transmits under way on a core, beyond one record of each. A client that takes what
/// it is sent gets whole transmits; when so much is under way, a send is one record.
pub const TLS_TRANSMITS_MAX: usize = 64 << 20;

/// The budget of a core; clones share it.
#[derive(Clone, Default)]
pub(crate) struct TransmitBudget {
    leased: Rc<Cell<usize>>,
}

impl TransmitBudget {
    /// Takes `bytes` off the budget until the lease is dropped. `None`: there are none to take, or
    /// fewer are left.
    pub(super) fn lease(&self, bytes: usize) -> Option<Lease> {
        let leased = self.leased.get() + bytes;
        (bytes > 0 && leased <= TLS_TRANSMITS_MAX).then(|| {
            self.leased.set(leased);
            Lease { budget: self.clone(), bytes }
        })
    }

    /// Takes `bytes` off the budget even if fewer are left: those of another process, which had a budget, too.
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
