//! Who is online in which room: this server's numbers to logic, everybody else's to the rooms' homes.

use std::collections::HashMap;
use std::sync::Arc;

use comet_core::{Millis, home_of_room};

/// How far the periodic renewal has come.
#[derive(Debug)]
pub(super) enum Renewal {
    /// It begins when logic is available.
    Due,
    /// The rooms are being counted.
    Counting,
    /// They wait for a permit.
    Counted(Vec<(Arc<str>, i32)>),
    /// Logic is asked.
    UnderWay,
    /// The next one begins then.
    Resting { until: Millis },
}

/// By home, the rooms with somebody on other servers, and how many. Logic's sum may be older than our
/// own number: then it is not less than nobody.
pub(super) fn elsewhere(
    all: Vec<(String, i32)>,
    here: &[(Arc<str>, i32)],
    shards: u16,
) -> Vec<Vec<(Arc<str>, u32)>> {
    let here: HashMap<&str, i32> = here.iter().map(|(room, online)| (&**room, *online)).collect();
    let mut homes: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
    for (room, online) in all {
        let own = here.get(&*room).copied().unwrap_or(0);
        if let Ok(others @ 1..) = u32::try_from(online.saturating_sub(own)) {
            let home = home_of_room(&room, shards);
            homes[usize::from(home.0)].push((room.into(), others));
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use comet_core::ShardId;

    use super::*;

    #[test]
    fn others_are_all_without_our_own_and_never_less_than_nobody() {
        let here = [("both", 2), ("stale", 9), ("odd", i32::MAX)];
        let here = here.map(|(room, online)| (Arc::from(room), online));
        let all = [("both", 5), ("stale", 4), ("there", 1), ("none", 0), ("odd", i32::MIN)];
        let all = all.map(|(room, online)| (room.to_owned(), online)).to_vec();
        for shards in [1, 3] {
            let homes = elsewhere(all.clone(), &here, shards);
            assert_eq!(homes.len(), usize::from(shards));
            let mut rooms = Vec::new();
            for (shard, home) in (0..).zip(homes) {
                for (room, others) in home {
                    assert_eq!(home_of_room(&room, shards), ShardId(shard));
                    rooms.push((room.to_string(), others));
                }
            }
            rooms.sort();
            assert_eq!(rooms, [("both".to_owned(), 3), ("there".to_owned(), 1)]);
        }
    }
}
