//! The client's side of permessage-deflate (RFC 7692 7.2).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The bit in the first byte of a message's first frame that marks it as compressed.
pub(crate) const COMPRESSED: u8 = 0x40;
/// The end of a sync flush, which is omitted.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The compressed payload of `message`.
pub(crate) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + 64);
    let mut compressor = Compress::new(Compression::fast(), false);
    compressor.compress_vec(message, &mut payload, FlushCompress::Sync).expect("it compresses");
    assert_eq!(compressor.total_in(), message.len() as u64, "there is space for it");
    payload.truncate(payload.len() - TAIL.len());
    payload
}

/// The message in `payload`, which must not refer to an earlier message.
pub(crate) fn inflate(payload: &[u8]) -> Result<Vec<u8>, String> {
    let input = [payload, &TAIL].concat();
    let mut message = Vec::with_capacity(4 * input.len());
    let mut decompressor = Decompress::new(false);
    loop {
        let rest = &input[decompressor.total_in() as usize..];
        decompressor
            .decompress_vec(rest, &mut message, FlushDecompress::Sync)
            .map_err(|fault| format!("a compressed message: {fault}"))?;
        if message.len() < message.capacity() {
            break;
        }
        message.reserve(message.len());
    }
    match decompressor.total_in() == input.len() as u64 {
        true => Ok(message),
        false => Err("bytes behind the data of a compressed message".to_owned()),
    }
}
