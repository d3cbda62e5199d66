//! Sessions of users.

use std::collections::BTreeMap;

use hashbrown::hash_table::Entry;

use crate::bucket::Buckets;
use crate::budget::Budget;
use crate::ids::ConnId;
use crate::retained::Retained;
use crate::time::Millis;

pub(crate) struct UserSessions {
    users: Buckets<i64, User>,
    /// The numbers of the last sessions of users who have no session.
    retained: Retained<i64, i32>,
}

/// A user: the number of the latest session, and the present sessions.
struct User {
    last: i32,
    sessions: Sessions,
}

/// Nearly every user has one session, which needs no allocation.
enum Sessions {
    One(i32, ConnId),
    #[allow(clippy::box_collection, reason = "the map's head would be paid by every user with one")]
    Many(Box<BTreeMap<i32, ConnId>>),
}

impl UserSessions {
    pub(super) fn new(buckets: usize, seed: u64) -> Self {
        Self { users: Buckets::new(buckets, seed ^ 2), retained: Retained::new(buckets, seed ^ 5) }
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, i32, ConnId)> {
        self.users.iter().flat_map(|(&user, _)| {
            self.of(user).into_iter().map(move |(seq, conn)| (user, seq, conn))
        })
    }

    /// Every connection of `user`, oldest session first.
    pub(crate) fn of(&self, user: i64) -> Vec<(i32, ConnId)> {
        match self.users.get(&user).map(|user| &user.sessions) {
            None => Vec::new(),
            Some(Sessions::One(seq, conn)) => vec![(*seq, *conn)],
            Some(Sessions::Many(sessions)) => {
                sessions.iter().map(|(&seq, &conn)| (seq, conn)).collect()
            }
        }
    }

    /// Gives `conn` the next number among the sessions of `user`. Numbers begin at 1, or behind a retained number.
    /// Sessions of anonymous users have the number 0. Also returns how many sessions the user then has. `None`: `user`
    /// already has `most` sessions.
    pub(crate) fn begin(&mut self, user: i64, conn: ConnId, most: u32) -> Option<(i32, u32)> {
        if user == 0 {
            return Some((0, 1));
        }
        let (_, known) = match self.users.entry(&user) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let last = self.retained.take(&user).unwrap_or(0).wrapping_add(1);
                free.insert((user, User { last, sessions: Sessions::One(last, conn) }));
                return Some((last, 1));
            }
        };
        let count = match &known.sessions {
            Sessions::One(..) => 1,
            Sessions::Many(sessions) => sessions.len(),
        };
        if count >= most as usize {
            return None;
        }
        known.last = known.last.wrapping_add(1);
        let seq = known.last;
        match &mut known.sessions {
            Sessions::One(first, owner) => {
                known.sessions = Sessions::Many(Box::new([(*first, *owner), (seq, conn)].into()));
            }
            Sessions::Many(sessions) => {
                sessions.insert(seq, conn);
            }
        }
        Some((seq, count as u32 + 1))
    }

    /// Ends a session, if `conn` still holds it. `Some`: it was the user's only session, and this is the number to
    /// continue from.
    pub(crate) fn end(&mut self, user: i64, seq: i32, conn: ConnId) -> Option<i32> {
        let mut entry = self.users.find(&user)?;
        let is_last = match &mut entry.get_mut().1.sessions {
            Sessions::One(held, owner) => (*held, *owner) == (seq, conn),
            Sessions::Many(sessions) => {
                if sessions.get(&seq) == Some(&conn) {
                    sessions.remove(&seq);
                }
                sessions.is_empty()
            }
        };
        is_last.then(|| entry.remove().0.1.last)
    }

    /// Retains the number of the latest session of `user`, whose last session ended at `now`. Returns whether the
    /// number of another user was forgotten early.
    pub(crate) fn retain_number(&mut self, now: Millis, user: i64, last: i32) -> bool {
        self.retained.insert(now, user, last)
    }

    pub(super) fn expire_numbers(&mut self, now: Millis, retention_ms: u64, budget: &mut Budget) {
        self.retained.expire(now, retention_ms, budget);
    }

    /// The number of the latest session of each user that has one.
    pub(crate) fn last_numbers(&self) -> impl Iterator<Item = (i64, i32)> {
        self.users.iter().map(|(&user, &User { last, .. })| (user, last))
    }

    /// The retained numbers, and since when, oldest first.
    pub(crate) fn retained_numbers(&self) -> impl Iterator<Item = (Millis, i64, i32)> {
        self.retained.iter().map(|(since, &user, &last)| (since, user, last))
    }

    /// Takes over the sessions of a user, who has at least one.
    pub(crate) fn take_over(&mut self, user: i64, last: i32, sessions: Vec<(i32, ConnId)>) {
        let sessions = match *sessions {
            [(number, conn)] => Sessions::One(number, conn),
            _ => Sessions::Many(Box::new(sessions.into_iter().collect())),
        };
        self.users.insert(user, User { last, sessions });
    }

    pub(super) fn oldest_number(&self) -> Option<Millis> {
        self.retained.oldest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::{Generation, ShardId, Slot};

    fn conn(shard: u16, slot: u32) -> ConnId {
        ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(0) }
    }

    #[test]
    fn sessions_count_up_and_only_their_holder_ends_them() {
        let mut users = UserSessions::new(4, 7);
        assert_eq!(users.begin(42, conn(0, 1), 3), Some((1, 1)));
        assert_eq!(users.begin(42, conn(1, 1), 3), Some((2, 2)));
        assert_eq!(users.begin(42, conn(0, 2), 3), Some((3, 3)));
        assert_eq!(users.begin(42, conn(0, 3), 3), None);
        users.end(42, 2, conn(0, 9));
        assert_eq!(users.of(42).len(), 3);
        users.end(42, 2, conn(1, 1));
        assert_eq!(users.of(42), [(1, conn(0, 1)), (3, conn(0, 2))]);
        users.end(42, 1, conn(0, 1));
        users.end(42, 3, conn(0, 2));
        assert_eq!(users.len(), 0);
    }

    #[test]
    fn anonymous_users_have_no_sessions() {
        let mut users = UserSessions::new(4, 7);
        assert_eq!(users.begin(0, conn(0, 1), 1), Some((0, 1)));
        assert_eq!(users.begin(0, conn(0, 2), 1), Some((0, 1)));
        assert_eq!(users.len(), 0);
    }
}
