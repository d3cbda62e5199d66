//! Records what a receiver gets: deliveries and their latencies, replies and their round trips.

use std::collections::VecDeque;

use comet_client::{Session, op};
use comet_proto::{JoinReply, LeaveReply};

use crate::accounting::visits::VisitAccounts;
use crate::accounting::{Accounts, StreamId};
use crate::findings::Findings;
use crate::message::{OP_CHANGE_ROOM_REPLY, OP_HEARTBEAT_REPLY, OP_SEND, Shape, Stamp};
use crate::pauses::Pauses;

/// The number of a connection's heartbeats that may wait for replies. If there are more, the oldest stay unanswered.
const AWAITED_MAX: usize = 64;

/// Separate from the sessions, since both are changed at the same time.
pub(crate) struct Recorder {
    run: u32,
    operation: i32,
    /// The shape of the run's frames.
    shape: Shape,
    pub accounts: Accounts,
    /// The accounts of members in further rooms, while members visit some.
    pub visits: Option<VisitAccounts>,
    /// Everything that is not in the accounts.
    pub found: Findings,
    /// When the unanswered heartbeats of each connection were due, the oldest first.
    heartbeats_due_ns: Vec<VecDeque<u64>>,
    /// Present once measuring has been asked for.
    pub pauses: Option<Pauses>,
    /// Whether a connection reads slowly; shorter than the number of connections if the last ones do not.
    slow: Vec<bool>,
    /// Deliveries and answered heartbeats before the last restart.
    received_before: u64,
    answered_before: u64,
}

impl Recorder {
    /// Records messages of `run` with `operation` and, nearly all, bodies of `size` bytes.
    pub(crate) fn new(run: u32, operation: i32, size: usize) -> Self {
        Self {
            run,
            operation,
            shape: Shape::new(run, operation, size),
            accounts: Accounts::default(),
            visits: None,
            found: Findings::default(),
            heartbeats_due_ns: Vec::new(),
            pauses: None,
            slow: Vec::new(),
            received_before: 0,
            answered_before: 0,
        }
    }

    /// Resets all figures and subscriptions: from here on messages are expected to be of `run`, with bodies of `size`
    /// bytes.
    pub(crate) fn restart(&mut self, run: u32, size: usize) {
        self.received_before = self.received_ever();
        self.answered_before = self.answered_ever();
        self.run = run;
        self.shape = Shape::new(run, self.operation, size);
        self.accounts.restart();
        self.visits = None;
        self.found.restart();
    }

    /// Deliveries, over all restarts.
    pub(crate) fn received_ever(&self) -> u64 {
        self.received_before + self.accounts.received()
    }

    /// Heartbeats that were answered, over all restarts.
    pub(crate) fn answered_ever(&self) -> u64 {
        self.answered_before + self.found.round_trips.len()
    }

    /// Whether the connection reads slowly or not at all.
    pub(crate) fn is_slow(&self, connection: usize) -> bool {
        self.slow.get(connection).is_some_and(|&is| is)
    }

    pub(crate) fn mark_slow(&mut self, connection: usize) {
        *at(&mut self.slow, connection) = true;
    }

    pub(crate) fn heartbeat_sent(&mut self, connection: usize, due_ns: u64) {
        self.found.heartbeats_sent += 1;
        let awaited = at(&mut self.heartbeats_due_ns, connection);
        if awaited.len() == AWAITED_MAX {
            awaited.pop_front();
        }
        awaited.push_back(due_ns);
    }

    /// The connection leaves: replies to its last heartbeats are no longer expected.
    pub(crate) fn forget_heartbeats(&mut self, connection: usize) {
        let awaited = self.heartbeats_due_ns.get_mut(connection).map(std::mem::take);
        let sent = &mut self.found.heartbeats_sent;
        // They may be from before a restart.
        *sent = sent.saturating_sub(awaited.unwrap_or_default().len() as u64);
    }

    /// Records the input of a connection. The next frames of its stream, which are nearly all of the input, are only
    /// compared with the expected ones; the rest goes through the session. `owed` is the number of bytes that the
    /// session still needs of a frame of the run whose beginning it has.
    pub(crate) fn handle_input(
        &mut self,
        connection: usize,
        session: &mut Session,
        owed: &mut usize,
        input: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let (begun, mut input) = input.split_at(input.len().min(*owed));
        *owed -= begun.len();
        self.parse(connection, session, begun, now_ns)?;
        let is_plain = !self.accounts.is_subscriber(connection) && !self.is_slow(connection);
        // A frame whose beginning the session has must be completed by the session: after a WebSocket header that
        // arrived alone, too, the next input begins like the next message.
        if is_plain && session.is_live() && !session.is_amid_input() {
            let count = self.record_next(connection, input, now_ns);
            input = &input[count * self.shape.length()..];
            if !input.is_empty() && input.len() < self.shape.length() && self.shape.begins(input) {
                *owed = self.shape.length() - input.len();
            }
        }
        self.parse(connection, session, input, now_ns)
    }

    fn record_next(&mut self, connection: usize, input: &[u8], now_ns: u64) -> usize {
        let (stream, next) = self.accounts.next(connection);
        let latencies = &mut self.found.latencies;
        let count = self.shape.count(input, stream, next, |intended_ns, count| {
            latencies.saturating_record_n(now_ns.saturating_sub(intended_ns), count);
        });
        self.accounts.record_next(connection, count);
        if count > 0
            && let Some(pauses) = &mut self.pauses
        {
            pauses.note(connection, now_ns);
        }
        usize::try_from(count).expect("they are in memory")
    }

    fn parse(
        &mut self,
        connection: usize,
        session: &mut Session,
        input: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        if input.is_empty() {
            return Ok(());
        }
        let handled = session.handle_input(input, |frame, _| match frame.operation {
            operation if operation == self.operation => {
                self.record(connection, frame.body, now_ns);
            }
            OP_HEARTBEAT_REPLY => {
                let awaited = self.heartbeats_due_ns.get_mut(connection);
                if let Some(due_ns) = awaited.and_then(VecDeque::pop_front) {
                    self.found.round_trips.saturating_record(now_ns.saturating_sub(due_ns));
                }
            }
            OP_CHANGE_ROOM_REPLY => self.found.guests.moved += 1,
            op::JOIN_REPLY => match JoinReply::decode(frame.body).map(|reply| reply.outcome) {
                Some(Ok(_)) => {
                    self.found.joins.joined += 1;
                    self.entered(connection, frame.sequence, now_ns);
                }
                _ => self.found.joins.refused += 1,
            },
            op::LEAVE_REPLY => {
                let reply = LeaveReply::decode(frame.body);
                let has_left = reply.is_some_and(|reply| reply.outcome.is_ok());
                if has_left && self.has_left(connection, frame.sequence) {
                    self.found.joins.left += 1;
                }
            }
            OP_SEND => self.found.talk.answered += 1,
            _ => {}
        });
        handled.map_err(|error| error.to_string())
    }

    fn entered(&mut self, connection: usize, sequence: i32, now_ns: u64) {
        if let Some((visits, stream)) = self.visits.as_mut().zip(visited(sequence)) {
            visits.begin(connection, stream, now_ns);
        }
    }

    fn has_left(&mut self, connection: usize, sequence: i32) -> bool {
        let visits = self.visits.as_mut().zip(visited(sequence));
        visits.is_some_and(|(visits, stream)| visits.end(connection, stream))
    }

    fn record(&mut self, connection: usize, body: &[u8], now_ns: u64) {
        let mut runs = self.run..self.run + StreamId::KINDS;
        let Some(stamp) = runs.find_map(|run| Stamp::decode(body, run)) else {
            return self.accounts.record_foreign();
        };
        let stream = StreamId { kind: stamp.run - self.run, number: stamp.stream };
        match (stream.kind, &mut self.visits) {
            (StreamId::FURTHER, Some(visits)) => {
                let intended_ns = stamp.intended_ns.unwrap_or(now_ns);
                visits.record(connection, stream, (stamp.sequence, intended_ns));
            }
            _ => self.accounts.record(connection, stream, stamp.sequence),
        }
        if stream.kind == StreamId::ROOM
            && let Some(pauses) = &mut self.pauses
        {
            pauses.note(connection, now_ns);
        }
        let Some(intended_ns) = stamp.intended_ns else { return };
        let latency_ns = now_ns.saturating_sub(intended_ns);
        if self.is_slow(connection) {
            self.found.impaired_latencies.saturating_record(latency_ns);
        } else {
            self.found.latencies.saturating_record(latency_ns);
        }
    }
}

/// The stream of a further room, from the number of its visitors' requests.
fn visited(sequence: i32) -> Option<StreamId> {
    let number = u32::try_from(sequence).ok()?.checked_sub(1)?;
    Some(StreamId { kind: StreamId::FURTHER, number })
}

/// The entry of a connection in a list that grows on demand.
fn at<T: Default + Clone>(list: &mut Vec<T>, connection: usize) -> &mut T {
    if list.len() <= connection {
        list.resize(connection + 1, T::default());
    }
    &mut list[connection]
}

#[cfg(test)]
mod tests {
    use comet_client::Transport;
    use tungstenite::handshake::derive_accept_key;

    use super::*;
    use crate::message::{OP_AUTH_REPLY, OP_RAW, append_header};

    const RUN: u32 = 7;
    const OPERATION: i32 = 1000;
    const SIZE: usize = 128;

    /// A session whose server has accepted it.
    fn live(transport: Transport) -> Session {
        let mut session = Session::of_protocol_1(transport, "localhost", "/sub", b"1");
        let mut reply = Vec::new();
        append_header(OP_AUTH_REPLY, 1, 0, &mut reply);
        if transport == Transport::WebSocket {
            let request = String::from_utf8_lossy(session.output()).into_owned();
            let (_, key) = request.split_once("ey: ").expect("an upgrade has a key");
            let key = key.lines().next().expect("it has an end").as_bytes();
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key)
            );
            reply = [answer.as_bytes(), &message(&reply)].concat();
        }
        session.handle_input(&reply, |_, _| {}).expect("the server accepts");
        assert!(session.is_live());
        session
    }

    /// The first frames of the stream.
    fn frames(count: u64) -> Vec<u8> {
        let mut frames = Vec::new();
        for sequence in 0..count {
            let stamp = Stamp { run: RUN, stream: 0, sequence, intended_ns: Some(1) };
            stamp.append_frame(OPERATION, SIZE, &mut frames);
        }
        frames
    }

    /// A WebSocket message of the server.
    fn message(payload: &[u8]) -> Vec<u8> {
        let mut message = match u8::try_from(payload.len()) {
            Ok(length @ 0..126) => vec![0x82, length],
            _ => [&[0x82, 126][..], &(payload.len() as u16).to_be_bytes()].concat(),
        };
        message.extend_from_slice(payload);
        message
    }

    /// All `count` deliveries of `input` are recorded, wherever it is cut in two.
    fn check(transport: Transport, input: &[u8], count: u64) {
        for cut in 0..=input.len() {
            let mut recorder = Recorder::new(RUN, OPERATION, SIZE);
            recorder.accounts.open(0);
            let (mut session, mut owed) = (live(transport), 0);
            for part in [&input[..cut], &input[cut..]] {
                let taken = recorder.handle_input(0, &mut session, &mut owed, part, 2);
                assert_eq!(taken, Ok(()), "{transport:?}, cut at {cut}");
            }
            let [is, _] = recorder.accounts.close(&[vec![count]], &[]);
            assert_eq!((is.received, is.lost), (count, 0), "{transport:?}, cut at {cut}");
        }
    }

    #[test]
    fn several_heartbeats_may_wait_for_their_replies() {
        let mut recorder = Recorder::new(RUN, OPERATION, SIZE);
        recorder.accounts.open(0);
        let (mut session, mut owed) = (live(Transport::Tcp), 0);
        for due_ns in [1_000, 2_000, 3_000] {
            recorder.heartbeat_sent(0, due_ns);
        }
        let mut replies = Vec::new();
        for sequence in 0..2 {
            append_header(OP_HEARTBEAT_REPLY, sequence, 0, &mut replies);
        }
        recorder.handle_input(0, &mut session, &mut owed, &replies, 4_000).expect("they are read");
        let found = &recorder.found;
        assert_eq!((found.round_trips.len(), found.unanswered()), (2, 1));
        assert!(found.round_trips.max() >= 3_000, "that of the first");
        recorder.forget_heartbeats(0);
        assert_eq!(recorder.found.unanswered(), 0);
    }

    #[test]
    fn an_input_may_end_anywhere() {
        check(Transport::Tcp, &frames(3), 3);
        let frame = frames(1).len();
        let singles = frames(3).chunks(frame).flat_map(message).collect::<Vec<_>>();
        check(Transport::WebSocket, &singles, 3);
        let mut batch = Vec::new();
        append_header(OP_RAW, 0, 3 * frame, &mut batch);
        batch.extend(frames(3));
        check(Transport::WebSocket, &message(&batch), 3);
    }
}
