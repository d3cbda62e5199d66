//! The content of pushes: a body that begins with its run, stream, sequence number and the time it was due, and the
//! frame around it (goim's wire format: lengths, version, operation, sequence; big-endian).
//!
//! A body that is too small for all of that has a compact stamp: everything but the time, in 10 bytes.

use std::sync::OnceLock;

/// Bytes of a whole [`Stamp`]; bodies from this size on carry the time they were due.
pub(crate) const STAMP_LEN: usize = 28;
/// Bytes of a compact [`Stamp`]; no body can be smaller.
pub(crate) const COMPACT_LEN: usize = 10;
/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 16;
/// Operation of a run of whole frames.
pub(crate) const OP_RAW: i32 = 9;
/// Operation of a client's heartbeat.
pub(crate) const OP_HEARTBEAT: i32 = 2;
/// Operation of the reply to it.
pub(crate) const OP_HEARTBEAT_REPLY: i32 = 3;
/// Operation of a client's message to logic, and of the answer.
pub(crate) const OP_SEND: i32 = 4;
/// Operation of the reply to an authentication.
pub(crate) const OP_AUTH_REPLY: i32 = 8;
/// Operation of a client's change to another room, whose id is the body.
pub(crate) const OP_CHANGE_ROOM: i32 = 12;
/// Operation of the reply to it.
pub(crate) const OP_CHANGE_ROOM_REPLY: i32 = 13;

const MAGIC: [u8; 4] = *b"CMTB";
/// Bytes of the text that fills bodies, beginning at different places.
const FILLING: usize = 1 << 16;
/// Bits of a compact stamp, 80 in total: 16 for the run, 24 for the stream, 40 for the sequence number.
const COMPACT_STREAM_BITS: u32 = 24;
const COMPACT_SEQUENCE_BITS: u32 = 40;

/// What a receiver must know to account for a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Distinguishes this run's deliveries from others.
    pub run: u32,
    /// The room or the key that it was pushed to.
    pub stream: u32,
    /// Counts up in its stream, from 0.
    pub sequence: u64,
    /// When it was due: the tick of the schedule, not the moment when it was really sent. `None` in a compact stamp.
    pub intended_ns: Option<u64>,
}

impl Stamp {
    /// Decodes a body; `None` if it does not belong to `run`.
    pub(crate) fn decode(body: &[u8], run: u32) -> Option<Self> {
        if body.len() < STAMP_LEN {
            let mut compact = [0; 16];
            compact[16 - COMPACT_LEN..].copy_from_slice(body.first_chunk::<COMPACT_LEN>()?);
            let compact = u128::from_be_bytes(compact);
            let sequence = compact as u64 & ((1 << COMPACT_SEQUENCE_BITS) - 1);
            let stream =
                (compact >> COMPACT_SEQUENCE_BITS) as u32 & ((1 << COMPACT_STREAM_BITS) - 1);
            let stamp = Self { run, stream, sequence, intended_ns: None };
            return (compact == stamp.compact()).then_some(stamp);
        }
        let (magic, rest) = body.split_first_chunk::<4>()?;
        let (written_by, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let intended_ns = rest.first_chunk()?;
        (*magic == MAGIC && u32::from_be_bytes(*written_by) == run).then(|| Self {
            run,
            stream: u32::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
            intended_ns: Some(u64::from_be_bytes(*intended_ns)),
        })
    }

    /// Appends a body of `size` bytes. Panics if `size` is less than [`COMPACT_LEN`], or the stamp has no time although
    /// a body of this size has room for it.
    pub(crate) fn append_body(&self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size;
        if size < STAMP_LEN {
            out.extend_from_slice(&self.compact().to_be_bytes()[16 - COMPACT_LEN..]);
        } else {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&self.run.to_be_bytes());
            out.extend_from_slice(&self.stream.to_be_bytes());
            out.extend_from_slice(&self.sequence.to_be_bytes());
            let intended_ns = self.intended_ns.expect("a sender knows when it is to send");
            out.extend_from_slice(&intended_ns.to_be_bytes());
        }
        assert!(out.len() <= end, "sizes are checked with the arguments");
        let filling = filling();
        let mut at = (self.sequence as usize).wrapping_mul(4_099) % FILLING;
        while out.len() < end {
            let length = (end - out.len()).min(FILLING - at);
            out.extend_from_slice(&filling[at..][..length]);
            at = 0;
        }
    }

    /// Appends a frame around a body of `size` bytes.
    pub(crate) fn append_frame(&self, operation: i32, size: usize, out: &mut Vec<u8>) {
        // A client may check a frame's own sequence number; the stamp has the full one.
        let sequence = (self.sequence & 0x7fff_ffff) as u32;
        append_header(operation, sequence, size, out);
        self.append_body(size, out);
    }

    /// The compact form, the last [`COMPACT_LEN`] bytes of the number.
    fn compact(&self) -> u128 {
        u128::from(self.run as u16) << (COMPACT_STREAM_BITS + COMPACT_SEQUENCE_BITS)
            | u128::from(self.stream) << COMPACT_SEQUENCE_BITS
            | u128::from(self.sequence)
    }
}

/// JSON like that in typical pushes: the same members with different values, so that it compresses equally well.
fn filling() -> &'static [u8] {
    static FILLING_TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    FILLING_TEXT.get_or_init(|| {
        let (mut text, mut seed) = (Vec::with_capacity(2 * FILLING), 1_u64);
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        while text.len() < FILLING {
            let side = if random(2) == 0 { "buy" } else { "sell" };
            let (id, price, cents) = (random(1_000_000), random(500), random(100));
            let (size, user) = (random(1_000), random(10_000));
            let record = format!(
                r#"{{"id":{id},"price":{price}.{cents:02},"size":{size},"side":"{side}","user":"user_{user}"}},"#
            );
            text.extend_from_slice(record.as_bytes());
        }
        text.truncate(FILLING);
        text
    })
}

/// Appends the header of a frame with a body of `size` bytes.
pub(crate) fn append_header(operation: i32, sequence: u32, size: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(HEADER_LEN + size).expect("sizes are checked with the arguments");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&(HEADER_LEN as u16).to_be_bytes());
    out.extend_from_slice(&1_u16.to_be_bytes());
    out.extend_from_slice(&operation.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
}

/// A whole frame.
pub(crate) fn frame(operation: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
    append_header(operation, 1, body.len(), &mut frame);
    frame.extend_from_slice(body);
    frame
}

/// The frames of a run as its sender writes them. A receiver that knows the next frame compares a few words of each,
/// and only parses frames that differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    run: u32,
    length: usize,
    /// The header without the sequence number, which the server fills in.
    head: [u8; HEADER_LEN - 4],
}

impl Shape {
    /// The shape of the frames of `run` with `operation` and bodies of `size` bytes.
    pub(crate) fn new(run: u32, operation: i32, size: usize) -> Self {
        let mut header = Vec::new();
        append_header(operation, 0, size, &mut header);
        let head = *header.first_chunk().expect("a header is longer than its start");
        Self { run, length: HEADER_LEN + size, head }
    }

    /// Bytes of a frame.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Whether `bytes`, as far as they go, begin like the header of such a frame.
    pub(crate) fn begins(&self, bytes: &[u8]) -> bool {
        let known = bytes.len().min(self.head.len());
        bytes[..known] == self.head[..known]
    }

    /// The number of frames at the head of `input` that are the messages of `stream` from `next` on, in order.
    /// `on_time` is called with the time when they were due, and their number.
    pub(crate) fn count(
        &self,
        input: &[u8],
        stream: u32,
        next: u64,
        on_time: impl FnMut(u64, u64),
    ) -> u64 {
        let first = Stamp { run: self.run, stream, sequence: next, intended_ns: None };
        if self.length < HEADER_LEN + STAMP_LEN {
            self.count_compact(input, first)
        } else {
            self.count_whole(input, first, on_time)
        }
    }

    fn count_compact(&self, input: &[u8], first: Stamp) -> u64 {
        let mut next = first.compact();
        for frame in input.chunks_exact(self.length) {
            let frame: &[u8; HEADER_LEN + COMPACT_LEN] =
                frame.first_chunk().expect("no body is smaller than a compact stamp");
            let (high, low) = frame[HEADER_LEN..].split_at(8);
            let is_next = frame[..self.head.len()] == self.head
                && *high == ((next >> 16) as u64).to_be_bytes()
                && *low == (next as u16).to_be_bytes();
            if !is_next {
                break;
            }
            next += 1;
        }
        (next - first.compact()) as u64
    }

    fn count_whole(&self, input: &[u8], first: Stamp, mut on_time: impl FnMut(u64, u64)) -> u64 {
        let mut mark = [0; 12];
        mark[..4].copy_from_slice(&MAGIC);
        mark[4..8].copy_from_slice(&self.run.to_be_bytes());
        mark[8..].copy_from_slice(&first.stream.to_be_bytes());
        let mut next = first.sequence;
        // Frames of one push are due at the same time: that time, and the first frame with it.
        let mut same = (0, next);
        for frame in input.chunks_exact(self.length) {
            let frame: &[u8; HEADER_LEN + STAMP_LEN] =
                frame.first_chunk().expect("such bodies hold a stamp");
            let stamp = &frame[HEADER_LEN..];
            let is_next = frame[..self.head.len()] == self.head
                && stamp[..12] == mark
                && stamp[12..20] == next.to_be_bytes();
            if !is_next {
                break;
            }
            let intended_ns = u64::from_be_bytes(*stamp.last_chunk().expect("8 of its bytes"));
            if intended_ns != same.0 {
                if next > same.1 {
                    on_time(same.0, next - same.1);
                }
                same = (intended_ns, next);
            }
            next += 1;
        }
        if next > same.1 {
            on_time(same.0, next - same.1);
        }
        next - first.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, stream: 3, sequence: 1 << 39, intended_ns: Some(99) };

    #[test]
    fn a_body_has_the_size_asked_for_and_reads_back() {
        for size in [COMPACT_LEN, STAMP_LEN - 1, STAMP_LEN, STAMP_LEN + 1, 1024] {
            let mut body = Vec::new();
            STAMP.append_body(size, &mut body);
            assert_eq!(body.len(), size);
            let intended_ns = STAMP.intended_ns.filter(|_| size >= STAMP_LEN);
            assert_eq!(Stamp::decode(&body, 7), Some(Stamp { intended_ns, ..STAMP }));
            assert_eq!(Stamp::decode(&body, 8), None, "another run's");
        }
    }

    #[test]
    fn a_frame_says_its_length() {
        let mut frame = Vec::new();
        STAMP.append_frame(1000, 40, &mut frame);
        assert_eq!(frame.len(), 56);
        assert_eq!(frame[..16], [0, 0, 0, 56, 0, 16, 0, 1, 0, 0, 3, 232, 0, 0, 0, 0]);
        assert_eq!(Stamp::decode(&frame[HEADER_LEN..], 7), Some(STAMP));
    }

    #[test]
    fn other_bodies_are_no_stamp() {
        assert_eq!(Stamp::decode(b"", 7), None);
        assert_eq!(Stamp::decode(&[0; COMPACT_LEN - 1], 0), None);
        assert_eq!(Stamp::decode(&[1; COMPACT_LEN], 7), None);
        assert_eq!(Stamp::decode(&[0; STAMP_LEN], 7), None);
    }

    /// Frames of `size` with these sequence numbers, two for each due time.
    fn frames(size: usize, sequences: &[u64]) -> Vec<u8> {
        let mut frames = Vec::new();
        for &sequence in sequences {
            let intended_ns = Some(1000 + sequence / 2);
            Stamp { sequence, intended_ns, ..STAMP }.append_frame(5, size, &mut frames);
        }
        frames
    }

    #[test]
    fn frames_are_counted_up_to_the_first_that_is_not_next() {
        for size in [COMPACT_LEN, 20, STAMP_LEN, 100] {
            let shape = Shape::new(7, 5, size);
            let check = |sequences: &[u64], cut: usize, count| {
                let input = frames(size, sequences);
                let is = shape.count(&input[..input.len() - cut], 3, 4, |_, _| {});
                assert_eq!(is, count, "{sequences:?} of {size} bytes, {cut} cut off");
            };
            check(&[], 0, 0);
            check(&[4, 5, 6], 0, 3);
            check(&[4, 5, 6], 1, 2);
            check(&[4, 6], 0, 1);
            check(&[4, 4], 0, 1);
            check(&[5], 0, 0);
            let input = frames(size, &[4]);
            for (run, operation, stream) in [(8, 5, 3), (7, 6, 3), (7, 5, 2)] {
                let is = Shape::new(run, operation, size).count(&input, stream, 4, |_, _| {});
                assert_eq!(is, 0, "a frame of run 7, operation 5 and stream 3");
            }
        }
    }

    #[test]
    fn frames_of_one_time_are_reported_together() {
        let mut times = Vec::new();
        let shape = Shape::new(7, 5, 40);
        let input = frames(40, &[3, 4, 5, 6, 9]);
        shape.count(&input, 3, 3, |intended_ns, count| times.push((intended_ns, count)));
        assert_eq!(times, [(1001, 1), (1002, 2), (1003, 1)]);
    }

    #[test]
    fn a_cut_frame_is_recognized_by_its_beginning() {
        let shape = Shape::new(7, 5, 40);
        let frame = frames(40, &[0]);
        assert!(shape.begins(&frame[..3]) && shape.begins(&frame[..30]));
        assert!(!shape.begins(&frame[1..]));
    }
}
