//! The body of operation 8 in protocol 2: big-endian, and longer in later servers.
//!
//! | field | bytes | |
//! |---|---|---|
//! | version | 1 | 2 |
//! | flags | 1 | 0; or, in the reply to a renewal of the token that changed nothing, why: see [`NotRenewed`] |
//! | reserved | 2 | 0 |
//! | heartbeat | 4 | milliseconds without a heartbeat after which the server closes the connection |
//! | expiry | 4 | milliseconds until it closes the connection because the token has expired; 0: never |

use crate::frame::VERSION_2;

/// Flags. A client ignores those it does not know.
const REFUSED: u8 = 1;
const UNAVAILABLE: u8 = 2;

/// Why a renewal of the token changed nothing. The connection lasts as long as its former token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRenewed {
    /// The token is refused, or is that of another user or key. Flag 1.
    Refused,
    /// Nobody could check the token now: the client may send it again. Flag 2.
    Unavailable,
}

/// What the server says in its [`AUTH_REPLY`](crate::op::AUTH_REPLY) to a client that asked for
/// protocol 2, and to each further token of that client. In protocol 1 the body is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthReply {
    /// Why the token in question was not taken. `None`: it was.
    pub not_renewed: Option<NotRenewed>,
    /// Milliseconds without a heartbeat after which the server closes the connection.
    pub heartbeat_ms: u32,
    /// Milliseconds until the server closes the connection because the token has expired; the
    /// largest number stands for all longer times. `None`: it does not expire.
    pub expires_in_ms: Option<u32>,
}

impl AuthReply {
    /// Length of the body, in bytes. Longer ones begin with the same fields.
    pub const LEN: usize = 12;

    /// The body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut body = [0; Self::LEN];
        body[0] = VERSION_2 as u8;
        body[1] = match self.not_renewed {
            None => 0,
            Some(NotRenewed::Refused) => REFUSED,
            Some(NotRenewed::Unavailable) => UNAVAILABLE,
        };
        body[4..8].copy_from_slice(&self.heartbeat_ms.to_be_bytes());
        // A token that expires now does not last for ever.
        let expiry = self.expires_in_ms.map_or(0, |millis| millis.max(1));
        body[8..12].copy_from_slice(&expiry.to_be_bytes());
        body
    }

    /// Reads the body of an [`AUTH_REPLY`](crate::op::AUTH_REPLY). Bytes behind the known fields
    /// are ignored. `None`: the server speaks protocol 1.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (&[version, flags, _, _], rest) = body.split_first_chunk()?;
        let (&heartbeat, rest) = rest.split_first_chunk()?;
        let (&expiry, _) = rest.split_first_chunk()?;
        let expiry = u32::from_be_bytes(expiry);
        (u16::from(version) >= VERSION_2).then_some(Self {
            not_renewed: match flags {
                _ if flags & REFUSED > 0 => Some(NotRenewed::Refused),
                _ if flags & UNAVAILABLE > 0 => Some(NotRenewed::Unavailable),
                _ => None,
            },
            heartbeat_ms: u32::from_be_bytes(heartbeat),
            expires_in_ms: (expiry > 0).then_some(expiry),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_was_written_and_may_grow() {
        for (not_renewed, expires_in_ms) in [
            (None, None),
            (Some(NotRenewed::Refused), Some(1)),
            (Some(NotRenewed::Unavailable), Some(u32::MAX)),
        ] {
            let reply = AuthReply { not_renewed, heartbeat_ms: 300_000, expires_in_ms };
            let mut body = reply.encode().to_vec();
            assert_eq!(AuthReply::decode(&body), Some(reply));
            body.extend(b"what is appended later");
            assert_eq!(AuthReply::decode(&body), Some(reply));
        }
        let now = AuthReply { not_renewed: None, heartbeat_ms: 1, expires_in_ms: Some(0) };
        assert_eq!(AuthReply::decode(&now.encode()).unwrap().expires_in_ms, Some(1));
    }

    #[test]
    fn any_other_body_is_that_of_protocol_1() {
        let body = AuthReply { not_renewed: None, heartbeat_ms: 7, expires_in_ms: None }.encode();
        for len in 0..AuthReply::LEN {
            assert_eq!(AuthReply::decode(&body[..len]), None);
        }
        for version in [0, 1] {
            let mut other = body;
            other[0] = version;
            assert_eq!(AuthReply::decode(&other), None);
        }
    }
}
