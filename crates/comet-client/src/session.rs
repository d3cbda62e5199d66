//! The protocol of one connection without its socket: bytes in, frames and bytes out.
//!
//! A session never blocks, reads no clock and holds no buffer while no data is in flight. So one
//! thread can hold many thousands of them over any kind of I/O. [`Client`](crate::Client) is the
//! blocking driver around one. A driver of another kind repeats: write [`Session::output`], pass
//! the number of written bytes to [`Session::consume_output`], read, pass the input to
//! [`Session::handle_input`].

mod input;
mod rooms;

use std::fmt;

use comet_proto::{AuthReply, Encoded, Frame, Join, Leave, Position, VERSION, VERSION_2, op};
use tungstenite::protocol::frame::coding::Control;

pub use self::rooms::Origin;
use self::rooms::Rooms;
use crate::error::SessionError;
use crate::room_news::{Gap, Joined};
use crate::websocket::{self, Upgrade};

/// The largest body of a frame, in bytes, that a session accepts unless changed.
pub const BODY_MAX_DEFAULT: usize = 4 << 20;

/// The capacity that an empty output buffer keeps, in bytes: enough for a heartbeat.
const OUTPUT_KEPT_MAX: usize = 64;

/// The sequence number of the auth frame.
const AUTH_SEQUENCE: i32 = 1;

/// The transport of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// Frames back to back on a TCP stream.
    Tcp,
    /// Frames in binary messages of RFC 6455.
    WebSocket,
}

/// The protocol state of one connection. It begins with the upgrade if the transport needs one, and
/// then authenticates.
///
/// A driver repeats: write [`Session::output`], pass the number of written bytes to
/// [`Session::consume_output`], read, pass the input to [`Session::handle_input`].
pub struct Session {
    state: State,
    transport: Transport,
    auth_reply: Option<Box<AuthReply>>,
    /// Set once the server has sent something about rooms. Always `None` in protocol 1.
    rooms: Option<Box<Rooms>>,
    body_max: usize,
    /// The start of a frame whose rest has not arrived. Usually empty, without an allocation.
    tail: Vec<u8>,
    /// The fragments of a WebSocket message so far.
    fragments: Option<Vec<u8>>,
    output: Vec<u8>,
}

/// An item in the input of a session.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// A frame, and the room to which it was pushed.
    Frame(Frame<'a>, Option<Origin<'a>>),
    /// The server put the connection into a room that keeps a history, or the session has continued there
    /// ([`Session::resume`]).
    Room(&'a str, Joined),
    /// The server has removed the connection from this room. If the caller's request about the room crosses this, that
    /// request is answered instead.
    Left(&'a str),
    /// Pushes to a room are missing, or the state of such a gap has changed.
    Gap(Gap),
}

enum State {
    Upgrading(Box<Upgrading>),
    Authing,
    Live,
    Over { accepted: bool },
}

struct Upgrading {
    upgrade: Upgrade,
    /// Frames to be sent after the upgrade; the auth frame is the first.
    pending: Vec<u8>,
}

impl Session {
    /// A session that authenticates with `token` and asks for protocol 2. Its first bytes wait in [`Session::output`].
    ///
    /// `host` and `path` are for WebSocket only: the `Host` header, and the request target, which
    /// begins with `/`.
    ///
    /// # Panics
    /// If `host` or `path` is not valid in an HTTP request, for example because of a space or a
    /// line break.
    #[must_use]
    pub fn new(transport: Transport, host: &str, path: &str, token: &[u8]) -> Self {
        Self::begin(VERSION_2, transport, host, path, token)
    }

    /// As [`Session::new`], and asks the server to keep the session when the connection is lost.
    ///
    /// # Panics
    /// As [`Session::new`].
    #[must_use]
    pub fn kept(transport: Transport, host: &str, path: &str, token: &[u8]) -> Self {
        let mut session = Self::before_token(transport, host, path);
        session.send_as(VERSION_2, op::KEEP, 0, &[1]);
        session.send_as(VERSION_2, op::AUTH, AUTH_SEQUENCE, token);
        session
    }

    /// As [`Session::new`], but speaks only protocol 1, as goim's clients do.
    ///
    /// # Panics
    /// As [`Session::new`].
    #[must_use]
    pub fn of_protocol_1(transport: Transport, host: &str, path: &str, token: &[u8]) -> Self {
        Self::begin(VERSION, transport, host, path, token)
    }

    fn begin(version: u16, transport: Transport, host: &str, path: &str, token: &[u8]) -> Self {
        let mut session = Self::before_token(transport, host, path);
        session.send_as(version, op::AUTH, AUTH_SEQUENCE, token);
        session
    }

    fn before_token(transport: Transport, host: &str, path: &str) -> Self {
        let (output, state) = match transport {
            Transport::Tcp => (Vec::new(), State::Authing),
            Transport::WebSocket => {
                let (request, upgrade) = Upgrade::request(host, path);
                let pending = Vec::new();
                (request, State::Upgrading(Box::new(Upgrading { upgrade, pending })))
            }
        };
        Self {
            state,
            transport,
            auth_reply: None,
            rooms: None,
            body_max: BODY_MAX_DEFAULT,
            tail: Vec::new(),
            fragments: None,
            output,
        }
    }

    /// Sets the largest accepted body of a frame, in bytes. A longer one ends the session.
    /// A WebSocket message may hold 20 such frames.
    #[must_use]
    pub fn with_body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// Whether the server has accepted the token, and the session has not ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    /// Whether the server has accepted the token, even if the session has ended since.
    pub(crate) fn was_accepted(&self) -> bool {
        matches!(self.state, State::Live | State::Over { accepted: true })
    }

    /// The server's latest reply to a token: the first one, or a renewal. `None`: it has not accepted the token yet, or
    /// it speaks protocol 1, as goim's server does.
    #[must_use]
    pub fn auth_reply(&self) -> Option<AuthReply> {
        self.auth_reply.as_deref().copied()
    }

    /// Sets the position up to which an earlier session had the pushes of `room`. If the server puts this session into
    /// the room (its token names it, or [`op::CHANGE_ROOM`] does), the session requests the later ones.
    pub fn resume(&mut self, room: &str, since: Position) {
        self.rooms.get_or_insert_default().know(room, since);
    }

    /// The position of the latest received push of `room`, or a later one announced by the server. `None`: the
    /// connection is not in that room, or the room keeps no history.
    #[must_use]
    pub fn position(&self, room: &str) -> Option<Position> {
        self.rooms.as_ref()?.position(room)
    }

    pub(crate) fn may_resume(&self, room: &str) -> bool {
        self.rooms.as_ref().is_some_and(|rooms| rooms.may_resume(room))
    }

    /// Requests to enter `room` as a further room, with this sequence number, and the pushes that came after `since`.
    /// Only a server that speaks protocol 2, as [`Session::auth_reply`] shows, answers by [`op::JOIN_REPLY`]. Sequence
    /// numbers below 0 are the session's own.
    pub fn add_room(&mut self, sequence: i32, room: &str, since: Option<Position>) {
        let join = Join { since, room: room.as_bytes() };
        self.rooms.get_or_insert_default().ask(sequence, room, since);
        self.send(op::JOIN, sequence, &join.encode());
    }

    /// Requests to leave `room`, with this sequence number. `false`: the server has not named the room, and nothing is
    /// sent. If the server gives the room another handle before the request reaches it, the session repeats the
    /// request.
    pub fn remove_room(&mut self, sequence: i32, room: &str) -> bool {
        let handle = self.rooms.as_mut().and_then(|rooms| rooms.leave(sequence, room));
        if let Some(handle) = handle {
            self.send(op::LEAVE, sequence, &Leave { handle }.encode());
        }
        handle.is_some()
    }

    /// The rooms of the connection, as far as the server has named them: in protocol 2 all of them.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.rooms.iter().flat_map(|rooms| rooms.names())
    }

    /// Whether the last input ended inside a frame or message. The next input continues it.
    #[must_use]
    pub fn is_amid_input(&self) -> bool {
        !self.tail.is_empty() || self.fragments.is_some()
    }

    /// Bytes to write to the socket, in this order.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Removes the first `written` bytes from [`Session::output`].
    ///
    /// # Panics
    /// If there are fewer.
    pub fn consume_output(&mut self, written: usize) {
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output.shrink_to(OUTPUT_KEPT_MAX);
        }
    }

    /// Drops all output that was not consumed.
    pub(crate) fn discard_output(&mut self) {
        self.output = Vec::new();
    }

    /// Queues a frame. It is sent after the upgrade; after the end of the session it is dropped.
    ///
    /// # Panics
    /// If `operation` is [`op::RAW`], which only servers send, or `body` is longer than a frame can
    /// be (4 GiB).
    pub fn send(&mut self, operation: i32, sequence: i32, body: &[u8]) {
        self.send_as(VERSION, operation, sequence, body);
    }

    fn send_as(&mut self, version: u16, operation: i32, sequence: i32, body: &[u8]) {
        assert!(operation != op::RAW, "a client sends no batches");
        let output = match &mut self.state {
            State::Upgrading(upgrading) => &mut upgrading.pending,
            State::Authing | State::Live => &mut self.output,
            State::Over { .. } => return,
        };
        let frame = Encoded::frame(&Frame { version, operation, sequence, body });
        match self.transport {
            Transport::Tcp => output.extend_from_slice(frame.for_tcp()),
            Transport::WebSocket => websocket::write_binary(output, frame.for_tcp()),
        }
    }

    /// Ends the session from this side. Over WebSocket a close is queued, over TCP nothing. If the server keeps the
    /// session, a notice that it need not is queued before. No more input is accepted.
    pub fn close(&mut self) {
        if self.auth_reply.as_ref().is_some_and(|reply| reply.kept.is_some()) {
            self.send_as(VERSION_2, op::KEEP, 0, &[0]);
        }
        let upgraded = matches!(self.state, State::Authing | State::Live);
        if upgraded && self.transport == Transport::WebSocket {
            websocket::write_control(&mut self.output, Control::Close, &1000_u16.to_be_bytes());
        }
        self.end();
    }

    /// Processes bytes from the socket and calls `on_frame` for each frame in them, in order, except for the reply to
    /// the auth frame and for unrequested news about rooms. For a batch (operation 9) it is called for each frame
    /// inside. A push to a room is passed with its origin, if the server speaks protocol 2, and otherwise looks as in
    /// protocol 1. A ping is answered by a queued pong.
    ///
    /// A frame that `input` contains as a whole is not copied.
    ///
    /// If the server reports that it has dropped pushes to a room that keeps a history, the session requests them and
    /// ignores pushes of that room until the answer; [`Session::handle_arrivals`] reports their state.
    ///
    /// # Errors
    /// If the server ends the session or violates the protocol. `on_frame` has been called for the
    /// frames before that point. Further input returns [`SessionError::Over`]. Output may still
    /// wait to be written.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        mut on_frame: impl FnMut(Frame<'_>, Option<Origin<'_>>),
    ) -> Result<(), SessionError> {
        self.handle_arrivals(input, |arrival| {
            if let Arrival::Frame(frame, origin) = arrival {
                on_frame(frame, origin);
            }
        })
    }

    /// As [`Session::handle_input`], and also reports unrequested news about rooms.
    ///
    /// # Errors
    /// As that.
    pub fn handle_arrivals(
        &mut self,
        input: &[u8],
        mut on_arrival: impl FnMut(Arrival<'_>),
    ) -> Result<(), SessionError> {
        self.take_input(input, &mut on_arrival).inspect_err(|_| self.end())
    }

    fn end(&mut self) {
        self.state = State::Over { accepted: self.was_accepted() };
        self.tail = Vec::new();
        self.fragments = None;
    }
}

/// Leaves out the token, which is a secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("transport", &self.transport)
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}
