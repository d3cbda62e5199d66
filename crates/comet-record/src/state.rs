//! A session as bytes, so that it can continue in another process.

use std::error::Error;
use std::fmt;

use ring::aead::NONCE_LEN;
use zeroize::Zeroizing;

use crate::keys::{Aead, Direction, KEY_LEN_MAX, SECRET_LEN_MAX, Suite, Version};
use crate::session::{Reading, Session};

/// The most bytes that [`Session::export`] gives.
pub const EXPORT_LEN_MAX: usize = HEAD_LEN + 2 * (8 + SECRET_LEN_MAX);

/// Version of the format, suite, flags, records without data, bytes of a `KeyUpdate`.
const HEAD_LEN: usize = 5;
const FORMAT: u8 = 1;

const PEER_HAS_CLOSED: u8 = 1;
const HAS_ENDED: u8 = 1 << 1;
const OWES_KEY_UPDATE: u8 = 1 << 2;

const SUITES: [(Version, Aead); 6] = [
    (Version::Tls13, Aead::Aes128Gcm),
    (Version::Tls13, Aead::Aes256Gcm),
    (Version::Tls13, Aead::ChaCha20Poly1305),
    (Version::Tls12, Aead::Aes128Gcm),
    (Version::Tls12, Aead::Aes256Gcm),
    (Version::Tls12, Aead::ChaCha20Poly1305),
];

const _: () = assert!(SECRET_LEN_MAX >= KEY_LEN_MAX + NONCE_LEN);

/// The bytes are not a session, or not keys of tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportError;

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes that this version does not write")
    }
}

impl Error for ImportError {}

impl Session {
    /// The session as bytes, keys included. The caller keeps incomplete received records and unsent ones. Only one of
    /// the two sessions may continue: using a record number twice reveals the key.
    ///
    /// `None`: the session has failed.
    #[must_use]
    pub fn export(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut flags = match self.reading {
            Reading::Open => 0,
            Reading::Closed => PEER_HAS_CLOSED,
            Reading::Failed => return None,
        };
        flags |= if self.has_ended { HAS_ENDED } else { 0 };
        flags |= if self.owes_key_update { OWES_KEY_UPDATE } else { 0 };
        let suite = (self.suite.version, self.suite.aead);
        let suite_index = SUITES.iter().position(|&known| known == suite).expect("all are listed");
        // Allocated in its final size: buffers left behind by a growing `Vec` would not be wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(EXPORT_LEN_MAX));
        bytes.extend_from_slice(&[
            FORMAT,
            u8::try_from(suite_index).expect("there are six"),
            flags,
            self.records_without_data,
            self.key_update_len,
        ]);
        for direction in [&self.receive, &self.send] {
            bytes.extend_from_slice(&direction.sequence.to_be_bytes());
            match self.suite.version {
                Version::Tls13 => bytes.extend_from_slice(direction.secret(self.suite)),
                Version::Tls12 => {
                    bytes.extend_from_slice(direction.key(self.suite));
                    bytes.extend_from_slice(direction.iv());
                }
            }
        }
        debug_assert!(bytes.len() <= EXPORT_LEN_MAX);
        Some(bytes)
    }

    /// The inverse of [`Session::export`].
    ///
    /// # Errors
    /// If `bytes` are not such a session.
    pub fn import(bytes: &[u8]) -> Result<Self, ImportError> {
        let (&[format, suite, flags, records_without_data, key_update_len], mut rest) =
            bytes.split_first_chunk::<HEAD_LEN>().ok_or(ImportError)?;
        let &(version, aead) = SUITES.get(usize::from(suite)).ok_or(ImportError)?;
        let suite = Suite { version, aead };
        let is_known = format == FORMAT && flags <= PEER_HAS_CLOSED | HAS_ENDED | OWES_KEY_UPDATE;
        let may_update = version == Version::Tls13;
        let updates = flags & OWES_KEY_UPDATE != 0 || key_update_len > 0;
        if !is_known || key_update_len > 4 || records_without_data > 32 || updates && !may_update {
            return Err(ImportError);
        }
        let receive = direction(suite, &mut rest)?;
        let send = direction(suite, &mut rest)?;
        // Beyond the limit for data only the reserved records may have been sealed.
        let is_spent = send.sequence.saturating_sub(suite.data_records_max()) > 1;
        if !rest.is_empty() || is_spent {
            return Err(ImportError);
        }
        let has = |flag| flags & flag != 0;
        Ok(Self {
            reading: if has(PEER_HAS_CLOSED) { Reading::Closed } else { Reading::Open },
            has_ended: has(HAS_ENDED),
            owes_key_update: has(OWES_KEY_UPDATE),
            records_without_data,
            key_update_len,
            ..Self::new(suite, receive, send)
        })
    }
}

fn direction(suite: Suite, bytes: &mut &[u8]) -> Result<Direction, ImportError> {
    let mut take = |len| {
        let (taken, rest) = bytes.split_at_checked(len).ok_or(ImportError)?;
        *bytes = rest;
        Ok::<&[u8], ImportError>(taken)
    };
    let sequence = u64::from_be_bytes(*take(8)?.first_chunk().expect("eight bytes"));
    Ok(match suite.version {
        Version::Tls13 => Direction::of_secret(suite, take(suite.secret_len())?, sequence),
        Version::Tls12 => {
            let key = take(suite.key_len())?;
            let iv = *take(NONCE_LEN)?.first_chunk().expect("as many bytes");
            Direction::of_key(suite, key, iv, sequence)
        }
    })
}
