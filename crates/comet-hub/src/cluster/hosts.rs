//! The other hosts that are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use comet_core::Millis;

use super::engine::HostName;
use super::{HOST_TIMEOUT_MS, HOSTS_MAX};

/// Other hosts, and when each announced itself last.
#[derive(Default)]
pub(super) struct Hosts {
    seen: BTreeMap<HostName, Millis>,
    /// Their names, for calls that any of them may answer. `None`: to be made anew.
    shared: Option<Arc<[HostName]>>,
}

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.seen.keys()
    }

    /// All names, of which calls under way hold one copy.
    pub(super) fn shared_names(&mut self) -> Arc<[HostName]> {
        let Self { seen, shared } = self;
        Arc::clone(shared.get_or_insert_with(|| seen.keys().cloned().collect()))
    }

    /// When one announced itself last.
    pub(super) fn heard(&self) -> Option<Millis> {
        self.seen.values().max().copied()
    }

    /// `true`: it is new. Beyond [`HOSTS_MAX`] none is.
    pub(super) fn note(&mut self, host: HostName, now: Millis) -> bool {
        if self.seen.len() >= HOSTS_MAX && !self.knows(&host) {
            return false;
        }
        let is_new = self.seen.insert(host, now).is_none();
        if is_new {
            self.shared = None;
        }
        is_new
    }

    pub(super) fn knows(&self, host: &HostName) -> bool {
        self.seen.contains_key(host)
    }

    /// All were there at `now`.
    pub(super) fn renew(&mut self, now: Millis) {
        self.seen.values_mut().for_each(|seen| *seen = now);
    }

    pub(super) fn remove(&mut self, host: &HostName) {
        self.seen.remove(host);
        self.shared = None;
    }

    /// Removes those that have been silent for too long.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<HostName> {
        let silent = self.seen.extract_if(.., |_, seen| seen.after(HOST_TIMEOUT_MS) <= now);
        let silent: Vec<HostName> = silent.map(|(host, _)| host).collect();
        if !silent.is_empty() {
            self.shared = None;
        }
        silent
    }

    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.seen.values().min().map(|seen| seen.after(HOST_TIMEOUT_MS))
    }
}
