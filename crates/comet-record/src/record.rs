//! The form of a record, and its protection with the key of one direction.

use std::ops::Range;

use ring::aead::{Aad, Nonce};

use crate::fault::Fault;
use crate::keys::{Direction, Suite, Version};

/// Most plaintext in one record (RFC 8446, section 5.1).
pub const PLAINTEXT_MAX: usize = 1 << 14;
/// The longest record, header included, of either version (RFC 5246, section 6.2.3).
pub const RECORD_LEN_MAX: usize = HEADER_LEN + PLAINTEXT_MAX + 2048;

pub(crate) const HEADER_LEN: usize = 5;
pub(crate) const TAG_LEN: usize = 16;

pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// The version that all records of TLS 1.2 and 1.3 have after the handshake.
const VERSION: [u8; 2] = [3, 3];

/// The length of the record that `bytes` begin with, header included. `None`: the header is not complete.
///
/// # Errors
/// If no record may be that long. This is found as soon as the header is there, so such a record is never kept.
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(&[_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let len = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > RECORD_LEN_MAX { Err(Fault::Oversized) } else { Ok(Some(len)) }
}

/// Appends a record.
///
/// The caller bounds the plaintext and the number of the record.
pub(crate) fn seal(
    direction: &mut Direction,
    suite: Suite,
    content_type: u8,
    plaintext: &[u8],
    out: &mut Vec<u8>,
) {
    assert!(plaintext.len() <= PLAINTEXT_MAX, "a record has at most 16 KiB");
    let sequence = direction.sequence;
    let next = sequence.checked_add(1).expect("the caller has looked at the limit of the key");
    direction.prepare(suite);
    let nonce = direction.nonce();
    let explicit = &nonce[nonce.len() - suite.explicit_nonce_len()..];
    let (outer_type, inner_type): (u8, &[u8]) = match suite.version {
        Version::Tls12 => (content_type, &[]),
        Version::Tls13 => (APPLICATION_DATA, &[content_type]),
    };
    let len = explicit.len() + plaintext.len() + inner_type.len() + TAG_LEN;
    let header = header(outer_type, len);
    out.extend_from_slice(&header);
    out.extend_from_slice(explicit);
    let begin = out.len();
    out.extend_from_slice(plaintext);
    out.extend_from_slice(inner_type);
    let aad = AdditionalData::new(suite, header, sequence, plaintext.len());
    let tag = direction
        .cipher(suite)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut out[begin..],
        )
        .expect("a record is shorter than what the cipher takes");
    out.extend_from_slice(tag.as_ref());
    direction.sequence = next;
}

/// Opens one whole record in place. Returns its type and the range of its content.
///
/// # Errors
/// What is wrong with it; the number of the next record is then unchanged.
pub(crate) fn open(
    direction: &mut Direction,
    suite: Suite,
    record: &mut [u8],
) -> Result<(u8, Range<usize>), Fault> {
    let header: [u8; HEADER_LEN] = *record.first_chunk().expect("a whole record has a header");
    let outer_type = header[0];
    match (suite.version, outer_type) {
        (Version::Tls12, ALERT | HANDSHAKE | APPLICATION_DATA)
        | (Version::Tls13, APPLICATION_DATA) => {}
        // With TLS 1.3 a change_cipher_spec is ignored only before the peer's Finished (RFC 8446, section 5).
        _ => return Err(Fault::Unexpected),
    }
    if header[1..3] != VERSION {
        return Err(Fault::BadVersion);
    }
    let payload_len = record.len() - HEADER_LEN;
    let payload_len_max = match suite.version {
        Version::Tls12 => PLAINTEXT_MAX + 2048,
        Version::Tls13 => PLAINTEXT_MAX + 256,
    };
    if payload_len > payload_len_max {
        return Err(Fault::Oversized);
    }
    let explicit_len = suite.explicit_nonce_len();
    let inner_len = payload_len.checked_sub(explicit_len + TAG_LEN).ok_or(Fault::BadMac)?;
    let next = direction.sequence.checked_add(1).ok_or(Fault::SequenceEnd)?;
    let begin = HEADER_LEN + explicit_len;
    direction.prepare(suite);
    let mut nonce = direction.nonce();
    let implicit_len = nonce.len() - explicit_len;
    nonce[implicit_len..].copy_from_slice(&record[HEADER_LEN..begin]);
    let aad = AdditionalData::new(suite, header, direction.sequence, inner_len);
    let inner = direction
        .cipher(suite)
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut record[begin..])
        .map_err(|_| Fault::BadMac)?;
    let content = match suite.version {
        Version::Tls12 => (outer_type, inner.len()),
        Version::Tls13 => {
            // Padding counts (RFC 8446, section 5.4).
            if inner.len() > PLAINTEXT_MAX + 1 {
                return Err(Fault::Oversized);
            }
            let end = inner.iter().rposition(|&byte| byte != 0).ok_or(Fault::Unexpected)?;
            (inner[end], end)
        }
    };
    let (content_type, len) = content;
    if len > PLAINTEXT_MAX {
        return Err(Fault::Oversized);
    }
    direction.sequence = next;
    Ok((content_type, begin..begin + len))
}

fn header(content_type: u8, len: usize) -> [u8; HEADER_LEN] {
    let [high, low] = u16::try_from(len).expect("a record has at most 18 KiB").to_be_bytes();
    [content_type, VERSION[0], VERSION[1], high, low]
}

/// What a record authenticates besides its content.
enum AdditionalData {
    /// Number, type, version and length of the plaintext (RFC 5246, section 6.2.3.3).
    Tls12([u8; 13]),
    /// The header (RFC 8446, section 5.2).
    Tls13([u8; HEADER_LEN]),
}

impl AdditionalData {
    fn new(suite: Suite, header: [u8; HEADER_LEN], sequence: u64, plaintext_len: usize) -> Self {
        match suite.version {
            Version::Tls12 => {
                let len = u16::try_from(plaintext_len).expect("a record has at most 18 KiB");
                let mut bytes = [0; 13];
                bytes[..8].copy_from_slice(&sequence.to_be_bytes());
                bytes[8..11].copy_from_slice(&header[..3]);
                bytes[11..].copy_from_slice(&len.to_be_bytes());
                Self::Tls12(bytes)
            }
            Version::Tls13 => Self::Tls13(header),
        }
    }
}

impl AsRef<[u8]> for AdditionalData {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Tls12(bytes) => bytes,
            Self::Tls13(header) => header,
        }
    }
}
