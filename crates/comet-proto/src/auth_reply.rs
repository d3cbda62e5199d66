//! The body of operation 8 in protocol 2: big-endian. Later servers may append fields.
//!
//! | field | bytes | |
//! |---|---|---|
//! | version | 1 | 2 |
//! | flags | 1 | 0; or, in the reply to a renewal of the token that changed nothing, why: see [`NotRenewed`] |
//! | reserved | 2 | 0 |
//! | heartbeat | 4 | milliseconds without a heartbeat after which the server closes the connection |
//! | expiry | 4 | milliseconds until it closes the connection because the token has expired; 0: never |
//!
//! With flag 4, which only a client gets that [asked for it](crate::op::KEEP), there are 12 bytes more: see [`KeptSession`].

use crate::frame::VERSION_2;

/// Flags. A client ignores those it does not know.
const REFUSED: u8 = 1;
const UNAVAILABLE: u8 = 2;
const KEPT: u8 = 4;
const RESUMED: u8 = 8;

/// Why a renewal of the token changed nothing. The connection lasts as long as its former token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRenewed {
    /// The token is refused, or is that of another user or key. Flag 1.
    Refused,
    /// The token could not be checked now: the client may send it again. Flag 2.
    Unavailable,
}

/// The session outlasts its connection for a time. Pushes to its key and user are parked meanwhile, and sent when the
/// key is back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeptSession {
    /// Set if the session of a former connection was resumed. Flag 8.
    pub resumed: Option<Resumed>,
}

/// What became of the pushes to the session between the two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resumed {
    /// Number of parked pushes. They follow before all others.
    pub parked: u32,
    /// Number of pushes lost because the session was full.
    pub lost_full: u32,
    /// Number of pushes lost because the server had no memory left for parked pushes.
    pub lost_memory: u32,
}

/// The content of the server's [`AUTH_REPLY`](crate::op::AUTH_REPLY) to a client that asked for protocol 2, and to each
/// further token of that client. In protocol 1 the body is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthReply {
    /// Why the token was not taken. `None`: it was taken.
    pub not_renewed: Option<NotRenewed>,
    /// Milliseconds without a heartbeat after which the server closes the connection.
    pub heartbeat_ms: u32,
    /// Milliseconds until the server closes the connection because the token has expired; the
    /// largest number stands for all longer times. `None`: it does not expire.
    pub expires_in_ms: Option<u32>,
    /// The session is kept when the connection ends without a goodbye. In the reply to the first token only.
    pub kept: Option<KeptSession>,
}

impl AuthReply {
    /// Length of the shortest body, in bytes. Longer ones begin with the same fields.
    pub const LEN: usize = 12;

    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { not_renewed, heartbeat_ms, expires_in_ms, kept } = *self;
        let not_renewed = match not_renewed {
            None => 0,
            Some(NotRenewed::Refused) => REFUSED,
            Some(NotRenewed::Unavailable) => UNAVAILABLE,
        };
        let resumed = kept.and_then(|kept| kept.resumed);
        let kept_flags = if kept.is_some() { KEPT } else { 0 };
        let resumed_flags = if resumed.is_some() { RESUMED } else { 0 };
        let mut body = vec![VERSION_2 as u8, not_renewed | kept_flags | resumed_flags, 0, 0];
        // 0 would mean that the token never expires.
        let expiry = expires_in_ms.map_or(0, |millis| millis.max(1));
        let mut numbers = vec![heartbeat_ms, expiry];
        if kept.is_some() {
            let Resumed { parked, lost_full, lost_memory } = resumed.unwrap_or_default();
            numbers.extend([parked, lost_full, lost_memory]);
        }
        numbers.iter().for_each(|number| body.extend(number.to_be_bytes()));
        body
    }

    /// Reads the body of an [`AUTH_REPLY`](crate::op::AUTH_REPLY). Bytes behind the known fields
    /// are ignored. `None`: the server speaks protocol 1.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (&[version, flags, _, _], rest) = body.split_first_chunk()?;
        let (&heartbeat, rest) = rest.split_first_chunk()?;
        let (&expiry, rest) = rest.split_first_chunk()?;
        let expiry = u32::from_be_bytes(expiry);
        let kept = (flags & KEPT > 0).then(|| {
            let number = |at: usize| {
                let bytes = rest.get(at..).and_then(|rest| rest.first_chunk());
                bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
            };
            let resumed =
                Resumed { parked: number(0), lost_full: number(4), lost_memory: number(8) };
            KeptSession { resumed: (flags & RESUMED > 0).then_some(resumed) }
        });
        (u16::from(version) >= VERSION_2).then_some(Self {
            not_renewed: match flags {
                _ if flags & REFUSED > 0 => Some(NotRenewed::Refused),
                _ if flags & UNAVAILABLE > 0 => Some(NotRenewed::Unavailable),
                _ => None,
            },
            heartbeat_ms: u32::from_be_bytes(heartbeat),
            expires_in_ms: (expiry > 0).then_some(expiry),
            kept,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_was_written_and_may_grow() {
        let resumed = Resumed { parked: 3, lost_full: 2, lost_memory: u32::MAX };
        for (not_renewed, expires_in_ms, kept) in [
            (None, None, None),
            (Some(NotRenewed::Refused), Some(1), None),
            (Some(NotRenewed::Unavailable), Some(u32::MAX), None),
            (None, None, Some(KeptSession { resumed: None })),
            (None, Some(1), Some(KeptSession { resumed: Some(resumed) })),
        ] {
            let reply = AuthReply { not_renewed, heartbeat_ms: 300_000, expires_in_ms, kept };
            let mut body = reply.encode();
            assert_eq!(body.len(), AuthReply::LEN + if kept.is_some() { 12 } else { 0 });
            assert_eq!(AuthReply::decode(&body), Some(reply));
            body.extend(b"what is appended later");
            assert_eq!(AuthReply::decode(&body), Some(reply));
        }
        let now =
            AuthReply { not_renewed: None, heartbeat_ms: 1, expires_in_ms: Some(0), kept: None };
        assert_eq!(AuthReply::decode(&now.encode()).unwrap().expires_in_ms, Some(1));
    }

    #[test]
    fn any_other_body_is_that_of_protocol_1() {
        let reply =
            AuthReply { not_renewed: None, heartbeat_ms: 7, expires_in_ms: None, kept: None };
        let body = reply.encode();
        for len in 0..AuthReply::LEN {
            assert_eq!(AuthReply::decode(&body[..len]), None);
        }
        for version in [0, 1] {
            let mut other = body.clone();
            other[0] = version;
            assert_eq!(AuthReply::decode(&other), None);
        }
    }
}
