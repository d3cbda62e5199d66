//! The blocking client: one connection on a socket, used by one thread.

#![allow(clippy::disallowed_methods, reason = "heartbeats and timeouts need the clock")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use comet_proto::{AuthReply, op};

use crate::error::Error;
use crate::inbox::{Inbox, Message};
use crate::options::Options;
use crate::session::Session;
use crate::socket;
use crate::stream::Stream;

/// The longest body, in bytes, that servers of this family accept from a client.
pub const SEND_BODY_MAX: usize = 4096;

/// Most bytes of one read from the socket.
const READ_LEN: usize = 16 * 1024;

/// Most bytes of messages that may wait to be received while a request waits for its reply.
const BACKLOG_MAX: usize = 64 << 20;

/// Most operations in one subscribe request: each takes up to 12 bytes of the body.
const OPERATIONS_MAX: usize = SEND_BODY_MAX / 12;

/// An authenticated connection; made by [`Options::connect`].
///
/// Heartbeats are sent while a call waits for the server and at the start of each receive. So the
/// thread that owns the client must make such a call more often than the server's heartbeat
/// timeout.
///
/// After an error the connection has ended. Messages that arrived before can still be received.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    session: Session,
    buffer: Box<[u8]>,
    inbox: Inbox,
    sequence: i32,
    timeout: Duration,
    heartbeat: Duration,
    /// `None`: beyond what an `Instant` can hold.
    heartbeat_due: Option<Instant>,
    /// Nothing has arrived since the last heartbeat was sent.
    is_heartbeat_unanswered: bool,
    /// What ended the connection, until a call has returned it.
    pending_error: Option<Error>,
    has_ended: bool,
}

impl Options {
    /// Connects, and returns once the server has accepted the token.
    ///
    /// # Errors
    /// If no address behind the name can be reached, the server refuses, it is not the one that TLS
    /// demands, or it does not answer in time; and if the token is longer than [`SEND_BODY_MAX`].
    ///
    /// # Panics
    /// If the WebSocket path does not begin with `/` or is not valid in an HTTP request.
    pub fn connect(&self) -> Result<Client, Error> {
        Client::connect(self)
    }
}

impl Client {
    fn connect(options: &Options) -> Result<Self, Error> {
        within_body_max(&options.token)?;
        let now = Instant::now();
        let deadline = now.checked_add(options.timeout);
        let socket = socket::connect(&options.address, deadline)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(options.timeout))?;
        let mut client = Self {
            stream: Stream::new(socket, options)?,
            session: options.session(),
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            inbox: Inbox::default(),
            sequence: 1,
            timeout: options.timeout,
            heartbeat: options.heartbeat,
            heartbeat_due: now.checked_add(options.heartbeat),
            is_heartbeat_unanswered: false,
            pending_error: None,
            has_ended: false,
        };
        client.flush()?;
        while !client.session.was_accepted() {
            match client.read(deadline) {
                Ok(false) if has_passed(deadline) => {
                    return Err(Error::Unanswered(options.timeout));
                }
                Ok(_) => {}
                // One read brought both the acceptance and the end; messages may be between them.
                Err(error) if client.session.was_accepted() => client.fail(error),
                Err(error) => return Err(error),
            }
        }
        Ok(client)
    }

    /// The next message; waits without a limit. `None`: the server ended the connection without a
    /// reason, or an earlier call has returned an error.
    ///
    /// # Errors
    /// If the connection is lost in any other way. The server's reason is in
    /// [`SessionError::Closed`](crate::SessionError::Closed).
    pub fn receive(&mut self) -> Result<Option<Message>, Error> {
        match self.receive_until(None) {
            Err(Error::Ended) => Ok(None),
            received => received,
        }
    }

    /// The next message, if one arrives within `timeout`.
    ///
    /// # Errors
    /// If the connection is lost. [`Error::Ended`] where [`Client::receive`] returns `None`.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        self.receive_until(Instant::now().checked_add(timeout))
    }

    /// Moves the connection from its room to `room`; empty: to none. Messages that arrive before
    /// the reply can be received afterwards.
    ///
    /// # Errors
    /// If the connection is lost, the reply does not arrive in time, or the room's name is too
    /// long.
    pub fn join(&mut self, room: &str) -> Result<(), Error> {
        self.request(op::CHANGE_ROOM, room.as_bytes())
    }

    /// Enters `room` beside those that the connection is in; [`Message::room`] tells their messages apart. A room that it
    /// is in already changes nothing.
    ///
    /// # Errors
    /// [`Error::NeedsProtocol2`] if the server has one room only, [`Error::Room`] if it refuses; if the connection is
    /// lost, the reply does not arrive in time, or the room's name is too long.
    pub fn add_room(&mut self, room: &str) -> Result<(), Error> {
        if self.auth_reply().is_none() {
            return Err(Error::NeedsProtocol2);
        }
        within_body_max(room.as_bytes())?;
        let sequence = self.next_sequence()?;
        self.session.add_room(sequence, room);
        self.complete(op::JOIN_REPLY, sequence)
    }

    /// Leaves `room`, if the connection is in it.
    ///
    /// # Errors
    /// If the connection is lost, or the reply does not arrive in time.
    pub fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        let sequence = self.next_sequence()?;
        if !self.session.remove_room(sequence, room) {
            return Ok(());
        }
        self.complete(op::LEAVE_REPLY, sequence)
    }

    /// The rooms that the connection is in, as far as the server has said so: all of them, if it speaks protocol 2.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.session.rooms()
    }

    /// Adds `operations` to those the connection accepts.
    ///
    /// # Errors
    /// If the connection is lost, or a reply does not arrive in time.
    pub fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::SUBSCRIBE, operations)
    }

    /// Removes `operations` from those the connection accepts.
    ///
    /// # Errors
    /// If the connection is lost, or a reply does not arrive in time.
    pub fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::UNSUBSCRIBE, operations)
    }

    /// Sends a message to the application behind the server ([`op::SEND`] is its usual operation)
    /// and returns its sequence number without waiting. Servers echo it with an empty body, which
    /// arrives as a [`Message`].
    ///
    /// # Errors
    /// If the connection is lost, with the server's reason if there is one; or if `body` is longer than
    /// [`SEND_BODY_MAX`].
    ///
    /// # Panics
    /// If `operation` is [`op::RAW`], which only servers send.
    pub fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32, Error> {
        within_body_max(body)?;
        let sequence = self.next_sequence()?;
        self.session.send(operation, sequence, body);
        self.flush().map_err(|error| self.reason_behind(error))?;
        Ok(sequence)
    }

    fn next_sequence(&mut self) -> Result<i32, Error> {
        if self.has_ended {
            return Err(self.pending_error.take().unwrap_or(Error::Ended));
        }
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        Ok(self.sequence)
    }

    /// How many connections are in this one's room, by the server's last reply to a heartbeat;
    /// `None` before the first.
    #[must_use]
    pub fn online(&self) -> Option<u32> {
        self.inbox.online
    }

    /// Gives the server a fresh token of the same user and key, so that the connection outlasts the
    /// last one. [`AuthReply::not_renewed`] says whether it was taken; if not, the connection lasts
    /// as long as before.
    ///
    /// # Errors
    /// [`Error::NeedsProtocol2`] if the server speaks protocol 1; if the connection is lost, the reply
    /// does not arrive in time, or the token is longer than [`SEND_BODY_MAX`].
    pub fn renew(&mut self, token: &[u8]) -> Result<AuthReply, Error> {
        if self.auth_reply().is_none() {
            return Err(Error::NeedsProtocol2);
        }
        self.request(op::AUTH, token)?;
        self.auth_reply().ok_or(Error::NeedsProtocol2)
    }

    /// What the server said last about the token: when it accepted it, or when it was to be renewed.
    /// `None`: it speaks protocol 1, as goim's server does.
    #[must_use]
    pub fn auth_reply(&self) -> Option<AuthReply> {
        self.session.auth_reply()
    }

    /// Sends the close notices of WebSocket and of TLS, if they are in use, and closes the
    /// connection. Dropping the client closes it without them.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn close(mut self) -> Result<(), Error> {
        self.session.close();
        self.flush()?;
        self.stream.close()
    }

    /// A second handle of the socket, to shut it from another thread.
    pub(crate) fn socket(&self) -> Result<TcpStream, Error> {
        Ok(self.stream.socket().try_clone()?)
    }

    fn receive_until(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            // A heartbeat goes before the waiting messages, which may be many, with a slow caller.
            // The reply to the last heartbeat may not have been read yet, so its absence is no
            // error here.
            if !self.has_ended
                && !self.inbox.is_empty()
                && let Err(error) = self.send_due_heartbeat()
            {
                self.fail(error);
            }
            if let Some(message) = self.inbox.pop() {
                return Ok(Some(message));
            }
            if let Some(error) = self.pending_error.take() {
                return Err(error);
            }
            if self.has_ended {
                return Err(Error::Ended);
            }
            match self.wait(deadline) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // Messages may have arrived before the bytes that ended it.
                Err(error) => self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.has_ended = true;
        self.pending_error = Some(error);
    }

    /// Why a write failed: the server's own reason, if that has arrived unread; else `error`.
    fn reason_behind(&mut self, error: Error) -> Error {
        self.has_ended = true;
        self.session.discard_output();
        let now = Some(Instant::now());
        loop {
            match self.read(now) {
                Ok(true) => {}
                Err(reason @ Error::Session(_)) => return reason,
                Ok(false) | Err(_) => return error,
            }
        }
    }

    fn request_operations(&mut self, request: i32, operations: &[i32]) -> Result<(), Error> {
        for some in operations.chunks(OPERATIONS_MAX) {
            let names: Vec<_> = some.iter().map(i32::to_string).collect();
            self.request(request, names.join(",").as_bytes())?;
        }
        Ok(())
    }

    fn request(&mut self, request: i32, body: &[u8]) -> Result<(), Error> {
        within_body_max(body)?;
        let sequence = self.next_sequence()?;
        self.session.send(request, sequence, body);
        // Each request's reply is the operation after it.
        self.complete(request + 1, sequence)
    }

    /// Sends what was queued, and waits for the reply to it.
    fn complete(&mut self, reply: i32, sequence: i32) -> Result<(), Error> {
        self.flush().map_err(|error| self.reason_behind(error))?;
        self.inbox.awaited_reply = Some((reply, sequence));
        let deadline = Instant::now().checked_add(self.timeout);
        let replied = loop {
            if self.inbox.bytes > BACKLOG_MAX {
                break Err(Error::Backlog);
            }
            match self.wait(deadline) {
                // The reply is a success even if the server closed after it. The next receive
                // returns that.
                outcome if self.inbox.awaited_reply.is_none() => {
                    if let Err(error) = outcome {
                        self.fail(error);
                    }
                    return self
                        .inbox
                        .refusal
                        .take()
                        .map_or(Ok(()), |refusal| Err(Error::Room(refusal)));
                }
                Ok(true) => {}
                Ok(false) => break Err(Error::Unanswered(self.timeout)),
                Err(error) => break Err(error),
            }
        };
        self.has_ended = true;
        replied
    }

    /// Waits for bytes from the server until `deadline`, and sends heartbeats. Returns false if
    /// none arrived.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        loop {
            if !self.is_heartbeat_unanswered {
                self.send_due_heartbeat()?;
            }
            if self.read(earlier(deadline, self.heartbeat_due))? {
                return Ok(true);
            }
            if self.is_heartbeat_unanswered && has_passed(self.heartbeat_due) {
                return Err(Error::Silent);
            }
            if has_passed(deadline) {
                return Ok(false);
            }
        }
    }

    /// Sends a heartbeat if it is due.
    fn send_due_heartbeat(&mut self) -> Result<(), Error> {
        if !has_passed(self.heartbeat_due) {
            return Ok(());
        }
        self.heartbeat_due = Instant::now().checked_add(self.heartbeat);
        self.is_heartbeat_unanswered = true;
        self.send(op::HEARTBEAT, &[]).map(|_| ())
    }

    /// Reads once and handles what arrived before `until`. Returns false if nothing did.
    fn read(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        let wait = until.map(socket::time_until);
        self.stream.set_read_timeout(wait)?;
        let len = match self.stream.read(&mut self.buffer)? {
            None => return Ok(false),
            Some(0) => return Err(Error::Ended),
            Some(len) => len,
        };
        self.is_heartbeat_unanswered = false;
        let handled = self
            .session
            .handle_input(&self.buffer[..len], |frame, room| self.inbox.push(frame, room));
        // Sends pongs, and the close that answers a close. An error of the session goes before one
        // of the write.
        let flushed = self.flush();
        handled?;
        flushed.map(|()| true)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let output = self.session.output();
        self.stream.write_all(output)?;
        let written = output.len();
        self.session.consume_output(written);
        Ok(())
    }
}

pub(crate) fn within_body_max(body: &[u8]) -> Result<(), Error> {
    match body.len() {
        0..=SEND_BODY_MAX => Ok(()),
        len => Err(Error::BodyTooLong { len }),
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// The earlier of two deadlines; `None` is never.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
