//! One connection's protocol without its socket: bytes in, frames and bytes out.
//!
//! A session never blocks, reads no clock and keeps no buffer while nothing is under way, so that one
//! thread can hold many thousands of them over any kind of I/O. [`Client`](crate::Client) is the
//! blocking driver around one; a driver of another kind repeats: write [`Session::output`], tell what
//! was written to [`Session::consume_output`], read, pass what came to [`Session::handle_input`].

use std::{fmt, mem};

use comet_proto::{Encoded, Frame, FrameFault, HEADER_LEN, VERSION, decode, op};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::error::{SessionError, WebSocketFault};
use crate::websocket::{self, Parsed, Upgrade};

/// Largest body of a frame, in bytes, that a session accepts unless told otherwise.
pub const BODY_MAX_DEFAULT: usize = 1 << 20;

/// Most frames of the largest size that fit into one WebSocket message: goim's job batches 20.
const BATCH_FRAMES_MAX: usize = 20;

/// Pings go unanswered while this many bytes wait to be written: RFC 6455 section 5.5.3 allows to
/// answer only the latest, and a server that sends pings without reading must not fill our memory.
const PONG_BACKLOG_MAX: usize = 16 * 1024;

/// An output buffer that was emptied is kept up to this size, which holds a heartbeat.
const OUTPUT_KEPT_MAX: usize = 64;

/// The sequence number of the auth frame.
const AUTH_SEQUENCE: i32 = 1;

/// What carries the frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// Frames back to back on a TCP stream.
    Tcp,
    /// Frames in binary messages of RFC 6455.
    WebSocket,
}

/// One connection's protocol state. It starts by asking for what the transport needs and then
/// authenticates; see the module's text for how to drive it.
pub struct Session {
    state: State,
    transport: Transport,
    body_max: usize,
    /// The start of a frame whose rest has not come; empty (and without memory) most of the time.
    tail: Vec<u8>,
    /// What came of a fragmented WebSocket message.
    fragments: Option<Vec<u8>>,
    output: Vec<u8>,
}

enum State {
    Upgrading(Box<Upgrading>),
    Authing,
    Live,
    Over { accepted: bool },
}

struct Upgrading {
    upgrade: Upgrade,
    /// Frames to be sent once the server has agreed; the auth frame is the first.
    pending: Vec<u8>,
}

/// What became of the start of an input.
enum Step {
    /// So many bytes are dealt with.
    Used(usize),
    /// Nothing can be done before the input is this long, which is longer than it was.
    Wants(usize),
}

impl Session {
    /// A session that authenticates with `token`. Its first bytes wait in [`Session::output`].
    ///
    /// `host` and `path` matter for WebSocket only: the `Host` header, and the request target, which
    /// begins with `/`.
    ///
    /// # Panics
    /// If `host` or `path` cannot stand in an HTTP request, for example for a space or a line break.
    #[must_use]
    pub fn new(transport: Transport, host: &str, path: &str, token: &[u8]) -> Self {
        let (output, state) = match transport {
            Transport::Tcp => (Vec::new(), State::Authing),
            Transport::WebSocket => {
                let (request, upgrade) = Upgrade::request(host, path);
                let pending = Vec::new();
                (request, State::Upgrading(Box::new(Upgrading { upgrade, pending })))
            }
        };
        let mut session = Self {
            state,
            transport,
            body_max: BODY_MAX_DEFAULT,
            tail: Vec::new(),
            fragments: None,
            output,
        };
        session.send(op::AUTH, AUTH_SEQUENCE, token);
        session
    }

    /// Sets the largest body of a frame, in bytes, that is accepted: a longer one ends the session.
    /// A WebSocket message may hold 20 such frames.
    #[must_use]
    pub fn with_body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The server has accepted the token, and the session is not over.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }

    /// The server has accepted the token, whatever came after that.
    pub(crate) fn was_accepted(&self) -> bool {
        matches!(self.state, State::Live | State::Over { accepted: true })
    }

    /// Part of what the last input held waits for its rest: the next input continues it.
    #[must_use]
    pub fn is_amid_input(&self) -> bool {
        !self.tail.is_empty() || self.fragments.is_some()
    }

    /// Bytes to be written to the socket, in this order.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Takes the first `written` bytes off [`Session::output`].
    ///
    /// # Panics
    /// If there are not so many.
    pub fn consume_output(&mut self, written: usize) {
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output.shrink_to(OUTPUT_KEPT_MAX);
        }
    }

    /// Queues a frame. Before the upgrade is answered it waits for that; after the end of the session
    /// it goes nowhere.
    ///
    /// # Panics
    /// If `operation` is [`op::RAW`], which only servers send, or `body` is longer than a frame can
    /// be (4 GiB).
    pub fn send(&mut self, operation: i32, sequence: i32, body: &[u8]) {
        assert!(operation != op::RAW, "a client sends no batches");
        let output = match &mut self.state {
            State::Upgrading(upgrading) => &mut upgrading.pending,
            State::Authing | State::Live => &mut self.output,
            State::Over { .. } => return,
        };
        let frame = Encoded::frame(&Frame { version: VERSION, operation, sequence, body });
        match self.transport {
            Transport::Tcp => output.extend_from_slice(frame.for_tcp()),
            Transport::WebSocket => websocket::write_binary(output, frame.for_tcp()),
        }
    }

    /// Ends the session from this side: the last output is queued (a WebSocket close; nothing over
    /// TCP), and no more input is taken.
    pub fn close(&mut self) {
        let upgraded = matches!(self.state, State::Authing | State::Live);
        if upgraded && self.transport == Transport::WebSocket {
            websocket::write_control(&mut self.output, Control::Close, &1000_u16.to_be_bytes());
        }
        self.end();
    }

    /// Takes what the socket gave and calls `on_frame` for each frame in it, in order, but for the
    /// reply to the auth frame. Of a batch (operation 9) it is called for each frame inside. Pings are
    /// answered by queueing a pong.
    ///
    /// A frame that is whole in `input` is not copied.
    ///
    /// # Errors
    /// When the server ends the session or breaks the protocol. Frames before that point have been
    /// handed on. Further input is answered with [`SessionError::Over`]; output may still wait to be
    /// written.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        mut on_frame: impl FnMut(Frame<'_>),
    ) -> Result<(), SessionError> {
        self.take_input(input, &mut on_frame).inspect_err(|_| self.end())
    }

    fn end(&mut self) {
        self.state = State::Over { accepted: self.was_accepted() };
        self.tail = Vec::new();
        self.fragments = None;
    }

    fn take_input(
        &mut self,
        mut input: &[u8],
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Result<(), SessionError> {
        let mut tail = mem::take(&mut self.tail);
        while !tail.is_empty() {
            match self.step(&tail, on_frame)? {
                Step::Used(used) => {
                    tail.drain(..used);
                }
                Step::Wants(_) if input.is_empty() => {
                    self.tail = tail;
                    return Ok(());
                }
                Step::Wants(len) => {
                    let (missing, rest) = input.split_at(input.len().min(len - tail.len()));
                    tail.extend_from_slice(missing);
                    input = rest;
                }
            }
        }
        while !input.is_empty() {
            match self.step(input, on_frame)? {
                Step::Used(used) => input = &input[used..],
                Step::Wants(_) => {
                    self.tail = input.to_vec();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        input: &[u8],
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Result<Step, SessionError> {
        match (&mut self.state, self.transport) {
            (State::Over { .. }, _) => Err(SessionError::Over),
            (State::Upgrading(upgrading), _) => {
                let Some(used) = upgrading.upgrade.answer(input)? else {
                    return Ok(Step::Wants(input.len() + 1));
                };
                self.output.append(&mut upgrading.pending);
                self.state = State::Authing;
                Ok(Step::Used(used))
            }
            (_, Transport::Tcp) => match decode(input, self.body_max)? {
                Some((frame, used)) => {
                    self.take_frame(frame, on_frame)?;
                    Ok(Step::Used(used))
                }
                // What `decode` did not object to is a packLen of at least a header.
                None => Ok(Step::Wants(
                    input
                        .first_chunk()
                        .map_or(HEADER_LEN, |pack_len| u32::from_be_bytes(*pack_len) as usize),
                )),
            },
            (_, Transport::WebSocket) => self.step_websocket(input, on_frame),
        }
    }

    fn step_websocket(
        &mut self,
        input: &[u8],
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Result<Step, SessionError> {
        let gathered = self.fragments.as_ref().map_or(0, Vec::len);
        let (opcode, is_final, payload, used) =
            match websocket::parse(input, self.message_max().saturating_sub(gathered))? {
                Parsed::Wants(len) => return Ok(Step::Wants(len)),
                Parsed::Frame { opcode, is_final, payload, used } => {
                    (opcode, is_final, payload, used)
                }
            };
        match (opcode, &mut self.fragments) {
            (OpCode::Data(Data::Binary), None) if is_final => {
                self.take_message(payload, on_frame)?;
            }
            (OpCode::Data(Data::Binary), fragments @ None) => *fragments = Some(payload.to_vec()),
            (OpCode::Data(Data::Continue), Some(fragments)) => {
                fragments.extend_from_slice(payload);
                if is_final {
                    let message = self.fragments.take().expect("there were fragments");
                    self.take_message(&message, on_frame)?;
                }
            }
            (OpCode::Data(Data::Text), _) => return Err(WebSocketFault::Text.into()),
            (OpCode::Data(_), _) => return Err(WebSocketFault::Fragment.into()),
            (OpCode::Control(Control::Ping), _) => {
                if self.output.len() < PONG_BACKLOG_MAX {
                    websocket::write_control(&mut self.output, Control::Pong, payload);
                }
            }
            (OpCode::Control(Control::Close), _) => {
                let (code, text) = websocket::parse_close(payload)?;
                websocket::write_control(&mut self.output, Control::Close, payload);
                return Err(SessionError::closed(code, text));
            }
            // Pongs: nothing was asked. `parse` lets no reserved opcode through.
            (OpCode::Control(_), _) => {}
        }
        Ok(Step::Used(used))
    }

    /// A binary message: a batch behind one header with operation 9, or frames back to back.
    fn take_message(
        &mut self,
        message: &[u8],
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Result<(), SessionError> {
        let mut run = match decode(message, self.message_max())? {
            Some((batch, used)) if batch.operation == op::RAW && used == message.len() => {
                batch.body
            }
            _ => message,
        };
        while !run.is_empty() {
            let (frame, used) =
                decode(run, self.body_max)?.ok_or(FrameFault::Truncated { left: run.len() })?;
            self.take_frame(frame, on_frame)?;
            run = &run[used..];
        }
        Ok(())
    }

    fn take_frame(
        &mut self,
        frame: Frame<'_>,
        on_frame: &mut impl FnMut(Frame<'_>),
    ) -> Result<(), SessionError> {
        match (frame.operation, &self.state) {
            (op::DISCONNECT_REPLY, _) => {
                return Err(SessionError::closed(None, &String::from_utf8_lossy(frame.body)));
            }
            (op::RAW, _) => return Err(SessionError::StrayBatch),
            (op::AUTH_REPLY, State::Authing) => self.state = State::Live,
            _ => on_frame(frame),
        }
        Ok(())
    }

    fn message_max(&self) -> usize {
        HEADER_LEN
            .saturating_add(self.body_max)
            .saturating_mul(BATCH_FRAMES_MAX)
            .saturating_add(HEADER_LEN)
    }
}

/// Without the token, which is a secret.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("transport", &self.transport)
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}
