//! Lists of connections for operators: queries, orders and entries.

use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use crate::ids::{ConnId, Generation, ShardId, Slot};
use crate::network::Network;
use crate::operation_filter::OperationFilter;
use crate::transport::Transport;

/// Which connections to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnQuery {
    /// The properties that the listed connections share.
    pub filter: ConnFilter,
    /// The order.
    pub order: ConnOrder,
    /// The number of entries, at most [`LISTED_MAX`](crate::limits::LISTED_MAX).
    pub limit: usize,
    /// Only connections after this place are listed. It is the last place of the page before.
    pub after: Option<ConnPlace>,
}

/// Properties that all listed connections share; `None`: any value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnFilter {
    /// The key they were registered under.
    pub key: Option<Box<str>>,
    /// Their user; 0 is anonymous, or not authenticated yet.
    pub user: Option<i64>,
    /// The room they are in.
    pub room: Option<Box<str>>,
    /// The network that their clients connect from.
    pub network: Option<Network>,
    /// How their frames travel.
    pub transport: Option<Transport>,
    /// Whether they are in TLS.
    pub is_tls: Option<bool>,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnOrder {
    /// Those with the most waiting bytes come first.
    #[default]
    Waiting,
    /// The oldest come first.
    Age,
    /// Those with the most traffic come first.
    Rate,
}

/// A place in the order of a list; the smallest is the first. Places of different orders cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnPlace {
    /// The waiting bytes or the rate, subtracted from the maximum; or the tick of the accept.
    pub(crate) rank: u32,
    /// The connection.
    pub conn: ConnId,
}

impl fmt::Display for ConnPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, conn: ConnId { shard, slot, generation } } = self;
        write!(f, "{rank}.{}.{slot}.{generation}", shard.0)
    }
}

impl FromStr for ConnPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no place in a list of connections");
        let numbers: Result<Vec<u32>, ParseIntError> = text.split('.').map(str::parse).collect();
        let Ok([rank, shard, slot, generation]) = numbers.as_deref() else { return Err(wrong()) };
        let shard = ShardId(u16::try_from(*shard).map_err(|_| wrong())?);
        let conn = ConnId { shard, slot: Slot(*slot), generation: Generation(*generation) };
        Ok(Self { rank: *rank, conn })
    }
}

/// A connection at the moment when the walk reached it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedConn {
    /// Its place in the list.
    pub place: ConnPlace,
    /// The key it was registered under; empty before.
    pub key: Box<str>,
    /// User id; 0 is anonymous.
    pub user: i64,
    /// The room that operation 12 changes.
    pub room: Option<Arc<str>>,
    /// The number of rooms that it is in besides that one.
    pub further_rooms: usize,
    /// The address that its client connects from, if the kernel or a PROXY header tells it.
    pub address: Option<SocketAddr>,
    /// How its frames travel.
    pub transport: Transport,
    /// Whether it is in TLS.
    pub is_tls: bool,
    /// Time since its accept, milliseconds.
    pub age_ms: u64,
    /// Bytes in its outbox that the kernel has not taken.
    pub waiting_bytes: u32,
    /// Frames of which the kernel has not taken the last byte.
    pub waiting_frames: u32,
    /// Estimated bytes a second to and from its client; 0 for all but the busiest connections of its shard.
    pub bytes_per_second: u64,
    /// The operations it accepts.
    pub accepts: OperationFilter,
    /// Its state in the terms of docs/ARCHITECTURE.md, in lower case.
    pub state: &'static str,
}

impl Ord for ListedConn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl PartialOrd for ListedConn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The answer of one shard to a query.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnPage {
    /// The number of connections that match the filter, including those on other pages.
    pub matched: u64,
    /// The connections of this page, in order.
    pub listed: Vec<ListedConn>,
}

/// The rooms and clients that cost a shard the most work in the last seconds. The first entries have the most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Top {
    /// The period that the numbers cover, milliseconds.
    pub span_ms: u64,
    /// Rooms, and the estimated number of deliveries of pushes to them that outboxes here took.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// The slowest clients.
    pub clients: Vec<SlowClient>,
    /// The clients with the most traffic, as in a list by [`ConnOrder::Rate`].
    pub busiest: Vec<ListedConn>,
}

/// A client that takes what it is sent too slowly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowClient {
    /// Its connection at present.
    pub conn: ListedConn,
    /// The estimated number of bytes that were dropped for it, or still waited a tick (50 ms) after their send began,
    /// once for each such send.
    pub late_bytes: u64,
}

/// The driver's knowledge about its sockets.
pub trait SocketInfo {
    /// The address of the client of `conn`; `None` if it is unknown. May cost a system call.
    fn address(&mut self, conn: ConnId) -> Option<SocketAddr>;

    /// Whether `conn` is in TLS.
    fn is_tls(&mut self, conn: ConnId) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let conn = ConnId { shard: ShardId(3), slot: Slot(u32::MAX), generation: Generation(7) };
        let place = ConnPlace { rank: u32::MAX - 1, conn };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "1.2.3", "1.2.3.4.5", "1.65536.3.4", "1.2.3.-4", "1.2.3.x"] {
            wrong.parse::<ConnPlace>().unwrap_err();
        }
    }
}
