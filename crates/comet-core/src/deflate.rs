//! Compression of WebSocket messages: the codec of permessage-deflate (RFC 7692 7.2).
//!
//! Every message is compressed by itself, so one compressor and one decompressor serve all connections of a shard. Each
//! is created for the first message that needs it.

use comet_proto::websocket::Fault;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The end of a sync flush, which senders omit (RFC 7692 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// How messages to clients are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deflate {
    /// Level of zlib, from 1, the fastest, to 9.
    pub level: u8,
    /// Shortest message that is compressed, bytes.
    pub message_min: usize,
}

/// Compresses the messages of a shard.
#[derive(Default)]
pub(crate) struct Deflater {
    /// The compressor and its level.
    compressor: Option<(u8, Compress)>,
    /// Kept between messages.
    output: Vec<u8>,
    /// The number of compressed messages.
    pub(crate) messages: u64,
    /// The number of bytes that compression saved.
    pub(crate) saved_bytes: u64,
}

impl Deflater {
    /// The compressed payload of `message`, if it is shorter.
    pub(crate) fn deflate(&mut self, message: &[u8], level: u8) -> Option<&[u8]> {
        if self.compressor.as_ref().is_none_or(|(of, _)| *of != level) {
            let compressor = Compress::new(Compression::new(level.into()), false);
            self.compressor = Some((level, compressor));
        }
        let (_, compressor) = self.compressor.as_mut()?;
        compressor.reset();
        // A payload that is one byte shorter than the message leaves, with the tail, one byte free. So a full buffer
        // means that the payload is not shorter.
        let space = message.len() + TAIL.len();
        if self.output.len() < space {
            self.output.resize(space, 0);
        }
        let output = &mut self.output[..space];
        compressor.compress(message, output, FlushCompress::Sync).ok()?;
        let length = compressor.total_out() as usize;
        let is_whole = compressor.total_in() as usize == message.len() && length < space;
        let payload = self.output[..length].strip_suffix(&TAIL);
        payload.filter(|_| is_whole).inspect(|_| self.messages += 1)
    }
}

/// Inflates the messages of a shard.
#[derive(Default)]
pub(crate) struct Inflater {
    decompressor: Option<Decompress>,
    /// Kept between messages.
    output: Vec<u8>,
}

impl Inflater {
    /// The message in `payload`.
    ///
    /// # Errors
    /// If the message is longer than `message_max`, or `payload` is not compressed data.
    pub(crate) fn inflate(&mut self, payload: &[u8], message_max: usize) -> Result<&[u8], Fault> {
        let decompressor = self.decompressor.get_or_insert_with(|| Decompress::new(false));
        decompressor.reset(false);
        // With one byte more than `message_max`, a longer message is told from one of exactly that length.
        self.output.resize(message_max + 1, 0);
        let mut length = 0;
        for mut input in [payload, &TAIL] {
            while !input.is_empty() {
                let (taken, made) = (decompressor.total_in(), decompressor.total_out());
                let output = &mut self.output[length..];
                let status = decompressor
                    .decompress(input, output, FlushDecompress::Sync)
                    .map_err(|_| Fault::BadDeflate)?;
                let taken = (decompressor.total_in() - taken) as usize;
                length += (decompressor.total_out() - made) as usize;
                if length > message_max {
                    return Err(Fault::TooLarge);
                }
                input = &input[taken..];
                match status {
                    // A sender may end its data with a final block and begin anew (RFC 7692 7.2.3.5).
                    Status::StreamEnd => decompressor.reset(false),
                    _ if taken == 0 => return Err(Fault::BadDeflate),
                    _ => {}
                }
            }
        }
        Ok(&self.output[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

    fn inflate(payload: &[u8], message_max: usize) -> Result<Vec<u8>, Fault> {
        Inflater::default().inflate(payload, message_max).map(<[u8]>::to_vec)
    }

    /// RFC 7692 7.2.3.
    #[test]
    fn the_examples_of_the_rfc_are_inflated() {
        assert_eq!(inflate(EXAMPLE, 5), Ok(b"Hello".to_vec()));
        let stored = b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00";
        assert_eq!(inflate(stored, 5), Ok(b"Hello".to_vec()));
        let with_final_block = b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00";
        assert_eq!(inflate(with_final_block, 5), Ok(b"Hello".to_vec()));
        let two_blocks = b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00";
        assert_eq!(inflate(two_blocks, 5), Ok(b"Hello".to_vec()));
        assert_eq!(inflate(b"\x00", 5), Ok(Vec::new()), "an empty message");
    }

    #[test]
    fn a_message_begins_anew() {
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(EXAMPLE, 5), Ok(&b"Hello"[..]));
        // The second message of a sender with context takeover refers to the first (RFC 7692 7.2.3.2).
        let with_context = b"\xf2\x00\x11\x00\x00";
        assert_eq!(inflater.inflate(with_context, 5), Err(Fault::BadDeflate));
        assert_eq!(inflater.inflate(EXAMPLE, 5), Ok(&b"Hello"[..]), "after a fault");
    }

    #[test]
    fn a_message_that_is_too_long_when_inflated_is_a_fault() {
        assert_eq!(inflate(EXAMPLE, 4), Err(Fault::TooLarge));
        let mut deflater = Deflater::default();
        let bomb = deflater.deflate(&vec![0; 1 << 20], 9).unwrap().to_vec();
        assert!(bomb.len() < 1 << 11);
        assert_eq!(inflate(&bomb, 4_112), Err(Fault::TooLarge));
        assert_eq!(inflate(&bomb, 1 << 20).map(|message| message.len()), Ok(1 << 20));
    }

    #[test]
    fn invalid_deflate_data_is_a_fault() {
        assert_eq!(inflate(b"\xff\xff", 100), Err(Fault::BadDeflate));
        assert_eq!(inflate(b"\x07", 100), Err(Fault::BadDeflate), "a block of a kind there is not");
    }

    #[test]
    fn messages_are_the_same_after_the_round_trip() {
        let mut deflater = Deflater::default();
        let mut inflater = Inflater::default();
        for level in 1..=9 {
            for length in [64, 200, 4_096, 65_535, 200_000] {
                let message: Vec<u8> = (0..length).map(|at| b"{\"id\":12}"[at % 9]).collect();
                let payload = deflater.deflate(&message, level).expect("it repeats");
                assert!(payload.len() < length);
                assert_eq!(inflater.inflate(payload, length), Ok(&*message));
            }
        }
        assert_eq!(deflater.messages, 9 * 5);
    }

    #[test]
    fn a_message_that_gets_no_shorter_stays_as_it_is() {
        let mut deflater = Deflater::default();
        assert_eq!(deflater.deflate(b"", 6), None);
        assert_eq!(deflater.deflate(b"a", 6), None);
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..10_000).map(|_| random()).collect();
        assert_eq!(deflater.deflate(&noise, 6), None);
        assert_eq!(deflater.messages, 0);
        // The compressor keeps nothing of it for the next message.
        let payload = deflater.deflate(&[b'x'; 100], 6).unwrap();
        assert_eq!(inflate(payload, 100), Ok(vec![b'x'; 100]));
    }
}
