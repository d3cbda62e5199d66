//! Violations of the protocol by clients, and the reasons for which their connections are closed.

use comet_core::limits::{ACCEPTS_MAX, NAME_MAX};
use comet_core::{CloseReason, Limits, Transport};
use comet_proto::{HEADER_LEN, op};

use crate::rng::Rng;
use crate::wire::{self, BINARY, PING, TEXT};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// Connects and sends nothing.
    NeverAuthenticates,
    /// A request that opens no WebSocket, with the status of the response.
    BadUpgrade(u16),
    /// Sends more input behind its token than may wait for the answer.
    Flood,
    /// Bytes that are not valid in any frame or message of a client.
    Malformed(Malformed),
    /// Sends no heartbeats.
    Silence,
    /// Half a frame, and then no more.
    HalfThenSilence,
    /// Half a frame, and then the end of its side.
    HalfThenEnd,
    /// Sends many requests and reads no reply.
    AsksAndNeverReads,
    /// A WebSocket close frame; on TCP the end of its side.
    CloseFrame,
    /// The end of its side.
    End,
    /// A reset.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Malformed {
    PackLenSmall,
    PackLenHuge,
    HeaderLen,
    BodyTooLarge,
    RawFrame,
    RoomNotText,
    RoomTooLong,
    OperationsNotNumbers,
    TooManyOperations,
    NotMasked,
    ReservedBits,
    Text,
    PingTooLong,
    TwoFramesInMessage,
}

const MALFORMED: [Malformed; 14] = [
    Malformed::PackLenSmall,
    Malformed::PackLenHuge,
    Malformed::HeaderLen,
    Malformed::BodyTooLarge,
    Malformed::RawFrame,
    Malformed::RoomNotText,
    Malformed::RoomTooLong,
    Malformed::OperationsNotNumbers,
    Malformed::TooManyOperations,
    // The others are possible over WebSocket only.
    Malformed::NotMasked,
    Malformed::ReservedBits,
    Malformed::Text,
    Malformed::PingTooLong,
    Malformed::TwoFramesInMessage,
];
const MALFORMED_OVER_TCP: usize = 9;

impl Violation {
    pub(crate) fn random(rng: &mut Rng, transport: Transport) -> Self {
        let is_websocket = transport == Transport::WebSocket;
        match rng.below(100) {
            0..5 => Self::NeverAuthenticates,
            5..8 => Self::Flood,
            8..11 => Self::Silence,
            11..18 if is_websocket => Self::BadUpgrade(rng.pick(&[400, 404, 405, 426, 431])),
            11..15 => Self::Silence,
            15..50 => {
                let kinds = if is_websocket { MALFORMED.len() } else { MALFORMED_OVER_TCP };
                Self::Malformed(MALFORMED[rng.below(kinds)])
            }
            50..57 => Self::HalfThenSilence,
            57..64 => Self::HalfThenEnd,
            64..70 => Self::AsksAndNeverReads,
            70..80 => Self::CloseFrame,
            80..90 => Self::End,
            _ => Self::Reset,
        }
    }
}

/// The request for [`Violation::BadUpgrade`].
pub(crate) fn bad_upgrade(status: u16, limits: &Limits) -> Vec<u8> {
    let (path, key) = (&*limits.path, wire::KEY_HEADER);
    match status {
        404 => wire::upgrade("GET", "/other", 13, key),
        405 => wire::upgrade("POST", path, 13, key),
        426 => wire::upgrade("GET", path, 8, key),
        431 => {
            wire::upgrade("GET", path, 13, &format!("X-Long: {}\r\n", "x".repeat(limits.head_max)))
        }
        _ => wire::upgrade("GET", path, 13, ""),
    }
}

impl Malformed {
    /// The close reason for a connection that speaks the text form, for which most of these bytes are a binary message.
    pub(crate) fn reason_in_text(self) -> CloseReason {
        match self {
            Self::NotMasked | Self::ReservedBits | Self::PingTooLong => CloseReason::BadWebSocket,
            Self::Text => CloseReason::BadFrame,
            _ => CloseReason::WebSocketText,
        }
    }

    /// The bytes, and the close reason. `operation` is an operation that makes the list of the connection's operations
    /// longer.
    pub(crate) fn bytes(
        self,
        transport: Transport,
        limits: &Limits,
        operation: i32,
    ) -> (Vec<u8>, CloseReason) {
        let mask = Some([3, 1, 4, 1]);
        let heartbeat = wire::frame(op::HEARTBEAT, 1, b"");
        let frame = match self {
            Self::PackLenSmall => [&[0, 0, 0, 15], &heartbeat[4..]].concat(),
            Self::PackLenHuge => [&[0xff; 4], &heartbeat[4..]].concat(),
            Self::HeaderLen => [&heartbeat[..4], &[0, 17], &heartbeat[6..]].concat(),
            Self::BodyTooLarge => wire::frame(op::SEND, 1, &vec![7; limits.body_max + 1]),
            Self::RawFrame => wire::frame(op::RAW, 1, &heartbeat),
            Self::RoomNotText => wire::frame(op::CHANGE_ROOM, 1, b"room \xff"),
            Self::RoomTooLong => wire::frame(op::CHANGE_ROOM, 1, &[b'r'; NAME_MAX + 1]),
            Self::OperationsNotNumbers => wire::frame(op::SUBSCRIBE, 1, b"1000,x"),
            Self::TooManyOperations => {
                let all: Vec<_> = (0..=ACCEPTS_MAX + 2).map(|number| number.to_string()).collect();
                wire::frame(operation, 1, all.join(",").as_bytes())
            }
            Self::NotMasked => {
                return (wire::websocket(BINARY, None, &heartbeat), CloseReason::BadWebSocket);
            }
            Self::ReservedBits => {
                return (
                    wire::websocket(BINARY | 0x20, mask, &heartbeat),
                    CloseReason::BadWebSocket,
                );
            }
            Self::Text => {
                return (wire::websocket(TEXT, mask, b"hello"), CloseReason::WebSocketText);
            }
            Self::PingTooLong => {
                return (wire::websocket(PING, mask, &[b'p'; 126]), CloseReason::BadWebSocket);
            }
            Self::TwoFramesInMessage => [heartbeat.clone(), heartbeat].concat(),
        };
        let is_too_large = frame.len() > HEADER_LEN + limits.body_max;
        let reason = match self {
            Self::RawFrame => CloseReason::RawFromClient,
            _ if is_too_large && transport == Transport::WebSocket => {
                CloseReason::WebSocketTooLarge
            }
            _ => CloseReason::BadFrame,
        };
        match transport {
            Transport::Tcp => (frame, reason),
            Transport::WebSocket => (wire::websocket(BINARY, mask, &frame), reason),
            Transport::EventStream => unreachable!("its client sends no frames"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn clients_of_either_transport_commit_every_violation() {
        // Only WebSocket has an upgrade, which can be wrong.
        for (transport, kinds) in [(Transport::Tcp, 10), (Transport::WebSocket, 11)] {
            let mut rng = Rng::new(1);
            let drawn = (0..1000).map(|_| discriminant(&Violation::random(&mut rng, transport)));
            assert_eq!(drawn.collect::<HashSet<_>>().len(), kinds, "{transport:?}");
        }
    }
}
