//! What is pushed: a body whose first bytes say which run, stream and place it is and when it was meant to
//! be sent, and the frame around it (goim's wire: lengths, version, operation, sequence; big-endian).

/// Bytes of a [`Stamp`]; no body can be smaller.
pub(crate) const STAMP_LEN: usize = 28;
/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 16;
/// Operation of a run of whole frames.
pub(crate) const OP_RAW: i32 = 9;
/// Operation of a client's heartbeat.
pub(crate) const OP_HEARTBEAT: i32 = 2;
/// Operation of the reply to an authentication.
pub(crate) const OP_AUTH_REPLY: i32 = 8;

const MAGIC: [u8; 4] = *b"CMTB";
const PADDING: u8 = b'.';

/// What a receiver needs to account for a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Tells this run's deliveries from strangers.
    pub run: u32,
    /// The room or the key it was pushed to.
    pub stream: u32,
    /// Counts up in its stream, from 0.
    pub sequence: u64,
    /// When it was meant to be sent: the tick of the schedule, not the moment the sender came to it.
    pub intended_ns: u64,
}

impl Stamp {
    /// Reads a body; `None` where no bench wrote it.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let (magic, rest) = body.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let intended_ns = rest.first_chunk()?;
        (*magic == MAGIC).then(|| Self {
            run: u32::from_be_bytes(*run),
            stream: u32::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
            intended_ns: u64::from_be_bytes(*intended_ns),
        })
    }

    /// Appends a body of `size` bytes.
    ///
    /// # Panics
    ///
    /// `size` is below [`STAMP_LEN`].
    pub(crate) fn append_body(&self, size: usize, out: &mut Vec<u8>) {
        let padding = size.checked_sub(STAMP_LEN).expect("sizes are checked with the arguments");
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.run.to_be_bytes());
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.intended_ns.to_be_bytes());
        out.resize(out.len() + padding, PADDING);
    }

    /// Appends a frame around a body of `size` bytes.
    pub(crate) fn append_frame(&self, operation: i32, size: usize, out: &mut Vec<u8>) {
        // A client may watch a frame's own sequence number; the stamp has the true one.
        let sequence = (self.sequence & 0x7fff_ffff) as u32;
        append_header(operation, sequence, size, out);
        self.append_body(size, out);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, stream: 3, sequence: 1 << 40, intended_ns: 99 };

    #[test]
    fn a_body_has_the_size_asked_for_and_reads_back() {
        for size in [STAMP_LEN, STAMP_LEN + 1, 1024] {
            let mut body = Vec::new();
            STAMP.append_body(size, &mut body);
            assert_eq!(body.len(), size);
            assert_eq!(Stamp::decode(&body), Some(STAMP));
        }
    }

    #[test]
    fn a_frame_says_its_length() {
        let mut frame = Vec::new();
        STAMP.append_frame(1000, 40, &mut frame);
        assert_eq!(frame.len(), 56);
        assert_eq!(frame[..16], [0, 0, 0, 56, 0, 16, 0, 1, 0, 0, 3, 232, 0, 0, 0, 0]);
        assert_eq!(Stamp::decode(&frame[HEADER_LEN..]), Some(STAMP));
    }

    #[test]
    fn other_bodies_are_no_stamp() {
        assert_eq!(Stamp::decode(b""), None);
        assert_eq!(Stamp::decode(&[0; STAMP_LEN]), None);
        let mut body = Vec::new();
        STAMP.append_body(STAMP_LEN, &mut body);
        assert_eq!(Stamp::decode(&body[..STAMP_LEN - 1]), None);
    }
}
