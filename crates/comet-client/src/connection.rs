//! One connection: requests, heartbeats, timeouts and received data, over a stream of any kind.
//!
//! The blocking and the asynchronous client share this code. It is asynchronous; over a blocking stream each of its
//! futures is ready at the first poll.

#![allow(clippy::disallowed_methods, reason = "heartbeats and timeouts need the clock")]

use std::time::{Duration, Instant};

use comet_proto::{AuthReply, Position, RoomRefusal, op};

use crate::error::Error;
use crate::inbox::{Inbox, Message, Received};
use crate::options::Options;
use crate::room_news::{Gap, Joined};
use crate::session::Session;
use crate::stream::Stream;

/// The longest body, in bytes, that servers of this family accept from a client.
pub const SEND_BODY_MAX: usize = 4096;

/// Most bytes of one read from the stream.
const READ_LEN: usize = 16 * 1024;

/// Most bytes of messages that may wait to be received while a request waits for its reply.
const BACKLOG_MAX: usize = 64 << 20;

/// Most operations in one subscribe request: each takes up to 12 bytes of the body.
const OPERATIONS_MAX: usize = SEND_BODY_MAX / 12;

/// The state of a connection, authenticated by [`Connection::authenticate`]. Its other methods are described at [`Client`](crate::Client).
///
/// A future of a method may be dropped before it ends: nothing that has arrived is lost, and nothing is sent twice.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    session: Session,
    buffer: Box<[u8]>,
    inbox: Inbox,
    sequence: i32,
    timeout: Duration,
    /// When the next reply to a request is late. `None`: beyond what an `Instant` can hold.
    reply_due: Option<Instant>,
    heartbeat: Duration,
    /// `None`: beyond what an `Instant` can hold.
    heartbeat_due: Option<Instant>,
    /// Nothing has arrived since the last heartbeat.
    is_heartbeat_unanswered: bool,
    /// The error that ended the connection, until a call has returned it.
    pending_error: Option<Error>,
    has_ended: bool,
}

impl<S: Stream> Connection<S> {
    pub(crate) async fn connect(options: &Options) -> Result<Self, Error> {
        let deadline = Instant::now().checked_add(options.timeout);
        within_body_max(&options.token)?;
        let mut connection = Self::new(S::connect(options, deadline).await?, options)?;
        connection.authenticate(deadline).await?;
        Ok(connection)
    }

    /// A connection over a newly connected stream. It has not sent its token.
    pub(crate) fn new(stream: S, options: &Options) -> Result<Self, Error> {
        within_body_max(&options.token)?;
        Ok(Self {
            stream,
            session: options.session(),
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            inbox: Inbox::default(),
            sequence: 1,
            timeout: options.timeout,
            reply_due: None,
            heartbeat: options.heartbeat,
            heartbeat_due: None,
            is_heartbeat_unanswered: false,
            pending_error: None,
            has_ended: false,
        })
    }

    /// Sends the token and waits until the server has accepted it. If the future is dropped, the next call continues.
    ///
    /// Errors after the acceptance are kept for later, because messages may have arrived together with the end of the
    /// connection.
    pub(crate) async fn authenticate(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        while !self.session.was_accepted() {
            if let Some(error) = self.pending_error.take() {
                return Err(error);
            }
            self.flush().await?;
            match self.read(deadline).await {
                Ok(false) if has_passed(deadline) => return Err(Error::Unanswered(self.timeout)),
                Ok(_) => {}
                Err(error) => self.fail(error),
            }
        }
        if let Some(reply) = self.auth_reply().filter(|reply| reply.heartbeat_ms > 0) {
            let demanded = Duration::from_millis(reply.heartbeat_ms.into());
            self.heartbeat = self.heartbeat.min(demanded / 2);
        }
        self.heartbeat_due = Instant::now().checked_add(self.heartbeat);
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> Result<Option<Message>, Error> {
        match self.receive_until(None).await {
            Err(Error::Ended) => Ok(None),
            received => received,
        }
    }

    /// Whether the connection is in `room`, as far as the server has said so.
    pub(crate) fn is_in(&self, room: &str) -> bool {
        self.session.rooms().any(|named| named == room)
    }

    /// Whether the connection is in `room`, or would continue where an earlier one was there.
    pub(crate) fn may_resume(&self, room: &str) -> bool {
        self.session.may_resume(room)
    }

    pub(crate) fn position(&self, room: &str) -> Option<Position> {
        self.session.position(room)
    }

    pub(crate) fn take_gap(&mut self) -> Option<Gap> {
        self.inbox.pop_gap()
    }

    pub(crate) fn resume(&mut self, room: &str, since: Position) {
        self.session.resume(room, since);
    }

    pub(crate) async fn receive_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Message>, Error> {
        self.receive_until(Instant::now().checked_add(timeout)).await
    }

    pub(crate) async fn join(&mut self, room: &str) -> Result<(), Error> {
        self.inbox.forget_left(room);
        self.request(op::CHANGE_ROOM, room.as_bytes()).await
    }

    pub(crate) async fn add_room(
        &mut self,
        room: &str,
        since: Option<Position>,
    ) -> Result<Joined, Error> {
        let asked = self.ask_rooms([(room, since)])?;
        self.replied().await?;
        asked.first().and_then(|asked| self.answer(*asked)).unwrap_or(Ok(Joined::default()))
    }

    pub(crate) async fn remove_room(&mut self, room: &str) -> Result<(), Error> {
        let sequence = self.next_sequence()?;
        if !self.session.remove_room(sequence, room) {
            return Ok(());
        }
        self.inbox.forget_requests();
        self.await_reply(op::LEAVE_REPLY, sequence);
        self.replied().await?;
        match self.answer(sequence) {
            // The server had taken the connection out of it before.
            None | Some(Ok(_) | Err(Error::Room(RoomRefusal::NoSuchHandle))) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    pub(crate) fn rooms(&self) -> impl Iterator<Item = &str> {
        self.session.rooms()
    }

    pub(crate) async fn subscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::SUBSCRIBE, operations).await
    }

    pub(crate) async fn unsubscribe(&mut self, operations: &[i32]) -> Result<(), Error> {
        self.request_operations(op::UNSUBSCRIBE, operations).await
    }

    pub(crate) async fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32, Error> {
        within_body_max(body)?;
        let sequence = self.next_sequence()?;
        self.session.send(operation, sequence, body);
        self.flush_or_reason().await?;
        Ok(sequence)
    }

    pub(crate) fn online(&self) -> Option<u32> {
        self.inbox.online
    }

    pub(crate) async fn renew(&mut self, token: &[u8]) -> Result<AuthReply, Error> {
        if self.auth_reply().is_none() {
            return Err(Error::NeedsProtocol2);
        }
        self.request(op::AUTH, token).await?;
        self.auth_reply().ok_or(Error::NeedsProtocol2)
    }

    pub(crate) fn auth_reply(&self) -> Option<AuthReply> {
        self.session.auth_reply()
    }

    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.session.close();
        self.flush().await?;
        self.stream.close().await
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    fn next_sequence(&mut self) -> Result<i32, Error> {
        if self.has_ended {
            return Err(self.pending_error.take().unwrap_or(Error::Ended));
        }
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        Ok(self.sequence)
    }

    async fn receive_until(&mut self, deadline: Option<Instant>) -> Result<Option<Message>, Error> {
        loop {
            match self.receive_any_until(deadline).await? {
                None => return Ok(None),
                Some(Received::Message(message)) => return Ok(Some(message)),
                Some(Received::Gap(gap)) => self.inbox.keep_gap(gap),
                Some(Received::Room(..) | Received::Left(_)) => {}
            }
        }
    }

    /// The next message, or what the server tells of a room. `None`: nothing came before the deadline.
    pub(crate) async fn receive_any_until(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Received>, Error> {
        loop {
            // A heartbeat goes before the waiting messages, which may be many, with a slow caller.
            // The reply to the last heartbeat may not have been read yet, so its absence is no
            // error here.
            if !self.has_ended
                && !self.inbox.is_empty()
                && let Err(error) = self.send_due_heartbeat().await
            {
                self.fail(error);
            }
            if let Some(received) = self.inbox.pop() {
                return Ok(Some(received));
            }
            if let Some(error) = self.pending_error.take() {
                return Err(error);
            }
            if self.has_ended {
                return Err(Error::Ended);
            }
            match self.wait(deadline).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                // Messages may have arrived before the bytes that ended it.
                Err(error) => self.fail(error),
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Returns the error of a failed request. If that ended the connection, receiving will return the reason.
    pub(crate) fn keep_reason(&mut self, error: Error) -> Error {
        let is_answer = matches!(error, Error::NeedsProtocol2 | Error::Room(_));
        if !self.has_ended || is_answer || self.pending_error.is_some() {
            return error;
        }
        self.pending_error = Some(error);
        Error::Ended
    }

    /// Ends the connection. Received messages can still be taken, and after them `error`.
    pub(crate) fn fail(&mut self, error: Error) {
        self.has_ended = true;
        self.pending_error = Some(error);
    }

    /// The reason of a failed write: the server's own, if it has arrived unread; otherwise `error`.
    async fn reason_behind(&mut self, error: Error) -> Error {
        self.has_ended = true;
        self.session.discard_output();
        let now = Some(Instant::now());
        loop {
            match self.read(now).await {
                Ok(true) => {}
                Err(reason @ Error::Session(_)) => return reason,
                Ok(false) | Err(_) => return error,
            }
        }
    }

    async fn request_operations(&mut self, request: i32, operations: &[i32]) -> Result<(), Error> {
        for names in operation_lists(operations) {
            self.request(request, names.as_bytes()).await?;
        }
        Ok(())
    }

    async fn request(&mut self, request: i32, body: &[u8]) -> Result<(), Error> {
        self.ask(request, body)?;
        self.replied().await
    }

    /// Queues a request. [`Connection::replied`] sends it.
    pub(crate) fn ask(&mut self, request: i32, body: &[u8]) -> Result<(), Error> {
        within_body_max(body)?;
        let sequence = self.next_sequence()?;
        self.session.send(request, sequence, body);
        self.inbox.forget_requests();
        // Each request's reply is the operation after it.
        self.await_reply(request + 1, sequence);
        Ok(())
    }

    /// Queues requests to be in further rooms, and returns their sequence numbers. [`Connection::answer`] has what the server says.
    pub(crate) fn ask_rooms<'a>(
        &mut self,
        rooms: impl IntoIterator<Item = (&'a str, Option<Position>)>,
    ) -> Result<Vec<i32>, Error> {
        if self.auth_reply().is_none() {
            return Err(Error::NeedsProtocol2);
        }
        self.inbox.forget_requests();
        let mut asked = Vec::new();
        for (room, since) in rooms {
            within_body_max(room.as_bytes())?;
            self.inbox.forget_left(room);
            let sequence = self.next_sequence()?;
            self.session.add_room(sequence, room, since);
            self.await_reply(op::JOIN_REPLY, sequence);
            asked.push(sequence);
        }
        Ok(asked)
    }

    /// What the server said of the room that this request was about. `None`: it has not answered.
    pub(crate) fn answer(&mut self, sequence: i32) -> Option<Result<Joined, Error>> {
        Some(self.inbox.take_answer(sequence)?.map_err(Error::Room))
    }

    fn await_reply(&mut self, reply: i32, sequence: i32) {
        self.inbox.await_reply(reply, sequence);
        self.reply_due = Instant::now().checked_add(self.timeout);
    }

    /// Sends what was queued, and waits for the replies. Each has the whole timeout. If the future is dropped, the next call goes on.
    pub(crate) async fn replied(&mut self) -> Result<(), Error> {
        let mut awaited = self.inbox.awaited_replies();
        let error = loop {
            // The reply is a success even if the server closed after it. The next receive returns that.
            if self.inbox.awaited_replies() == 0 {
                return Ok(());
            }
            if self.inbox.awaited_replies() < awaited {
                awaited = self.inbox.awaited_replies();
                self.reply_due = Instant::now().checked_add(self.timeout);
            }
            if let Some(error) = self.pending_error.take() {
                break error;
            }
            if self.inbox.bytes > BACKLOG_MAX {
                break Error::Backlog;
            }
            match self.wait(self.reply_due).await {
                Ok(true) => {}
                Ok(false) => break Error::Unanswered(self.timeout),
                Err(error) => self.fail(error),
            }
        };
        self.has_ended = true;
        Err(error)
    }

    /// Waits for bytes from the server until `deadline`, and sends heartbeats. Returns false if
    /// none arrived.
    async fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        // Sends the rest of a write whose future was dropped.
        self.flush_or_reason().await?;
        loop {
            if !self.is_heartbeat_unanswered {
                self.send_due_heartbeat().await?;
            }
            if self.read(earlier(deadline, self.heartbeat_due)).await? {
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
    async fn send_due_heartbeat(&mut self) -> Result<(), Error> {
        if !has_passed(self.heartbeat_due) {
            return Ok(());
        }
        self.heartbeat_due = Instant::now().checked_add(self.heartbeat);
        self.is_heartbeat_unanswered = true;
        self.send(op::HEARTBEAT, &[]).await.map(|_| ())
    }

    /// Reads once and handles what arrived before `until`. Returns false if nothing did.
    async fn read(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        let len = match self.stream.read(&mut self.buffer, until).await? {
            None => return Ok(false),
            Some(0) => return Err(Error::Ended),
            Some(len) => len,
        };
        self.is_heartbeat_unanswered = false;
        let has_rooms = self.session.auth_reply().is_some();
        let handled = self.session.handle_arrivals(&self.buffer[..len], |arrival| {
            self.inbox.push(arrival, has_rooms);
        });
        if let Err(error) = handled {
            self.fail(error.into());
            // Sends the close that answers a close. The session's error takes precedence over one of this write.
            let _ = self.flush().await;
            return Err(self.pending_error.take().unwrap_or(Error::Ended));
        }
        // Sends pongs, and joins for missing pushes.
        self.flush().await.map(|()| true)
    }

    async fn flush_or_reason(&mut self) -> Result<(), Error> {
        match self.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.reason_behind(error).await),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        while !self.session.output().is_empty() {
            let written = self.stream.write(self.session.output()).await?;
            self.session.consume_output(written);
        }
        self.stream.flush().await
    }
}

pub(crate) fn within_body_max(body: &[u8]) -> Result<(), Error> {
    match body.len() {
        0..=SEND_BODY_MAX => Ok(()),
        len => Err(Error::BodyTooLong { len }),
    }
}

/// The bodies of requests about `operations`.
pub(crate) fn operation_lists(operations: &[i32]) -> impl Iterator<Item = String> {
    operations.chunks(OPERATIONS_MAX).map(|some| {
        let names: Vec<_> = some.iter().map(i32::to_string).collect();
        names.join(",")
    })
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
