//! A newer configuration for a running server: the changes at run time, and those that need a restart.

use comet_config::{Change, Config, Mistakes, TakesEffect};
use comet_ops::Certificate;

/// Sections and keys that `comet logic` reads.
const OF_LOGIC: [&str; 16] = [
    "logic_server",
    "discovery.nodes",
    "discovery.env",
    "token",
    "log",
    "server.id",
    "server.domain",
    "server.hosts",
    "tcp.bind",
    "websocket.bind",
    "websocket.tls_bind",
    "protocol.heartbeat",
    "push.access_log",
    "push.frame_max",
    "push.keys_max",
    "push.timeout",
];

/// The changes of a newer configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Reloaded {
    /// Keys that have changed at run time.
    pub alive: Vec<Change>,
    /// Keys whose newer value takes effect after a restart.
    pub later: Vec<Change>,
    /// New certificates that clients are shown.
    pub certificates: Vec<Certificate>,
    /// Keys whose files have new contents, which are in use; one sentence each.
    pub files: Vec<String>,
}

impl Reloaded {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { alive, later, certificates, files } = self;
        alive.is_empty() && later.is_empty() && certificates.is_empty() && files.is_empty()
    }
}

impl Reloaded {
    /// The changes from `running` to `newer`. Keys of `comet logic` are left out, because another process uses them.
    pub(crate) fn compare(running: &Config, newer: &Config) -> Self {
        let mut changes = running.changes(newer);
        let of_logic = [TakesEffect::InLogic, TakesEffect::AliveInLogic];
        changes.retain(|change| !of_logic.contains(&change.takes_effect));
        let (alive, later) =
            changes.into_iter().partition(|change| change.takes_effect == TakesEffect::Alive);
        Self { alive, later, certificates: Vec::new(), files: Vec::new() }
    }

    /// The same for `comet logic`, which adopts `adopted`, restricted to the keys that it reads.
    pub(crate) fn compare_logic(running: &Config, adopted: &Config, newer: &Config) -> Self {
        let mut later = adopted.changes(newer);
        later.retain(|change| {
            let section = change.key.split('.').next().expect("a key has a section");
            OF_LOGIC.iter().any(|of_logic| [section, change.key].contains(of_logic))
        });
        Self { alive: running.changes(adopted), later, certificates: Vec::new(), files: Vec::new() }
    }
}

/// Why a newer configuration does not fit the running one, one line per mistake.
pub(crate) fn misfit(mistakes: &Mistakes) -> String {
    let with = |mistake| format!("with what needs a restart as it is: {mistake}");
    mistakes.iter().map(with).collect::<Vec<_>>().join("\n")
}
