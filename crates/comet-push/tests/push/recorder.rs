//! The HTTP API on a socket, and a backend that records the body of every push and answers with an empty ledger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use comet_push::{CallLimits, Clients, OfAllHosts, PushBackend, PushResult, http_api, push_routes};
use comet_serve::{AccessControl, ApiTls, CallCounts, GateLimits, Gates, Phase, Servers, listen};
use comet_wire::goim::protocol::Proto;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tonic::Status;

/// Long enough that no test reaches it, and short enough that a hanging test ends.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

/// For tests that wait for a timeout. Their work before it takes far less.
pub(crate) const HASTY: Duration = Duration::from_millis(500);

/// The API, running.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    bodies: UnboundedReceiver<Vec<u8>>,
    _servers: Servers,
    _phase: watch::Sender<Phase>,
}

/// Serves the API; a body may have 256 bytes, and `timeout` to be received.
pub(crate) fn start(timeout: Duration) -> Running {
    let (sender, bodies) = unbounded_channel();
    let bounds = CallLimits { frame_max: 256, keys_max: 8, timeout };
    let backend = Arc::new(Recorder { bounds, bodies: sender });
    let router = http_api(push_routes(backend, &Arc::new(CallCounts::default())));
    let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
    let (phase, phases) = watch::channel(Phase::Ready);
    let mut servers = Servers::new(phases);
    let access = Arc::new(AccessControl::new(Vec::new(), vec!["test".to_owned()]));
    let gates = Gates::new(65_536, 1 << 20);
    let limits = GateLimits { connections: 512, request_max: 256, request_time: timeout };
    servers.http(&gates.gate("test", limits, &access), bound.listeners, &router).unwrap();
    Running {
        address: bound.addresses[0].socket().unwrap(),
        bodies,
        _servers: servers,
        _phase: phase,
    }
}

impl Running {
    /// The body of the next push.
    pub(crate) async fn pushed(&mut self) -> Vec<u8> {
        self.bodies.recv().await.unwrap()
    }

    /// Whether no further push has arrived.
    pub(crate) fn is_untouched(&mut self) -> bool {
        self.bodies.try_recv() == Err(TryRecvError::Empty)
    }
}

/// Sends `request`, which asks for the connection to be closed; the answer's JSON.
pub(crate) async fn sent(address: SocketAddr, request: &[u8]) -> Value {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    answer(&mut stream).await
}

/// Reads an answer to its end.
pub(crate) async fn answer(stream: &mut TcpStream) -> Value {
    let (status, answer) = answered(stream).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The same for one that may have another status.
pub(crate) async fn answered(stream: &mut TcpStream) -> (u16, Value) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// A room for which too many pushes are under way.
pub(crate) const BUSY: &str = "busy";

struct Recorder {
    bounds: CallLimits,
    bodies: UnboundedSender<Vec<u8>>,
}

impl Recorder {
    fn note(&self, proto: Option<Proto>) -> Result<PushResult, Status> {
        let proto = self.bounds.check_proto(proto)?;
        self.bodies.send(proto.body.to_vec()).unwrap();
        Ok(PushResult::default())
    }
}

impl PushBackend for Recorder {
    fn bounds(&self) -> CallLimits {
        self.bounds
    }

    async fn to_keys(
        &self,
        _: Vec<String>,
        proto: Option<Proto>,
        _: i32,
    ) -> Result<PushResult, Status> {
        self.note(proto)
    }

    async fn to_users(
        &self,
        _: Vec<i64>,
        proto: Option<Proto>,
        _: i32,
    ) -> Result<PushResult, Status> {
        self.note(proto)
    }

    async fn to_room(&self, room: String, proto: Option<Proto>) -> Result<PushResult, Status> {
        match room.ends_with(BUSY) {
            true => Err(Status::resource_exhausted("2 pushes are under way")),
            false => self.note(proto),
        }
    }

    async fn to_all(&self, proto: Option<Proto>, _: i32, _: i32) -> Result<PushResult, Status> {
        self.note(proto)
    }

    async fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<OfAllHosts<T>, Status> {
        Ok(OfAllHosts { value: make(Vec::new()), unanswered: Vec::new() })
    }

    async fn members_of(&self, _: Vec<String>) -> Result<OfAllHosts<Vec<u64>>, Status> {
        Ok(OfAllHosts::default())
    }

    async fn clients(&self) -> Result<OfAllHosts<Clients>, Status> {
        Ok(OfAllHosts::default())
    }
}
