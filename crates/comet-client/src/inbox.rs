//! What has arrived and was not received by the caller yet: messages in their order, and the
//! content of replies.

use std::collections::VecDeque;

use comet_proto::{Frame, op};

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
}

/// Messages that wait to be received, and the reply that a request waits for.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: VecDeque<Message>,
    /// Memory of the messages, in bytes.
    pub(crate) bytes: usize,
    /// Operation and sequence of the reply that a request waits for.
    pub(crate) awaited_reply: Option<(i32, i32)>,
    /// How many connections are in the room, by the reply to the last heartbeat.
    pub(crate) online: Option<u32>,
}

impl Inbox {
    /// Takes a frame: a message is queued, a reply is recorded.
    pub(crate) fn push(&mut self, frame: Frame<'_>) {
        match frame.operation {
            op::HEARTBEAT_REPLY => {
                let online = frame.body.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
                self.online = online.and_then(|online| u32::try_from(online).ok());
            }
            op::CHANGE_ROOM_REPLY | op::SUBSCRIBE_REPLY | op::UNSUBSCRIBE_REPLY => {
                self.awaited_reply.take_if(|awaited| *awaited == (frame.operation, frame.sequence));
            }
            op::AUTH_REPLY if self.awaited_reply == Some((op::AUTH_REPLY, frame.sequence)) => {
                self.awaited_reply = None;
            }
            operation => {
                self.bytes += size_of::<Message>() + frame.body.len();
                let body = frame.body.to_vec();
                self.messages.push_back(Message { operation, sequence: frame.sequence, body });
            }
        }
    }

    /// Whether no message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes the oldest message.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= size_of::<Message>() + message.body.len();
        Some(message)
    }
}
