//! How a session processes input: bytes become WebSocket frames, then messages, then frames.

use std::mem;

use comet_proto::{
    AuthReply, Frame, FrameFault, HEADER_LEN, Join, JoinReply, Leave, LeaveReply, RoomGap,
    RoomPush, count_frames, decode, op,
};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::rooms::{RoomRequest, RoomUpdate};
use super::{Arrival, Session, State, Transport};
use crate::error::{SessionError, WebSocketFault};
use crate::websocket::{self, Parsed};

/// Most frames of the largest size that fit into one WebSocket message: goim's job batches 20.
const BATCH_FRAMES_MAX: usize = 20;

/// A ping is not answered while this many bytes wait to be written. RFC 6455 section 5.5.3 allows
/// answering only the latest ping. A server that sends pings without reading must not fill our
/// memory.
const PONG_BACKLOG_MAX: usize = 16 * 1024;

/// The result of one step at the start of an input.
enum Step {
    /// This many bytes are processed.
    Used(usize),
    /// The input is too short. It must have at least this length.
    Wants(usize),
}

impl Session {
    /// Processes `input`, after the rest of earlier inputs.
    pub(super) fn take_input(
        &mut self,
        mut input: &[u8],
        on_arrival: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), SessionError> {
        let mut tail = mem::take(&mut self.tail);
        while !tail.is_empty() {
            match self.step(&tail, on_arrival)? {
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
            match self.step(input, on_arrival)? {
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
        on_arrival: &mut impl FnMut(Arrival<'_>),
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
            (_, Transport::Tcp) => match decode(input, self.frame_body_max())? {
                Some((frame, used)) => {
                    self.take_frame(frame, on_arrival)?;
                    Ok(Step::Used(used))
                }
                // `decode` has refused any packLen shorter than a header.
                None => Ok(Step::Wants(
                    input
                        .first_chunk()
                        .map_or(HEADER_LEN, |pack_len| u32::from_be_bytes(*pack_len) as usize),
                )),
            },
            (_, Transport::WebSocket) => self.step_websocket(input, on_arrival),
        }
    }

    fn step_websocket(
        &mut self,
        input: &[u8],
        on_arrival: &mut impl FnMut(Arrival<'_>),
    ) -> Result<Step, SessionError> {
        let buffered = self.fragments.as_ref().map_or(0, Vec::len);
        let (opcode, is_final, payload, used) =
            match websocket::parse(input, self.message_max().saturating_sub(buffered))? {
                Parsed::Wants(len) => return Ok(Step::Wants(len)),
                Parsed::Frame { opcode, is_final, payload, used } => {
                    (opcode, is_final, payload, used)
                }
            };
        match (opcode, &mut self.fragments) {
            (OpCode::Data(Data::Binary), None) if is_final => {
                self.take_message(payload, on_arrival)?;
            }
            (OpCode::Data(Data::Binary), fragments @ None) => *fragments = Some(payload.to_vec()),
            (OpCode::Data(Data::Continue), Some(fragments)) => {
                fragments.extend_from_slice(payload);
                if is_final {
                    let message = self.fragments.take().expect("there were fragments");
                    self.take_message(&message, on_arrival)?;
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
                return Err(SessionError::closed(code, text, self.was_accepted()));
            }
            // A pong needs no answer. `parse` has refused reserved opcodes.
            (OpCode::Control(_), _) => {}
        }
        Ok(Step::Used(used))
    }

    /// Processes a binary message: a batch behind one header with operation 9, or frames back to
    /// back.
    fn take_message(
        &mut self,
        message: &[u8],
        on_arrival: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), SessionError> {
        let mut run = match decode(message, self.message_max())? {
            Some((batch, used)) if batch.operation == op::RAW && used == message.len() => {
                batch.body
            }
            _ => message,
        };
        while !run.is_empty() {
            let (frame, used) = decode(run, self.frame_body_max())?
                .ok_or(FrameFault::Truncated { left: run.len() })?;
            self.take_frame(frame, on_arrival)?;
            run = &run[used..];
        }
        Ok(())
    }

    fn take_frame(
        &mut self,
        frame: Frame<'_>,
        on_arrival: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), SessionError> {
        if frame.operation != op::ROOM_PUSH {
            check_body(frame.body, self.body_max)?;
        }
        match (frame.operation, &self.state) {
            (op::DISCONNECT_REPLY, _) => {
                let text = String::from_utf8_lossy(frame.body);
                return Err(SessionError::closed(None, &text, self.was_accepted()));
            }
            (op::AUTH_REPLY, State::Live) if self.auth_reply.is_some() => {
                // This answers a renewal of the token.
                if let Some(reply) = &mut self.auth_reply
                    && let Some(renewed) = AuthReply::decode(frame.body)
                {
                    **reply = AuthReply { kept: reply.kept, ..renewed };
                }
                on_arrival(Arrival::Frame(frame, None));
            }
            (op::RAW, _) => return Err(SessionError::StrayBatch),
            (op::AUTH_REPLY, State::Authing) => {
                self.auth_reply = AuthReply::decode(frame.body).map(Box::new);
                self.state = State::Live;
            }
            (
                op::CHANGE_ROOM_REPLY | op::JOIN_REPLY | op::LEAVE_REPLY | op::ROOM_PUSH | op::GAP,
                _,
            ) if self.auth_reply.is_some() => {
                return self.take_room_frame(frame, on_arrival);
            }
            _ => on_arrival(Arrival::Frame(frame, None)),
        }
        Ok(())
    }

    /// Processes a frame of protocol 2 about rooms.
    fn take_room_frame(
        &mut self,
        frame: Frame<'_>,
        on_arrival: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), SessionError> {
        let wrong = || SessionError::BadRoomFrame { operation: frame.operation };
        match frame.operation {
            op::ROOM_PUSH => {
                let push = RoomPush::decode(frame.body).ok_or_else(wrong)?;
                let rooms = self.rooms.as_mut().ok_or_else(wrong)?;
                if push.operation != op::RAW {
                    let RoomPush { handle, operation, offset, body } = push;
                    check_body(body, self.body_max)?;
                    if let Some(origin) = rooms.push(handle, offset).ok_or_else(wrong)? {
                        let frame = Frame { operation, body, ..frame };
                        on_arrival(Arrival::Frame(frame, Some(origin)));
                    }
                    return Ok(());
                }
                // The offset is that of the last frame; earlier ones have the preceding offsets.
                let mut left = count_frames(push.body).unwrap_or_default() as u64;
                let mut run = push.body;
                while !run.is_empty() {
                    let (frame, used) = decode(run, self.body_max)?
                        .ok_or(FrameFault::Truncated { left: run.len() })?;
                    left = left.saturating_sub(1);
                    let offset = push.offset.saturating_sub(left);
                    if let Some(origin) = rooms.push(push.handle, offset).ok_or_else(wrong)? {
                        on_arrival(Arrival::Frame(frame, Some(origin)));
                    }
                    run = &run[used..];
                }
            }
            op::CHANGE_ROOM_REPLY => {
                // The new room follows, if there is one.
                if let Some(rooms) = &mut self.rooms {
                    rooms.leave_primary();
                }
                on_arrival(Arrival::Frame(frame, None));
            }
            op::JOIN_REPLY => {
                let reply = JoinReply::decode(frame.body).ok_or_else(wrong)?;
                let room = str::from_utf8(reply.room);
                // A refusal may contain any name that the caller sent.
                let room = if reply.outcome.is_ok() {
                    room.map_err(|_| wrong())?
                } else {
                    room.unwrap_or_default()
                };
                let rooms = self.rooms.get_or_insert_default();
                let (update, request) = rooms.joined(frame.sequence, &reply, room);
                self.tell(update, frame, on_arrival);
                self.send_request(request);
            }
            op::GAP => {
                let gap = RoomGap::decode(frame.body).ok_or_else(wrong)?;
                if let Some(rooms) = &mut self.rooms {
                    let (update, request) = rooms.gap(gap);
                    self.tell(update, frame, on_arrival);
                    self.send_request(request);
                }
            }
            _ => {
                let reply = LeaveReply::decode(frame.body).ok_or_else(wrong)?;
                let rooms = self.rooms.get_or_insert_default();
                let update = rooms.left(frame.sequence, &reply);
                self.tell(update, frame, on_arrival);
            }
        }
        Ok(())
    }

    fn tell(&self, update: RoomUpdate, frame: Frame<'_>, on_arrival: &mut impl FnMut(Arrival<'_>)) {
        match update {
            RoomUpdate::Answer => on_arrival(Arrival::Frame(frame, None)),
            RoomUpdate::Room(room, joined) => on_arrival(Arrival::Room(&room, joined)),
            RoomUpdate::Left(room) => on_arrival(Arrival::Left(&room)),
            RoomUpdate::Gap(gap) => on_arrival(Arrival::Gap(gap)),
            RoomUpdate::Nothing => {}
        }
    }

    fn send_request(&mut self, request: Option<RoomRequest>) {
        match request {
            Some(RoomRequest::Join { sequence, room, since }) => {
                let join = Join { since: Some(since), room: room.as_bytes() };
                self.send(op::JOIN, sequence, &join.encode());
            }
            Some(RoomRequest::Leave { sequence, handle }) => {
                self.send(op::LEAVE, sequence, &Leave { handle }.encode());
            }
            None => {}
        }
    }

    /// The largest body that a frame may have. In protocol 2 a batch to a room is the body of one frame.
    fn frame_body_max(&self) -> usize {
        if self.auth_reply.is_some() { self.message_max() } else { self.body_max }
    }

    fn message_max(&self) -> usize {
        HEADER_LEN
            .saturating_add(self.body_max)
            .saturating_mul(BATCH_FRAMES_MAX)
            .saturating_add(HEADER_LEN)
    }
}

fn check_body(body: &[u8], body_max: usize) -> Result<(), FrameFault> {
    let body_len = body.len();
    if body_len > body_max {
        return Err(FrameFault::BodyTooLarge { body_len, body_max });
    }
    Ok(())
}
