//! The faults of a peer, and the alert that reports each.

use std::error::Error;
use std::fmt;

use rustls::AlertDescription;

pub(crate) const CLOSE_NOTIFY: u8 = 0;
pub(crate) const USER_CANCELED: u8 = 90;
pub(crate) const WARNING: u8 = 1;
pub(crate) const FATAL: u8 = 2;

/// Why a session opens no further record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The version in a record's header is not 0x0303.
    BadVersion,
    /// A record is longer than its version of TLS allows, sealed or opened.
    Oversized,
    /// A record was not sealed with the key and the number that it should have: it was changed, cut, lost, doubled or
    /// moved.
    BadMac,
    /// A record or handshake message that is not allowed after the handshake.
    Unexpected,
    /// More than 32 records in a row without application data.
    NoData,
    /// An alert or a handshake message that has the wrong length.
    Malformed,
    /// A `KeyUpdate` that asks for something the protocol does not know, or an alert of an unknown level.
    IllegalParameter,
    /// With TLS 1.2 the peer asked for another handshake.
    Renegotiation,
    /// The key has opened as many records as there are sequence numbers.
    SequenceEnd,
    /// The peer sent this alert, which ends the connection.
    Alert(u8),
    /// The session had a fault before.
    Ended,
}

impl Fault {
    /// Level and description of the alert that is sent to the peer. `None`: no alert.
    #[must_use]
    pub fn alert(self) -> Option<[u8; 2]> {
        Some(match self {
            Self::Unexpected | Self::NoData => [FATAL, 10],
            Self::BadMac => [FATAL, 20],
            Self::Oversized => [FATAL, 22],
            Self::IllegalParameter => [FATAL, 47],
            Self::Malformed => [FATAL, 50],
            Self::BadVersion => [FATAL, 70],
            Self::SequenceEnd => [FATAL, 80],
            // Always a warning (RFC 5246, section 7.2.2).
            Self::Renegotiation => [WARNING, 100],
            Self::Alert(_) | Self::Ended => return None,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadVersion => "a record of an unknown version",
            Self::Oversized => "a record that is too long",
            Self::BadMac => "a record that does not decrypt",
            Self::Unexpected => "a record or message that has no place after the handshake",
            Self::NoData => "too many records without application data",
            Self::Malformed => "a message of the wrong length",
            Self::IllegalParameter => "a message with an illegal value",
            Self::Renegotiation => "a request to negotiate again",
            Self::SequenceEnd => "more records than one key may open",
            Self::Alert(description) => {
                return write!(
                    f,
                    "received fatal alert: {:?}",
                    AlertDescription::from(*description)
                );
            }
            Self::Ended => "the session has failed before",
        })
    }
}

impl Error for Fault {}

/// Why a session seals nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// The key has sealed as many records as it may, and TLS 1.2 has no way to change it.
    KeyExhausted,
    /// The session has sent an alert that is its last record.
    Closed,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyExhausted => "the key has sealed as many records as it may",
            Self::Closed => "the session has ended its side",
        })
    }
}

impl Error for SealError {}
