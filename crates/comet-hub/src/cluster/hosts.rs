//! The other hosts: those that are alive, and those that are silent.

use std::collections::BTreeMap;
use std::sync::Arc;

use comet_core::Millis;

use super::engine::HostName;
use super::{HOST_FORGOTTEN_MS, HOST_TIMEOUT_MS, HOSTS_MAX};

/// A host that announces itself.
struct Seen {
    at: Millis,
    /// Whether it has announced itself during the present connection of this host.
    in_connection: bool,
    /// Whether it answers to pushes of the shared stream.
    reads_stream: bool,
}

/// The meaning of a host's announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noted {
    /// The host was not known, or was considered dead.
    IsNew,
    /// It was known before this host connected, and may have been without a connection since.
    IsBack,
    Again,
}

/// The other hosts, and the time of each one's last announcement.
#[derive(Default)]
pub(super) struct Hosts {
    seen: BTreeMap<HostName, Seen>,
    /// Hosts that are silent without having announced their leave, with the time at which each is forgotten. They may
    /// have died, or the connection of one side is dead. So pushes name them, but do not wait for them.
    silent: BTreeMap<HostName, Millis>,
    /// The names of the live hosts, for calls that any of them may answer. `None`: must be rebuilt.
    shared: Option<Arc<[HostName]>>,
}

impl Hosts {
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.seen.keys()
    }

    /// The hosts that answer to pushes of the stream, or those that do not.
    pub(super) fn names_by_stream(&self, reads_stream: bool) -> impl Iterator<Item = &HostName> {
        let seen = self.seen.iter().filter(move |(_, seen)| seen.reads_stream == reads_stream);
        seen.map(|(host, _)| host)
    }

    /// Silent hosts, which are not waited for.
    pub(super) fn silent_names(&self) -> impl Iterator<Item = &HostName> {
        self.silent.keys()
    }

    /// All names. Calls under way share one copy.
    pub(super) fn shared_names(&mut self) -> Arc<[HostName]> {
        let Self { seen, shared, .. } = self;
        Arc::clone(shared.get_or_insert_with(|| seen.keys().cloned().collect()))
    }

    /// The time of the latest announcement of any host.
    pub(super) fn heard(&self) -> Option<Millis> {
        self.seen.values().map(|seen| seen.at).max()
    }

    /// Notes the announcement of a host. Beyond [`HOSTS_MAX`] new hosts are ignored.
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

    /// Takes over the hosts that another process of this host knew. They were not heard yet in the present connection.
    /// With `reads_stream` they count as hosts that answer to pushes of the stream, until they announce otherwise.
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

    /// Notes that this host has a connection again, and could not hear the others until `now`.
    pub(super) fn renew(&mut self, now: Millis) {
        for seen in self.seen.values_mut() {
            (seen.at, seen.in_connection) = (now, false);
        }
        self.silent.values_mut().for_each(|until| *until = now.after(HOST_FORGOTTEN_MS));
    }

    /// Notes that this host was stopped for `stopped_ms` until `now`. That time does not count as silence of the
    /// others.
    pub(super) fn leave_out(&mut self, stopped_ms: u64, now: Millis) {
        for seen in self.seen.values_mut() {
            seen.at = seen.at.after(stopped_ms).min(now);
        }
        self.silent.values_mut().for_each(|until| *until = until.after(stopped_ms));
    }

    /// Removes a host that announced its leave.
    pub(super) fn remove(&mut self, host: &HostName) {
        self.seen.remove(host);
        self.silent.remove(host);
        self.shared = None;
    }

    /// Moves hosts that were silent for too long out of the live ones, and returns them. Forgets those that were silent
    /// for even longer.
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
