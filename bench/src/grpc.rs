//! A caller of the push API: `goim.comet.Comet`, and the stream of `comet.v1.Push`.

mod gathered;
pub(crate) mod moving;

use std::io;

use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::{Keys, Target};
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
pub(crate) use comet_wire::goim::comet::Ledger;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq};
use comet_wire::goim::protocol::Proto;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use self::gathered::Gathered;
use crate::Result;
use crate::message::OP_RAW;
use crate::stats::Reasons;

/// The target of a push.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Room(String),
    Keys(Vec<String>),
    Everybody,
}

/// A push as passed to the API.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub to: Address,
    /// The operation a connection must accept.
    pub operation: i32,
    /// One body, or if `is_batch` is set, a run of whole frames.
    pub content: Vec<u8>,
    pub is_batch: bool,
}

/// Sums of the server's answers. goim sends no ledger, and then all stay zero.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct LedgerSums {
    /// Replies that had a ledger.
    pub replies: u64,
    pub matched: u64,
    pub queued: u64,
    pub dropped: Reasons,
    pub absent: u64,
}

/// A connection to the push API; clones share it.
#[derive(Clone)]
pub(crate) struct Pusher(CometClient<Channel>);

/// The answer to a push; goim's has no ledger.
pub(crate) type Answer = Result<Option<Ledger>, Status>;

/// A stream of pushes: sending never waits for answers.
pub(crate) struct PushStream {
    pushes: mpsc::UnboundedSender<PushStreamReq>,
    /// Id of the next push.
    next: u64,
    /// Takes the answers.
    reader: JoinHandle<()>,
}

async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let connector = tower::service_fn({
        let address = address.to_owned();
        move |_| dial(address.clone())
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| format!("no push API at {address}: {error:?}").into())
}

async fn dial(address: String) -> io::Result<TokioIo<Gathered>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(TokioIo::new(Gathered::new(socket)))
}

impl Pusher {
    /// Connects to `address`, `host:port`, and waits until the server has accepted the connection: under attack that takes
    /// a while, and is no part of the latency of a push. Fails if it is not an address, or nobody listens there.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let mut client = CometClient::new(connect(address).await?);
        // A push without keys and message is refused, and the refusal is as good as any other answer.
        let _ = client.push_msg(PushMsgReq::default()).await;
        Ok(Self(client))
    }

    /// Pushes and waits for the answer. Fails if the server refused the push, or is gone.
    pub(crate) async fn push(&mut self, push: Push) -> Answer {
        let operation = push.operation;
        let (to, proto) = push.into_parts();
        match to {
            Address::Room(room_id) => {
                let reply = self.0.broadcast_room(BroadcastRoomReq { room_id, proto }).await?;
                Ok(reply.into_inner().ledger)
            }
            Address::Keys(keys) => {
                let request = PushMsgReq { keys, proto, proto_op: operation };
                Ok(self.0.push_msg(request).await?.into_inner().ledger)
            }
            Address::Everybody => {
                let request = BroadcastReq { proto_op: operation, proto, speed: 0 };
                Ok(self.0.broadcast(request).await?.into_inner().ledger)
            }
        }
    }
}

impl Push {
    /// A push of one body.
    pub(crate) fn new(to: Address, operation: i32, content: Vec<u8>) -> Self {
        Self { to, operation, content, is_batch: false }
    }

    fn into_parts(self) -> (Address, Option<Proto>) {
        let op = if self.is_batch { OP_RAW } else { self.operation };
        (self.to, Some(Proto { ver: 1, op, seq: 0, body: self.content.into(), ..Proto::default() }))
    }
}

impl PushStream {
    /// Opens a stream to `address`, `host:port`, whose answers are passed to `take`. After an error there are no more:
    /// the stream broke, or an answer is out of order. Fails if the address is not valid, nobody listens there, or the
    /// server has no such call.
    pub(crate) async fn open(
        address: &str,
        take: impl Fn(Vec<Answer>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut client = PushClient::new(connect(address).await?);
        let (pushes, requests) = mpsc::unbounded_channel();
        let replies = client.push_stream(UnboundedReceiverStream::new(requests)).await?;
        let reader = tokio::spawn(async move {
            if let Err(status) = read(replies.into_inner(), &take).await {
                take(vec![Err(status)]);
            }
        });
        Ok(Self { pushes, next: 0, reader })
    }

    /// Sends a push. If the stream has ended, its answers say so.
    pub(crate) fn push(&mut self, push: Push) {
        let request = request(self.next, push);
        self.next += 1;
        let _ = self.pushes.send(request);
    }

    /// There are no more pushes; returns the task that ends with the last answer.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.reader
    }
}

/// A push as a request of a stream.
fn request(id: u64, push: Push) -> PushStreamReq {
    let proto_op = push.operation;
    let (to, proto) = push.into_parts();
    let target = match to {
        Address::Room(room) => Some(Target::RoomId(room)),
        Address::Keys(keys) => Some(Target::Keys(Keys { keys })),
        // The call has no such target, and the server must say so.
        Address::Everybody => None,
    };
    PushStreamReq { id, target, proto, proto_op }
}

/// Reads the answers of a stream to its end, each in the form of a call's answer.
async fn read(
    mut replies: Streaming<PushStreamReply>,
    take: &impl Fn(Vec<Answer>),
) -> Result<(), Status> {
    let mut next = 0;
    while let Some(reply) = replies.message().await? {
        let mut answers = Vec::with_capacity(reply.answers.len());
        for answer in reply.answers {
            if answer.id != next {
                let words = format!("push {} is answered before {next}", answer.id);
                return Err(Status::internal(words));
            }
            next += 1;
            answers.push(match answer.outcome {
                Some(Outcome::Ledger(ledger)) => Ok(Some(ledger)),
                Some(Outcome::Error(error)) => {
                    Err(Status::new(Code::from_i32(error.code), error.message))
                }
                None => Ok(None),
            });
        }
        take(answers);
    }
    Ok(())
}

impl LedgerSums {
    /// Adds one reply.
    pub(crate) fn add(&mut self, ledger: &Ledger) {
        self.replies += 1;
        self.matched += ledger.matched;
        self.queued += ledger.queued;
        self.absent += ledger.absent;
        ledger.dropped.iter().for_each(|(reason, count)| self.dropped.add(reason, *count));
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
        sums.add(&ledger(&[("outbox_full", 2)]));
        sums.add(&ledger(&[("outbox_full", 1), ("filtered", 1)]));
        assert_eq!((sums.replies, sums.matched, sums.queued, sums.absent), (2, 10, 6, 2));
        assert_eq!(sums.dropped["outbox_full"], 3);
        assert_eq!(sums.dropped.total(), 4);
    }
}
