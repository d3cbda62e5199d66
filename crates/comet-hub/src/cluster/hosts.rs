//! The other hosts that are there.

use std::collections::BTreeMap;

use comet_core::Millis;

use super::HOST_TIMEOUT_MS;
use super::engine::HostName;

/// Other hosts, and when each announced itself last.
#[derive(Default)]
pub(super) struct Hosts {
    seen: BTreeMap<HostName, Millis>,
}

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.seen.keys()
    }

    /// `true`: it is new.
    pub(super) fn note(&mut self, host: HostName, now: Millis) -> bool {
        self.seen.insert(host, now).is_none()
    }

    pub(super) fn remove(&mut self, host: &HostName) {
        self.seen.remove(host);
    }

    /// Removes those that have been silent for too long.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<HostName> {
        self.seen
            .extract_if(.., |_, seen| seen.after(HOST_TIMEOUT_MS) <= now)
            .map(|(host, _)| host)
            .collect()
    }

    pub(super) fn next_expiry(&self) -> Option<Millis> {
        self.seen.values().min().map(|seen| seen.after(HOST_TIMEOUT_MS))
    }
}
