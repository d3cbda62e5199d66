//! The numbers of connections from each address and subnet.

use std::net::IpAddr;

use hashbrown::hash_table::Entry;

use crate::bucket::Buckets;
use crate::ledger::CloseReason;
use crate::network::Network;
use crate::source::{Source, SourceLimits};

/// The counts of this home. There are at most two entries for each connection.
pub(crate) struct SourceCounts {
    addresses: Buckets<IpAddr, u32>,
    subnets: Buckets<Network, u32>,
}

impl SourceCounts {
    pub(super) fn new(buckets: usize, seed: u64) -> Self {
        Self {
            addresses: Buckets::new(buckets, seed ^ 7),
            subnets: Buckets::new(buckets, seed ^ 8),
        }
    }

    /// Counts one more connection from `source`. `Some`: there are too many, for this reason. The connection is counted
    /// nevertheless, until it leaves.
    pub(crate) fn enter(&mut self, source: &Source, limits: &SourceLimits) -> Option<CloseReason> {
        let from_address = add(&mut self.addresses, source.address);
        let from_subnet = add(&mut self.subnets, source.subnet);
        let exceeds = |count, most| most > 0 && count > most;
        if exceeds(from_address, limits.per_address) {
            Some(CloseReason::AddressLimit)
        } else if exceeds(from_subnet, limits.per_subnet) {
            Some(CloseReason::SubnetLimit)
        } else {
            None
        }
    }

    /// A connection from `source` is gone.
    pub(crate) fn leave(&mut self, source: &Source) {
        subtract(&mut self.addresses, &source.address);
        subtract(&mut self.subnets, &source.subnet);
    }

    /// The number of addresses with connections. Each is counted at one home only.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// The number of addresses and subnets with connections.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len() + self.subnets.len()
    }
}

fn add<K: std::hash::Hash + Eq + Copy>(counts: &mut Buckets<K, u32>, key: K) -> u32 {
    match counts.entry(&key) {
        Entry::Occupied(known) => {
            let (_, count) = known.into_mut();
            *count += 1;
            *count
        }
        Entry::Vacant(free) => {
            free.insert((key, 1));
            1
        }
    }
}

fn subtract<K: std::hash::Hash + Eq>(counts: &mut Buckets<K, u32>, key: &K) {
    let Some(mut known) = counts.find(key) else {
        debug_assert!(false, "who leaves has entered");
        return;
    };
    match &mut known.get_mut().1 {
        1 => drop(known.remove()),
        count => *count -= 1,
    }
}
