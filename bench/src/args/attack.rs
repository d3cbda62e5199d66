//! The attacks that `overload` makes, as the command line names them.

use clap::ValueEnum;
use serde::Serialize;

/// An attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// Ten times as many connections a second as `clients.accepts` lets in.
    Accepts,
    /// Connections that say nothing.
    HalfOpen,
    /// One byte after the other. Before the token: a frame, an upgrade, a PROXY header, a ClientHello, a TLS record.
    TrickledFrames,
    TrickledUpgrades,
    TrickledProxyHeaders,
    TrickledHellos,
    TrickledRecords,
    /// After the token: a message.
    TrickledMessages,
    /// By callers: a push over HTTP, a call over gRPC, a push frame, a request for the metrics.
    TrickledPushes,
    TrickledCalls,
    TrickledPushFrames,
    TrickledScrapes,
    /// Clients that do not read what is pushed to them, under each policy.
    StalledDropNewest,
    StalledDropOldest,
    StalledClose,
    /// A room of as many clients as stall above, pushed to twice a second. Others are to wait for a slice of it only.
    Crowd,
    /// One client that does one thing as fast as it can.
    Heartbeats,
    RoomChanges,
    Subscriptions,
    LargestFrames,
    Pings,
    TlsHandshakes,
    /// A ClientHello and a reset, on one connection after the other.
    AbandonedHellos,
}

impl Attack {
    /// Whether all clients of its server connect over TLS.
    pub(crate) fn is_of_tls(self) -> bool {
        matches!(
            self,
            Self::TrickledHellos
                | Self::TrickledRecords
                | Self::TlsHandshakes
                | Self::AbandonedHellos
        )
    }
}
