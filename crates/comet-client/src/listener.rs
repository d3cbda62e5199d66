//! A client that reconnects after a jittered delay, into the room it was in.

#![allow(clippy::disallowed_methods)] // This is the edge: waiting between attempts is its purpose.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client::{Client, within_body_max};
use crate::error::Error;
use crate::inbox::Message;
use crate::options::Options;
use crate::stop::Stopper;

/// An event of a [`Listener`].
#[derive(Debug)]
pub enum Event {
    /// A connection is authenticated, and in the room that was joined last.
    Connected,
    /// A message arrived.
    Message(Message),
    /// The connection was lost, or could not be made. The next attempt uses the token of the last one, unless
    /// [`Listener::set_token`] gives it another.
    Disconnected {
        /// Why.
        reason: Error,
        /// The delay before the next attempt. The call for the next event waits that long. `None`: no further
        /// attempt can succeed ([`Error::permanent`]), and this is the last event.
        retry_in: Option<Duration>,
    },
}

/// An iterator over the events of a connection that is made again whenever it is lost. Made by
/// [`Options::reconnecting`].
///
/// Each lost connection and each failed attempt makes the next delay longer, up to the longest of
/// the [`Backoff`](crate::Backoff). A connection that lasted for as long as that resets the delay.
/// A longer delay that the server asked for ([`Error::retry_after`]) takes precedence. The iteration
/// ends after a permanent reason, such as a refused token, and when a [`Stopper`] stops it.
#[derive(Debug)]
pub struct Listener {
    options: Options,
    state: State,
    attempt: u32,
    /// The room that was joined last. `None`: none was, and the token's room stays.
    room: Option<String>,
    /// Operations that were subscribed to (`true`) or unsubscribed from, in addition to the
    /// token's.
    operations: BTreeMap<i32, bool>,
    stopper: Stopper,
}

#[derive(Debug)]
enum State {
    Waiting(Duration),
    Connected {
        client: Box<Client>,
        since: Instant,
    },
    /// There are no more events.
    Ended,
}

impl Options {
    /// A connection that is made again whenever it is lost. Nothing happens before its first event
    /// is requested.
    #[must_use]
    pub fn reconnecting(self) -> Listener {
        Listener::new(self)
    }
}

impl Listener {
    fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Waiting(Duration::ZERO),
            attempt: 0,
            room: None,
            operations: BTreeMap::new(),
            stopper: Stopper::default(),
        }
    }

    /// A handle that stops this listener from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// The connection, if there is one. A reconnect does not restore what was joined or subscribed
    /// to through it; use the methods of the listener for that.
    pub fn client(&mut self) -> Option<&mut Client> {
        match &mut self.state {
            State::Connected { client, .. } => Some(client),
            State::Waiting(_) | State::Ended => None,
        }
    }

    /// Moves to `room` (empty: to none), now and after each reconnect.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will be in `room` all the same.
    /// [`Error::BodyTooLong`]: nothing was changed.
    pub fn join(&mut self, room: &str) -> Result<(), Error> {
        // Checked before it is stored: no later connection could join such a room.
        within_body_max(room.as_bytes())?;
        self.room = Some(room.to_owned());
        self.client().map_or(Ok(()), |client| client.join(room))
    }

    /// Accepts `operations`, now and after each reconnect.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will accept them all the same.
    pub fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.operations.extend(operations.iter().map(|operation| (*operation, true)));
        self.client().map_or(Ok(()), |client| client.subscribe(operations))
    }

    /// Refuses `operations`, now and after each reconnect.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will refuse them all the same.
    pub fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.operations.extend(operations.iter().map(|operation| (*operation, false)));
        self.client().map_or(Ok(()), |client| client.unsubscribe(operations))
    }

    /// Uses `token` from the next connection on. The present one stays as it is.
    ///
    /// Between [`Event::Disconnected`] and the call for the next event is the time to renew a token that has
    /// expired or soon will ([`Error::is_token_expired`]).
    pub fn set_token(&mut self, token: impl Into<Vec<u8>>) {
        self.options.token = token.into();
    }

    fn connect(&self) -> Result<Client, Error> {
        let mut client = self.options.connect()?;
        self.stopper.watch(Some(client.socket()?));
        let chosen = |accepted| {
            let operations = self.operations.iter().filter(move |(_, is)| **is == accepted);
            operations.map(|(operation, _)| *operation).collect::<Vec<_>>()
        };
        client.subscribe(&chosen(true))?;
        client.unsubscribe(&chosen(false))?;
        if let Some(room) = &self.room {
            client.join(room)?;
        }
        Ok(client)
    }

    fn end(&mut self) -> Option<Event> {
        self.stopper.watch(None);
        self.state = State::Ended;
        None
    }

    fn handle_disconnect(&mut self, reason: Error) -> Event {
        if let State::Connected { since, .. } = self.state
            && since.elapsed() >= self.options.backoff.max()
        {
            self.attempt = 0;
        }
        self.stopper.watch(None);
        if let Some(why) = reason.permanent() {
            self.state = State::Ended;
            log::debug!("{}: {reason}; no further attempt: {why}", self.options.address);
            return Event::Disconnected { reason, retry_in: None };
        }
        let delay = self.options.backoff.delay(self.attempt, &mut rand::rng());
        let retry_in = delay.max(reason.retry_after().unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Waiting(retry_in);
        log::debug!("{}: {reason}; next attempt in {retry_in:?}", self.options.address);
        Event::Disconnected { reason, retry_in: Some(retry_in) }
    }
}

impl Iterator for Listener {
    type Item = Event;

    /// Waits for the next event. `None`: the listener was stopped, or the last event had no further attempt.
    fn next(&mut self) -> Option<Event> {
        let event = match &mut self.state {
            State::Ended => return None,
            State::Waiting(delay) => {
                self.stopper.sleep(*delay);
                if self.stopper.has_stopped() {
                    return self.end();
                }
                match self.connect() {
                    Ok(client) => {
                        let client = Box::new(client);
                        self.state = State::Connected { client, since: Instant::now() };
                        Event::Connected
                    }
                    Err(reason) => self.handle_disconnect(reason),
                }
            }
            State::Connected { client, .. } => match client.receive() {
                Ok(Some(message)) => Event::Message(message),
                Ok(None) => self.handle_disconnect(Error::Ended),
                Err(reason) => self.handle_disconnect(reason),
            },
        };
        if self.stopper.has_stopped() { self.end() } else { Some(event) }
    }
}
