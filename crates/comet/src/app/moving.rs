//! The server in a live upgrade: what of it is handed over, how it ends in the former process, and how it goes on in the new one.

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

/// How often it is looked whether there is one.
const LOOK: Duration = Duration::from_millis(2);

impl App {
    /// A server that has taken over the connections of another process, which has ended its work: it goes on with them, and accepts
    /// clients and callers. What fails now is said in the log, as there is no way back.
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
        do_all(cores.iter().flat_map(|core| [core.hold_callers(true), core.thaw()]).collect());
        let control = &app.threads.control;
        control.connect_hosts();
        // A push of a caller who comes before would reach the clients of this host alone.
        let end = Instant::now() + HOSTS;
        while !control.is_connected() && Instant::now() < end {
            sleep(LOOK);
        }
        control.end_move();
        do_all(cores.iter().map(|core| core.hold_callers(false)).collect());
        if let Err(error) = app.register() {
            say("discovery", &error);
        }
        app
    }

    /// What the clock of the shards shows.
    pub(crate) fn clock(&self) -> Duration {
        self.threads.epoch.elapsed()
    }

    /// The key sets of `token.jwks_urls` that were fetched.
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

    /// Ends this process's part: another one goes on with the connections, and is registered in discovery by the same name.
    pub(crate) fn leave(self) {
        // Its end would cancel the registration.
        std::mem::forget(self.discovery);
        drop(self.passing);
        if let Err((shard, cause)) = self.threads.stop() {
            log::error!("core {} failed after the upgrade: {cause}", shard.0);
        }
    }
}
