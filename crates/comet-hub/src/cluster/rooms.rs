//! Rooms with members on this host, and the other hosts that have some.

use std::collections::HashMap;
use std::sync::Arc;

use super::engine::HostName;

#[derive(Default)]
pub(super) struct Rooms {
    /// Other hosts with members, of each room with members here.
    peers: HashMap<Arc<str>, Vec<HostName>>,
}

impl Rooms {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.keys()
    }

    /// `true`: there were no members.
    pub(super) fn insert(&mut self, room: &Arc<str>) -> bool {
        if self.peers.contains_key(room) {
            return false;
        }
        self.peers.insert(Arc::clone(room), Vec::new());
        true
    }

    /// `true`: there were members.
    pub(super) fn remove(&mut self, room: &str) -> bool {
        self.peers.remove(room).is_some()
    }

    /// Other hosts with members. `None`: there are no members here, and the others are not known.
    pub(super) fn peers(&self, room: &str) -> Option<&[HostName]> {
        self.peers.get(room).map(Vec::as_slice)
    }

    /// `host` has members. `false`: there are none here.
    pub(super) fn add_peer(&mut self, room: &str, host: &HostName) -> bool {
        let Some(peers) = self.peers.get_mut(room) else { return false };
        if !peers.contains(host) {
            peers.push(host.clone());
        }
        true
    }

    /// `host` has none any more. `false`: there are none here either.
    pub(super) fn remove_peer(&mut self, room: &str, host: &HostName) -> bool {
        let Some(peers) = self.peers.get_mut(room) else { return false };
        peers.retain(|peer| peer != host);
        true
    }

    /// Who else has members is not known any more.
    pub(super) fn forget_peers(&mut self) {
        self.peers.values_mut().for_each(Vec::clear);
    }

    pub(super) fn drop_host(&mut self, host: &HostName) {
        for peers in self.peers.values_mut() {
            peers.retain(|peer| peer != host);
        }
    }
}
