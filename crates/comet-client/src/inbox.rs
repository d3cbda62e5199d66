//! What has arrived and was not received by the caller yet: messages in their order, and the
//! content of replies.

use std::collections::VecDeque;

use comet_proto::{Frame, JoinReply, LeaveReply, RoomRefusal, op};

/// What a server sent that is not a reply to a request of this client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The kind of message; [`op::SEND_REPLY`] unless its sender chose another.
    pub operation: i32,
    /// The number that its sender set. In the echo of a message sent with
    /// [`Client::send`](crate::Client::send) it is the number which that returned.
    pub sequence: i32,
    /// The content of the message.
    pub body: Vec<u8>,
    /// The room that it was pushed to. `None`: it was pushed in another way, or the server speaks protocol 1.
    pub room: Option<Box<str>>,
}

impl Message {
    /// Bytes that it takes.
    fn memory(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.room.as_ref().map_or(0, |room| room.len())
    }
}

/// Messages that wait to be received, and the reply that a request waits for.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: VecDeque<Message>,
    /// Memory of the messages, in bytes.
    pub(crate) bytes: usize,
    /// Operation and sequence of the reply that a request waits for.
    pub(crate) awaited_reply: Option<(i32, i32)>,
    /// Why the request that was answered last is refused, if it is.
    pub(crate) refusal: Option<RoomRefusal>,
    /// How many connections are in the room, by the reply to the last heartbeat.
    pub(crate) online: Option<u32>,
}

impl Inbox {
    /// Takes a frame: a message is queued, a reply is recorded.
    pub(crate) fn push(&mut self, frame: Frame<'_>, room: Option<&str>) {
        let is_awaited = self.awaited_reply == Some((frame.operation, frame.sequence));
        match frame.operation {
            // A push to a room may have any operation.
            _ if room.is_some() => self.push_message(frame, room),
            op::JOIN_REPLY | op::LEAVE_REPLY if is_awaited => {
                self.awaited_reply = None;
                let joined = JoinReply::decode(frame.body).map(|reply| reply.outcome.map(|_| ()));
                let left = LeaveReply::decode(frame.body).map(|reply| reply.outcome);
                let outcome = if frame.operation == op::JOIN_REPLY { joined } else { left };
                self.refusal = outcome.and_then(Result::err);
            }
            op::HEARTBEAT_REPLY => {
                let online = frame.body.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
                self.online = online.and_then(|online| u32::try_from(online).ok());
            }
            op::CHANGE_ROOM_REPLY | op::SUBSCRIBE_REPLY | op::UNSUBSCRIBE_REPLY => {
                self.awaited_reply.take_if(|awaited| *awaited == (frame.operation, frame.sequence));
            }
            op::AUTH_REPLY if is_awaited => self.awaited_reply = None,
            _ => self.push_message(frame, room),
        }
    }

    fn push_message(&mut self, frame: Frame<'_>, room: Option<&str>) {
        let Frame { operation, sequence, body, .. } = frame;
        let message =
            Message { operation, sequence, body: body.to_vec(), room: room.map(Into::into) };
        self.bytes += message.memory();
        self.messages.push_back(message);
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.memory();
        Some(message)
    }
}
