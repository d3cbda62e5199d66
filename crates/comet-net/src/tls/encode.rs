//! Lets rustls write records to the end of a `Vec`, which grows by as much as they need.

use rustls::unbuffered::{EncodeError, EncryptError};

/// The keys have encrypted as many records as they may.
pub(super) struct KeysExhausted;

/// Why rustls wrote nothing.
pub(super) enum WriteError {
    /// It needs this many bytes of room.
    Room(usize),
    Exhausted,
}

impl From<EncodeError> for WriteError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Room(size.required_size),
            EncodeError::AlreadyEncoded => Self::Exhausted,
        }
    }
}

impl From<EncryptError> for WriteError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Room(size.required_size),
            EncryptError::EncryptExhausted => Self::Exhausted,
        }
    }
}

/// Appends to `out` what `write` writes, with as much room as it asks for; `estimate` is the first
/// try.
///
/// # Errors
/// If the keys must not encrypt any more; `out` is then unchanged.
pub(super) fn append<E: Into<WriteError>>(
    out: &mut Vec<u8>,
    estimate: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), KeysExhausted> {
    let begin = out.len();
    let mut room = estimate;
    loop {
        out.reserve_exact(room);
        out.resize(begin + room, 0);
        match write(&mut out[begin..]).map_err(Into::into) {
            Ok(written) => {
                out.truncate(begin + written);
                return Ok(());
            }
            Err(WriteError::Room(required)) if required > room => room = required,
            Err(_) => {
                out.truncate(begin);
                return Err(KeysExhausted);
            }
        }
    }
}
