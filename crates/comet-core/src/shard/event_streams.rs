//! Event streams (Server-Sent Events): a request becomes operations, replies become events.
//!
//! The request is turned into the frames that another client would send: operation 7 with the token, and operation 18
//! for each room. So an event stream is admitted, bounded and counted like any other connection. From then on the
//! client sends nothing, not even heartbeats. Instead the server sends a comment at intervals, by which proxies see
//! that the stream is in use. If the client is gone, the comment is not acknowledged, and the kernel ends the
//! connection (`TCP_USER_TIMEOUT`). If the client does not read, the write deadline does.

use comet_proto::sse::LastEventId;
use comet_proto::{Encoded, Frame, Join, JoinReply, Position, RoomRefusal, VERSION, op, sse};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::{EVENT_COMMENT_MS, EVENT_RETRY_MS};
use crate::state::{AwaitedReply, ConnState};
use crate::transport::Transport;

use super::Shard;
use super::closing::CloseNotice;
use super::input::ReadStep;

impl Shard {
    /// Reads the request for an event stream on a connection from which nothing else was read.
    pub(super) fn open_stream(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        let limits = &self.context.limits;
        let request = match sse::request(input, limits.head_max) {
            Ok(None) => return ReadStep::Incomplete,
            Ok(Some(request)) => request,
            Err(fault) => return self.refuse_stream(slot, fault.status(), &fault.to_string()),
        };
        let sse::Request { token, rooms, last_event_id, cookie, origin } = request;
        let origin = origin.as_deref();
        if !self.allows(origin) {
            let sentence =
                format!("Pages of the origin {:?} may not connect.", origin.unwrap_or_default());
            return self.refuse_stream(slot, 403, &sentence);
        }
        let (rooms_max, token_max) = (usize::from(limits.rooms), limits.body_max);
        if rooms.len() > rooms_max {
            let sentence = format!("{} rooms; at most {rooms_max} are taken.", rooms.len());
            return self.refuse_stream(slot, 400, &sentence);
        }
        if token.len() > token_max {
            let sentence =
                format!("A token of {} bytes; at most {token_max} are taken.", token.len());
            return self.refuse_stream(slot, 400, &sentence);
        }
        let is_listed = !limits.origins.is_empty();
        let conn = &mut self.conns[slot];
        conn.transport = Transport::EventStream;
        conn.state = ConnState::AwaitingAuth;
        let held = conn.input_mut();
        held.cookie = cookie;
        held.cors = origin.map(|origin| sse::cors(origin, is_listed));
        for room in rooms {
            let since = match &last_event_id {
                LastEventId::Known(id) => id.position(&room),
                LastEventId::None | LastEventId::Unknown => None,
            };
            held.bytes.extend_from_slice(join_request(&room, since).for_tcp());
        }
        held.last_event_id = last_event_id;
        let auth = request_frame(op::AUTH, token.as_bytes());
        self.read_frame(slot, auth.for_tcp());
        ReadStep::Consumed(input.len())
    }

    /// Makes a stream ask for the pushes that it missed in a room that its token names. `false`: the client has no
    /// position there.
    pub(super) fn ask_for_missed(&mut self, slot: Slot, last: &LastEventId, room: &str) -> bool {
        let LastEventId::Known(id) = last else { return false };
        let Some(since) = id.position(room) else { return false };
        let request = join_request(room, Some(since));
        let (request, held) = (request.for_tcp(), self.conns[slot].input_mut());
        // The query may name the room as well. The held input consists of such requests only.
        let mut rest = &held.bytes[..];
        while let Ok(Some((_, length))) = comet_proto::decode(rest, rest.len()) {
            let (other, others) = rest.split_at(length);
            if other == request {
                return true;
            }
            rest = others;
        }
        held.bytes.extend_from_slice(request);
        true
    }

    fn refuse_stream(&mut self, slot: Slot, status: u16, sentence: &str) -> ReadStep {
        let reason = CloseReason::BadUpgrade;
        let response = sse::refusal(status, reason.label(), sentence, None, "");
        self.reply_with(slot, Encoded::verbatim(&response));
        self.close(slot, reason, sentence);
        ReadStep::Closed
    }

    /// Sends the client of an event stream the event for a reply.
    pub(super) fn reply_by_event(&mut self, slot: Slot, reply: AwaitedReply, body: &[u8]) {
        let event = match reply.operation {
            op::AUTH_REPLY => {
                self.counters.event_streams += 1;
                let conn = &mut self.conns[slot];
                let input = conn.input_mut();
                let cors = input.cors.take();
                let has_unknown_id = input.last_event_id == LastEventId::Unknown;
                if has_unknown_id {
                    input.last_event_id = LastEventId::None;
                }
                conn.shed_input();
                let mut begin = sse::begin(&cors.unwrap_or_default());
                if has_unknown_id {
                    self.counters.unknown_event_ids += 1;
                    begin.extend(sse::unknown_id_event());
                }
                begin
            }
            op::JOIN_REPLY => {
                let JoinReply { outcome, room, recovered, .. } =
                    JoinReply::decode(body).expect("the shard encoded it");
                let refused = outcome.err().map(RoomRefusal::label);
                let room = String::from_utf8_lossy(room);
                let keeps = self.context.limits.history_rule(&room).is_some();
                let recovered = (keeps && refused.is_none()).then_some(recovered);
                sse::room_event(&room, refused, recovered)
            }
            _ => return,
        };
        self.reply_with(slot, Encoded::verbatim(&event));
    }

    /// Tells an event stream why it ends: by a last event, or by a response in place of the stream, with the header
    /// lines `cors`.
    pub(super) fn end_stream(&mut self, slot: Slot, notice: &CloseNotice<'_>, cors: Option<&str>) {
        let CloseNotice { reason, retry_after_ms, .. } = *notice;
        if reason == CloseReason::PeerClosed {
            return;
        }
        let (label, message) = (reason.label(), notice.message());
        let bytes = match cors {
            None => sse::close_event(label, message, retry_after_ms),
            Some(cors) => {
                let status = status(reason);
                let is_passing = matches!(status, 429 | 503);
                let retry_after_ms = retry_after_ms.or(is_passing.then_some(EVENT_RETRY_MS));
                sse::refusal(status, label, message, retry_after_ms, cors)
            }
        };
        self.reply_with(slot, Encoded::verbatim(&bytes));
    }

    /// Whether the deadline of `slot` is the time of the next comment.
    pub(super) fn is_live_stream(&self, slot: Slot) -> bool {
        let conn = &self.conns[slot];
        conn.transport == Transport::EventStream && conn.is_live()
    }

    /// Sends a comment if nothing else is pending, and renews the session at logic, as a heartbeat does.
    pub(super) fn comment(&mut self, slot: Slot) {
        let pause = self.jitter.within(EVENT_COMMENT_MS / 4 * 3..=EVENT_COMMENT_MS);
        self.set_deadline(slot, pause);
        let conn = &self.conns[slot];
        if conn.takes_pushes().is_ok() && conn.outbox.is_empty() {
            self.reply_with(slot, Encoded::verbatim(sse::COMMENT));
        }
        self.renew(slot);
    }
}

fn join_request(room: &str, since: Option<Position>) -> Encoded {
    request_frame(op::JOIN, &Join { since, room: room.as_bytes() }.encode())
}

fn request_frame(operation: i32, body: &[u8]) -> Encoded {
    Encoded::frame(&Frame { version: VERSION, operation, sequence: 0, body })
}

/// The HTTP status for a connection that is closed before its stream has begun.
fn status(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::AuthRefused | CloseReason::TokenExpired => 401,
        CloseReason::Kicked => 403,
        CloseReason::HandshakeTimeout => 408,
        CloseReason::Replaced => 409,
        CloseReason::AddressLimit
        | CloseReason::SubnetLimit
        | CloseReason::FrameRate
        | CloseReason::ByteRate
        | CloseReason::RoomRate
        | CloseReason::TooManySessions => 429,
        CloseReason::Draining
        | CloseReason::LogicUnavailable
        | CloseReason::HandshakeOverflow
        | CloseReason::SlowConsumer => 503,
        _ => 400,
    }
}
