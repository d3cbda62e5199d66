//! Received data that the caller has not taken yet: messages in their order, and the content of replies.

use std::collections::VecDeque;

use comet_proto::{Frame, JoinReply, LeaveReply, Position, RoomRefusal, op};

use crate::room_news::{Gap, Joined};
use crate::session::{Arrival, Origin};

/// A message of the server that is not a reply to a request of this client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The kind of message; [`op::SEND_REPLY`] unless its sender chose another.
    pub operation: i32,
    /// The number that its sender set. In the echo of a message sent with
    /// [`Client::send`](crate::Client::send) it is the number which that returned.
    pub sequence: i32,
    /// The content of the message.
    pub body: Vec<u8>,
    /// The room to which it was pushed. `None`: it was pushed in another way, or the server speaks protocol 1.
    pub room: Option<Box<str>>,
    /// Its place in the room's history, if the room keeps one. The next connection may request the later messages
    /// ([`Client::add_room_since`](crate::Client::add_room_since)).
    pub position: Option<Position>,
}

impl Message {
    /// Bytes of its parts.
    fn memory(&self) -> usize {
        self.body.len() + self.room.as_ref().map_or(0, |room| room.len())
    }
}

/// An item that waits to be received.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    Room(Box<str>, Joined),
    /// The server has removed the connection from this room.
    Left(Box<str>),
    Gap(Gap),
}

impl Received {
    /// Bytes of memory.
    fn memory(&self) -> usize {
        let parts = match self {
            Self::Message(message) => message.memory(),
            Self::Room(room, _) | Self::Left(room) | Self::Gap(Gap { room, .. }) => room.len(),
        };
        size_of::<Self>() + parts
    }
}

/// Most gaps kept for a caller that does not take them.
const GAPS_MAX: usize = 1_024;

/// Messages that wait to be received, and the reply that a request waits for.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    arrived: VecDeque<Received>,
    /// Memory of the items in `arrived`, in bytes.
    pub(crate) bytes: usize,
    /// Gaps from before the messages taken so far.
    gaps: VecDeque<Gap>,
    /// Number of `Received::Left` items in `arrived`.
    left: usize,
    /// Operations and sequences of the replies that requests wait for.
    awaited: Vec<(i32, i32)>,
    /// What the server said of the rooms that these requests were about, by their sequences.
    answers: Vec<(i32, Result<Joined, RoomRefusal>)>,
    /// How many connections are in the room, by the reply to the last heartbeat.
    pub(crate) online: Option<u32>,
}

impl Inbox {
    /// New requests are made. The replies to earlier ones, whose caller no longer waits, are dropped when they arrive.
    pub(crate) fn forget_requests(&mut self) {
        self.awaited.clear();
        self.answers.clear();
    }

    /// Expects the reply to a request.
    pub(crate) fn await_reply(&mut self, operation: i32, sequence: i32) {
        self.awaited.push((operation, sequence));
    }

    /// How many replies are expected.
    pub(crate) fn awaited_replies(&self) -> usize {
        self.awaited.len()
    }

    /// Takes what the server said of the room of this request.
    pub(crate) fn take_answer(&mut self, sequence: i32) -> Option<Result<Joined, RoomRefusal>> {
        let at = self.answers.iter().position(|(answered, _)| *answered == sequence)?;
        Some(self.answers.swap_remove(at).1)
    }

    /// Takes an arrival. `has_rooms`: the server speaks protocol 2.
    pub(crate) fn push(&mut self, arrival: Arrival<'_>, has_rooms: bool) {
        match arrival {
            Arrival::Frame(frame, origin) => self.push_frame(frame, origin, has_rooms),
            Arrival::Room(room, joined) => self.queue(Received::Room(room.into(), joined)),
            Arrival::Left(room) => {
                self.left += 1;
                self.queue(Received::Left(room.into()));
            }
            Arrival::Gap(gap) => self.queue(Received::Gap(gap)),
        }
    }

    fn queue(&mut self, received: Received) {
        self.bytes += received.memory();
        self.arrived.push_back(received);
    }

    /// The caller asks to enter `room`. This takes precedence over a removal that the caller has not been told of.
    pub(crate) fn forget_left(&mut self, room: &str) {
        if self.left > 0 {
            self.arrived.retain(|received| {
                let is_over = matches!(received, Received::Left(left) if **left == *room);
                if is_over {
                    self.left -= 1;
                    self.bytes -= received.memory();
                }
                !is_over
            });
        }
    }

    /// Takes a frame: a message is queued, a reply is recorded.
    fn push_frame(&mut self, frame: Frame<'_>, origin: Option<Origin<'_>>, has_rooms: bool) {
        let reply = (frame.operation, frame.sequence);
        let is_awaited = self.awaited.contains(&reply);
        match frame.operation {
            // A push to a room may have any operation.
            _ if origin.is_some() => self.push_message(frame, origin),
            op::JOIN_REPLY if is_awaited => {
                let answer = JoinReply::decode(frame.body).map(|reply| {
                    let JoinReply { position, recovered, .. } = reply;
                    reply.outcome.map(|_| Joined { position, recovered })
                });
                self.note_reply(reply, answer);
            }
            op::LEAVE_REPLY if is_awaited => {
                let answer = LeaveReply::decode(frame.body);
                let answer = answer.map(|reply| reply.outcome.map(|()| Joined::default()));
                self.note_reply(reply, answer);
            }
            op::JOIN_REPLY | op::LEAVE_REPLY if has_rooms => {}
            op::HEARTBEAT_REPLY => {
                let online = frame.body.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
                self.online = online.and_then(|online| u32::try_from(online).ok());
            }
            op::CHANGE_ROOM_REPLY if is_awaited => {
                self.note_reply(reply, None);
                self.forget_left(&String::from_utf8_lossy(frame.body));
            }
            op::SUBSCRIBE_REPLY | op::UNSUBSCRIBE_REPLY | op::AUTH_REPLY if is_awaited => {
                self.note_reply(reply, None);
            }
            op::CHANGE_ROOM_REPLY | op::SUBSCRIBE_REPLY | op::UNSUBSCRIBE_REPLY => {}
            _ => self.push_message(frame, None),
        }
    }

    fn note_reply(&mut self, reply: (i32, i32), answer: Option<Result<Joined, RoomRefusal>>) {
        self.awaited.retain(|awaited| *awaited != reply);
        self.answers.extend(answer.map(|answer| (reply.1, answer)));
    }

    fn push_message(&mut self, frame: Frame<'_>, origin: Option<Origin<'_>>) {
        let Frame { operation, sequence, body, .. } = frame;
        let message = Message {
            operation,
            sequence,
            body: body.to_vec(),
            room: origin.map(|origin| origin.room.into()),
            position: origin.and_then(|origin| origin.position),
        };
        self.queue(Received::Message(message));
    }

    /// Whether no item waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Takes the oldest item.
    pub(crate) fn pop(&mut self) -> Option<Received> {
        let received = self.arrived.pop_front()?;
        self.bytes -= received.memory();
        if let Received::Left(_) = received {
            self.left -= 1;
        }
        Some(received)
    }

    /// Keeps a gap from before the next message.
    pub(crate) fn keep_gap(&mut self, gap: Gap) {
        if self.gaps.len() == GAPS_MAX {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
    }

    /// Takes the oldest gap.
    pub(crate) fn pop_gap(&mut self) -> Option<Gap> {
        self.gaps.pop_front()
    }
}
