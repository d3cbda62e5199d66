//! The names of things: shards, connections, calls, and the shard that is home to a key, user or room.

use std::hash::{BuildHasher, Hasher};

/// Index of a shard; shards are numbered from 0 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

/// A connection, for as long as it lives: a slot is reused, a slot with its generation never is
/// (until the 32-bit generation of one slot wraps).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// The shard that accepted the connection and owns it to its end.
    pub shard: ShardId,
    /// Index into that shard's slab.
    pub slot: u32,
    /// How often the slot was taken before.
    pub generation: u32,
}

/// One call of a push caller; chosen by the control thread and echoed in every [`crate::Report`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

/// Fixed keys: every thread of the process, and every run of the simulator, must agree on a home.
/// The maps inside a home are seeded per process, so a caller who aims at one home gains nothing
/// beyond that core's share.
const HOME_SEED: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

fn spread(bytes: &[u8], domain: u64, shards: u16) -> ShardId {
    let [a, b, c, d] = HOME_SEED;
    let mut hasher = ahash::RandomState::with_seeds(a ^ domain, b, c, d).build_hasher();
    hasher.write(bytes);
    // Multiply-shift keeps all of the hash in play without a division.
    let high = (u128::from(hasher.finish()) * u128::from(shards)) >> 64;
    ShardId(u16::try_from(high).expect("below the number of shards"))
}

/// The shard that keeps the owner of `key`, of `shards` in all.
#[must_use]
pub fn home_of_key(key: &str, shards: u16) -> ShardId {
    spread(key.as_bytes(), 1, shards)
}

/// The shard that keeps the sessions of `user`. Anonymous users (0) have no common home: their
/// sessions stay with the shard that accepted them, so that a million of them load no single core.
#[must_use]
pub fn home_of_user(user: i64, shards: u16) -> ShardId {
    spread(&user.to_le_bytes(), 2, shards)
}

/// The shard that fixes the order of pushes to `room` and knows who has members.
#[must_use]
pub fn home_of_room(room: &str, shards: u16) -> ShardId {
    spread(room.as_bytes(), 3, shards)
}
