//! The node of a Redis key: consistent hashing in the way of ketama.
//!
//! Each node has 160 points on the ring, at hashes of its name. A key belongs to the first point at
//! or after its own hash. So a removed node's keys move to the others, and no other key moves. The
//! ring comes from `hashring`, with SipHash-2-4, which is the same in all releases and on all
//! machines. The points are not those of libketama, which uses MD5.

use std::hash::{Hash, Hasher};

use hashring::HashRing;

/// The points of a node on the ring, as many as in libketama.
const POINTS: usize = 160;

/// Finds the node of a key, as an index into the names of the nodes.
#[derive(Debug)]
pub(super) struct NodeRing {
    points: HashRing<Point>,
}

/// A point of a node. Only its text decides its place on the ring.
#[derive(Debug)]
struct Point {
    text: String,
    node: usize,
}

/// A key to look up. As with a point, only its bytes are hashed.
struct Name<'a>(&'a str);

impl NodeRing {
    /// A ring of nodes with `names`. The place of a node depends only on its name.
    ///
    /// # Panics
    /// If there are no names.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let points = names.into_iter().enumerate().flat_map(|(node, name)| {
            (0..POINTS).map(move |point| Point { text: format!("{name}#{point}"), node })
        });
        let points: Vec<Point> = points.collect();
        assert!(!points.is_empty(), "a ring has nodes");
        let mut ring = HashRing::new();
        ring.batch_add(points);
        Self { points: ring }
    }

    /// The node of a key.
    pub(super) fn node(&self, key: &str) -> usize {
        self.points.get(&Name(key)).expect("a ring has nodes").node
    }
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.text.as_bytes());
    }
}

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(seed: u32, count: usize) -> Vec<String> {
        (0..count).map(|node| format!("redis-{seed}-{node}:6379/0")).collect()
    }

    fn ring(names: &[String]) -> NodeRing {
        NodeRing::new(names.iter().map(String::as_str))
    }

    fn users(count: usize) -> impl Iterator<Item = String> {
        (1..=count).map(|user| format!("mid_{user}"))
    }

    /// Every later version must find the keys that this one has stored.
    #[test]
    fn nodes_of_keys_never_change() {
        let ring = ring(&names(0, 4));
        let found: Vec<usize> = users(12).map(|user| ring.node(&user)).collect();
        assert_eq!(found, [2, 3, 1, 1, 2, 2, 3, 1, 2, 1, 3, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn removing_a_node_moves_only_its_keys(
            seed in any::<u32>(),
            count in 2..8_usize,
            removed in any::<prop::sample::Index>(),
        ) {
            let names = names(seed, count);
            let removed = removed.index(count);
            let mut left = names.clone();
            left.remove(removed);
            let (before, after) = (ring(&names), ring(&left));
            for user in users(2_000) {
                let node = before.node(&user);
                if node != removed {
                    prop_assert_eq!(&names[node], &left[after.node(&user)]);
                }
            }
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter(seed in any::<u32>(), count in 2..8_usize) {
            let names = names(seed, count);
            let reversed: Vec<String> = names.iter().rev().cloned().collect();
            let (one, other) = (ring(&names), ring(&reversed));
            for user in users(500) {
                prop_assert_eq!(&names[one.node(&user)], &reversed[other.node(&user)]);
            }
        }

        /// With 160 points the standard deviation of a node's share is about 8% of the mean; half
        /// and double the mean are more than six of these away.
        #[test]
        fn every_node_gets_its_share(seed in any::<u32>(), count in 2..8_usize) {
            let ring = ring(&names(seed, count));
            let mut shares = vec![0; count];
            for user in users(20_000) {
                shares[ring.node(&user)] += 1;
            }
            let mean = 20_000 / count;
            prop_assert!(
                shares.iter().all(|share| (mean / 2..=mean * 2).contains(share)),
                "{:?}", shares
            );
        }
    }
}
