//! Parked pushes as they are kept: their frames behind each other in one buffer.
//!
//! A client that comes back is mostly sent all of them at once. One buffer is then read from its begin to its end, where a
//! frame of its own for each push would be a cache miss or two each.

use comet_proto::Encoded;

use crate::transport::Transport;

/// A push that waits for a key to come back.
#[derive(Clone, Debug)]
pub struct ParkedPush {
    /// The operation that an accept filter looks at.
    pub operation: i32,
    /// The bytes, for both transports.
    pub frame: Encoded,
    /// The former connection accepted it. If not, the next one is asked.
    pub is_accepted: bool,
}

/// Pushes in their order.
#[derive(Clone, Debug, Default)]
pub struct ParkedFrames {
    /// The forms for a WebSocket.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    operation: i32,
    /// Where it ends in the buffer.
    end: u32,
    /// Where in it the form for TCP begins.
    tcp_at: u32,
    is_accepted: bool,
}

/// A [`ParkedPush`] whose frame is elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ParkedFrame<'a> {
    pub(crate) operation: i32,
    /// The form for a WebSocket.
    pub(crate) bytes: &'a [u8],
    /// Where in it the form for TCP begins.
    pub(crate) tcp_at: usize,
    pub(crate) is_accepted: bool,
}

impl<'a> ParkedFrame<'a> {
    pub(crate) fn new(operation: i32, frame: &'a Encoded, is_accepted: bool) -> Self {
        let (bytes, tcp_at) = frame.parts();
        Self { operation, bytes, tcp_at, is_accepted }
    }

    /// The push with a frame of its own.
    pub(crate) fn to_push(self) -> ParkedPush {
        let Self { operation, bytes, tcp_at, is_accepted } = self;
        let frame = Encoded::from_parts(bytes, tcp_at).expect("it was a frame when it was parked");
        ParkedPush { operation, frame, is_accepted }
    }

    /// Its bytes on `transport`.
    pub(crate) fn on(self, transport: Transport) -> &'a [u8] {
        match transport {
            Transport::Tcp => &self.bytes[self.tcp_at..],
            Transport::WebSocket | Transport::EventStream => self.bytes,
        }
    }
}

impl ParkedPush {
    pub(crate) fn view(&self) -> ParkedFrame<'_> {
        ParkedFrame::new(self.operation, &self.frame, self.is_accepted)
    }
}

impl ParkedFrames {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The length of the forms for a WebSocket.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many go out whatever the next connection accepts.
    pub(crate) fn accepted(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_accepted).count()
    }

    /// Adds a push at the end. All of them have at most as many bytes as `ResumeLimits::bytes` can say.
    pub(crate) fn push(&mut self, push: ParkedFrame<'_>) {
        let ParkedFrame { operation, bytes, tcp_at, is_accepted } = push;
        let end = self.bytes.len() + bytes.len();
        if end > self.bytes.capacity() {
            // A quarter to spare: doubling the buffer would take as much memory again as it is counted with.
            self.bytes.reserve_exact(bytes.len().max(self.bytes.len() / 4));
        }
        self.bytes.extend_from_slice(bytes);
        let [end, tcp_at] =
            [end, tcp_at].map(|at| u32::try_from(at).expect("the bytes are bounded"));
        self.entries.push(Entry { operation, end, tcp_at, is_accepted });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ParkedFrame<'_>> + Clone {
        let mut begin = 0;
        self.entries.iter().map(move |&Entry { operation, end, tcp_at, is_accepted }| {
            let bytes = &self.bytes[begin..end as usize];
            begin = end as usize;
            ParkedFrame { operation, bytes, tcp_at: tcp_at as usize, is_accepted }
        })
    }

    /// All frames as one, for clients on `transport`.
    pub(crate) fn joined(&self, transport: Transport) -> Encoded {
        match transport {
            Transport::Tcp => Encoded::joined(self.iter().map(|push| push.on(Transport::Tcp))),
            Transport::WebSocket | Transport::EventStream => Encoded::verbatim(&self.bytes),
        }
    }

    /// How many of the frames end within the first `taken` bytes on `transport`, and their length.
    pub(crate) fn whole(&self, transport: Transport, taken: u32) -> (u32, u32) {
        let (mut pushes, mut bytes) = (0, 0);
        for push in self.iter() {
            let end = bytes + push.on(transport).len() as u32;
            if end > taken {
                break;
            }
            (pushes, bytes) = (pushes + 1, end);
        }
        (pushes, bytes)
    }
}

#[cfg(test)]
mod tests {
    use comet_proto::{Frame, op};

    use super::*;

    fn frame(operation: i32, body: &[u8]) -> Encoded {
        Encoded::frame(&Frame { version: 1, operation, sequence: 0, body })
    }

    #[test]
    fn what_was_parked_comes_out_as_it_went_in() {
        let inner = frame(7, b"in a batch");
        let frames =
            [frame(5, b""), frame(5, &[1; 300]), frame(op::RAW, inner.for_tcp()), frame(6, b"x")];
        let mut parked = ParkedFrames::default();
        for (number, frame) in frames.iter().enumerate() {
            parked.push(ParkedFrame::new(number as i32, frame, number != 1));
        }
        assert_eq!((parked.len(), parked.accepted()), (4, 3));
        for ((number, frame), push) in frames.iter().enumerate().zip(parked.iter()) {
            let ParkedPush { operation, frame: its, is_accepted } = push.to_push();
            assert_eq!((operation, is_accepted), (number as i32, number != 1));
            assert_eq!(its.parts(), frame.parts());
        }
        for transport in [Transport::Tcp, Transport::WebSocket] {
            let all: Vec<u8> =
                frames.iter().flat_map(|frame| transport.bytes(frame)).copied().collect();
            let joined = parked.joined(transport);
            assert_eq!(transport.bytes(&joined), all);
            let mut end = 0;
            for (before, frame) in (0..).zip(&frames) {
                let length = transport.bytes(frame).len() as u32;
                assert_eq!(parked.whole(transport, end + length - 1), (before, end));
                end += length;
                assert_eq!(parked.whole(transport, end), (before + 1, end));
            }
        }
    }

    #[test]
    fn a_buffer_has_a_quarter_to_spare_at_most() {
        let push = frame(5, &[1; 128]);
        let mut parked = ParkedFrames::default();
        for _ in 0..1_000 {
            parked.push(ParkedFrame::new(5, &push, true));
            let (length, capacity) = (parked.bytes(), parked.bytes.capacity());
            assert!(capacity <= length + length / 4, "{capacity} for {length}");
        }
    }
}
