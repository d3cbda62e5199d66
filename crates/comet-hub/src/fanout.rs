//! The fan-out of a logic service to its comets: which of them a push concerns, what their ledgers add up
//! to, and what is said if some do not take it.
//!
//! A comet that does not take its part is named in the result. If none of those a push concerned took it,
//! the push has failed. A [`Fanout`] is for all pushes, a [`PushFanout`] for one; [`HealthMonitor`] knows
//! which comets take clients.

mod health;
mod push;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::shares;

pub use self::health::{Check, HealthMonitor};
pub use self::push::{
    Call, CallFailure, FailedComet, LedgerSum, PartId, PushFanout, Pushed, Refused, Target,
};

/// How comets are called.
#[derive(Clone, Debug)]
pub struct FanoutConfig {
    /// Server id of each comet. Elsewhere they are numbered in this order.
    pub comets: Vec<String>,
    /// Keys of one call at most, at least one.
    pub keys_max: usize,
    /// How long a comet may take, milliseconds.
    pub limit_ms: u64,
    /// Pushes that may be under way at once.
    pub places: usize,
}

/// The comets, and what holds for all pushes to them.
#[derive(Debug)]
pub struct Fanout {
    config: FanoutConfig,
    places_taken: usize,
    failures: BTreeMap<String, u64>,
}

impl Fanout {
    /// # Panics
    /// If a call may have no key.
    #[must_use]
    pub fn new(config: FanoutConfig) -> Self {
        assert!(config.keys_max > 0, "a call has room for a key");
        Self { config, places_taken: 0, failures: BTreeMap::new() }
    }

    /// Takes a place for a push; false: none is free. It has to be given back with
    /// [`Fanout::give_place_back`].
    #[must_use]
    pub fn take_place(&mut self) -> bool {
        let is_free = self.places_taken < self.config.places;
        self.places_taken += usize::from(is_free);
        is_free
    }

    /// A push is over, or its caller left.
    ///
    /// # Panics
    /// If none was under way.
    pub fn give_place_back(&mut self) {
        assert!(self.places_taken > 0, "a place that was taken comes back");
        self.places_taken -= 1;
    }

    /// Pushes under way.
    #[must_use]
    pub fn places_taken(&self) -> usize {
        self.places_taken
    }

    /// A push to sessions, each a key and the server it is at, if it is anywhere. `absent` more are nowhere.
    #[must_use]
    pub fn to_sessions(
        &self,
        sessions: impl IntoIterator<Item = (String, Option<String>)>,
        mut absent: u64,
    ) -> PushFanout {
        let mut servers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, server) in sessions {
            match server {
                Some(server) => servers.entry(server).or_default().push(key),
                None => absent += 1,
            }
        }
        let mut push = PushFanout::new(self.config.limit_ms);
        for (server, keys) in servers {
            match self.config.comets.iter().position(|comet| *comet == server) {
                Some(comet) => {
                    // A user may have more sessions than keys fit one call.
                    for keys in keys.chunks(self.config.keys_max) {
                        push.add(comet, &server, Target::Keys(keys.to_vec()));
                    }
                }
                None => push.miss(server, keys.len()),
            }
        }
        push.add_absent(absent);
        push
    }

    /// A push to a room, on every comet.
    #[must_use]
    pub fn to_room(&self) -> PushFanout {
        let mut push = PushFanout::new(self.config.limit_ms);
        for (comet, id) in self.config.comets.iter().enumerate() {
            push.add(comet, id, Target::Room);
        }
        push
    }

    /// A push to everybody: at once, or `speed` connections a second in all, of which each comet gets a
    /// share by its number of sessions.
    ///
    /// # Panics
    /// If there is not one number for each comet.
    #[must_use]
    pub fn to_all(&self, speed: Option<(NonZeroU32, &[u64])>) -> PushFanout {
        let speeds: Vec<_> = match speed {
            None => vec![None; self.config.comets.len()],
            Some((speed, live)) => shares(speed, live).into_iter().map(Some).collect(),
        };
        assert_eq!(speeds.len(), self.config.comets.len(), "each comet has a number of sessions");
        let mut push = PushFanout::new(self.config.limit_ms);
        for ((comet, id), speed) in self.config.comets.iter().enumerate().zip(speeds) {
            push.add(comet, id, Target::All { speed });
        }
        push
    }

    /// Counts calls that comets did not take.
    pub fn count_failures(&mut self, failed: &[FailedComet]) {
        for FailedComet { server, .. } in failed {
            // Names come from whoever calls itself a comet: those nobody configured are one.
            let is_known = self.config.comets.contains(server);
            let server = if is_known { server } else { "unknown" };
            *self.failures.entry(server.to_owned()).or_default() += 1;
        }
    }

    /// Calls that a comet did not take, by server id.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }
}

#[cfg(test)]
mod tests;
