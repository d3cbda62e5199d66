//! What came and was not asked for yet: messages in their order, and what replies say.

use std::collections::VecDeque;

use comet_proto::{Frame, op};

/// What a server sent that is not a reply to a request of this client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What kind of message it is; [`op::SEND_REPLY`] unless its sender chose another.
    pub operation: i32,
    /// As its sender set it. Where it is the echo of a message sent with
    /// [`Client::send`](crate::Client::send), what that returned.
    pub sequence: i32,
    /// The message.
    pub body: Vec<u8>,
}

/// Messages that wait to be received, and the reply that is waited for.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: VecDeque<Message>,
    /// What the messages take in memory.
    pub(crate) bytes: usize,
    /// Operation and sequence of the reply that is waited for.
    pub(crate) awaited: Option<(i32, i32)>,
    /// How many are in the room, by the last heartbeat's reply.
    pub(crate) online: Option<u32>,
}

impl Inbox {
    /// Takes in a frame: a message waits here, a reply is noted.
    pub(crate) fn push(&mut self, frame: Frame<'_>) {
        match frame.operation {
            op::HEARTBEAT_REPLY => {
                let online = frame.body.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
                self.online = online.and_then(|online| u32::try_from(online).ok());
            }
            op::CHANGE_ROOM_REPLY | op::SUBSCRIBE_REPLY | op::UNSUBSCRIBE_REPLY => {
                self.awaited.take_if(|awaited| *awaited == (frame.operation, frame.sequence));
            }
            operation => {
                self.bytes += size_of::<Message>() + frame.body.len();
                let body = frame.body.to_vec();
                self.messages.push_back(Message { operation, sequence: frame.sequence, body });
            }
        }
    }

    /// No message waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The oldest message.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= size_of::<Message>() + message.body.len();
        Some(message)
    }
}
