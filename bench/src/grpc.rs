//! A caller of the push API, `goim.comet.Comet`.

use std::collections::BTreeMap;

use serde::Serialize;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub(crate) use self::wire::goim::comet::Ledger;
use self::wire::goim::comet::comet_client::CometClient;
use self::wire::goim::comet::{BroadcastRoomReq, PushMsgReq};
use self::wire::goim::protocol::Proto;
use crate::Result;
use crate::message::OP_RAW;

/// The messages and services, made by the build script.
#[allow(missing_docs, unreachable_pub, unused_qualifications, dead_code, clippy::all)] // Generated.
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

/// Whom a push is for.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Room(String),
    Key(String),
}

/// A push as the API takes it.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub to: Address,
    /// The operation a connection must accept.
    pub operation: i32,
    /// One body, or where `is_batch` a run of whole frames.
    pub content: Vec<u8>,
    pub is_batch: bool,
}

/// Sums of what the server answered. goim answers nothing, and then all stay zero.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct LedgerSums {
    /// Replies that had a ledger.
    pub replies: u64,
    pub matched: u64,
    pub queued: u64,
    pub dropped: BTreeMap<String, u64>,
    pub absent: u64,
}

/// A connection to the push API; clones share it.
#[derive(Clone)]
pub(crate) struct Pusher(CometClient<Channel>);

impl Pusher {
    /// Connects to `address`, `host:port`.
    ///
    /// # Errors
    ///
    /// It is no address, or nobody listens there.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| format!("no push API at {address}: {error:?}"))?;
        Ok(Self(CometClient::new(channel)))
    }

    /// Pushes and waits for the answer.
    ///
    /// # Errors
    ///
    /// The server refused, or is gone.
    pub(crate) async fn push(&mut self, push: Push) -> Result<Option<Ledger>, Status> {
        let op = if push.is_batch { OP_RAW } else { push.operation };
        let proto = Some(Proto { ver: 1, op, seq: 0, body: push.content.into() });
        match push.to {
            Address::Room(room_id) => {
                let reply = self.0.broadcast_room(BroadcastRoomReq { room_id, proto }).await?;
                Ok(reply.into_inner().ledger)
            }
            Address::Key(key) => {
                let request = PushMsgReq { keys: vec![key], proto, proto_op: push.operation };
                Ok(self.0.push_msg(request).await?.into_inner().ledger)
            }
        }
    }
}

impl LedgerSums {
    /// Adds one reply.
    pub(crate) fn add(&mut self, ledger: Ledger) {
        self.replies += 1;
        self.matched += ledger.matched;
        self.queued += ledger.queued;
        self.absent += ledger.absent;
        for (reason, count) in ledger.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
    }

    /// Deliveries the server owned to not having made.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledgers_add_up_by_reason() {
        let ledger = |dropped: &[(&str, u64)]| Ledger {
            matched: 5,
            queued: 3,
            dropped: dropped.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect(),
            absent: 1,
            ..Default::default()
        };
        let mut sums = LedgerSums::default();
        sums.add(ledger(&[("outbox_full", 2)]));
        sums.add(ledger(&[("outbox_full", 1), ("filtered", 1)]));
        assert_eq!((sums.replies, sums.matched, sums.queued, sums.absent), (2, 10, 6, 2));
        assert_eq!(sums.dropped["outbox_full"], 3);
        assert_eq!(sums.dropped(), 4);
    }
}
