//! Rooms with members on this host, the other hosts that have members of them, and the rooms not yet announced to
//! others.
//!
//! All rooms are announced by a walk in the order of their names, which stores its place and no list. If a walk is
//! wanted again while one is under way, the walk continues from the start up to its present place. So the last rooms
//! are reached, however often hosts appear or messages are lost.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use comet_core::Millis;

use super::engine::HostName;

struct Room {
    /// Other hosts with members.
    peers: Vec<HostName>,
    /// When other hosts were asked which have members. `None`: they must be asked, because one did not answer.
    asked: Option<Asked>,
}

struct Asked {
    at: Millis,
    /// The round of the question. A question before the present round does not count: a host may have missed it.
    round: u64,
}

/// A walk that announces all rooms, a slice at a time.
#[derive(Default)]
struct Walk {
    /// The latest room. `None`: the walk is at its beginning.
    at: Option<Arc<str>>,
    /// Whether the walk continues with the first room after the last one.
    comes_round: bool,
    /// The room at which it ends, once it has continued from the first one. `None`: it ends with the last name.
    end: Option<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Rooms {
    /// Rooms with members here, in an order that each run of a simulation repeats.
    rooms: BTreeMap<Arc<str>, Room>,
    /// Number of times that announcing all rooms was requested.
    round: u64,
    walk: Option<Walk>,
    /// Rooms to be announced apart from the walk. `true`: others are asked as well.
    unannounced: BTreeMap<Arc<str>, bool>,
}

impl Rooms {
    pub(super) fn len(&self) -> usize {
        self.rooms.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rooms.keys()
    }

    /// Adds a room. `true`: it had no members before. Others are not told here.
    pub(super) fn insert(&mut self, room: &Arc<str>) -> bool {
        if self.has(room) {
            return false;
        }
        self.rooms.insert(Arc::clone(room), Room { peers: Vec::new(), asked: None });
        true
    }

    /// Removes a room. `true`: it had members.
    pub(super) fn remove(&mut self, room: &str) -> bool {
        self.unannounced.remove(room);
        self.rooms.remove(room).is_some()
    }

    /// Whether the room has members here.
    pub(super) fn has(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
    }

    /// Other hosts that announced that they have members; empty if there are no members here.
    pub(super) fn peers(&self, room: &str) -> &[HostName] {
        self.rooms.get(room).map(|room| room.peers.as_slice()).unwrap_or_default()
    }

    /// When others were asked which have members. `None`: they were not, or one may have missed the question.
    pub(super) fn asked(&self, room: &str) -> Option<Millis> {
        let asked = self.rooms.get(room)?.asked.as_ref();
        asked.filter(|asked| asked.round == self.round).map(|asked| asked.at)
    }

    /// Notes that others are asked which have members.
    pub(super) fn note_asked(&mut self, now: Millis, room: &str) {
        if let Some(room) = self.rooms.get_mut(room) {
            room.asked = Some(Asked { at: now, round: self.round });
        }
    }

    /// Notes that `host` has members. `false`: there are none here.
    pub(super) fn add_peer(&mut self, room: &str, host: &HostName) -> bool {
        let Some(Room { peers, .. }) = self.rooms.get_mut(room) else { return false };
        if !peers.contains(host) {
            peers.push(host.clone());
        }
        true
    }

    /// Notes that `host` no longer has members.
    pub(super) fn remove_peer(&mut self, room: &str, host: &HostName) {
        if let Some(Room { peers, .. }) = self.rooms.get_mut(room) {
            peers.retain(|peer| peer != host);
        }
    }

    /// Notes that `host` did not answer, so it may no longer have members. Others are asked again.
    pub(super) fn doubt_peer(&mut self, room: &Arc<str>, host: &HostName) {
        let Some(Room { peers, .. }) = self.rooms.get_mut(room) else { return };
        if let Some(at) = peers.iter().position(|peer| peer == host) {
            peers.swap_remove(at);
            self.announce_again(room, true);
        }
    }

    /// Forgets which other hosts have members.
    pub(super) fn forget_peers(&mut self) {
        self.rooms.values_mut().for_each(|room| room.peers.clear());
    }

    pub(super) fn drop_host(&mut self, host: &HostName) {
        for Room { peers, .. } in self.rooms.values_mut() {
            peers.retain(|peer| peer != host);
        }
    }

    /// Has a room announced once more; with `asks` others are also asked for theirs.
    pub(super) fn announce_again(&mut self, room: &Arc<str>, asks: bool) {
        let Some(known) = self.rooms.get_mut(room) else { return };
        if asks {
            known.asked = None;
        }
        *self.unannounced.entry(Arc::clone(room)).or_default() |= asks;
    }

    /// Has all rooms announced, and asks others for theirs. A room counts as not asked until it is announced.
    pub(super) fn announce_all(&mut self) {
        self.round += 1;
        self.unannounced.clear();
        let at = self.walk.take().and_then(|walk| walk.at);
        let comes_round = at.is_some();
        self.walk = (!self.rooms.is_empty()).then(|| Walk { end: at.clone(), at, comes_round });
    }

    /// Whether a walk is under way.
    pub(super) fn announces_all(&self) -> bool {
        self.walk.is_some()
    }

    /// Whether there are rooms to announce.
    pub(super) fn announces(&self) -> bool {
        self.announces_all() || !self.unannounced.is_empty()
    }

    /// The next rooms to announce, and whether others are asked about each. Looks at `looks` rooms at most.
    pub(super) fn take_slice(&mut self, now: Millis, looks: usize) -> Vec<(Arc<str>, bool)> {
        let mut slice = Vec::new();
        for _ in 0..looks {
            let (room, asks) = match self.unannounced.pop_first() {
                Some(unannounced) => unannounced,
                None => match self.walk_on() {
                    // The room was announced for another reason since the walk was requested.
                    Some(room) if self.asked(&room).is_some() => continue,
                    Some(room) => (room, true),
                    None => break,
                },
            };
            if asks {
                self.note_asked(now, &room);
            }
            slice.push((room, asks));
        }
        slice
    }

    /// The next room of the walk. `None`: it is over.
    fn walk_on(&mut self) -> Option<Arc<str>> {
        let walk = self.walk.as_mut()?;
        let next_after = |at: Option<&str>| {
            let from = at.map_or(Unbounded, Excluded);
            self.rooms.range::<str, _>((from, Unbounded)).next().map(|(room, _)| Arc::clone(room))
        };
        let mut next = next_after(walk.at.as_deref());
        if next.is_none() && walk.comes_round {
            (walk.comes_round, next) = (false, next_after(None));
        }
        let is_behind = |room: &Arc<str>| walk.end.as_ref().is_some_and(|end| room > end);
        walk.at = next.filter(|room| walk.comes_round || !is_behind(room));
        let next = walk.at.clone();
        if next.is_none() {
            self.walk = None;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(names: impl IntoIterator<Item = usize>) -> Rooms {
        let mut rooms = Rooms::default();
        for name in names {
            rooms.insert(&format!("r{name}").into());
        }
        rooms
    }

    fn slice(rooms: &mut Rooms, looks: usize) -> Vec<String> {
        rooms.take_slice(Millis(0), looks).into_iter().map(|(room, _)| room.to_string()).collect()
    }

    #[test]
    fn a_walk_that_is_wanted_again_comes_round_to_its_place() {
        let mut rooms = rooms(0..5);
        rooms.announce_all();
        assert_eq!(slice(&mut rooms, 2), ["r0", "r1"]);
        rooms.announce_all();
        assert_eq!(rooms.asked("r0"), None, "who came since was not asked");
        assert_eq!(slice(&mut rooms, 4), ["r2", "r3", "r4", "r0"]);
        // Both that room and the first one are gone.
        assert!(["r0", "r1"].into_iter().all(|room| rooms.remove(room)));
        rooms.announce_all();
        assert_eq!(slice(&mut rooms, 9), ["r2", "r3", "r4"]);
        assert_eq!((slice(&mut rooms, 9).len(), rooms.announces()), (0, false));
    }

    #[test]
    fn a_repeatedly_restarted_walk_reaches_the_last_room() {
        let mut rooms = rooms(0..9);
        let mut told = Vec::new();
        for _ in 0..9 {
            rooms.announce_all();
            told.extend(slice(&mut rooms, 1));
        }
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 9);
    }

    #[test]
    fn a_room_is_announced_again_once_and_only_if_it_has_members() {
        let mut rooms = rooms(0..2);
        for asks in [false, true, false] {
            rooms.announce_again(&"r0".into(), asks);
        }
        rooms.announce_again(&"r1".into(), false);
        rooms.announce_again(&"nobody".into(), true);
        rooms.note_asked(Millis(3), "r1");
        let told = rooms.take_slice(Millis(7), 9);
        assert_eq!(told, [("r0".into(), true), ("r1".into(), false)]);
        assert_eq!((rooms.asked("r0"), rooms.asked("r1")), (Some(Millis(7)), Some(Millis(3))));
        rooms.announce_again(&"r0".into(), true);
        rooms.remove("r0");
        assert!(!rooms.announces());
    }
}
