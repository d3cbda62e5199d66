//! The fan-out of a logic service to its comets: which of them a push concerns, what their ledgers add up
//! to, and what is said if some do not take it.
//!
//! A comet that does not take its part is named in the result. If none of those a push concerned took it,
//! the push has failed. A [`Fanout`] is for all pushes, a [`PushFanout`] for one; [`HealthMonitor`] knows
//! which comets are there and take clients.
//!
//! No comet holds up the others: one that is gone is left out at once, and calls under way to one comet are
//! bounded, so that pushes that wait for it leave places for the rest.

mod health;
mod push;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use comet_core::Millis;

use crate::callers::Callers;
use crate::failing::Failing;
use crate::{CallerId, shares};

pub use self::health::{Check, Health, HealthMonitor, HealthTimes};
pub use self::push::{
    Call, CallFailure, FailedComet, LedgerSum, PartId, PushFanout, Pushed, Refused, Target,
};

/// Longest part of a message that is logged, bytes.
const MESSAGE_MAX: usize = 256;

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
    /// Those of one caller.
    pub caller_places: usize,
    /// Calls that may be under way to one comet.
    pub calls: usize,
}

/// So many pushes are under way that there is no place for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPlace {
    /// Of all callers.
    OfAll(usize),
    /// Of the caller.
    OfCaller(usize),
}

/// What a push meets at a comet.
#[derive(Debug, Default)]
struct Comet {
    /// Calls under way.
    calls: usize,
    /// Why it is gone.
    gone: Option<Box<str>>,
}

/// The comets, and what holds for all pushes to them.
#[derive(Debug)]
pub struct Fanout {
    config: FanoutConfig,
    comets: Vec<Comet>,
    places_taken: usize,
    callers: Callers,
    failures: BTreeMap<String, u64>,
    /// By number of the comet.
    failing: Failing<usize>,
}

impl Fanout {
    /// # Panics
    /// If a call may have no key.
    #[must_use]
    pub fn new(config: FanoutConfig) -> Self {
        assert!(config.keys_max > 0, "a call has room for a key");
        let comets = config.comets.iter().map(|_| Comet::default()).collect();
        let (failures, failing) = (BTreeMap::new(), Failing::default());
        let callers = Callers::new(config.caller_places);
        Self { config, comets, places_taken: 0, callers, failures, failing }
    }

    /// What the monitor found: a comet that is gone is left out of pushes from now on.
    pub fn set_health(&mut self, comet: usize, health: &Health) {
        self.comets[comet].gone = match health {
            Health::Gone(cause) => Some(cause.clone()),
            Health::Unknown | Health::Serving | Health::NotServing => None,
        };
    }

    /// The next call of `push` to make. Its deadline counts from `now`, and it is under way until
    /// [`Fanout::end_call`]. Parts of comets that cannot take them have failed.
    pub fn poll_call(&mut self, push: &mut PushFanout, now: Millis) -> Option<Call> {
        loop {
            let call = push.poll_call(now)?;
            let comet = &mut self.comets[call.comet];
            let message = if let Some(cause) = &comet.gone {
                gone(cause)
            } else if comet.calls >= self.config.calls {
                format!("{} calls are under way there", comet.calls)
            } else {
                comet.calls += 1;
                return Some(call);
            };
            push.handle_answer(call.part, Err(CallFailure { is_bad_request: false, message }));
        }
    }

    /// A call is over, or given up.
    ///
    /// # Panics
    /// If none was under way to the comet.
    pub fn end_call(&mut self, comet: usize) {
        let calls = &mut self.comets[comet].calls;
        assert!(*calls > 0, "a call that ends has begun");
        *calls -= 1;
    }

    /// Calls under way to the comet.
    #[must_use]
    pub fn calls(&self, comet: usize) -> usize {
        self.comets[comet].calls
    }

    /// Gives up waiting for comets that are gone by now.
    pub fn leave_out_gone(&self, push: &mut PushFanout) {
        push.give_up(|comet| self.comets[comet].gone.as_deref().map(gone));
    }

    /// Takes a place for a push of `caller`. It has to be given back with [`Fanout::give_place_back`].
    ///
    /// # Errors
    /// None is free.
    pub fn take_place(&mut self, caller: CallerId) -> Result<(), NoPlace> {
        if self.places_taken >= self.config.places {
            return Err(NoPlace::OfAll(self.config.places));
        }
        if !self.callers.has_room(caller) {
            return Err(NoPlace::OfCaller(self.config.caller_places));
        }
        self.places_taken += 1;
        self.callers.begin(caller);
        Ok(())
    }

    /// A push is over, or its caller left.
    ///
    /// # Panics
    /// If none of the caller was under way.
    pub fn give_place_back(&mut self, caller: CallerId) {
        assert!(self.places_taken > 0, "a place that was taken comes back");
        self.places_taken -= 1;
        self.callers.end(caller);
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

    /// Counts what became of the parts of a push that is complete. Returns the changes for the log.
    pub fn count_parts(&mut self, now: Millis, push: &PushFanout) -> Vec<FanoutEvent> {
        let mut events = Vec::new();
        for FailedComet { server, message } in push.failed() {
            let comet = self.config.comets.iter().position(|comet| comet == server);
            // Names come from whoever calls itself a comet: those nobody configured are one.
            let name = if comet.is_some() { server } else { "unknown" };
            *self.failures.entry(name.to_owned()).or_default() += 1;
            // That a comet is gone is in the log already.
            let comet = comet.filter(|comet| self.comets[*comet].gone.is_none());
            if let Some(comet) = comet
                && self.failing.begins(now, comet)
            {
                let message = message[..message.floor_char_boundary(MESSAGE_MAX)].into();
                events.push(FanoutEvent::Fails { comet, message });
            }
        }
        for comet in push.taken() {
            let ended = self.failing.ended(now, comet..=comet);
            events.extend(ended.map(|(comet, failed)| FanoutEvent::Succeeds { comet, failed }));
        }
        events
    }

    /// Calls that a comet did not take, by server id.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }
}

/// A change that belongs into the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FanoutEvent {
    /// A comet that is there does not take pushes.
    Fails {
        /// Its number.
        comet: usize,
        /// The first message. It is a text of another machine.
        message: Box<str>,
    },
    /// It takes them again.
    Succeeds {
        /// Its number.
        comet: usize,
        /// Calls that it did not take meanwhile.
        failed: u64,
    },
}

fn gone(cause: &str) -> String {
    format!("it is gone: {cause}")
}

#[cfg(test)]
mod tests;
