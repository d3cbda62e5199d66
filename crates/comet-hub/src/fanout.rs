//! The fan-out of a logic service to its comets: which comets a push concerns, the sum of their ledgers, and the result
//! if some do not take it.
//!
//! The result names each comet that did not take its part. It also names each comet that may have taken its part,
//! because a repeated push may reach the clients of that comet twice. If no comet is known to have taken the push, the
//! push has failed. One [`Fanout`] serves all pushes, one [`PushFanout`] a single push; [`HealthMonitor`] knows which
//! comets are reachable and take clients.
//!
//! No comet holds up the others. A comet that is gone is left out at once, and calls under way to one comet are
//! bounded, so pushes that wait for it leave permits for the rest.
//!
//! Comets come and go. Calls under way to a removed comet continue to their end.

mod health;
mod number;
mod push;
mod turns;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use comet_core::Millis;

use crate::callers::Callers;
use crate::failing::Failing;
use crate::{CallerId, shares};

pub use self::health::{Check, Health, HealthMonitor, HealthTimes};
pub use self::number::CometNumber;
pub use self::push::{
    Call, CallFailure, FailedComet, FailureKind, FanoutResult, LedgerSum, PartId, PushError,
    PushFanout, Target, may_have_taken,
};
pub use self::turns::{TurnId, Turns};

/// Longest part of a message that is logged, bytes.
const MESSAGE_MAX: usize = 256;

/// The parameters of calls to comets.
#[derive(Clone, Debug)]
pub struct FanoutConfig {
    /// Keys of one call at most, at least one.
    pub keys_max: usize,
    /// How long a comet may take, milliseconds.
    pub limit_ms: u64,
    /// Pushes that may be under way at once.
    pub permits: usize,
    /// Pushes of one caller that may be under way at once.
    pub caller_permits: usize,
    /// Calls that may be under way to one comet.
    pub calls: usize,
}

/// No permit is free for another push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPermit {
    /// The limit for all callers is reached.
    OfAll(usize),
    /// The limit for this caller is reached.
    OfCaller(usize),
}

/// Failures of comets that are unknown, or no longer known, count under this name.
const UNKNOWN: &str = "unknown";

/// The state of a comet, for pushes.
#[derive(Debug)]
struct Comet {
    /// Its server id.
    server: String,
    /// Calls under way.
    calls: usize,
    /// Why it is gone.
    gone: Option<Box<str>>,
}

/// The comets, and what holds for all pushes to them.
#[derive(Debug)]
pub struct Fanout {
    config: FanoutConfig,
    comets: BTreeMap<CometNumber, Comet>,
    /// The number of the next comet to be added.
    next: CometNumber,
    permits_taken: usize,
    callers: Callers,
    failures: BTreeMap<String, u64>,
    failing: Failing<CometNumber>,
}

impl Fanout {
    /// Has no comets at first.
    ///
    /// # Panics
    /// If `keys_max` is 0.
    #[must_use]
    pub fn new(config: FanoutConfig) -> Self {
        assert!(config.keys_max > 0, "a call has room for a key");
        Self {
            comets: BTreeMap::new(),
            next: CometNumber(0),
            permits_taken: 0,
            callers: Callers::new(config.caller_permits),
            failures: BTreeMap::new(),
            failing: Failing::default(),
            config,
        }
    }

    /// Adds the comet with the id `server`, which takes part in pushes from here on.
    pub fn add_comet(&mut self, server: &str) -> CometNumber {
        let number = self.next;
        self.next = CometNumber(number.0 + 1);
        self.comets.insert(number, Comet { server: server.to_owned(), calls: 0, gone: None });
        number
    }

    /// Removes a comet from new pushes. Calls under way are answered as before.
    pub fn remove_comet(&mut self, comet: CometNumber) {
        let Some(Comet { server, .. }) = self.comets.remove(&comet) else { return };
        self.failing.forget(&comet);
        // Comets come and go. Their failures are removed with them, so the map stays bounded by the number of comets.
        if self.number_of(&server).is_none()
            && let Some(failures) = self.failures.remove(&server)
        {
            *self.failures.entry(UNKNOWN.to_owned()).or_default() += failures;
        }
    }

    fn number_of(&self, server: &str) -> Option<CometNumber> {
        let mut comets = self.comets.iter();
        comets.find(|(_, comet)| comet.server == server).map(|(number, _)| *number)
    }

    /// Takes a result of the monitor: a comet that is gone is left out of pushes.
    pub fn set_health(&mut self, comet: CometNumber, health: &Health) {
        let Some(comet) = self.comets.get_mut(&comet) else { return };
        comet.gone = match health {
            Health::Gone(cause) => Some(cause.clone()),
            Health::Unknown | Health::Serving | Health::NotServing => None,
        };
    }

    /// The next call of `push` to make. Its deadline counts from `now`, and it is under way until [`Fanout::end_call`].
    /// Parts for comets that cannot take them count as failed.
    pub fn poll_call(&mut self, push: &mut PushFanout, now: Millis) -> Option<Call> {
        loop {
            let call = push.poll_call(now)?;
            let message = match self.comets.get_mut(&call.comet) {
                None => "it was taken out".to_owned(),
                Some(Comet { gone: Some(cause), .. }) => gone(cause),
                Some(comet) if comet.calls >= self.config.calls => {
                    format!("{} calls are under way there", comet.calls)
                }
                Some(comet) => {
                    comet.calls += 1;
                    return Some(call);
                }
            };
            let kind = FailureKind::NotTaken;
            push.handle_answer(call.part, Err(CallFailure { kind, message }));
        }
    }

    /// Notes that a call is over, or given up. The comet may have been removed meanwhile.
    ///
    /// # Panics
    /// If none was under way to the comet.
    pub fn end_call(&mut self, comet: CometNumber) {
        let Some(Comet { calls, .. }) = self.comets.get_mut(&comet) else { return };
        assert!(*calls > 0, "a call that ends has begun");
        *calls -= 1;
    }

    /// Calls under way to the comet; none are counted for a removed comet.
    #[must_use]
    pub fn calls(&self, comet: CometNumber) -> usize {
        self.comets.get(&comet).map_or(0, |comet| comet.calls)
    }

    /// Gives up waiting for comets that are gone by now; `take_back` as that of [`PushFanout::handle_timeout`].
    pub fn leave_out_gone(&self, push: &mut PushFanout, take_back: impl Fn(PartId) -> bool) {
        let message = |comet| self.comets.get(&comet)?.gone.as_deref().map(gone);
        push.give_up(message, take_back);
    }

    /// Takes a permit for a push of `caller`, to be returned with [`Fanout::release_permit`].
    ///
    /// # Errors
    /// If no permit is free.
    pub fn acquire_permit(&mut self, caller: CallerId) -> Result<(), NoPermit> {
        if self.permits_taken >= self.config.permits {
            return Err(NoPermit::OfAll(self.config.permits));
        }
        if !self.callers.has_room(caller) {
            return Err(NoPermit::OfCaller(self.config.caller_permits));
        }
        self.permits_taken += 1;
        self.callers.begin(caller);
        Ok(())
    }

    /// Returns the permit of a push that is over, or whose caller left.
    ///
    /// # Panics
    /// If none of the caller was under way.
    pub fn release_permit(&mut self, caller: CallerId) {
        assert!(self.permits_taken > 0, "a place that was taken comes back");
        self.permits_taken -= 1;
        self.callers.end(caller);
    }

    /// Pushes under way.
    #[must_use]
    pub fn permits_taken(&self) -> usize {
        self.permits_taken
    }

    /// A push to sessions: pairs of a key and the server that holds it, if any. `absent` more keys are held by no
    /// server.
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
            match self.number_of(&server) {
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
        for (number, comet) in &self.comets {
            push.add(*number, &comet.server, Target::Room);
        }
        push
    }

    /// A push to all: at once, or at `speed` connections a second in total. Each comet gets a share by its number of
    /// sessions. If no session counts are known, all comets get the same share.
    #[must_use]
    pub fn to_all(&self, speed: Option<(NonZeroU32, &BTreeMap<String, u64>)>) -> PushFanout {
        let speeds: Vec<_> = match speed {
            None => vec![None; self.comets.len()],
            Some((speed, sessions)) => {
                let of = |comet: &Comet| sessions.get(&comet.server).copied().unwrap_or(0);
                let mut live: Vec<_> = self.comets.values().map(of).collect();
                if live.iter().all(|live| *live == 0) {
                    live.fill(1);
                }
                shares(speed, &live).into_iter().map(Some).collect()
            }
        };
        let mut push = PushFanout::new(self.config.limit_ms);
        for ((number, comet), speed) in self.comets.iter().zip(speeds) {
            push.add(*number, &comet.server, Target::All { speed });
        }
        push
    }

    /// Counts the results of the parts of a complete push. Returns the changes for the log.
    pub fn count_parts(&mut self, now: Millis, push: &PushFanout) -> Vec<FanoutEvent> {
        let mut events = Vec::new();
        for FailedComet { server, is_unknown, message } in push.failed() {
            let comet = self.number_of(server);
            // Server names come from any process that calls itself a comet, so unknown ones share one name.
            let name = if comet.is_some() { server } else { UNKNOWN };
            *self.failures.entry(name.to_owned()).or_default() += 1;
            // The log already has a line that the comet is gone.
            let comet = comet.filter(|comet| self.comets[comet].gone.is_none());
            if let Some(comet) = comet
                && self.failing.begins(now, comet)
            {
                let (server, is_unknown) = (server.clone(), *is_unknown);
                let message = message[..message.floor_char_boundary(MESSAGE_MAX)].into();
                events.push(FanoutEvent::Fails { server, is_unknown, message });
            }
        }
        for number in push.taken() {
            let Some(Comet { server, .. }) = self.comets.get(&number) else { continue };
            for (_, failed) in self.failing.ended(now, number..=number) {
                events.push(FanoutEvent::Succeeds { server: server.clone(), failed });
            }
        }
        events
    }

    /// Calls that a comet is not known to have taken, by server id; "unknown" are those that are no comets, or none any more.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }
}

/// A change to be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FanoutEvent {
    /// Calls to a comet that is there fail.
    Fails {
        /// Its server id.
        server: String,
        /// It may have taken the first push that failed.
        is_unknown: bool,
        /// The first message. It is a text of another machine.
        message: Box<str>,
    },
    /// The comet takes pushes again.
    Succeeds {
        /// Its server id.
        server: String,
        /// Calls that failed meanwhile.
        failed: u64,
    },
}

fn gone(cause: &str) -> String {
    format!("it is gone: {cause}")
}

#[cfg(test)]
mod tests;
