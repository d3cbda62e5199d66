//! Networks whose clients are turned away for a period.

use std::net::IpAddr;

use crate::network::Network;
use crate::time::Millis;

/// The limit of networks that are blocked at the same time.
pub const BLOCKS_MAX: usize = 1024;

/// A blocked network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockedNetwork {
    /// Its addresses.
    pub network: Network,
    /// When its clients may connect again, in the time of the shards.
    pub until: Millis,
}

/// The blocked networks, at most [`BLOCKS_MAX`]. Each new connection is compared with all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocklist(Box<[BlockedNetwork]>);

/// The number of blocks is at its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlocklistFull;

impl Blocklist {
    /// Whether no network is blocked. Then no addresses are examined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All blocks, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &BlockedNetwork> {
        self.0.iter()
    }

    /// When the next block ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Millis> {
        self.0.iter().map(|block| block.until).min()
    }

    /// These blocks without those that have ended by `now`, and with `block`, which replaces one of the same network.
    ///
    /// # Errors
    /// [`BlocklistFull`].
    pub fn with(&self, now: Millis, block: BlockedNetwork) -> Result<Self, BlocklistFull> {
        let (rest, _) = self.without(now, block.network);
        let mut blocks = rest.0.into_vec();
        if blocks.len() == BLOCKS_MAX {
            return Err(BlocklistFull);
        }
        blocks.push(block);
        Ok(Self(blocks.into()))
    }

    /// These blocks without those that have ended by `now` and without that of `network`; and whether `network` was
    /// blocked.
    #[must_use]
    pub fn without(&self, now: Millis, network: Network) -> (Self, bool) {
        let left = self.left(now);
        let rest = left.0.iter().filter(|block| block.network != network).copied().collect();
        let rest = Self(rest);
        let was_there = rest.0.len() < left.0.len();
        (rest, was_there)
    }

    /// The blocks that have not ended by `now`.
    #[must_use]
    pub fn left(&self, now: Millis) -> Self {
        Self(self.0.iter().filter(|block| now < block.until).copied().collect())
    }

    pub(crate) fn contains(&self, address: IpAddr, now: Millis) -> bool {
        self.0.iter().any(|block| now < block.until && block.network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str, until: u64) -> BlockedNetwork {
        BlockedNetwork { network: text.parse().unwrap(), until: Millis(until) }
    }

    #[test]
    fn a_block_is_over_at_its_end_and_replaced_by_a_newer_one() {
        let blocklist = Blocklist::default();
        assert!(blocklist.is_empty() && blocklist.next_end().is_none());
        let blocklist = blocklist.with(Millis(0), block("192.0.2.0/24", 100)).unwrap();
        let blocklist = blocklist.with(Millis(0), block("2001:db8::/32", 50)).unwrap();
        let contains = |blocklist: &Blocklist, address: &str, now| {
            blocklist.contains(address.parse().unwrap(), Millis(now))
        };
        assert!(
            contains(&blocklist, "::ffff:192.0.2.9", 99) && !contains(&blocklist, "192.0.2.9", 100)
        );
        assert!(
            contains(&blocklist, "2001:db8::9", 49) && !contains(&blocklist, "2001:db8::9", 50)
        );
        assert!(!contains(&blocklist, "192.0.3.1", 0));
        assert_eq!(blocklist.next_end(), Some(Millis(50)));
        let longer = blocklist.with(Millis(60), block("192.0.2.0/24", 900)).unwrap();
        assert_eq!(longer.iter().copied().collect::<Vec<_>>(), [block("192.0.2.0/24", 900)]);
        let (none, was_there) = longer.without(Millis(60), "192.0.2.0/24".parse().unwrap());
        assert!(none.is_empty() && was_there);
        assert!(!none.without(Millis(60), "192.0.2.0/24".parse().unwrap()).1);
    }

    #[test]
    fn blocks_are_bounded() {
        let mut blocklist = Blocklist::default();
        for at in 0..BLOCKS_MAX as u32 {
            let network = IpAddr::from(at.to_be_bytes()).into();
            blocklist =
                blocklist.with(Millis(0), BlockedNetwork { network, until: Millis(9) }).unwrap();
        }
        let another = block("2001:db8::/32", 50);
        assert_eq!(blocklist.with(Millis(8), another), Err(BlocklistFull));
        assert!(blocklist.with(Millis(8), block("0.0.0.0", 50)).is_ok(), "it is there already");
        assert!(blocklist.with(Millis(9), another).is_ok(), "all others are over");
    }
}
