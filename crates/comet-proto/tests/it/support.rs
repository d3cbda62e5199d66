//! A simple implementation of the client's side, for comparison.

use comet_proto::websocket::{Accepted, Event, Fault, Fragments, MessageKinds, read};

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
pub(crate) const FIN: u8 = 0x80;

/// A masked WebSocket frame, as a client sends it. `first` is its first byte.
pub(crate) fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// An [`Event`] that owns its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Message(Vec<u8>),
    Text(String),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
    Fragment,
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(payload) => Self::Message(payload.to_vec()),
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong => Self::Pong,
            Event::Close(code) => Self::Close(code),
            Event::Fragment => Self::Fragment,
            Event::Compressed { .. } => unreachable!("no compressed messages are taken"),
        }
    }
}

/// The reading end of a connection. It keeps unconsumed input, as a driver does.
#[derive(Default)]
pub(crate) struct Reader {
    unread: Vec<u8>,
    fragments: Option<Box<Fragments>>,
    scratch: Vec<u8>,
}

impl Reader {
    /// Takes a piece of the stream, and appends the events it completes to `seen`.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        message_max: usize,
        seen: &mut Vec<Seen>,
    ) -> Result<(), Fault> {
        self.unread.extend_from_slice(piece);
        while let Some((event, consumed)) = read(
            &self.unread,
            &mut self.fragments,
            &mut self.scratch,
            Accepted { message_max, kinds: MessageKinds::Binary, deflate: false },
        )? {
            seen.push(event.into());
            self.unread.drain(..consumed);
        }
        Ok(())
    }

    /// Whether it keeps no bytes and no open message.
    pub(crate) fn is_idle(&self) -> bool {
        self.unread.is_empty() && self.fragments.is_none()
    }
}

/// Cuts `stream` into pieces of these lengths, which are repeated.
pub(crate) fn pieces<'a>(mut stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(length.clamp(1, stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// An upgrade request with these header lines besides `Host`.
pub(crate) fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("{line}\r\nHost: comet.example\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The headers of the example in RFC 6455 1.2.
pub(crate) const GOOD_HEADERS: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];
