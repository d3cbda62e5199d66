//! Rooms with members on this host, and the other hosts that have some.

use std::collections::BTreeMap;
use std::sync::Arc;

use comet_core::Millis;

use super::engine::HostName;

struct Room {
    /// Other hosts with members.
    peers: Vec<HostName>,
    /// Since when others are asked who has members, without one that did not answer.
    asked: Millis,
}

#[derive(Default)]
pub(super) struct Rooms {
    /// Rooms with members here, in an order that each run of a simulation repeats.
    rooms: BTreeMap<Arc<str>, Room>,
}

impl Rooms {
    pub(super) fn len(&self) -> usize {
        self.rooms.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rooms.keys()
    }

    /// `true`: there were no members.
    pub(super) fn insert(&mut self, now: Millis, room: &Arc<str>) -> bool {
        if self.has(room) {
            return false;
        }
        self.rooms.insert(Arc::clone(room), Room { peers: Vec::new(), asked: now });
        true
    }

    /// `true`: there were members.
    pub(super) fn remove(&mut self, room: &str) -> bool {
        self.rooms.remove(room).is_some()
    }

    /// Whether there are members here.
    pub(super) fn has(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
    }

    /// Other hosts that have told that they have members; none if there are no members here.
    pub(super) fn peers(&self, room: &str) -> &[HostName] {
        self.rooms.get(room).map(|room| room.peers.as_slice()).unwrap_or_default()
    }

    /// Since when others are asked who has members. `None`: there are none here, so nobody was asked.
    pub(super) fn asked(&self, room: &str) -> Option<Millis> {
        self.rooms.get(room).map(|room| room.asked)
    }

    /// `host` has members. `false`: there are none here.
    pub(super) fn add_peer(&mut self, room: &str, host: &HostName) -> bool {
        let Some(Room { peers, .. }) = self.rooms.get_mut(room) else { return false };
        if !peers.contains(host) {
            peers.push(host.clone());
        }
        true
    }

    /// `host` says that it has none any more.
    pub(super) fn remove_peer(&mut self, room: &str, host: &HostName) {
        if let Some(Room { peers, .. }) = self.rooms.get_mut(room) {
            peers.retain(|peer| peer != host);
        }
    }

    /// `host` did not answer, so it may have none any more. `true`: others have to be asked again.
    pub(super) fn doubt_peer(&mut self, now: Millis, room: &str, host: &HostName) -> bool {
        let Some(Room { peers, asked }) = self.rooms.get_mut(room) else { return false };
        let Some(at) = peers.iter().position(|peer| peer == host) else { return false };
        peers.swap_remove(at);
        *asked = now;
        true
    }

    /// Who else has members is not known any more.
    pub(super) fn forget_peers(&mut self) {
        self.rooms.values_mut().for_each(|room| room.peers.clear());
    }

    pub(super) fn drop_host(&mut self, host: &HostName) {
        for Room { peers, .. } in self.rooms.values_mut() {
            peers.retain(|peer| peer != host);
        }
    }
}
