//! One asynchronous connection.

use std::time::{Duration, Instant};

use ::tokio::io::{AsyncRead, AsyncWrite};
use comet_proto::{AuthReply, Position, Resumed};

use super::stream::TokioStream;
use crate::connection::Connection;
use crate::error::Error;
use crate::inbox::Message;
use crate::options::Options;
use crate::reconnect::ClientHandle;
use crate::room_news::{Gap, Joined};

/// An authenticated connection.
///
/// Heartbeats are sent while a call waits for the server and at the start of each receive. So its task must await such
/// a call more often than the server's heartbeat timeout.
///
/// After an error the connection has ended. Messages that arrived before can still be received.
///
/// If the future of a request is dropped before it ends, the server may have made the request; its reply is dropped.
#[derive(Debug)]
pub struct Client {
    connection: Connection<TokioStream>,
}

impl ClientHandle for Client {
    type Stream = TokioStream;

    fn of(connection: Connection<TokioStream>) -> Self {
        Self { connection }
    }

    fn connection(&mut self) -> &mut Connection<TokioStream> {
        &mut self.connection
    }
}

impl Client {
    /// Connects, and returns once the server has accepted the token.
    ///
    /// # Errors
    /// As [`Options::connect`].
    ///
    /// # Panics
    /// As [`Options::connect`], and outside of a tokio runtime that has I/O and time.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        Ok(Self { connection: Connection::connect(options).await? })
    }

    /// As [`Client::connect`] over a stream that the caller has connected: through a proxy, over a Unix socket, or with
    /// another kind of TLS. The address of `options` then serves only as a name.
    ///
    /// # Errors
    /// As [`Options::connect`].
    ///
    /// # Panics
    /// As [`Client::connect`].
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        options: &Options,
    ) -> Result<Self, Error> {
        #[allow(clippy::disallowed_methods, reason = "a deadline is a time of the clock")]
        let deadline = Instant::now().checked_add(options.timeout);
        let mut connection = Connection::new(TokioStream::over(stream, options), options)?;
        connection.authenticate(deadline).await?;
        Ok(Self { connection })
    }

    /// As the blocking [`receive`](crate::Client::receive).
    ///
    /// # Errors
    /// As that.
    pub async fn receive(&mut self) -> Result<Option<Message>, Error> {
        self.connection.receive().await
    }

    /// As the blocking [`receive_timeout`](crate::Client::receive_timeout).
    ///
    /// # Errors
    /// As that.
    pub async fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        self.connection.receive_timeout(timeout).await
    }

    /// As the blocking [`join`](crate::Client::join).
    ///
    /// # Errors
    /// As that.
    pub async fn join(&mut self, room: &str) -> Result<(), Error> {
        self.connection.join(room).await
    }

    /// As the blocking [`add_room`](crate::Client::add_room).
    ///
    /// # Errors
    /// As that.
    pub async fn add_room(&mut self, room: &str) -> Result<Joined, Error> {
        self.connection.add_room(room, None).await
    }

    /// As the blocking [`add_room_since`](crate::Client::add_room_since).
    ///
    /// # Errors
    /// As that.
    pub async fn add_room_since(&mut self, room: &str, since: Position) -> Result<Joined, Error> {
        self.connection.add_room(room, Some(since)).await
    }

    /// As the blocking [`remove_room`](crate::Client::remove_room).
    ///
    /// # Errors
    /// As that.
    pub async fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        self.connection.remove_room(room).await
    }

    /// As the blocking [`take_gap`](crate::Client::take_gap).
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.connection.take_gap()
    }

    /// As the blocking [`join_since`](crate::Client::join_since).
    ///
    /// # Errors
    /// As that.
    pub async fn join_since(&mut self, room: &str, since: Position) -> Result<(), Error> {
        self.connection.resume(room, since);
        self.connection.join(room).await
    }

    /// As the blocking [`rooms`](crate::Client::rooms).
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.connection.rooms()
    }

    /// As the blocking [`subscribe`](crate::Client::subscribe).
    ///
    /// # Errors
    /// As that.
    pub async fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.connection.subscribe(operations).await
    }

    /// As the blocking [`unsubscribe`](crate::Client::unsubscribe).
    ///
    /// # Errors
    /// As that.
    pub async fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.connection.unsubscribe(operations).await
    }

    /// As the blocking [`send`](crate::Client::send).
    ///
    /// # Errors
    /// As that.
    ///
    /// # Panics
    /// As that.
    pub async fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32, Error> {
        self.connection.send(operation, body).await
    }

    /// As the blocking [`online`](crate::Client::online).
    #[must_use]
    pub fn online(&self) -> Option<u32> {
        self.connection.online()
    }

    /// As the blocking [`renew`](crate::Client::renew).
    ///
    /// # Errors
    /// As that.
    pub async fn renew(&mut self, token: &[u8]) -> Result<AuthReply, Error> {
        self.connection.renew(token).await
    }

    /// As the blocking [`auth_reply`](crate::Client::auth_reply).
    #[must_use]
    pub fn auth_reply(&self) -> Option<AuthReply> {
        self.connection.auth_reply()
    }

    /// As the blocking [`resumed`](crate::Client::resumed).
    #[must_use]
    pub fn resumed(&self) -> Option<Resumed> {
        self.auth_reply()?.kept?.resumed
    }

    /// As the blocking [`close`](crate::Client::close).
    ///
    /// # Errors
    /// As that.
    pub async fn close(self) -> Result<(), Error> {
        self.connection.close().await
    }
}
