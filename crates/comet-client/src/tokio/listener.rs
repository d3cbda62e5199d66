//! The asynchronous client that reconnects.

use comet_proto::Position;

use super::Client;
use crate::error::Error;
use crate::options::Options;
use crate::reconnect::{Event, Reconnecting};
use crate::stop::Stopper;

/// The events of a connection that is remade whenever it is lost, with the delays of the blocking
/// [`Listener`](crate::Listener). Nothing happens before its first event is awaited.
#[derive(Debug)]
pub struct Listener(Reconnecting<Client>);

impl Listener {
    /// A listener with these `options`.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self(Reconnecting::new(options))
    }

    /// Waits for the next event. `None`: the listener was stopped, or the last event allowed no further attempt.
    ///
    /// If its future is dropped before it ends, no event is lost, and the next call continues its work, such as
    /// connecting a stream. The work makes progress only while a call is awaited.
    ///
    /// # Panics
    /// As [`Client::connect`].
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }

    /// A handle that stops this listener from another task or thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.0.stopper()
    }

    /// As the blocking [`client`](crate::Listener::client).
    pub fn client(&mut self) -> Option<&mut Client> {
        self.0.client()
    }

    /// As the blocking [`join`](crate::Listener::join).
    ///
    /// # Errors
    /// As that.
    pub async fn join(&mut self, room: &str) -> Result<(), Error> {
        self.0.join(room).await
    }

    /// As the blocking [`add_room`](crate::Listener::add_room).
    ///
    /// # Errors
    /// As that.
    pub async fn add_room(&mut self, room: &str) -> Result<(), Error> {
        self.0.add_room(room, None).await
    }

    /// As the blocking [`add_room_since`](crate::Listener::add_room_since).
    ///
    /// # Errors
    /// As that.
    pub async fn add_room_since(&mut self, room: &str, since: Position) -> Result<(), Error> {
        self.0.add_room(room, Some(since)).await
    }

    /// As the blocking [`remove_room`](crate::Listener::remove_room).
    ///
    /// # Errors
    /// As that.
    pub async fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        self.0.remove_room(room).await
    }

    /// As the blocking [`subscribe`](crate::Listener::subscribe).
    ///
    /// # Errors
    /// As that.
    pub async fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.0.subscribe(operations).await
    }

    /// As the blocking [`unsubscribe`](crate::Listener::unsubscribe).
    ///
    /// # Errors
    /// As that.
    pub async fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.0.unsubscribe(operations).await
    }

    /// As the blocking [`set_token`](crate::Listener::set_token).
    pub fn set_token(&mut self, token: impl Into<Vec<u8>>) {
        self.0.set_token(token.into());
    }
}
