//! The questions of a host to all hosts, and the answer of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::host_name::HostName;

/// A question to all hosts about their connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// How many clients there are, how many members in each of these rooms, and how many addresses the clients come from.
    Counts {
        /// The rooms.
        rooms: Vec<String>,
    },
    /// Rooms with members, in the order of their names.
    Rooms {
        /// Only rooms whose names begin with this.
        prefix: String,
        /// Only rooms whose names come after this one; empty: all.
        after: String,
        /// At most this many.
        limit: u32,
    },
    /// The members of a room, in the order of their hosts, and by age within a host.
    Members {
        /// The room.
        room: String,
        /// Where the previous page ended.
        after: Option<MembersCursor>,
        /// At most this many.
        limit: u32,
    },
}

/// A place in the list of the members of a room on all hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembersCursor {
    /// The host of the last member so far.
    pub host: HostName,
    /// Its place in the list of that host.
    pub place: Box<str>,
}

/// The answer of one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QuestionReply {
    /// For [`Question::Counts`]: clients, members of each room in their order, addresses. For [`Question::Members`]:
    /// all members. For a paced broadcast: connections that it is going to visit. Counts of several hosts are added
    /// index by index.
    pub counts: Vec<u64>,
    /// The requested page.
    pub page: Option<Page>,
}

impl QuestionReply {
    /// Bytes of what it holds.
    pub(super) fn bytes(&self) -> usize {
        let page = match &self.page {
            Some(Page::Rooms { rooms, .. }) => {
                size_of_val(&**rooms) + rooms.iter().map(|(room, _)| room.len()).sum::<usize>()
            }
            Some(Page::Members { members, .. }) => {
                let bytes = |member: &HostMember| member.key.len() + member.place.len();
                size_of_val(&**members) + members.iter().map(bytes).sum::<usize>()
            }
            None => 0,
        };
        size_of_val(&*self.counts) + page
    }
}

/// A page of a list of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// In the order of their names.
    Rooms {
        /// Names, and how many members each has on the host.
        rooms: Vec<(Arc<str>, u64)>,
        /// Whether the host has more.
        is_cut: bool,
    },
    /// In the order of the host's list.
    Members {
        /// The members.
        members: Vec<HostMember>,
        /// Whether the host has more.
        is_cut: bool,
    },
}

/// A member of a room, as described by its host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostMember {
    /// Its place in the list of its host.
    pub place: Box<str>,
    /// Its key.
    pub key: Box<str>,
    /// Its user; 0 is anonymous.
    pub user: i64,
    /// For how long it has been connected.
    pub connected_seconds: u64,
}

/// The pages that hosts gave for one question, with the names of the hosts.
pub type Pages = Vec<(HostName, Page)>;

/// Merges the pages of all hosts into one page of rooms: at most `limit` rooms, with the sums of their members. `true`:
/// there are more.
#[must_use]
pub fn merge_rooms(pages: Pages, limit: usize) -> (Vec<(Arc<str>, u64)>, bool) {
    let mut sums: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    // A host whose page was cut may have members of any room after its last one.
    let mut known_up_to: Option<Arc<str>> = None;
    let mut has_more = false;
    for (_, page) in pages {
        let Page::Rooms { rooms, is_cut } = page else { continue };
        if let Some((last, _)) = rooms.last().filter(|_| is_cut)
            && known_up_to.as_ref().is_none_or(|known| last < known)
        {
            known_up_to = Some(Arc::clone(last));
        }
        has_more |= is_cut;
        for (room, members) in rooms {
            let sum = sums.entry(room).or_default();
            *sum = sum.saturating_add(members);
        }
    }
    let is_known = |room: &Arc<str>| known_up_to.as_ref().is_none_or(|known| room <= known);
    let mut rooms: Vec<_> = sums.into_iter().take_while(|(room, _)| is_known(room)).collect();
    has_more |= rooms.len() > limit;
    rooms.truncate(limit);
    (rooms, has_more)
}

/// Merges the pages of all hosts into one page of members: at most `limit`, each with its host. Returns a cursor if
/// there are more.
#[must_use]
pub fn merge_members(
    mut pages: Pages,
    limit: usize,
) -> (Vec<(HostName, HostMember)>, Option<MembersCursor>) {
    pages.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut merged: Vec<(HostName, HostMember)> = Vec::new();
    let mut has_more = false;
    for (host, page) in pages {
        let Page::Members { members, is_cut } = page else { continue };
        has_more |= members.len() > limit - merged.len();
        let room = limit - merged.len();
        merged.extend(members.into_iter().take(room).map(|member| (Arc::clone(&host), member)));
        // The members that follow are unknown, so the page ends here.
        if is_cut || has_more {
            has_more = true;
            break;
        }
    }
    let last = merged.last().filter(|_| has_more);
    let next = last.map(|(host, member)| MembersCursor {
        host: Arc::clone(host),
        place: member.place.clone(),
    });
    (merged, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(host: &str, rooms: &[(&str, u64)], is_cut: bool) -> (HostName, Page) {
        let rooms = rooms.iter().map(|(room, members)| (Arc::from(*room), *members)).collect();
        (host.into(), Page::Rooms { rooms, is_cut })
    }

    fn members(host: &str, keys: &[&str], is_cut: bool) -> (HostName, Page) {
        let member = |key: &&str| HostMember {
            place: format!("place of {key}").into(),
            key: (*key).into(),
            user: 0,
            connected_seconds: 0,
        };
        (host.into(), Page::Members { members: keys.iter().map(member).collect(), is_cut })
    }

    #[test]
    fn members_of_a_room_are_summed_over_hosts() {
        let check = |pages: Pages, limit, expected: &[(&str, u64)], more: bool| {
            let (merged, has_more) = merge_rooms(pages, limit);
            let merged: Vec<_> = merged.iter().map(|(room, sum)| (&**room, *sum)).collect();
            assert_eq!((merged, has_more), (expected.to_vec(), more));
        };
        let a = || rooms("a", &[("p", 1), ("r", 2)], false);
        check(
            vec![a(), rooms("b", &[("q", 4), ("r", 8)], false)],
            9,
            &[("p", 1), ("q", 4), ("r", 10)],
            false,
        );
        check(vec![a(), rooms("b", &[("q", 4)], false)], 2, &[("p", 1), ("q", 4)], true);
        // b may have members of r too.
        check(vec![a(), rooms("b", &[("q", 4)], true)], 9, &[("p", 1), ("q", 4)], true);
        check(Vec::new(), 9, &[], false);
    }

    #[test]
    fn members_come_host_by_host() {
        let check = |pages: Pages, limit, expected: &[&str], next: Option<(&str, &str)>| {
            let (merged, cursor) = merge_members(pages, limit);
            let keys: Vec<_> =
                merged.iter().map(|(host, member)| format!("{host}/{}", member.key)).collect();
            let cursor = cursor.map(|MembersCursor { host, place }| (host, place));
            let next = next.map(|(host, key)| (host.into(), format!("place of {key}").into()));
            assert_eq!((keys, cursor), (expected.iter().map(ToString::to_string).collect(), next));
        };
        let both = || vec![members("b", &["k3"], false), members("a", &["k1", "k2"], false)];
        check(both(), 3, &["a/k1", "a/k2", "b/k3"], None);
        check(both(), 2, &["a/k1", "a/k2"], Some(("a", "k2")));
        check(both(), 1, &["a/k1"], Some(("a", "k1")));
        // a has more members, which come before those of b.
        let cut = vec![members("b", &["k3"], false), members("a", &["k1"], true)];
        check(cut, 9, &["a/k1"], Some(("a", "k1")));
    }
}
