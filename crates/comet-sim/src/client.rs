//! A fake client: it sends real bytes, checks what it receives, and may violate the protocol.

use std::collections::VecDeque;

use comet_core::limits::HELD_MAX;
use comet_core::{CloseReason, Hangup, Millis, SlowConsumer, Transport};
use comet_proto::{Join, Leave, RoomHandle, VERSION, VERSION_2, op};

use crate::deflate::{COMPRESSED, deflate};
use crate::logic_faults;
use crate::plan::{OPERATIONS, Plan, ROOMS};
use crate::profile::ClientProfile;
use crate::received::{Expected, ReceivedStream};
use crate::rng::Rng;
use crate::socket::Socket;
use crate::violation::{Violation, bad_upgrade};
use crate::wire::{self, BEGIN, BINARY, CLOSE, CONTINUATION, CONTINUATION_END, PING, TEXT};

/// The most requests that a well-behaved client has under way; fewer than any `cli_proto` of the simulator.
const REQUESTS_MAX: usize = 4;

/// How a client reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    Promptly,
    Slowly,
    /// It reads until it is authenticated, and then no more.
    NoMore,
}

/// The stage of what a client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connected,
    Upgraded,
    Authenticating,
    /// The violation is done. The client waits for its consequences.
    Done,
}

pub(crate) struct Client {
    pub(crate) profile: ClientProfile,
    pub(crate) received: ReceivedStream,
    pub(crate) reads: Reads,
    /// Close reasons that its behaviour explains. Timeouts and drains are always allowed.
    pub(crate) allowed_closes: Vec<CloseReason>,
    /// The server must close the connection after it has read the last bytes.
    pub(crate) must_be_closed: bool,
    is_remote: bool,
    violation: Option<Violation>,
    /// The number of requests to make before the violation.
    requests_before_violation: u32,
    stage: Stage,
    sequence: i32,
    next_heartbeat: Millis,
    pub(crate) is_over: bool,
}

impl Client {
    pub(crate) fn new(rng: &mut Rng, plan: &Plan, profile: ClientProfile) -> Self {
        let violation =
            rng.percent(plan.violation_percent).then(|| Violation::random(rng, profile.transport));
        let reads = match rng.percent(plan.slow_percent) {
            true => rng.pick(&[Reads::Slowly, Reads::Slowly, Reads::NoMore]),
            false => Reads::Promptly,
        };
        let mut allowed_closes = vec![CloseReason::Replaced, CloseReason::TooManySessions];
        if plan.limits.slow_consumer == SlowConsumer::Close {
            allowed_closes.push(CloseReason::SlowConsumer);
        }
        if plan.is_remote() {
            allowed_closes.push(CloseReason::LogicUnavailable);
        }
        if plan.limits.handshakes < u32::MAX {
            allowed_closes.push(CloseReason::HandshakeOverflow);
        }
        let rates = &plan.limits.rates;
        for (rate, reason) in [
            (rates.frames, CloseReason::FrameRate),
            (rates.bytes, CloseReason::ByteRate),
            (rates.room_changes, CloseReason::RoomRate),
        ] {
            if rate > 0 {
                allowed_closes.push(reason);
            }
        }
        if plan.limits.sources.is_on() {
            allowed_closes.extend([CloseReason::AddressLimit, CloseReason::SubnetLimit]);
        }
        if profile.is_refused {
            allowed_closes.push(CloseReason::AuthRefused);
        }
        Self {
            received: ReceivedStream::new(&profile, plan),
            profile,
            reads,
            allowed_closes,
            must_be_closed: false,
            is_remote: plan.is_remote(),
            violation,
            requests_before_violation: rng.below(12) as u32,
            stage: Stage::Connected,
            sequence: 0,
            next_heartbeat: Millis(0),
            is_over: false,
        }
    }

    /// Reads as much as its profile allows, and checks that.
    pub(crate) fn read(
        &mut self,
        (socket, rng): (&mut Socket, &mut Rng),
        next_call: u64,
        is_quiet: bool,
    ) -> Result<(), String> {
        if self.is_over {
            return Ok(());
        }
        match self.reads {
            // The rest is read after the server has released the socket.
            Reads::NoMore if self.received.is_live && !socket.is_released => {}
            Reads::Slowly if !is_quiet => socket.read(rng.between(0, 50)),
            _ => socket.read(u64::MAX),
        }
        while let Some(message) = socket.next_message() {
            self.received.receive(message, next_call)?;
        }
        if socket.is_at_end() {
            self.end(socket, Hangup::Eof);
            self.is_over = true;
        }
        Ok(())
    }

    /// Writes the next bytes; in a quiet phase only those that keep the connection alive.
    pub(crate) fn write(
        &mut self,
        (socket, rng): (&mut Socket, &mut Rng),
        plan: &Plan,
        now: Millis,
        is_quiet: bool,
    ) {
        if self.is_over || self.received.is_closing {
            return;
        }
        match self.stage {
            Stage::Connected => self.open(socket, rng, plan),
            Stage::Upgraded => self.authenticate(socket, rng, plan),
            Stage::Authenticating if self.received.is_live => {
                let is_silent = self.violation == Some(Violation::Silence);
                let waits = self.received.expected.len();
                if now >= self.next_heartbeat && !is_silent && waits <= REQUESTS_MAX {
                    let interval = u64::from(self.profile.heartbeat_ms) / 3;
                    self.next_heartbeat = now.after(interval.max(1));
                    self.heartbeat(socket, rng);
                } else if is_quiet || !rng.percent(30) {
                } else if self.violation.is_some() && self.requests_before_violation == 0 {
                    self.violate(socket, rng, plan);
                } else if waits < REQUESTS_MAX {
                    self.requests_before_violation =
                        self.requests_before_violation.saturating_sub(1);
                    self.ask(socket, rng, plan);
                }
            }
            Stage::Authenticating | Stage::Done => {}
        }
    }

    /// Ends the connection without a close handshake.
    pub(crate) fn disconnect(&mut self, socket: &mut Socket, rng: &mut Rng) {
        let how = if rng.percent(50) { Hangup::Eof } else { broken(rng) };
        self.end(socket, how.clone());
        self.stage = Stage::Done;
        self.is_over = how != Hangup::Eof;
    }

    fn end(&mut self, socket: &mut Socket, how: Hangup) {
        self.allowed_closes.push(CloseReason::PeerClosed);
        match how {
            Hangup::Eof | Hangup::Cut(_) => {}
            Hangup::Error(_) => self.allowed_closes.push(CloseReason::SocketError),
            // A send may fail before the hangup is read.
            Hangup::Tls(_) => {
                self.allowed_closes.extend([CloseReason::SocketError, CloseReason::TlsFailed]);
            }
            Hangup::Proxy(_) => {
                self.allowed_closes.extend([CloseReason::SocketError, CloseReason::BadProxyHeader]);
            }
        }
        socket.end(how);
    }

    fn open(&mut self, socket: &mut Socket, rng: &mut Rng, plan: &Plan) {
        self.stage = Stage::Upgraded;
        if self.profile.transport == Transport::Tcp {
            return;
        }
        match self.violation {
            Some(Violation::NeverAuthenticates) if rng.percent(50) => self.stage = Stage::Done,
            Some(Violation::BadUpgrade(status)) => {
                socket.write(&bad_upgrade(status, &plan.limits));
                self.received.status = status;
                self.allowed_closes.push(CloseReason::BadUpgrade);
                self.must_be_closed = true;
                self.stage = Stage::Done;
            }
            _ => {
                let offer = if self.profile.is_deflated { wire::OFFER_HEADER } else { "" };
                let headers = format!("{}{offer}", wire::KEY_HEADER);
                socket.write(&wire::upgrade("GET", "/sub?v=2", 13, &headers));
            }
        }
    }

    fn authenticate(&mut self, socket: &mut Socket, rng: &mut Rng, plan: &Plan) {
        if self.violation == Some(Violation::NeverAuthenticates) {
            self.stage = Stage::Done;
            return;
        }
        self.stage = Stage::Authenticating;
        if rng.percent(20) {
            // The server ignores frames before the token, as goim does; even an operation 9.
            let operation = rng.pick(&[op::HEARTBEAT, op::RAW, op::CHANGE_ROOM, 4711]);
            self.send(socket, rng, &wire::frame(operation, 1, b"early"));
        }
        if self.profile.asks_to_keep {
            // Not by `send`, which may put a ping among the fragments and then expects the frame's reply behind the
            // pong. This frame has no reply.
            let keep = wire::frame_as(VERSION_2, op::KEEP, 0, &[1]);
            match self.profile.transport {
                Transport::Tcp => socket.write(&keep),
                _ => socket.write(&wire::websocket(BINARY, Some(mask(rng)), &keep)),
            }
        }
        let token = self.profile.token.clone();
        self.request(socket, rng, op::AUTH, &token, Expected::Auth);
        socket.mark_token();
        if self.violation == Some(Violation::Flood) {
            self.allowed_closes.extend([CloseReason::InputOverflow, CloseReason::ReplyOverflow]);
            // A text message has the same space for header and body together.
            let around = if self.profile.is_text { 64 } else { 0 };
            let body = vec![b'f'; plan.limits.body_max - around];
            for _ in 0..(HELD_MAX / body.len()) + 3 {
                self.send_message(socket, rng, op::SEND, &body);
            }
        } else if rng.percent(30) {
            for _ in 0..rng.below(REQUESTS_MAX) {
                self.ask(socket, rng, plan);
            }
        }
    }

    /// Sends a message with an operation that only logic knows.
    fn send_message(&mut self, socket: &mut Socket, rng: &mut Rng, operation: i32, body: &[u8]) {
        let fails = self.is_remote && logic_faults::fails(body);
        let is_echoed = self.profile.is_text && operation == op::SEND;
        let (operation_of_reply, body_of_reply) =
            if is_echoed { (op::SEND_REPLY, body) } else { (operation, &b""[..]) };
        let expected =
            Expected::Echo { operation: operation_of_reply, fails, body: body_of_reply.into() };
        self.request(socket, rng, operation, body, expected);
    }

    fn heartbeat(&mut self, socket: &mut Socket, rng: &mut Rng) {
        let start = socket.written_total();
        self.request(socket, rng, op::HEARTBEAT, b"", Expected::Heartbeat);
        socket.mark_heartbeat(start);
    }

    /// Makes a random request within the protocol.
    fn ask(&mut self, socket: &mut Socket, rng: &mut Rng, plan: &Plan) {
        if let Some(room) = self.received.positions.stalled()
            && rng.percent(40)
        {
            return self.enter_further(socket, rng, room, true);
        }
        let has_histories = !plan.limits.history_rules.is_empty();
        if has_histories && self.knows_rooms() && rng.percent(30) {
            return self.change_further_rooms(socket, rng);
        }
        match rng.below(100) {
            0..45 => {
                let room = rng.percent(85).then(|| rng.below(ROOMS.len()) as u8);
                let body = room.map_or("", |room| ROOMS[usize::from(room)]);
                self.request(socket, rng, op::CHANGE_ROOM, body.as_bytes(), Expected::Room(room));
            }
            45..60 => {
                let accept = rng.percent(60);
                let operations: Vec<i32> =
                    OPERATIONS.into_iter().filter(|_| rng.percent(50)).collect();
                let body = wire::list(&operations);
                let operation = if accept { op::SUBSCRIBE } else { op::UNSUBSCRIBE };
                let expected = Expected::Accepts { accept, operations };
                self.request(socket, rng, operation, body.as_bytes(), expected);
            }
            60..70 => self.heartbeat(socket, rng),
            80..86 if self.knows_rooms() => {
                let (token, not_renewed) = self.profile.renewal(rng, plan);
                let expected = Expected::Renewal { not_renewed };
                self.request(socket, rng, op::AUTH, &token, expected);
            }
            86..96 if self.knows_rooms() => {
                self.change_further_rooms(socket, rng);
            }
            70..80 if self.profile.transport == Transport::WebSocket => {
                self.ping(socket, rng);
            }
            _ => {
                let operation = rng.pick(&[op::SEND, 777, -3]);
                let body = vec![b'm'; rng.below(200)];
                self.send_message(socket, rng, operation, &body);
            }
        }
    }

    /// Whether it speaks protocol 2 and knows that the server does.
    fn knows_rooms(&self) -> bool {
        self.profile.is_protocol_2 && self.received.is_live
    }

    fn change_further_rooms(&mut self, socket: &mut Socket, rng: &mut Rng) {
        let handles: Vec<RoomHandle> = self.received.rooms.keys().copied().collect();
        if rng.percent(60) || handles.is_empty() {
            let room = rng.below(ROOMS.len()) as u8;
            let is_recovering = rng.percent(70);
            return self.enter_further(socket, rng, room, is_recovering);
        }
        let handle = if rng.percent(90) { rng.pick(&handles) } else { RoomHandle(77) };
        let body = Leave { handle }.encode();
        self.request(socket, rng, op::LEAVE, &body, Expected::Leave(handle));
    }

    fn enter_further(&mut self, socket: &mut Socket, rng: &mut Rng, room: u8, is_recovering: bool) {
        // While it is leaving the room or has asked already, it cannot know what it will get until then.
        let is_changing = self.received.expected.iter().any(|(_, expected)| {
            matches!(expected, Expected::Join(..) | Expected::Leave(_) | Expected::Room(_))
        });
        let since = self.received.positions.position(room);
        let since = since.filter(|_| is_recovering && !is_changing);
        if since.is_some() {
            self.received.positions.ask(room);
        }
        let body = Join { since, room: ROOMS[usize::from(room)].as_bytes() }.encode();
        self.request(socket, rng, op::JOIN, &body, Expected::Join(room, since));
    }

    fn violate(&mut self, socket: &mut Socket, rng: &mut Rng, plan: &Plan) {
        let Some(violation) = self.violation else { return };
        self.stage = Stage::Done;
        let transport = self.profile.transport;
        let mut half = wire::frame(op::SEND, 1, b"cut here");
        if transport == Transport::WebSocket {
            half = wire::websocket(self.message_kind(), Some(mask(rng)), &half);
        }
        half.truncate(rng.between(1, 20) as usize);
        match violation {
            Violation::Malformed(fault) => {
                let is_all = self.profile.accepts.is_open();
                let operation = if is_all { op::UNSUBSCRIBE } else { op::SUBSCRIBE };
                let (bytes, reason) = fault.bytes(transport, &plan.limits, operation);
                let reason = if self.profile.is_text { fault.reason_in_text() } else { reason };
                socket.write(&bytes);
                self.allowed_closes.push(reason);
                self.must_be_closed = true;
            }
            Violation::HalfThenSilence => socket.write(&half),
            Violation::HalfThenEnd => {
                socket.write(&half);
                self.end(socket, Hangup::Eof);
            }
            Violation::AsksAndNeverReads => {
                self.reads = Reads::NoMore;
                self.allowed_closes.push(CloseReason::ReplyOverflow);
                for _ in 0..rng.between(10, 300) {
                    self.heartbeat(socket, rng);
                }
            }
            Violation::CloseFrame if transport == Transport::WebSocket => {
                let mask = mask(rng);
                let payload = rng.pick(&[&b""[..], b"\x03\xe8bye"]);
                socket.write(&wire::websocket(CLOSE, Some(mask), payload));
                self.received.has_closed = true;
                self.allowed_closes.push(CloseReason::PeerClosed);
                self.must_be_closed = true;
            }
            Violation::CloseFrame | Violation::End => self.end(socket, Hangup::Eof),
            Violation::Reset => {
                self.end(socket, broken(rng));
                self.is_over = true;
            }
            Violation::Silence
            | Violation::NeverAuthenticates
            | Violation::BadUpgrade(_)
            | Violation::Flood => {}
        }
    }

    fn request(
        &mut self,
        socket: &mut Socket,
        rng: &mut Rng,
        operation: i32,
        body: &[u8],
        expected: Expected,
    ) {
        self.sequence += 1;
        self.received.expected.push_back((self.sequence, expected));
        let asks_for_2 = operation == op::AUTH && self.profile.is_protocol_2;
        let version = if asks_for_2 { VERSION_2 } else { VERSION };
        self.send(socket, rng, &wire::frame_as(version, operation, self.sequence, body));
    }

    fn ping(&mut self, socket: &mut Socket, rng: &mut Rng) {
        let payload = vec![b'p'; rng.below(126)];
        socket.write(&wire::websocket(PING, Some(mask(rng)), &payload));
        self.received.expected.push_back((0, Expected::Pong(payload.into())));
    }

    /// The opcode in the first byte of its messages.
    fn message_kind(&self) -> u8 {
        if self.profile.is_text { TEXT } else { BINARY }
    }

    /// Sends one frame; on WebSocket sometimes in fragments, with a ping among them.
    fn send(&mut self, socket: &mut Socket, rng: &mut Rng, frame: &[u8]) {
        if self.profile.transport == Transport::Tcp {
            return socket.write(frame);
        }
        let mut kind = self.message_kind();
        let mut message = if self.profile.is_text { wire::to_text(frame) } else { frame.to_vec() };
        if self.profile.is_deflated && rng.percent(50) {
            kind |= COMPRESSED;
            message = deflate(&message);
        }
        if rng.percent(85) {
            return socket.write(&wire::websocket(kind, Some(mask(rng)), &message));
        }
        let cut = rng.below(message.len() + 1);
        let (begin, rest) = message.split_at(cut);
        socket.write(&wire::websocket(kind & BEGIN, Some(mask(rng)), begin));
        if rng.percent(30) {
            socket.write(&wire::websocket(CONTINUATION, Some(mask(rng)), b""));
        }
        if rng.percent(30) {
            // The reply to the frame comes after the pong.
            let waiting: VecDeque<_> = self.received.expected.pop_back().into_iter().collect();
            self.ping(socket, rng);
            self.received.expected.extend(waiting);
        }
        socket.write(&wire::websocket(CONTINUATION_END, Some(mask(rng)), rest));
    }
}

/// A way to end after which the client receives nothing.
fn broken(rng: &mut Rng) -> Hangup {
    match rng.below(4) {
        0 => Hangup::Tls("a bad record".into()),
        1 => Hangup::Proxy("no header".into()),
        2 => Hangup::Cut(104),
        _ => Hangup::Error(5),
    }
}

fn mask(rng: &mut Rng) -> [u8; 4] {
    (rng.between(0, u64::from(u32::MAX)) as u32).to_ne_bytes()
}
