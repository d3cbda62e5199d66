//! Turns a rustls connection whose handshake is done into a session.

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

use rustls::server::UnbufferedServerConnection;
use rustls::{ConnectionTrafficSecrets, KeyLog, ProtocolVersion};
use zeroize::Zeroizing;

use crate::keys::{Aead, Direction, Suite, Version};
use crate::session::Session;

/// The traffic secrets of one handshake with TLS 1.3. rustls gives them only to the `key_log` of its configuration. The
/// updates of keys are derived from them. Each connection needs its own.
#[derive(Default)]
pub struct TrafficSecrets {
    client: OnceLock<Zeroizing<Vec<u8>>>,
    server: OnceLock<Zeroizing<Vec<u8>>>,
}

impl TrafficSecrets {
    fn at(&self, label: &str) -> Option<&OnceLock<Zeroizing<Vec<u8>>>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }
}

impl KeyLog for TrafficSecrets {
    fn will_log(&self, label: &str) -> bool {
        self.at(label).is_some()
    }

    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let Some(place) = self.at(label) {
            // A second secret would belong to another connection. The first one stays, and will not match the keys.
            let _ = place.set(Zeroizing::new(secret.to_vec()));
        }
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecrets").finish_non_exhaustive()
    }
}

/// Why the session cannot be taken from a connection of rustls.
#[derive(Clone, PartialEq, Debug)]
pub enum FromRustlsError {
    /// rustls does not give its keys: the handshake is not done, records are left to send, or the configuration does
    /// not allow it.
    Rustls(rustls::Error),
    /// A version or cipher that a session does not know.
    UnknownSuite,
    /// The secrets are missing, or not those of the keys.
    WrongSecrets,
}

impl fmt::Display for FromRustlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustls(error) => write!(f, "the keys cannot be had: {error}"),
            Self::UnknownSuite => f.write_str("an unknown cipher suite"),
            Self::WrongSecrets => f.write_str("the traffic secrets are not those of the keys"),
        }
    }
}

impl Error for FromRustlsError {}

/// Moves the keys of a connection into a session. `secrets` were the `key_log` of its configuration, which has
/// `enable_secret_extraction`. rustls must not hold a record behind the handshake that it has opened and not given out.
///
/// # Errors
/// Why it is not possible. The connection is lost then.
pub fn from_rustls(
    connection: UnbufferedServerConnection,
    secrets: &TrafficSecrets,
) -> Result<Session, FromRustlsError> {
    let (extracted, kernel) =
        connection.dangerous_into_kernel_connection().map_err(FromRustlsError::Rustls)?;
    let version = match kernel.protocol_version() {
        ProtocolVersion::TLSv1_2 => Version::Tls12,
        ProtocolVersion::TLSv1_3 => Version::Tls13,
        _ => return Err(FromRustlsError::UnknownSuite),
    };
    let receive = direction(version, &extracted.rx, &secrets.client)?;
    let send = direction(version, &extracted.tx, &secrets.server)?;
    if receive.0 != send.0 {
        return Err(FromRustlsError::UnknownSuite);
    }
    Ok(Session::new(receive.0, receive.1, send.1))
}

fn direction(
    version: Version,
    (sequence, keys): &(u64, ConnectionTrafficSecrets),
    secret: &OnceLock<Zeroizing<Vec<u8>>>,
) -> Result<(Suite, Direction), FromRustlsError> {
    let (aead, key, iv) = match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Aead::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Aead::ChaCha20Poly1305, key, iv),
        _ => return Err(FromRustlsError::UnknownSuite),
    };
    let suite = Suite { version, aead };
    let (key, iv) = (key.as_ref(), iv.as_ref());
    let Some(&iv_bytes) = iv.first_chunk().filter(|chunk| chunk.len() == iv.len()) else {
        return Err(FromRustlsError::UnknownSuite);
    };
    if key.len() != suite.key_len() {
        return Err(FromRustlsError::UnknownSuite);
    }
    let mut direction = match version {
        Version::Tls12 => Direction::of_key(suite, key, iv_bytes, *sequence),
        Version::Tls13 => {
            let secret = secret.get().filter(|secret| secret.len() == suite.secret_len());
            let secret = secret.ok_or(FromRustlsError::WrongSecrets)?;
            Direction::of_secret(suite, secret, *sequence)
        }
    };
    direction.prepare(suite);
    // Both values are ours, so the time of the comparison reveals nothing.
    if direction.key(suite) != key || direction.iv() != iv {
        return Err(FromRustlsError::WrongSecrets);
    }
    Ok((suite, direction))
}
