//! The blocking client: one connection on a socket, used by one thread.

#![allow(clippy::disallowed_methods)] // This is the edge: heartbeats and timeouts need the clock.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use comet_proto::op;

use crate::error::Error;
use crate::inbox::{Inbox, Message};
use crate::options::Options;
use crate::session::Session;
use crate::stream::Stream;

/// Longest body, in bytes, that servers of this family take from a client.
pub const SEND_BODY_MAX: usize = 4096;

/// Bytes taken from the socket at once.
const READ_LEN: usize = 16 * 1024;

/// Bytes that may wait to be received while a request waits for its reply.
const BACKLOG_MAX: usize = 64 << 20;

/// `TcpStream` knows no timeout of zero.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Operations in one subscribe request: each takes up to 12 bytes of the body.
const OPERATIONS_MAX: usize = SEND_BODY_MAX / 12;

/// An authenticated connection; made by [`Options::connect`].
///
/// Heartbeats are sent while a call waits for the server and at the start of each receive, so the
/// thread that owns the client must come back to one of these more often than the server's heartbeat
/// deadline.
///
/// After an error the connection is over: what had arrived before can still be received.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    session: Session,
    buffer: Box<[u8]>,
    inbox: Inbox,
    sequence: i32,
    timeout: Duration,
    heartbeat: Duration,
    /// `None`: so late that it cannot be said.
    heartbeat_due: Option<Instant>,
    /// Nothing has come since the last heartbeat was sent.
    silent: bool,
    /// What ended the connection, until it has been told.
    ending: Option<Error>,
    over: bool,
}

impl Client {
    pub(crate) fn connect(options: &Options) -> Result<Self, Error> {
        within_body_max(&options.token)?;
        let now = Instant::now();
        let deadline = now.checked_add(options.timeout);
        let socket = open(&options.address, deadline)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(options.timeout))?;
        let mut client = Self {
            stream: Stream::over(socket, options)?,
            session: options.session(),
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            inbox: Inbox::default(),
            sequence: 1,
            timeout: options.timeout,
            heartbeat: options.heartbeat,
            heartbeat_due: now.checked_add(options.heartbeat),
            silent: false,
            ending: None,
            over: false,
        };
        client.flush()?;
        while !client.session.was_accepted() {
            match client.read(deadline) {
                Ok(false) if has_passed(deadline) => {
                    return Err(Error::Unanswered(options.timeout));
                }
                Ok(_) => {}
                // It was accepted and ended in one read: messages may have come between.
                Err(error) if client.session.was_accepted() => client.fail(error),
                Err(error) => return Err(error),
            }
        }
        Ok(client)
    }

    /// The next message; waits as long as it takes. `None`: the server ended the connection without
    /// giving a reason, or an error has been returned before.
    ///
    /// # Errors
    /// When the connection is lost in any other way; a reason the server gave is in
    /// [`SessionError::Closed`](crate::SessionError::Closed).
    pub fn receive(&mut self) -> Result<Option<Message>, Error> {
        match self.receive_until(None) {
            Err(Error::Ended) => Ok(None),
            received => received,
        }
    }

    /// The next message, if one comes within `timeout`.
    ///
    /// # Errors
    /// When the connection is lost; [`Error::Ended`] where [`Client::receive`] returns `None`.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Error> {
        self.receive_until(Instant::now().checked_add(timeout))
    }

    /// Moves the connection to `room`, out of the one it was in; empty leaves that only. Messages that
    /// arrive before the reply can be received afterwards.
    ///
    /// # Errors
    /// When the connection is lost, the reply does not come in time, or the room's name is too long.
    pub fn join(&mut self, room: &str) -> Result<(), Error> {
        self.request(op::CHANGE_ROOM, room.as_bytes())
    }

    /// Adds `operations` to those the connection accepts.
    ///
    /// # Errors
    /// When the connection is lost, or a reply does not come in time.
    pub fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::SUBSCRIBE, operations)
    }

    /// Takes `operations` from those the connection accepts.
    ///
    /// # Errors
    /// When the connection is lost, or a reply does not come in time.
    pub fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::UNSUBSCRIBE, operations)
    }

    /// Sends a message to the application behind the server ([`op::SEND`] is its usual operation) and
    /// returns its sequence number without waiting. Servers echo it with an empty body, which arrives
    /// as a [`Message`].
    ///
    /// # Errors
    /// When the connection is lost, or `body` is longer than [`SEND_BODY_MAX`].
    ///
    /// # Panics
    /// If `operation` is [`op::RAW`], which only servers send.
    pub fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32, Error> {
        within_body_max(body)?;
        if self.over {
            return Err(Error::Ended);
        }
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.session.send(operation, self.sequence, body);
        self.flush().inspect_err(|_| self.over = true)?;
        Ok(self.sequence)
    }

    /// How many are online in the connection's room, as the server's last answer to a heartbeat says;
    /// `None` before the first.
    #[must_use]
    pub fn online(&self) -> Option<u32> {
        self.inbox.online
    }

    /// Says goodbye and closes the connection. Dropping the client closes it without the goodbye,
    /// which only WebSocket and TLS have.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close(mut self) -> Result<(), Error> {
        self.session.close();
        self.flush()?;
        self.stream.close()
    }

    fn receive_until(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            // Before the messages that wait: they may be many, and their receiver slow. The reply to the last
            // heartbeat may be behind them, where nobody has looked yet.
            if !self.over
                && !self.inbox.is_empty()
                && let Err(error) = self.beat()
            {
                self.fail(error);
            }
            if let Some(message) = self.inbox.pop() {
                return Ok(Some(message));
            }
            if let Some(error) = self.ending.take() {
                return Err(error);
            }
            if self.over {
                return Err(Error::Ended);
            }
            match self.wait(deadline) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // The bytes that ended it may have come behind messages.
                Err(error) => self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.over = true;
        self.ending = Some(error);
    }

    fn request_operations(&mut self, request: i32, operations: &[i32]) -> Result<(), Error> {
        for some in operations.chunks(OPERATIONS_MAX) {
            let names: Vec<_> = some.iter().map(i32::to_string).collect();
            self.request(request, names.join(",").as_bytes())?;
        }
        Ok(())
    }

    fn request(&mut self, request: i32, body: &[u8]) -> Result<(), Error> {
        let sequence = self.send(request, body)?;
        // Each request's reply is the operation after it.
        self.inbox.awaited = Some((request + 1, sequence));
        let deadline = Instant::now().checked_add(self.timeout);
        let replied = loop {
            if self.inbox.bytes > BACKLOG_MAX {
                break Err(Error::Backlog);
            }
            match self.wait(deadline) {
                // A reply counts though the server closed right behind it: receive tells that.
                outcome if self.inbox.awaited.is_none() => {
                    if let Err(error) = outcome {
                        self.fail(error);
                    }
                    return Ok(());
                }
                Ok(true) => {}
                Ok(false) => break Err(Error::Unanswered(self.timeout)),
                Err(error) => break Err(error),
            }
        };
        self.over = true;
        replied
    }

    /// Waits for bytes of the server until `deadline`, sending heartbeats. `false`: none came.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        loop {
            if !self.silent {
                self.beat()?;
            }
            if self.read(earlier(deadline, self.heartbeat_due))? {
                return Ok(true);
            }
            if self.silent && has_passed(self.heartbeat_due) {
                return Err(Error::Silent);
            }
            if has_passed(deadline) {
                return Ok(false);
            }
        }
    }

    /// Sends a heartbeat if it is due.
    fn beat(&mut self) -> Result<(), Error> {
        if !has_passed(self.heartbeat_due) {
            return Ok(());
        }
        self.heartbeat_due = Instant::now().checked_add(self.heartbeat);
        self.silent = true;
        self.send(op::HEARTBEAT, &[]).map(|_| ())
    }

    /// Takes in what the server sends before `until`, once. `false`: nothing.
    fn read(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()).max(WAIT_MIN));
        self.stream.set_read_timeout(wait)?;
        let len = match self.stream.read(&mut self.buffer)? {
            None => return Ok(false),
            Some(0) => return Err(Error::Ended),
            Some(len) => len,
        };
        self.silent = false;
        let taken = self.session.handle_input(&self.buffer[..len], |frame| self.inbox.push(frame));
        // Pongs, and the close that answers a close; what the server said is the better reason.
        let flushed = self.flush();
        taken?;
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

/// Connects to the first address behind `address` that lets us.
fn open(address: &str, deadline: Option<Instant>) -> Result<TcpStream, Error> {
    let mut failure = io::Error::new(ErrorKind::NotFound, format!("{address} has no address"));
    for address in address.to_socket_addrs()? {
        let connected = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()).max(WAIT_MIN);
                TcpStream::connect_timeout(&address, left)
            }
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

pub(crate) fn within_body_max(body: &[u8]) -> Result<(), Error> {
    match body.len() {
        0..=SEND_BODY_MAX => Ok(()),
        len => Err(Error::BodyTooLong { len }),
    }
}

fn has_passed(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| moment <= Instant::now())
}

/// The earlier moment; `None` is never.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
