//! Lists of connections for an operator: which ones are asked for, in which order, and what is told of each.

use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use crate::accepts::Accepts;
use crate::ids::{ConnId, Generation, ShardId, Slot};
use crate::network::Network;
use crate::transport::Transport;

/// Which connections to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnQuery {
    /// What they have in common.
    pub filter: ConnFilter,
    /// Which of them come first.
    pub order: ConnOrder,
    /// How many of them are listed, at most [`LISTED_MAX`](crate::limits::LISTED_MAX).
    pub limit: usize,
    /// Only connections behind this place are listed: the last one of the page before.
    pub after: Option<ConnPlace>,
}

/// What listed connections have in common; `None` leaves a property open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnFilter {
    /// The key they were registered under.
    pub key: Option<Box<str>>,
    /// Their user; 0 is anonymous, or not authenticated yet.
    pub user: Option<i64>,
    /// The room they are in.
    pub room: Option<Box<str>>,
    /// Where their clients connect from.
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

/// A place in the order of a list; the smallest is the first. A place in one order means nothing in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnPlace {
    /// Waiting bytes, or the rate, below the most there may be; or the tick of the accept.
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

/// A connection as it was when the walk came by.
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
    /// How many rooms it is in beside that one.
    pub further_rooms: usize,
    /// Where its client connects from, as far as the kernel or a PROXY header says.
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
    /// Bytes a second, to and from its client, estimated; 0 for all but the busiest ones of its shard.
    pub bytes_per_second: u64,
    /// The operations it accepts.
    pub accepts: Accepts,
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

/// What one shard has to a query.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnPage {
    /// Connections that the filter left, those on other pages included.
    pub matched: u64,
    /// Those of this page, in order.
    pub listed: Vec<ListedConn>,
}

/// What a shard has had to do most of in the last seconds; the first entries have the most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Top {
    /// The time that the numbers are about, milliseconds.
    pub span_ms: u64,
    /// Rooms, and the deliveries of pushes to them that outboxes here took, estimated.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// The slowest clients.
    pub clients: Vec<SlowClient>,
    /// The clients with the most traffic, as in a list by [`ConnOrder::Rate`].
    pub busiest: Vec<ListedConn>,
}

/// A client that does not take what it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowClient {
    /// Its connection as it is now.
    pub conn: ListedConn,
    /// Bytes that were dropped for it, or that still waited a tick (50 ms) after their send began, once for each such
    /// send; estimated.
    pub late_bytes: u64,
}

/// What the driver knows of its sockets.
pub trait SocketInfo {
    /// Where the client of `conn` connects from; `None` where nobody knows. May cost a system call.
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
