//! The blocking client: one connection on a socket, used by one thread.

use std::time::Duration;

use comet_proto::{AuthReply, Position, Resumed};

use crate::block_on::block_on;
use crate::connection::Connection;
use crate::error::Error;
use crate::inbox::Message;
use crate::options::Options;
use crate::room_news::{Gap, Joined};
use crate::stream::blocking::BlockingStream;

/// An authenticated connection; made by [`Options::connect`].
///
/// Heartbeats are sent while a call waits for the server and at the start of each receive. So the
/// thread that owns the client must make such a call more often than the server's heartbeat
/// timeout.
///
/// After an error the connection has ended. Messages that arrived before can still be received.
#[derive(Debug)]
pub struct Client {
    pub(crate) connection: Connection<BlockingStream>,
}

impl Options {
    /// Connects, and returns once the server has accepted the token.
    ///
    /// # Errors
    /// If no address of the name can be reached, the server refuses, its certificate is not the required one, or it
    /// does not answer in time; and if the token is longer than [`SEND_BODY_MAX`](crate::SEND_BODY_MAX).
    ///
    /// # Panics
    /// If the WebSocket path does not begin with `/` or is not valid in an HTTP request.
    pub fn connect(&self) -> Result<Client, Error> {
        Ok(Client { connection: block_on(Connection::connect(self))? })
    }
}

impl Client {
    /// The next message; waits without a limit. `None`: the server ended the connection without a
    /// reason, or an earlier call has returned an error.
    ///
    /// # Errors
    /// If the connection is lost in any other way. The server's reason is in
    /// [`SessionError::Closed`](crate::SessionError::Closed).
    pub fn receive(&mut self) -> Result<Option<Message>, Error> {
        block_on(self.connection.receive())
    }

    /// The next message, if one arrives within `timeout`.
    ///
    /// # Errors
    /// If the connection is lost. [`Error::Ended`] where [`Client::receive`] returns `None`.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        block_on(self.connection.receive_timeout(timeout))
    }

    /// Moves the connection from its room to `room`; empty: to none. Messages that arrive before
    /// the reply can be received afterwards.
    ///
    /// # Errors
    /// If the connection is lost, the reply does not arrive in time, or the room's name is too
    /// long.
    pub fn join(&mut self, room: &str) -> Result<(), Error> {
        block_on(self.connection.join(room))
    }

    /// Enters `room` in addition to the present rooms; [`Message::room`] distinguishes their messages. No effect on a
    /// room that it is in already.
    ///
    /// # Errors
    /// [`Error::NeedsProtocol2`] if the server allows only one room, [`Error::Room`] if it refuses; if the connection
    /// is lost, the reply does not arrive in time, or the room's name is too long.
    pub fn add_room(&mut self, room: &str) -> Result<Joined, Error> {
        block_on(self.connection.add_room(room, None))
    }

    /// Enters `room`, and asks for the pushes that came after `since`, the position of the latest one that arrived
    /// ([`Message::position`]). [`Joined::recovered`] tells whether the server has all of them; they are the next
    /// messages of the room.
    ///
    /// # Errors
    /// As [`Client::add_room`].
    pub fn add_room_since(&mut self, room: &str, since: Position) -> Result<Joined, Error> {
        block_on(self.connection.add_room(room, Some(since)))
    }

    /// Leaves `room`, if the connection is in it.
    ///
    /// # Errors
    /// If the connection is lost, or the reply does not arrive in time.
    pub fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        block_on(self.connection.remove_room(room))
    }

    /// The oldest report of messages that the server has dropped for this connection, in rooms that keep a history,
    /// among those from before the messages received so far. The connection requests such messages by itself. `None`:
    /// there is no report. The last 1,024 are kept.
    pub fn take_gap(&mut self) -> Option<Gap> {
        self.connection.take_gap()
    }

    /// As [`Client::join`], when an earlier connection had the messages of `room` up to `since`. The later ones follow,
    /// if the server has all of them.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub fn join_since(&mut self, room: &str, since: Position) -> Result<(), Error> {
        self.connection.resume(room, since);
        block_on(self.connection.join(room))
    }

    /// The rooms of the connection, as far as the server has named them: all of them in protocol 2.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.connection.rooms()
    }

    /// Adds `operations` to those the connection accepts.
    ///
    /// # Errors
    /// If the connection is lost, or a reply does not arrive in time.
    pub fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        block_on(self.connection.subscribe(operations))
    }

    /// Removes `operations` from those the connection accepts.
    ///
    /// # Errors
    /// If the connection is lost, or a reply does not arrive in time.
    pub fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        block_on(self.connection.unsubscribe(operations))
    }

    /// Sends a message to the application behind the server ([`op::SEND`](crate::op::SEND) is its usual operation)
    /// and returns its sequence number without waiting. Servers echo it with an empty body, which
    /// arrives as a [`Message`].
    ///
    /// # Errors
    /// If the connection is lost, with the server's reason if there is one; or if `body` is longer than
    /// [`SEND_BODY_MAX`](crate::SEND_BODY_MAX).
    ///
    /// # Panics
    /// If `operation` is [`op::RAW`](crate::op::RAW), which only servers send.
    pub fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32, Error> {
        block_on(self.connection.send(operation, body))
    }

    /// The number of connections in this one's room, from the latest reply to a heartbeat; `None` before the first.
    #[must_use]
    pub fn online(&self) -> Option<u32> {
        self.connection.online()
    }

    /// Sends the server a fresh token of the same user and key, so that the connection outlasts the previous one.
    /// [`AuthReply::not_renewed`] tells whether it was accepted; if not, the connection lasts as long as before.
    ///
    /// # Errors
    /// [`Error::NeedsProtocol2`] if the server speaks protocol 1; if the connection is lost, the reply
    /// does not arrive in time, or the token is longer than [`SEND_BODY_MAX`](crate::SEND_BODY_MAX).
    pub fn renew(&mut self, token: &[u8]) -> Result<AuthReply, Error> {
        block_on(self.connection.renew(token))
    }

    /// The server's latest reply to a token: the first one, or a renewal. `None`: it speaks protocol 1, as goim's
    /// server does.
    #[must_use]
    pub fn auth_reply(&self) -> Option<AuthReply> {
        self.connection.auth_reply()
    }

    /// The session of an earlier connection that this one continues ([`Options::keep_session`]): the number of messages
    /// that waited for it, which are received next, and the number of lost ones. `None`: it is a new session, so the
    /// state that messages are about has to be loaded.
    #[must_use]
    pub fn resumed(&self) -> Option<Resumed> {
        self.auth_reply()?.kept?.resumed
    }

    /// Sends the close notices of WebSocket and of TLS, if they are in use, and closes the
    /// connection. Dropping the client closes it without them.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn close(self) -> Result<(), Error> {
        block_on(self.connection.close())
    }
}
