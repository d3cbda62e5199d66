//! Ids of shards, connections and calls, and the shard that is the home of a key, user or room.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use crate::callers::CallerSlot;
use crate::index::index;
use crate::source::Source;

/// The number of a shard; shards are numbered from 0 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

/// The index of a connection in its shard's slab.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Slot(pub u32);

index!(Slot);

impl Slot {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many times the slot was used before. Wraps after 2^32 connections in one slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Generation(pub u32);

impl Generation {
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection, from accept to its removal. Slots are reused, but not with the same generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// The shard that accepted the connection and owns it to its end.
    pub shard: ShardId,
    /// Its index on that shard.
    pub slot: Slot,
    /// Which of the connections in that slot it is.
    pub generation: Generation,
}

impl ConnId {
    /// The id of the same connection on its own shard.
    #[must_use]
    pub fn local(self) -> LocalConnId {
        LocalConnId { slot: self.slot, generation: self.generation }
    }
}

/// A connection of a shard that is known from the context: a [`ConnId`] without its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LocalConnId {
    /// Its index on the shard.
    pub slot: Slot,
    /// Which of the connections in that slot it is.
    pub generation: Generation,
}

/// One call of a push caller. The thread that the caller is connected to numbers its calls. Control counts from 1; a
/// shard's calls have the shard in the upper 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

impl CallId {
    /// A call of a caller at `shard`.
    pub(crate) fn of_caller(shard: ShardId, caller: CallerSlot, number: u32) -> Self {
        let shard = u64::from(shard.0) + 1;
        Self(shard << 48 | u64::from(caller.0) << 32 | u64::from(number))
    }

    /// The id of pushes that belong to no call.
    pub(crate) const NONE: Self = Self(0);

    /// The shard that the caller is connected to; `None`: control.
    pub(crate) fn shard(self) -> Option<ShardId> {
        let shard = (self.0 >> 48) as u16;
        shard.checked_sub(1).map(ShardId)
    }

    /// The caller on that shard, and the number of the call.
    pub(crate) fn at_caller(self) -> (CallerSlot, u32) {
        (CallerSlot((self.0 >> 32) as u16), self.0 as u32)
    }
}

/// The seed is fixed, because all threads of the process and all runs of the simulator must agree on a home. The maps
/// inside a home have a seed for each process, so a caller who aims at one home can overload no more than that core.
const HOME_SEED: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

fn spread(bytes: &[u8], domain: u64, shards: u16) -> ShardId {
    let [a, b, c, d] = HOME_SEED;
    let mut hasher = ahash::RandomState::with_seeds(a ^ domain, b, c, d).build_hasher();
    hasher.write(bytes);
    // Multiply-shift uses all bits of the hash without a division.
    let high = (u128::from(hasher.finish()) * u128::from(shards)) >> 64;
    ShardId(u16::try_from(high).expect("below the number of shards"))
}

/// The shard, of `shards` in all, that keeps the owner of `key`.
#[must_use]
pub fn home_of_key(key: &str, shards: u16) -> ShardId {
    spread(key.as_bytes(), 1, shards)
}

/// The shard that keeps the sessions of `user`. Anonymous users (0) have no common home: their sessions stay on the
/// shard that accepted them, so that a million of them do not load a single core.
#[must_use]
pub fn home_of_user(user: i64, shards: u16) -> ShardId {
    spread(&user.to_le_bytes(), 2, shards)
}

/// The shard that counts the connections from `source`. An address has the home of its subnet.
pub(crate) fn home_of_source(source: &Source, shards: u16) -> ShardId {
    match source.subnet.first() {
        IpAddr::V4(address) => spread(&address.octets(), 4, shards),
        IpAddr::V6(address) => spread(&address.octets(), 4, shards),
    }
}

/// The shard that orders the pushes to `room` and knows which shards have members.
#[must_use]
pub fn home_of_room(room: &str, shards: u16) -> ShardId {
    spread(room.as_bytes(), 3, shards)
}
