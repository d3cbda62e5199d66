//! The storage of parked pushes: their frames are concatenated in one buffer.
//!
//! A client that comes back usually gets all of them at once. Then the buffer is read from begin to end. With a
//! separate frame for each push that would be one or two cache misses each.

use comet_proto::Encoded;

use crate::transport::Transport;

/// A push that waits for the next connection of a key.
#[derive(Clone, Debug)]
pub struct ParkedPush {
    /// The operation that an accept filter looks at.
    pub operation: i32,
    /// The bytes, for both transports.
    pub frame: Encoded,
    /// The former connection accepted it. If not, the next one's filter decides.
    pub is_accepted: bool,
}

/// Pushes in order.
#[derive(Clone, Debug, Default)]
pub struct ParkedFrames {
    /// The WebSocket forms.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    operation: i32,
    /// The end of its bytes in the buffer.
    end: u32,
    /// The offset of the TCP form within them.
    tcp_at: u32,
    is_accepted: bool,
}

/// A [`ParkedPush`] whose frame is stored elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ParkedFrame<'a> {
    pub(crate) operation: i32,
    /// The WebSocket form.
    pub(crate) bytes: &'a [u8],
    /// The offset of the TCP form within it.
    pub(crate) tcp_at: usize,
    pub(crate) is_accepted: bool,
}

impl<'a> ParkedFrame<'a> {
    pub(crate) fn new(operation: i32, frame: &'a Encoded, is_accepted: bool) -> Self {
        let (bytes, tcp_at) = frame.parts();
        Self { operation, bytes, tcp_at, is_accepted }
    }

    /// Copies the push into a frame of its own.
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

    /// The length of the WebSocket forms.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The number of pushes that are sent whatever the next connection accepts.
    pub(crate) fn accepted(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_accepted).count()
    }

    /// Adds a push at the end. The caller bounds the bytes by `ResumeLimits::bytes`.
    pub(crate) fn push(&mut self, push: ParkedFrame<'_>) {
        let ParkedFrame { operation, bytes, tcp_at, is_accepted } = push;
        let end = self.bytes.len() + bytes.len();
        if end > self.bytes.capacity() {
            // The buffer grows by a quarter: if it were doubled, its unused memory could equal the memory that is
            // accounted for.
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

    /// All frames joined into one, for clients on `transport`.
    pub(crate) fn joined(&self, transport: Transport) -> Encoded {
        match transport {
            Transport::Tcp => Encoded::joined(self.iter().map(|push| push.on(Transport::Tcp))),
            Transport::WebSocket | Transport::EventStream => Encoded::verbatim(&self.bytes),
        }
    }

    /// The number of frames that end within the first `taken` bytes on `transport`, and their length.
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
    fn parked_frames_are_read_back_unchanged() {
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
