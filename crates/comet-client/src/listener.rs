//! The blocking client that reconnects.

use comet_proto::Position;

use crate::block_on::block_on;
use crate::client::Client;
use crate::connection::Connection;
use crate::error::Error;
use crate::options::Options;
use crate::reconnect::{ClientHandle, Event, Reconnecting};
use crate::stop::Stopper;
use crate::stream::blocking::BlockingStream;

/// An iterator over the events of a connection that is remade whenever it is lost. Made by [`Options::reconnecting`].
///
/// Each lost connection and each failed attempt makes the next delay longer, up to the longest of
/// the [`Backoff`](crate::Backoff). A connection that lasted for as long as that resets the delay.
/// A longer delay that the server asked for ([`Error::retry_after`]) takes precedence. The iteration
/// ends after a permanent reason, such as a refused token, and when a [`Stopper`] stops it.
///
/// Rooms are entered at once, until a server closes the connection as `room_rate`. From then on they are entered one by one behind
/// [`Event::Connected`], a quarter of a second apart, and twice as long after each further such close.
#[derive(Debug)]
pub struct Listener(Reconnecting<Client>);

impl ClientHandle for Client {
    type Stream = BlockingStream;

    fn of(connection: Connection<BlockingStream>) -> Self {
        Self { connection }
    }

    fn connection(&mut self) -> &mut Connection<BlockingStream> {
        &mut self.connection
    }
}

impl Options {
    /// A connection that is remade whenever it is lost. Nothing happens before its first event is requested.
    #[must_use]
    pub fn reconnecting(self) -> Listener {
        Listener(Reconnecting::new(self))
    }
}

impl Listener {
    /// A handle that stops this listener from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.0.stopper()
    }

    /// The connection, if there is one. A reconnect does not restore rooms and operations set through it; use the
    /// methods of the listener for these.
    pub fn client(&mut self) -> Option<&mut Client> {
        self.0.client()
    }

    /// Moves to `room` (empty: to none), now and after each reconnect until [`Event::Left`].
    ///
    /// # Errors
    /// If the present connection is lost; later ones will be in `room` all the same.
    /// [`Error::BodyTooLong`]: nothing was changed.
    pub fn join(&mut self, room: &str) -> Result<(), Error> {
        block_on(self.0.join(room))
    }

    /// Enters `room` in addition to the others, now and after each reconnect until [`Event::Left`]. A later connection
    /// requests the pushes that came after the last one that arrived. [`Event::Room`] reports each entry.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will be in `room` all the same. [`Error::BodyTooLong`],
    /// [`Error::NeedsProtocol2`] and [`Error::Room`]: nothing was changed.
    pub fn add_room(&mut self, room: &str) -> Result<(), Error> {
        block_on(self.0.add_room(room, None))
    }

    /// As [`Listener::add_room`], and requests the pushes after `since` at once.
    ///
    /// # Errors
    /// As [`Listener::add_room`].
    pub fn add_room_since(&mut self, room: &str, since: Position) -> Result<(), Error> {
        block_on(self.0.add_room(room, Some(since)))
    }

    /// Leaves `room`, which [`Listener::add_room`] has entered, permanently.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will not be in `room` all the same.
    pub fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        block_on(self.0.remove_room(room))
    }

    /// Accepts `operations`, now and after each reconnect: 64 in all. The server counts those that the token lists as well, and closes a
    /// connection with more.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will accept them all the same. [`Error::TooManyOperations`]: nothing was changed.
    pub fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        block_on(self.0.subscribe(operations))
    }

    /// Refuses `operations`, now and after each reconnect. The latest 64 are remembered.
    ///
    /// # Errors
    /// If the present connection is lost; later ones will refuse them all the same. [`Error::TooManyOperations`], for more than 64 in one
    /// call: nothing was changed.
    pub fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        block_on(self.0.unsubscribe(operations))
    }

    /// Uses `token` from the next connection on. The present one is not affected.
    ///
    /// To renew a token that has expired or soon will, call this between [`Event::Disconnected`] and the request of the
    /// next event ([`Error::is_token_expired`]).
    pub fn set_token(&mut self, token: impl Into<Vec<u8>>) {
        self.0.set_token(token.into());
    }
}

impl Iterator for Listener {
    type Item = Event;

    /// Waits for the next event. `None`: the listener was stopped, or the last event allowed no further attempt.
    fn next(&mut self) -> Option<Event> {
        block_on(self.0.next())
    }
}
