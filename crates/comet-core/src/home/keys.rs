//! Owners of keys.

use hashbrown::hash_table::Entry;

use crate::bucket::Buckets;
use crate::budget::Budget;
use crate::canary::Canary;
use crate::ids::{ConnId, Generation, ShardId, Slot};
use crate::retained::Retained;
use crate::time::{Millis, TokenTime};

/// The facts about a connection that claims a key.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) token_at: TokenTime,
    /// Logic named the key.
    pub(crate) is_given: bool,
    /// The session outlasts the connection.
    pub(crate) is_kept: bool,
}

/// A connection and the arrival time of its token, in 16 bytes, because there is one for each connection.
#[derive(Clone, Copy)]
struct Owner {
    slot: Slot,
    generation: Generation,
    shard: ShardId,
    token_at_high: u16,
    token_at_low: u32,
}

impl Owner {
    /// This bit of `token_at_high` is not part of the time: logic named the key.
    const IS_GIVEN: u16 = 1 << 15;
    /// This bit is not part of the time either: the session outlasts the connection.
    const IS_KEPT: u16 = 1 << 14;

    fn new(conn: ConnId, claim: Claim) -> Self {
        let ConnId { shard, slot, generation } = conn;
        let (mut token_at_high, token_at_low) = claim.token_at.to_parts();
        if claim.is_given {
            token_at_high |= Self::IS_GIVEN;
        }
        if claim.is_kept {
            token_at_high |= Self::IS_KEPT;
        }
        Self { slot, generation, shard, token_at_high, token_at_low }
    }

    fn conn(self) -> ConnId {
        ConnId { shard: self.shard, slot: self.slot, generation: self.generation }
    }

    fn token_at(self) -> TokenTime {
        TokenTime::from_parts((
            self.token_at_high & !(Self::IS_GIVEN | Self::IS_KEPT),
            self.token_at_low,
        ))
    }

    fn is_given(self) -> bool {
        self.token_at_high & Self::IS_GIVEN != 0
    }

    fn is_kept(self) -> bool {
        self.token_at_high & Self::IS_KEPT != 0
    }

    /// Whether `self`, whose claim has just arrived, replaces `owner`. The clocks of different shards agree only to the
    /// millisecond. Within a millisecond the later claim counts as the younger.
    fn replaces(self, owner: Self) -> bool {
        let [mine, other] = [self.token_at(), owner.token_at()];
        match self.shard == owner.shard {
            true => mine >= other,
            false => mine.millis() >= other.millis(),
        }
    }
}

/// The older one of two connections with one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Older {
    pub(crate) conn: ConnId,
    /// Its session outlasts the connection.
    pub(crate) is_kept: bool,
}

/// A slice ends after this many owners, at the end of a table: some 100 µs.
const KEY_SLICE: usize = 2_048;

pub(crate) struct KeyOwners {
    owners: Buckets<Box<str>, Owner>,
    /// Keys that were reported to logic as disconnected. They are retained while logic may have let in a new owner just
    /// before the report.
    disconnected: Retained<Box<str>, ()>,
    /// The number of keys given to anonymous users on this shard; see [`crate::home_of_user`].
    anonymous: u64,
    /// Other hosts are told about given keys that get an owner.
    is_watched: bool,
    shard: ShardId,
    shards: u16,
}

impl KeyOwners {
    pub(super) fn new(shard: ShardId, shards: u16, buckets: usize, seed: u64) -> Self {
        Self {
            owners: Buckets::new(buckets, seed ^ 1),
            disconnected: Retained::new(buckets, seed ^ 6),
            anonymous: 0,
            is_watched: false,
            shard,
            shards,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.owners.iter().map(|(key, owner)| (&**key, owner.conn()))
    }

    pub(crate) fn owner(&self, key: &str) -> Option<ConnId> {
        self.owners.get(key).map(|owner| owner.conn())
    }

    /// Whether the session of the owner of `key` outlasts its connection.
    pub(crate) fn is_kept(&self, key: &str) -> bool {
        self.owners.get(key).is_some_and(|owner| owner.is_kept())
    }

    pub(crate) fn watch(&mut self) {
        self.is_watched = true;
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// The owner of `key`, if logic named the key, and the arrival time of its token.
    pub(crate) fn owner_of_given(&self, key: &str) -> Option<(ConnId, Millis)> {
        let owner = self.owners.get(key).filter(|owner| owner.is_given())?;
        Some((owner.conn(), owner.token_at().millis()))
    }

    /// The keys that logic named, each with the arrival time of its owner's token.
    pub(crate) fn owners_of_given(&self) -> impl Iterator<Item = (&str, Millis)> {
        let given = self.owners.iter().filter(|(_, owner)| owner.is_given());
        given.map(|(key, owner)| (&**key, owner.token_at().millis()))
    }

    /// The given keys whose owners' tokens arrived at `since` or later, from some tables beginning with `table`. Also
    /// returns the table to continue with.
    pub(crate) fn slice(
        &self,
        since: Millis,
        table: u32,
    ) -> (Vec<(Box<str>, Millis)>, Option<u32>) {
        let (mut keys, mut looked_at) = (Vec::new(), 0);
        for index in table as usize..self.owners.tables() {
            if looked_at >= KEY_SLICE {
                return (keys, Some(index as u32));
            }
            let owners = self.owners.table(index);
            looked_at += 1 + owners.len();
            keys.extend(owners.filter_map(|(key, owner)| {
                let at = owner.token_at().millis();
                (owner.is_given() && at >= since).then(|| (key.clone(), at))
            }));
        }
        (keys, None)
    }

    /// Makes the younger one of `conn` and the owner of `key` its owner, and returns the older one. `None`:
    /// the key had no owner.
    pub(crate) fn claim(&mut self, key: &str, conn: ConnId, claim: Claim) -> Option<Older> {
        let claimer = Owner::new(conn, claim);
        match self.owners.entry(key) {
            Entry::Occupied(known) => {
                let (_, owner) = known.into_mut();
                let older = match claimer.replaces(*owner) {
                    true => std::mem::replace(owner, claimer),
                    false => claimer,
                };
                Some(Older { conn: older.conn(), is_kept: older.is_kept() })
            }
            Entry::Vacant(free) => {
                free.insert((key.into(), claimer));
                None
            }
        }
    }

    /// Frees `key` if `conn` still owns it. Returns whether it did. A late release by a replaced owner changes nothing.
    pub(crate) fn release(&mut self, key: &str, conn: ConnId) -> bool {
        match self.owners.find(key) {
            Some(known) if known.get().1.conn() == conn || Canary::StaleRelease.is_released() => {
                known.remove();
                true
            }
            _ => false,
        }
    }

    /// The next number for a key without a user. Each shard numbers its own, in a way that is unique among all shards.
    pub(crate) fn number_anonymous(&mut self) -> u64 {
        let number = self.anonymous * u64::from(self.shards) + u64::from(self.shard.0) + 1;
        self.anonymous += 1;
        number
    }

    /// Logic is told at `now` that no connection holds `key`. Returns whether the entry of another key was forgotten
    /// early.
    pub(crate) fn retain_disconnected(&mut self, now: Millis, key: &str) -> bool {
        self.disconnected.insert(now, key.into(), ())
    }

    /// Whether logic was told recently that no connection holds `key`. Forgets that, so a second call returns `false`.
    pub(crate) fn take_disconnected(&mut self, key: &str) -> bool {
        self.disconnected.take(key).is_some()
    }

    pub(super) fn expire_disconnected(
        &mut self,
        now: Millis,
        retention_ms: u64,
        budget: &mut Budget,
    ) {
        self.disconnected.expire(now, retention_ms, budget);
    }

    /// An upper bound of the numbers given to keys of anonymous users here.
    pub(crate) fn anonymous_most(&self) -> u64 {
        self.anonymous * u64::from(self.shards)
    }

    /// The keys that were reported to logic as disconnected, and when, oldest first.
    pub(crate) fn disconnected(&self) -> impl Iterator<Item = (Millis, &str)> {
        self.disconnected.iter().map(|(since, key, ())| (since, &**key))
    }

    /// Continues the numbering of anonymous users of another process.
    pub(crate) fn set_anonymous(&mut self, anonymous: u64) {
        self.anonymous = anonymous;
    }

    pub(super) fn oldest_disconnected(&self) -> Option<Millis> {
        self.disconnected.oldest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(shard: u16, slot: u32) -> ConnId {
        ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(0) }
    }

    fn token_at(millis: u64) -> TokenTime {
        TokenTime::default().next(Millis(millis))
    }

    fn claim(keys: &mut KeyOwners, conn: ConnId, token_at: TokenTime) -> Option<ConnId> {
        let claim = Claim { token_at, is_given: true, is_kept: false };
        keys.claim("k", conn, claim).map(|older| older.conn)
    }

    #[test]
    fn the_late_release_of_a_replaced_owner_changes_nothing() {
        let mut keys = KeyOwners::new(ShardId(0), 2, 4, 7);
        assert_eq!(claim(&mut keys, conn(0, 1), token_at(1)), None);
        assert_eq!(claim(&mut keys, conn(1, 1), token_at(2)), Some(conn(0, 1)));
        keys.release("k", conn(0, 1));
        assert_eq!(keys.owner("k"), Some(conn(1, 1)));
        keys.release("k", conn(1, 1));
        assert_eq!(keys.owner("k"), None);
    }

    #[test]
    fn the_younger_of_two_owns_the_key_whoever_claims_it_first() {
        let (older, younger) = (token_at(u64::from(u32::MAX) + 1), token_at(1 << 40));
        assert!(older < younger);
        let at_once = [(conn(0, 1), older), (conn(0, 2), older.next(Millis(0)))];
        for [first, second] in [[(conn(1, 1), older), (conn(0, 1), younger)], at_once] {
            for claims in [[first, second], [second, first]] {
                let mut keys = KeyOwners::new(ShardId(0), 2, 4, 7);
                let lost = claims.map(|(conn, token_at)| claim(&mut keys, conn, token_at));
                assert_eq!(lost, [None, Some(first.0)]);
                assert_eq!(keys.owner("k"), Some(second.0));
            }
        }
    }

    /// A client whose claim was answered is replaced by a later one, even on another shard and no matter how many
    /// tokens came to each shard in that millisecond.
    #[test]
    fn within_a_millisecond_the_later_claim_of_two_shards_is_the_younger() {
        let first_of_millisecond = token_at(5);
        let another = first_of_millisecond.next(Millis(5));
        for (first, second) in [(0, 1), (1, 0)] {
            for times in [[first_of_millisecond, another], [another, first_of_millisecond]] {
                let mut keys = KeyOwners::new(ShardId(0), 2, 4, 7);
                assert_eq!(claim(&mut keys, conn(first, 1), times[0]), None);
                assert_eq!(claim(&mut keys, conn(second, 1), times[1]), Some(conn(first, 1)));
                assert_eq!(keys.owner("k"), Some(conn(second, 1)));
            }
        }
    }

    #[test]
    fn an_owner_takes_16_bytes() {
        assert_eq!(size_of::<Owner>(), 16);
    }

    #[test]
    fn anonymous_keys_are_unique_across_shards() {
        let mut seen = std::collections::BTreeSet::new();
        for shard in 0..3 {
            let mut keys = KeyOwners::new(ShardId(shard), 3, 4, 7);
            for _ in 0..10 {
                let number = keys.number_anonymous();
                assert!(number > 0 && seen.insert(number));
            }
        }
    }
}
