//! The addresses of logic: which of them are available, and which is used next.
//!
//! Each address is connected, pinged, and reconnected after a failure. Only this decides whether it is available. A
//! call that failed on its way triggers a ping at once.
//!
//! Addresses may change. A removed address gets no new calls; those under way continue over its connection.

use std::time::Duration;

use comet_core::{Jitter, Millis};

use super::action::{Action, ConnectionId, Event, Output, PingOutcome};

/// The shortest wait before an address is tried again, milliseconds.
const BACKOFF_MIN_MS: u32 = 100;

/// The longest.
const BACKOFF_MAX_MS: u32 = 5_000;

/// How far an address has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The connection must be open by `until`.
    Connecting { until: Millis },
    /// Connected; the first ping has to be answered by `until`.
    Probing { until: Millis },
    /// Calls may go there. `pings` were answered on this connection, after the first one.
    Available { pings: u64, ping: Ping },
    /// It is not tried until `until`.
    BackingOff { until: Millis },
    /// It was removed. Its place may be reused for another address.
    Removed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ping {
    /// The next ping is due at this time.
    Due(Millis),
    /// The ping must be answered by `until`. `again`: a call failed meanwhile, so another ping follows at once.
    UnderWay { until: Millis, again: bool },
}

/// The state of an address in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Nothing,
    /// It was unavailable from the start.
    Unavailable,
    /// It was available before.
    Available,
}

struct Address {
    name: Box<str>,
    /// The generation of its connection; outcomes of earlier ones are stale.
    generation: u64,
    state: State,
    /// Number of failures in a row. Answering a ping after the first one of a connection resets it.
    failures: u32,
    /// Pings that were answered with [`PingOutcome::CallerRefused`].
    refused_pings: u64,
    known: Known,
}

pub(super) struct Addresses {
    all: Vec<Address>,
    /// The index of the address to use next.
    turn: usize,
    ping_ms: u64,
    timeout_ms: u64,
}

impl Addresses {
    /// Connects to all of them.
    pub(super) fn new(
        names: Vec<Box<str>>,
        (ping_ms, timeout_ms): (u64, u64),
        now: Millis,
        out: &mut Output,
    ) -> Self {
        let mut addresses = Self { all: Vec::new(), turn: 0, ping_ms, timeout_ms };
        for name in names {
            addresses.add(name, now, out);
        }
        addresses
    }

    /// Replaces the addresses by `names`. Addresses in both lists are not affected.
    pub(super) fn replace(&mut self, names: Vec<Box<str>>, now: Millis, out: &mut Output) {
        let had_available = self.available() > 0;
        for (index, address) in self.all.iter_mut().enumerate() {
            if address.is_there() && !names.contains(&address.name) {
                let generation = address.generation;
                address.state = State::Removed;
                out.actions.push_back(Action::Close(ConnectionId { address: index, generation }));
            }
        }
        if had_available && self.available() == 0 {
            out.events.push_back(Event::NoneAvailable);
        }
        for name in names {
            if !self.all().any(|(known, _)| *known == *name) {
                self.add(name, now, out);
            }
        }
    }

    /// Adds an address and begins to connect to it. It reuses the place of a removed one, if there is any.
    fn add(&mut self, name: Box<str>, now: Millis, out: &mut Output) {
        let free = self.all.iter().position(|address| !address.is_there());
        let index = free.unwrap_or(self.all.len());
        let address = Address {
            name,
            // The higher generation makes late outcomes of the former address stale.
            generation: free.map_or(0, |free| self.all[free].generation + 1),
            state: State::Connecting { until: now.after(self.timeout_ms) },
            failures: 0,
            refused_pings: 0,
            known: Known::Nothing,
        };
        let connection = ConnectionId { address: index, generation: address.generation };
        out.actions.push_back(Action::Connect(connection));
        match free {
            Some(free) => self.all[free] = address,
            None => self.all.push(address),
        }
    }

    /// Each address and whether it is available.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, bool)> {
        self.there().map(|address| (&*address.name, address.is_available()))
    }

    /// Each address and how many pings it answered with [`PingOutcome::CallerRefused`].
    pub(super) fn refused_pings(&self) -> impl Iterator<Item = (&str, u64)> {
        self.there().map(|address| (&*address.name, address.refused_pings))
    }

    fn there(&self) -> impl Iterator<Item = &Address> {
        self.all.iter().filter(|address| address.is_there())
    }

    /// The name of the address that `connection` leads to.
    pub(super) fn name(&self, connection: ConnectionId) -> &str {
        &self.all[connection.address].name
    }

    /// How many are available.
    pub(super) fn available(&self) -> usize {
        self.all.iter().filter(|address| address.is_available()).count()
    }

    /// Whether an address not in `tried` may still become available: its first attempt is under way.
    pub(super) fn has_unknown(&self, tried: &[usize]) -> bool {
        let mut all = self.all.iter().enumerate();
        all.any(|(index, address)| {
            address.is_there() && address.known == Known::Nothing && !tried.contains(&index)
        })
    }

    /// The next available address in turn that is not in `tried`.
    pub(super) fn pick(&mut self, tried: &[usize]) -> Option<ConnectionId> {
        let count = self.all.len();
        let mut turns = (0..count).map(|step| (self.turn + step) % count);
        let address =
            turns.find(|index| !tried.contains(index) && self.all[*index].is_available())?;
        self.turn = (address + 1) % count;
        Some(ConnectionId { address, generation: self.all[address].generation })
    }

    /// Notes that a call over `connection` failed on its way.
    pub(super) fn suspect(&mut self, connection: ConnectionId, now: Millis, out: &mut Output) {
        let until = now.after(self.timeout_ms);
        if let Some(address) = self.current(connection)
            && let State::Available { ping, .. } = &mut address.state
        {
            match ping {
                Ping::Due(_) => {
                    *ping = Ping::UnderWay { until, again: false };
                    out.actions.push_back(Action::Ping(connection));
                }
                Ping::UnderWay { again, .. } => *again = true,
            }
        }
    }

    pub(super) fn handle_connected(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        out: &mut Output,
    ) {
        let until = now.after(self.timeout_ms);
        if let Some(address) = self.current(connection)
            && let State::Connecting { .. } = address.state
        {
            address.state = State::Probing { until };
            out.actions.push_back(Action::Ping(connection));
        }
    }

    pub(super) fn handle_connect_failed(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        cause: &str,
        (jitter, out): (&mut Jitter, &mut Output),
    ) {
        if let Some(address) = self.current(connection)
            && let State::Connecting { .. } = address.state
        {
            self.mark_unavailable(connection.address, cause, now, (jitter, out));
        }
    }

    pub(super) fn handle_ping(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        outcome: PingOutcome,
        (jitter, out): (&mut Jitter, &mut Output),
    ) {
        let (until, next) = (now.after(self.timeout_ms), now.after(self.ping_ms));
        let Some(address) = self.current(connection) else { return };
        let cause = match outcome {
            PingOutcome::Answered => {
                match &mut address.state {
                    State::Probing { .. } => {
                        address.state = State::Available { pings: 0, ping: Ping::Due(next) };
                        let is_back = address.known == Known::Available;
                        address.known = Known::Available;
                        let address = address.name.clone();
                        out.events.push_back(Event::Available { address, is_back });
                    }
                    State::Available {
                        pings,
                        ping: ping @ Ping::UnderWay { again: false, .. },
                    } => {
                        *pings += 1;
                        *ping = Ping::Due(next);
                    }
                    State::Available { pings, ping: ping @ Ping::UnderWay { .. } } => {
                        *pings += 1;
                        *ping = Ping::UnderWay { until, again: false };
                        out.actions.push_back(Action::Ping(connection));
                    }
                    _ => {}
                }
                return;
            }
            PingOutcome::NotServing => "it says that it does not serve".into(),
            PingOutcome::CallerRefused(cause) => {
                address.refused_pings += 1;
                cause
            }
            PingOutcome::Failed(cause) => cause,
        };
        let is_pinged = matches!(
            address.state,
            State::Probing { .. } | State::Available { ping: Ping::UnderWay { .. }, .. }
        );
        if is_pinged {
            self.mark_unavailable(connection.address, &cause, now, (jitter, out));
        }
    }

    /// Does what is due at `now`.
    pub(super) fn handle_timeout(&mut self, now: Millis, jitter: &mut Jitter, out: &mut Output) {
        for index in 0..self.all.len() {
            if self.all[index].due().is_none_or(|due| due > now) {
                continue;
            }
            let limit = Duration::from_millis(self.timeout_ms);
            match self.all[index].state {
                State::Connecting { .. } => {
                    let cause = format!("no connection within {limit:?}");
                    self.mark_unavailable(index, &cause, now, (&mut *jitter, &mut *out));
                }
                State::Probing { .. } | State::Available { ping: Ping::UnderWay { .. }, .. } => {
                    let cause = format!("no answer to a ping within {limit:?}");
                    self.mark_unavailable(index, &cause, now, (&mut *jitter, &mut *out));
                }
                State::Available { .. } => {
                    let generation = self.all[index].generation;
                    self.suspect(ConnectionId { address: index, generation }, now, out);
                }
                State::BackingOff { .. } => {
                    let address = &mut self.all[index];
                    address.generation += 1;
                    address.state = State::Connecting { until: now.after(self.timeout_ms) };
                    let connection =
                        ConnectionId { address: index, generation: address.generation };
                    out.actions.push_back(Action::Connect(connection));
                }
                State::Removed => {}
            }
        }
    }

    /// When [`Addresses::handle_timeout`] has something to do next.
    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        self.all.iter().filter_map(Address::due).min()
    }

    /// The address of `connection`, if that is its newest connection.
    fn current(&mut self, connection: ConnectionId) -> Option<&mut Address> {
        self.all
            .get_mut(connection.address)
            .filter(|address| address.generation == connection.generation)
    }

    /// Gives up a connection that does not serve or could not be opened. The address is tried again later.
    fn mark_unavailable(
        &mut self,
        index: usize,
        cause: &str,
        now: Millis,
        (jitter, out): (&mut Jitter, &mut Output),
    ) {
        let address = &mut self.all[index];
        let connection = ConnectionId { address: index, generation: address.generation };
        let was = address.state;
        // The backoff is reset only after an answered ping, so an address that comes and goes is tried no sooner than
        // one that stays away.
        let has_pinged = matches!(was, State::Available { pings: 1.., .. });
        address.failures = if has_pinged { 0 } else { address.failures.saturating_add(1) };
        let until = now.after(backoff_ms(jitter, address.failures));
        address.state = State::BackingOff { until };
        out.actions.push_back(Action::Close(connection));
        let (name, cause) = (address.name.clone(), cause.into());
        if let State::Available { .. } = was {
            out.events.push_back(Event::Unavailable { address: name, cause });
            if self.available() == 0 {
                out.events.push_back(Event::NoneAvailable);
            }
        } else if address.known == Known::Nothing {
            address.known = Known::Unavailable;
            out.events.push_back(Event::NotReached { address: name, cause });
        }
    }
}

impl Address {
    fn is_available(&self) -> bool {
        matches!(self.state, State::Available { .. })
    }

    fn is_there(&self) -> bool {
        self.state != State::Removed
    }

    fn due(&self) -> Option<Millis> {
        match self.state {
            State::Removed => None,
            State::Connecting { until }
            | State::Probing { until }
            | State::BackingOff { until }
            | State::Available { ping: Ping::UnderWay { until, .. } | Ping::Due(until), .. } => {
                Some(until)
            }
        }
    }
}

/// Drawn from the upper half, so that comets do not all come back at the same time.
fn backoff_ms(jitter: &mut Jitter, failures: u32) -> u64 {
    let longest = BACKOFF_MIN_MS.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX_MS);
    jitter.within(longest / 2..=longest).into()
}

#[cfg(test)]
mod tests;
