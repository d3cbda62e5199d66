//! The server in a live upgrade: what is handed over, how the former process ends, and how the new one continues.

use std::thread::sleep;
use std::time::{Duration, Instant};

use comet_control::Control;
use comet_listen::NamedSocket;
use comet_net::{Core, Pending};

use crate::jwks::{self, FetchedSet};
use crate::listeners::Passing;
use crate::start::{Handles, Prepared, Threads};

use super::App;

/// How long callers wait for the connection to other hosts.
const HOSTS: Duration = Duration::from_secs(1);

/// How often the connection is checked.
const LOOK: Duration = Duration::from_millis(2);

impl App {
    /// Makes a server that has taken over the connections of another process, which has ended its work. It continues
    /// with them, and accepts clients and callers. Failures from here on are only logged, because the hand-over cannot
    /// be undone.
    pub(crate) fn go_on(prepared: Prepared, threads: Threads, handles: Handles) -> Self {
        let mut app = Self::new(prepared, threads, handles);
        let say = |what: &str, error: &dyn std::fmt::Display| {
            log::error!("upgrade: {what}: {error}");
        };
        for (setting, unsettled) in app.passing.unsettled.drain(..) {
            if let Err(error) = unsettled.settle() {
                say(setting, &error);
            }
        }
        let cores = &app.threads.cores;
        let do_all = |orders: Vec<Pending<Result<(), String>>>| {
            for order in orders {
                if let Err(error) = order.wait(super::PATIENCE).and_then(|done| done) {
                    say("a core does not go on", &error);
                }
            }
        };
        let control = &app.threads.control;
        // Done before a client can claim a key again.
        control.take_over_logic();
        do_all(cores.iter().flat_map(|core| [core.hold_callers(true), core.thaw()]).collect());
        control.connect_hosts();
        // An earlier push of a caller would reach only the clients of this host.
        let end = Instant::now() + HOSTS;
        while !control.is_connected() && Instant::now() < end {
            sleep(LOOK);
        }
        control.end_upgrade();
        do_all(cores.iter().map(|core| core.hold_callers(false)).collect());
        if let Err(error) = app.register() {
            say("discovery", &error);
        }
        app
    }

    /// The time of the shards' clock.
    pub(crate) fn clock(&self) -> Duration {
        self.threads.epoch.elapsed()
    }

    /// The fetched key sets of `token.jwks_urls`.
    pub(crate) fn key_sets(&self) -> Vec<FetchedSet> {
        jwks::fetched(&self.authenticator, &self.config.token)
    }

    pub(crate) fn cores(&self) -> &[Core] {
        &self.threads.cores
    }

    pub(crate) fn control(&self) -> &Control {
        &self.threads.control
    }

    /// All listening sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &NamedSocket> {
        let Passing { sockets, .. } = &self.passing;
        sockets.iter().chain(self.threads.control.sockets())
    }

    /// Ends this process's part. Another process continues with the connections, and is registered in discovery under
    /// the same name.
    pub(crate) fn leave(self) {
        // Dropping the registration would cancel it.
        std::mem::forget(self.discovery);
        drop(self.passing);
        if let Err((shard, cause)) = self.threads.stop() {
            log::error!("core {} failed after the upgrade: {cause}", shard.0);
        }
    }
}
