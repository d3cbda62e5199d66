//! A fake client: real bytes, an idea of what it must be told next, and habits good and bad.

use std::collections::VecDeque;

use comet_core::limits::HELD_MAX;
use comet_core::{CloseReason, Hangup, Millis, SlowConsumer, Transport};
use comet_proto::op;

use crate::hearing::{Expected, Hearing};
use crate::logic;
use crate::misdeed::{Misdeed, bad_upgrade};
use crate::persona::Persona;
use crate::plan::{Dice, OPERATIONS, Plan, ROOMS};
use crate::socket::Socket;
use crate::wire::{self, BINARY, BINARY_BEGIN, CLOSE, CONTINUATION, CONTINUATION_END, PING};

/// Requests a well-behaved client has under way; fewer than any `cli_proto` here.
const REQUESTS_MAX: usize = 4;

/// How a client reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    Promptly,
    Slowly,
    /// Until it is authenticated, and then no more.
    NoMore,
}

/// How far a client has come in what it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connected,
    Upgraded,
    Authenticating,
    /// It has done its misdeed and waits for what comes of it.
    Done,
}

pub(crate) struct Client {
    pub(crate) persona: Persona,
    pub(crate) hearing: Hearing,
    pub(crate) reads: Reads,
    /// What it may be closed for, besides what may happen to anybody.
    pub(crate) deserves: Vec<CloseReason>,
    /// Its last bytes leave the server no choice.
    pub(crate) must_be_closed: bool,
    is_remote: bool,
    misdeed: Option<Misdeed>,
    /// Requests before the misdeed.
    patience: u32,
    stage: Stage,
    sequence: i32,
    next_heartbeat: Millis,
    pub(crate) is_over: bool,
}

impl Client {
    pub(crate) fn new(dice: &mut Dice, plan: &Plan, persona: Persona) -> Self {
        let misdeed =
            dice.percent(plan.misdeed_percent).then(|| Misdeed::roll(dice, persona.transport));
        let reads = match dice.percent(plan.slow_percent) {
            true => dice.pick(&[Reads::Slowly, Reads::Slowly, Reads::NoMore]),
            false => Reads::Promptly,
        };
        let mut deserves = vec![CloseReason::Replaced];
        if plan.limits.slow_consumer == SlowConsumer::Close {
            deserves.push(CloseReason::SlowConsumer);
        }
        if plan.is_remote() {
            deserves.push(CloseReason::LogicUnavailable);
        }
        if persona.is_refused {
            deserves.push(CloseReason::AuthRefused);
        }
        Self {
            hearing: Hearing::new(&persona, plan),
            persona,
            reads,
            deserves,
            must_be_closed: false,
            is_remote: plan.is_remote(),
            misdeed,
            patience: dice.below(12) as u32,
            stage: Stage::Connected,
            sequence: 0,
            next_heartbeat: Millis(0),
            is_over: false,
        }
    }

    /// Reads what its habits let it read, and checks it.
    pub(crate) fn read(
        &mut self,
        (socket, dice): (&mut Socket, &mut Dice),
        next_call: u64,
        is_quiet: bool,
    ) -> Result<(), String> {
        if self.is_over {
            return Ok(());
        }
        match self.reads {
            // It looks once more when the server has long given up.
            Reads::NoMore if self.hearing.is_live && !socket.is_gone => {}
            Reads::Slowly if !is_quiet => socket.read(dice.between(0, 50)),
            _ => socket.read(u64::MAX),
        }
        while let Some(says) = socket.next_said() {
            self.hearing.hear(says, next_call)?;
        }
        if socket.is_at_end() {
            self.end(socket, Hangup::Eof);
            self.is_over = true;
        }
        Ok(())
    }

    /// Writes what comes next; in quiet times only what keeps it alive.
    pub(crate) fn write(
        &mut self,
        (socket, dice): (&mut Socket, &mut Dice),
        plan: &Plan,
        now: Millis,
        is_quiet: bool,
    ) {
        if self.is_over || self.hearing.is_told {
            return;
        }
        match self.stage {
            Stage::Connected => self.open(socket, dice, plan),
            Stage::Upgraded => self.authenticate(socket, dice, plan),
            Stage::Authenticating if self.hearing.is_live => {
                let is_silent = self.misdeed == Some(Misdeed::Silence);
                let waits = self.hearing.expected.len();
                if now >= self.next_heartbeat && !is_silent && waits <= REQUESTS_MAX {
                    let interval = u64::from(self.persona.heartbeat_ms) / 3;
                    self.next_heartbeat = now.after(interval.max(1));
                    self.heartbeat(socket, dice);
                } else if is_quiet || !dice.percent(30) {
                } else if self.misdeed.is_some() && self.patience == 0 {
                    self.misbehave(socket, dice, plan);
                } else if waits < REQUESTS_MAX {
                    self.patience = self.patience.saturating_sub(1);
                    self.ask(socket, dice);
                }
            }
            Stage::Authenticating | Stage::Done => {}
        }
    }

    /// It goes away without a word.
    pub(crate) fn die(&mut self, socket: &mut Socket, dice: &mut Dice) {
        let how = if dice.percent(50) { Hangup::Eof } else { broken(dice) };
        self.end(socket, how.clone());
        self.stage = Stage::Done;
        self.is_over = how != Hangup::Eof;
    }

    fn end(&mut self, socket: &mut Socket, how: Hangup) {
        self.deserves.push(CloseReason::PeerClosed);
        match how {
            Hangup::Eof => {}
            Hangup::Error(_) => self.deserves.push(CloseReason::SocketError),
            // A send may find out first.
            Hangup::Tls(_) => {
                self.deserves.extend([CloseReason::SocketError, CloseReason::TlsFailed]);
            }
            Hangup::Proxy(_) => {
                self.deserves.extend([CloseReason::SocketError, CloseReason::BadProxyHeader]);
            }
        }
        socket.end(how);
    }

    fn open(&mut self, socket: &mut Socket, dice: &mut Dice, plan: &Plan) {
        self.stage = Stage::Upgraded;
        if self.persona.transport == Transport::Tcp {
            return;
        }
        match self.misdeed {
            Some(Misdeed::NeverAuthenticates) if dice.percent(50) => self.stage = Stage::Done,
            Some(Misdeed::BadUpgrade(status)) => {
                socket.write(&bad_upgrade(status, &plan.limits));
                self.hearing.status = status;
                self.deserves.push(CloseReason::BadUpgrade);
                self.must_be_closed = true;
                self.stage = Stage::Done;
            }
            _ => socket.write(&wire::upgrade("GET", "/sub?v=2", 13, wire::KEY_HEADER)),
        }
    }

    fn authenticate(&mut self, socket: &mut Socket, dice: &mut Dice, plan: &Plan) {
        if self.misdeed == Some(Misdeed::NeverAuthenticates) {
            self.stage = Stage::Done;
            return;
        }
        self.stage = Stage::Authenticating;
        if dice.percent(20) {
            // Read over, as goim does; even an operation 9.
            let operation = dice.pick(&[op::HEARTBEAT, op::RAW, op::CHANGE_ROOM, 4711]);
            self.send(socket, dice, &wire::frame(operation, 1, b"early"));
        }
        let token = self.persona.token.clone();
        self.request(socket, dice, op::AUTH, &token, Expected::Auth);
        if self.misdeed == Some(Misdeed::Flood) {
            self.deserves.extend([CloseReason::InputOverflow, CloseReason::ReplyOverflow]);
            let body = vec![b'f'; plan.limits.body_max];
            for _ in 0..(HELD_MAX / body.len()) + 3 {
                self.tell(socket, dice, op::SEND, &body);
            }
        } else if dice.percent(30) {
            for _ in 0..dice.below(REQUESTS_MAX) {
                self.ask(socket, dice);
            }
        }
    }

    /// A message of its own kind.
    fn tell(&mut self, socket: &mut Socket, dice: &mut Dice, operation: i32, body: &[u8]) {
        let fails = self.is_remote && logic::fails(body);
        self.request(socket, dice, operation, body, Expected::Echo { operation, fails });
    }

    fn heartbeat(&mut self, socket: &mut Socket, dice: &mut Dice) {
        self.request(socket, dice, op::HEARTBEAT, b"", Expected::Heartbeat);
        socket.mark_heartbeat();
    }

    /// Any request a good client makes.
    fn ask(&mut self, socket: &mut Socket, dice: &mut Dice) {
        match dice.below(100) {
            0..45 => {
                let room = dice.percent(85).then(|| dice.below(ROOMS.len()) as u8);
                let body = room.map_or("", |room| ROOMS[usize::from(room)]);
                self.request(socket, dice, op::CHANGE_ROOM, body.as_bytes(), Expected::Room(room));
            }
            45..60 => {
                let accept = dice.percent(60);
                let operations: Vec<i32> =
                    OPERATIONS.into_iter().filter(|_| dice.percent(50)).collect();
                let body: Vec<String> = operations.iter().map(i32::to_string).collect();
                let operation = if accept { op::SUBSCRIBE } else { op::UNSUBSCRIBE };
                let expected = Expected::Accepts { accept, operations };
                self.request(socket, dice, operation, body.join(",").as_bytes(), expected);
            }
            60..70 => self.heartbeat(socket, dice),
            70..80 if self.persona.transport == Transport::WebSocket => {
                self.ping(socket, dice);
            }
            _ => {
                let operation = dice.pick(&[op::SEND, 777, -3]);
                let body = vec![b'm'; dice.below(200)];
                self.tell(socket, dice, operation, &body);
            }
        }
    }

    fn misbehave(&mut self, socket: &mut Socket, dice: &mut Dice, plan: &Plan) {
        let Some(misdeed) = self.misdeed else { return };
        self.stage = Stage::Done;
        let transport = self.persona.transport;
        let mut half = wire::frame(op::SEND, 1, b"cut here");
        if transport == Transport::WebSocket {
            half = wire::websocket(BINARY, Some(mask(dice)), &half);
        }
        half.truncate(dice.between(1, 20) as usize);
        match misdeed {
            Misdeed::Fault(fault) => {
                let is_all = self.persona.accepts.is_open();
                let operation = if is_all { op::UNSUBSCRIBE } else { op::SUBSCRIBE };
                let (bytes, reason) = fault.bytes(transport, &plan.limits, operation);
                socket.write(&bytes);
                self.deserves.push(reason);
                self.must_be_closed = true;
            }
            Misdeed::HalfThenSilence => socket.write(&half),
            Misdeed::HalfThenEnd => {
                socket.write(&half);
                self.end(socket, Hangup::Eof);
            }
            Misdeed::AsksAndNeverReads => {
                self.reads = Reads::NoMore;
                self.deserves.push(CloseReason::ReplyOverflow);
                for _ in 0..dice.between(10, 300) {
                    self.heartbeat(socket, dice);
                }
            }
            Misdeed::Goodbye if transport == Transport::WebSocket => {
                let mask = mask(dice);
                let payload = dice.pick(&[&b""[..], b"\x03\xe8bye"]);
                socket.write(&wire::websocket(CLOSE, Some(mask), payload));
                self.deserves.push(CloseReason::PeerClosed);
                self.must_be_closed = true;
            }
            Misdeed::Goodbye | Misdeed::End => self.end(socket, Hangup::Eof),
            Misdeed::Reset => {
                self.end(socket, broken(dice));
                self.is_over = true;
            }
            Misdeed::Silence
            | Misdeed::NeverAuthenticates
            | Misdeed::BadUpgrade(_)
            | Misdeed::Flood => {}
        }
    }

    fn request(
        &mut self,
        socket: &mut Socket,
        dice: &mut Dice,
        operation: i32,
        body: &[u8],
        expected: Expected,
    ) {
        self.sequence += 1;
        self.hearing.expected.push_back((self.sequence, expected));
        self.send(socket, dice, &wire::frame(operation, self.sequence, body));
    }

    fn ping(&mut self, socket: &mut Socket, dice: &mut Dice) {
        let payload = vec![b'p'; dice.below(126)];
        socket.write(&wire::websocket(PING, Some(mask(dice)), &payload));
        self.hearing.expected.push_back((0, Expected::Pong(payload.into())));
    }

    /// One frame; on WebSocket sometimes in fragments, with a ping among them.
    fn send(&mut self, socket: &mut Socket, dice: &mut Dice, frame: &[u8]) {
        if self.persona.transport == Transport::Tcp {
            return socket.write(frame);
        }
        if dice.percent(85) {
            return socket.write(&wire::websocket(BINARY, Some(mask(dice)), frame));
        }
        let cut = dice.below(frame.len() + 1);
        let (begin, rest) = frame.split_at(cut);
        socket.write(&wire::websocket(BINARY_BEGIN, Some(mask(dice)), begin));
        if dice.percent(30) {
            socket.write(&wire::websocket(CONTINUATION, Some(mask(dice)), b""));
        }
        if dice.percent(30) {
            // The reply to the frame comes after the pong.
            let waiting: VecDeque<_> = self.hearing.expected.pop_back().into_iter().collect();
            self.ping(socket, dice);
            self.hearing.expected.extend(waiting);
        }
        socket.write(&wire::websocket(CONTINUATION_END, Some(mask(dice)), rest));
    }
}

/// An end that nothing can be said to.
fn broken(dice: &mut Dice) -> Hangup {
    match dice.below(4) {
        0 => Hangup::Tls("a bad record".into()),
        1 => Hangup::Proxy("no header".into()),
        _ => Hangup::Error(104),
    }
}

fn mask(dice: &mut Dice) -> [u8; 4] {
    (dice.between(0, u64::from(u32::MAX)) as u32).to_ne_bytes()
}
