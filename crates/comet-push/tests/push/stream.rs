//! The stream of pushes, in front of a backend whose pushes end when the test ends them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use comet_push::{
    Broadcast, CallLimits, Clients, KickNotice, KickTarget, OfAllHosts, PushBackend, PushResult,
    RoomChange, RoomsPage, RoomsQuery, StreamBackend, grpc_api,
};
use comet_serve::{AccessControl, ApiTls, CallCounts, GateLimits, Gates, Phase, Servers, listen};
use comet_wire::DESCRIPTORS;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::Target;
use comet_wire::comet::v1::{ChangeRoomsReply, CountsReply, CountsReq, PushStreamReq};
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::recorder::PATIENT;

/// A push that the test ends: its room, and the sender for its ledger.
type Begun = (String, oneshot::Sender<Ledger>);

struct Manual(UnboundedSender<Begun>);

struct UnderWay(oneshot::Receiver<Ledger>);

impl Future for UnderWay {
    type Output = Result<Ledger, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ledger = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(ledger.map_err(|_| Status::unavailable("the backend is gone")))
    }
}

fn unasked<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the stream alone is tested"))
}

impl PushBackend for Manual {
    fn bounds(&self) -> CallLimits {
        CallLimits { frame_max: 256, keys_max: 8, timeout: PATIENT }
    }

    async fn to_keys(
        &self,
        _: Vec<String>,
        _: Option<Proto>,
        _: i32,
    ) -> Result<PushResult, Status> {
        unasked()
    }

    async fn to_users(&self, _: Vec<i64>, _: Option<Proto>, _: i32) -> Result<PushResult, Status> {
        unasked()
    }

    async fn to_room(&self, _: String, _: Option<Proto>) -> Result<PushResult, Status> {
        unasked()
    }

    async fn to_all(&self, _: Option<Proto>, _: i32, _: i32) -> Result<PushResult, Status> {
        unasked()
    }

    async fn rooms<T: Send + 'static>(
        &self,
        _: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<OfAllHosts<T>, Status> {
        unasked()
    }

    async fn members_of(&self, _: Vec<String>) -> Result<OfAllHosts<Vec<u64>>, Status> {
        unasked()
    }

    async fn clients(&self) -> Result<OfAllHosts<Clients>, Status> {
        unasked()
    }
}

impl StreamBackend for Manual {
    type UnderWay = UnderWay;

    fn broadcasts(&self) -> Vec<Broadcast> {
        Vec::new()
    }

    async fn cancel_broadcast(&self, _: u64) -> Result<Ledger, Status> {
        unasked()
    }

    async fn kick(&self, _: KickTarget, _: KickNotice) -> Result<Ledger, Status> {
        unasked()
    }

    async fn change_rooms(&self, _: RoomChange) -> Result<ChangeRoomsReply, Status> {
        unasked()
    }

    async fn counts(&self, _: Vec<String>) -> Result<CountsReply, Status> {
        unasked()
    }

    async fn rooms_page(&self, _: RoomsQuery) -> Result<RoomsPage, Status> {
        unasked()
    }

    fn begin_keys(&self, _: Vec<String>, _: Option<Proto>, _: i32) -> Result<UnderWay, Status> {
        unasked()
    }

    fn begin_users(&self, _: Vec<i64>, _: Option<Proto>, _: i32) -> Result<UnderWay, Status> {
        unasked()
    }

    fn begin_room(&self, room: String, _: Option<Proto>) -> Result<UnderWay, Status> {
        if room.is_empty() {
            return Err(Status::invalid_argument("no room"));
        }
        let (ledger, under_way) = oneshot::channel();
        self.0.send((room, ledger)).unwrap();
        Ok(UnderWay(under_way))
    }
}

/// The service, until it is dropped.
struct Running {
    client: PushClient<Channel>,
    counts: Arc<CallCounts>,
    /// The pushes that have begun.
    begun: UnboundedReceiver<Begun>,
    _servers: Servers,
    _phase: watch::Sender<Phase>,
}

/// `request_bytes` is the bound of all requests.
async fn start(request_bytes: usize) -> Running {
    let (sender, begun) = unbounded_channel();
    let counts = Arc::new(CallCounts::default());
    let (phase, phases) = watch::channel(Phase::Ready);
    let api = grpc_api(Arc::new(Manual(sender)), Arc::clone(&counts), phases.clone());
    let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
    let mut servers = Servers::new(phases);
    let access = Arc::new(AccessControl::new(Vec::new(), vec!["test".to_owned()]));
    let gates = Gates::new(65_536, request_bytes);
    let limits = GateLimits { connections: 8, request_max: 4_096, request_time: PATIENT };
    servers.grpc(&gates.gate("test", limits, &access), bound.listeners, api, DESCRIPTORS).unwrap();
    let endpoint =
        Endpoint::from_shared(format!("http://{}", bound.addresses[0].socket().unwrap())).unwrap();
    let client = PushClient::new(endpoint.connect().await.unwrap());
    Running { client, counts, begun, _servers: servers, _phase: phase }
}

#[tokio::test]
async fn pushes_begin_before_those_before_them_have_ended() {
    let mut running = start(64 << 20).await;
    let Running { client, counts, begun, .. } = &mut running;
    let (pushes, requests) = unbounded_channel();
    let replies = client.push_stream(UnboundedReceiverStream::new(requests)).await.unwrap();
    let mut replies = replies.into_inner();
    for (id, room) in (0..).zip(["a", "", "b", "c"]) {
        let target = Some(Target::RoomId(room.to_owned()));
        pushes.send(PushStreamReq { id, target, ..PushStreamReq::default() }).unwrap();
    }
    // All pushes have begun in their order, and none has ended.
    let mut ledgers = Vec::new();
    for expected in ["a", "b", "c"] {
        let (room, ledger) = begun.recv().await.unwrap();
        assert_eq!(room, expected);
        ledgers.push(ledger);
    }
    // The last ends first; the answers keep the order of the pushes.
    for (queued, ledger) in (1..).zip(ledgers).collect::<Vec<_>>().into_iter().rev() {
        ledger.send(Ledger { matched: queued, queued, ..Ledger::default() }).unwrap();
    }
    drop(pushes);
    let mut answers = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        answers.extend(reply.answers.into_iter().map(|answer| match answer.outcome.unwrap() {
            Outcome::Ledger(ledger) => (answer.id, Ok(ledger.queued)),
            Outcome::Error(error) => (answer.id, Err(error.message)),
        }));
    }
    let refused = Err("no room".to_owned());
    assert_eq!(answers, [(0, Ok(1)), (1, refused), (2, Ok(2)), (3, Ok(3))]);
    let expected = [("PushStream", Code::Ok, 3), ("PushStream", Code::InvalidArgument, 1)];
    assert_eq!(counts.all(), expected);
}

/// A full stream leaves memory for other calls.
#[tokio::test]
async fn a_push_of_a_stream_takes_little_room_until_it_is_answered() {
    // As much memory as 64 calls take beside their bytes.
    let mut running = start(64 * (16 << 10)).await;
    let Running { client, begun, .. } = &mut running;
    let (pushes, requests) = unbounded_channel();
    let request = |id| {
        let target = Some(Target::RoomId("a".to_owned()));
        PushStreamReq { id, target, ..PushStreamReq::default() }
    };
    // The response begins though no push is answered.
    let _replies = client.push_stream(UnboundedReceiverStream::new(requests)).await.unwrap();
    let mut ledgers = Vec::new();
    for id in 0..1_024 {
        pushes.send(request(id)).unwrap();
        ledgers.push(timeout(PATIENT, begun.recv()).await.expect("there is room for it"));
    }
    let status = client.counts(CountsReq::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}
