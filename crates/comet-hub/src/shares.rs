//! Division of a speed.

use std::num::NonZeroU32;

/// Divides `speed` among shards, or among whole servers, in proportion to their connections, so that all end at about
/// the same time. Each gets at least 1, so that a shard whose first connections are about to come takes part as well.
#[must_use]
pub fn shares(speed: NonZeroU32, live: &[u64]) -> Vec<NonZeroU32> {
    let speed = u128::from(speed.get());
    let total = live.iter().map(|live| u128::from(*live)).sum::<u128>().max(1);
    let mut before = 0;
    let mut granted = 0;
    live.iter()
        .map(|live| {
            before += u128::from(*live);
            // Rounding the running sum instead of each share loses nothing overall.
            let share = speed * before / total - granted;
            granted += share;
            let share = u32::try_from(share).expect("a share is no more than the whole");
            NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN)
        })
        .collect()
}

/// Divides `count` connections among shards in proportion to the connections of each. No shard gives more than it has.
#[must_use]
pub fn portions(count: u64, live: &[u64]) -> Vec<u64> {
    let total = live.iter().map(|live| u128::from(*live)).sum::<u128>().max(1);
    let count = u128::from(count).min(total);
    let (mut before, mut granted) = (0, 0);
    let portion = |live: &u64| {
        before += u128::from(*live);
        // Rounded as in `shares`. A portion exceeds its exact size by less than 1, so no shard gives more than it has.
        let portion = count * before / total - granted;
        granted += portion;
        u64::try_from(portion).expect("a portion is no more than the whole")
    };
    live.iter().map(portion).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_connections() {
        let check = |speed, live: &[u64], expected: &[u32]| {
            let shares = shares(NonZeroU32::new(speed).unwrap(), live);
            assert_eq!(shares.iter().map(|share| share.get()).collect::<Vec<_>>(), expected);
        };
        check(100, &[10, 30], &[25, 75]);
        check(100, &[1, 1, 1], &[33, 33, 34]);
        check(100, &[0, 7], &[1, 100]);
        check(100, &[0, 0], &[1, 1]);
        check(1, &[5, 5, 5], &[1, 1, 1]);
        check(u32::MAX, &[u64::MAX, u64::MAX], &[u32::MAX / 2, u32::MAX / 2 + 1]);
    }

    #[test]
    fn portions_add_up_and_no_shard_gives_more_than_it_has() {
        let check = |count, live: &[u64], expected: &[u64]| {
            assert_eq!(portions(count, live), expected, "{count} of {live:?}");
        };
        check(10, &[10, 30], &[2, 8]);
        check(0, &[1, 2], &[0, 0]);
        check(1, &[0, 1, 1], &[0, 0, 1]);
        check(9, &[1, 2, 3], &[1, 2, 3]);
        check(5, &[], &[]);
        check(5, &[0, 0], &[0, 0]);
        check(u64::MAX, &[u64::MAX, 1], &[u64::MAX - 1, 1]);
    }
}
