//! How a paced broadcast is spread over hosts.

use std::num::NonZeroU32;
use std::sync::Arc;

/// The speed of a paced broadcast, and its name on all hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Connections a second, over all hosts.
    pub speed: NonZeroU32,
    /// Connections on all hosts. `None`: unknown; then each host uses the whole speed.
    pub connections: Option<u64>,
    /// Its name, by which it is cancelled on all hosts. `None`: each host has a broadcast of its own.
    pub name: Option<Arc<str>>,
}

impl Pace {
    /// The longest name, bytes.
    pub const NAME_MAX: usize = 512;

    /// Connections a second of a host that has `live` of the connections: its share, so that all hosts end at about the
    /// same time. At least 1, and never more than the whole.
    #[must_use]
    pub fn share(&self, live: u64) -> NonZeroU32 {
        let Some(connections) = self.connections else { return self.speed };
        // This host may have more connections than were counted on all hosts.
        let connections = u128::from(connections.max(live).max(1));
        let share = u128::from(self.speed.get()) * u128::from(live) / connections;
        let share = u32::try_from(share).expect("a share is no more than the whole");
        NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
    }

    /// Bytes of what it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.as_ref().map_or(0, |name| name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_share_by_its_connections() {
        let check = |speed, connections, live, expected| {
            let pace = Pace { speed: NonZeroU32::new(speed).unwrap(), connections, name: None };
            assert_eq!(pace.share(live).get(), expected, "{pace:?} of {live}");
        };
        check(100, Some(40), 10, 25);
        check(100, Some(40), 30, 75);
        // A host with no or few connections takes part too.
        check(100, Some(40), 0, 1);
        check(100, Some(1_000), 1, 1);
        check(100, Some(0), 0, 1);
        // The host was not counted, or has gained connections since.
        check(100, Some(40), 50, 100);
        check(100, Some(0), 3, 100);
        check(100, None, 7, 100);
        check(u32::MAX, Some(u64::MAX), u64::MAX, u32::MAX);
    }
}
