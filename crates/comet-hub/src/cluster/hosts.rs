//! The other hosts that are there, and those that are silent.

use std::collections::BTreeMap;
use std::sync::Arc;

use comet_core::Millis;

use super::engine::HostName;
use super::{HOST_FORGOTTEN_MS, HOST_TIMEOUT_MS, HOSTS_MAX};

/// A host that announces itself.
struct Seen {
    at: Millis,
    /// It has announced itself in the present connection of this host.
    in_connection: bool,
    /// It answers to pushes of the stream that hosts share.
    reads_stream: bool,
}

/// What an announcement of a host is to this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noted {
    /// The host was not known, or was taken for dead.
    IsNew,
    /// It was known before this host connected, and may have been without a connection since.
    IsBack,
    Again,
}

/// Other hosts, and when each announced itself last.
#[derive(Default)]
pub(super) struct Hosts {
    seen: BTreeMap<HostName, Seen>,
    /// Hosts that did not say that they go, and are silent, with the time at which each is forgotten. They may have died, or the
    /// connection of one side is dead: so pushes name them, and wait for none.
    silent: BTreeMap<HostName, Millis>,
    /// The names of those that are there, for calls that any of them may answer. `None`: to be made anew.
    shared: Option<Arc<[HostName]>>,
}

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.seen.keys()
    }

    /// Those that answer to pushes of the stream, or those that do not.
    pub(super) fn names_by_stream(&self, reads_stream: bool) -> impl Iterator<Item = &HostName> {
        let seen = self.seen.iter().filter(move |(_, seen)| seen.reads_stream == reads_stream);
        seen.map(|(host, _)| host)
    }

    /// Hosts that did not say that they go, and that nobody waits for.
    pub(super) fn silent_names(&self) -> impl Iterator<Item = &HostName> {
        self.silent.keys()
    }

    /// All names, of which calls under way hold one copy.
    pub(super) fn shared_names(&mut self) -> Arc<[HostName]> {
        let Self { seen, shared, .. } = self;
        Arc::clone(shared.get_or_insert_with(|| seen.keys().cloned().collect()))
    }

    /// When one announced itself last.
    pub(super) fn heard(&self) -> Option<Millis> {
        self.seen.values().map(|seen| seen.at).max()
    }

    /// A host has announced itself. Beyond [`HOSTS_MAX`] none is new.
    pub(super) fn note(&mut self, host: HostName, reads_stream: bool, now: Millis) -> Noted {
        if self.seen.len() >= HOSTS_MAX && !self.knows(&host) {
            return Noted::Again;
        }
        self.silent.remove(&host);
        match self.seen.insert(host, Seen { at: now, in_connection: true, reads_stream }) {
            None => {
                self.shared = None;
                Noted::IsNew
            }
            Some(Seen { in_connection: false, .. }) => Noted::IsBack,
            Some(_) => Noted::Again,
        }
    }

    /// Knows what another process of this host knew. Nothing was heard of them in the present connection. With `reads_stream` they are
    /// taken for hosts that answer to pushes of the stream, until they say what they do.
    pub(super) fn take_over(
        &mut self,
        now: Millis,
        (hosts, silent): (Vec<HostName>, Vec<HostName>),
        reads_stream: bool,
    ) {
        let seen = |host| (host, Seen { at: now, in_connection: false, reads_stream });
        self.seen.extend(hosts.into_iter().take(HOSTS_MAX).map(seen));
        let until = now.after(HOST_FORGOTTEN_MS);
        self.silent.extend(silent.into_iter().take(HOSTS_MAX).map(|host| (host, until)));
        self.shared = None;
    }

    pub(super) fn knows(&self, host: &HostName) -> bool {
        self.seen.contains_key(host)
    }

    /// This host has a connection again, and could not hear the others until `now`.
    pub(super) fn renew(&mut self, now: Millis) {
        for seen in self.seen.values_mut() {
            (seen.at, seen.in_connection) = (now, false);
        }
        self.silent.values_mut().for_each(|until| *until = now.after(HOST_FORGOTTEN_MS));
    }

    /// This host was stopped for so long until `now`. That counts as no silence of the others.
    pub(super) fn leave_out(&mut self, stopped_ms: u64, now: Millis) {
        for seen in self.seen.values_mut() {
            seen.at = seen.at.after(stopped_ms).min(now);
        }
        self.silent.values_mut().for_each(|until| *until = until.after(stopped_ms));
    }

    /// The host says that it goes.
    pub(super) fn remove(&mut self, host: &HostName) {
        self.seen.remove(host);
        self.silent.remove(host);
        self.shared = None;
    }

    /// Waits no longer for those that were silent for too long, and returns them. Forgets those that were so for even longer.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<HostName> {
        self.silent.retain(|_, until| *until > now);
        let is_silent = |seen: &Seen| seen.at.after(HOST_TIMEOUT_MS) <= now;
        let expired = self.seen.extract_if(.., |_, seen| is_silent(seen));
        let expired: Vec<HostName> = expired.map(|(host, _)| host).collect();
        if !expired.is_empty() {
            self.shared = None;
        }
        for host in &expired {
            if self.silent.len() < HOSTS_MAX {
                self.silent.insert(host.clone(), now.after(HOST_FORGOTTEN_MS));
            }
        }
        expired
    }

    pub(super) fn next_expiry(&self) -> Option<Millis> {
        let seen = self.seen.values().map(|seen| seen.at.after(HOST_TIMEOUT_MS));
        seen.chain(self.silent.values().copied()).min()
    }
}
