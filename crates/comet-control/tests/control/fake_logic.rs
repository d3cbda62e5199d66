//! A logic service on a thread of its own, over real TCP: it records each request, and answers as the
//! test wants. Like goim's logic it has no health service.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet_wire::goim::logic::logic_server::{Logic, LogicServer};
use comet_wire::goim::logic::{
    ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReply, HeartbeatReq,
    NodesReply, NodesReq, OnlineReply, OnlineReq, ReceiveReply, ReceiveReq,
};
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call that came in.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Asked {
    Connect(ConnectReq),
    Disconnect(DisconnectReq),
    Heartbeat(HeartbeatReq),
    Receive(ReceiveReq),
    /// The encoding of the request.
    Renew(OnlineReq, Option<String>),
}

type Answer<Req, Rep> = Box<dyn Fn(&Req) -> Result<Rep, Status> + Send>;

/// The answers from now on.
pub(crate) struct Script {
    pub(crate) connect: Answer<ConnectReq, ConnectReply>,
    pub(crate) heartbeat: Answer<HeartbeatReq, HeartbeatReply>,
    pub(crate) receive: Answer<ReceiveReq, ReceiveReply>,
    pub(crate) online: HashMap<String, i32>,
}

/// The token, a decimal number, is the user id, and `k<id>` the key.
fn open_door(request: &ConnectReq) -> Result<ConnectReply, Status> {
    let mid = str::from_utf8(&request.token).ok().and_then(|token| token.parse().ok());
    let mid: i64 = mid.ok_or_else(|| Status::unauthenticated("no such token"))?;
    Ok(ConnectReply {
        expires_at: 0,
        mid,
        key: format!("k{mid}"),
        room_id: "live://1".to_owned(),
        accepts: vec![5],
        heartbeat: 0,
        accepts_all: false,
        rooms: Vec::new(),
    })
}

struct Shared {
    asked: Mutex<Sender<Asked>>,
    script: Mutex<Script>,
    /// While this is set calls are recorded and not answered.
    held: watch::Sender<bool>,
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl Service {
    async fn note(&self, asked: Asked) {
        // The receiver is gone at the end of the test.
        let _ = self.0.asked.lock().unwrap().send(asked);
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
    }

    fn script<T>(&self, read: impl FnOnce(&mut Script) -> T) -> T {
        read(&mut self.0.script.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl Logic for Service {
    async fn connect(
        &self,
        request: Request<ConnectReq>,
    ) -> Result<Response<ConnectReply>, Status> {
        let request = request.into_inner();
        self.note(Asked::Connect(request.clone())).await;
        self.script(|script| (script.connect)(&request)).map(Response::new)
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectReq>,
    ) -> Result<Response<DisconnectReply>, Status> {
        self.note(Asked::Disconnect(request.into_inner())).await;
        Ok(Response::new(DisconnectReply { has: true }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatReq>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let request = request.into_inner();
        self.note(Asked::Heartbeat(request.clone())).await;
        self.script(|script| (script.heartbeat)(&request)).map(Response::new)
    }

    async fn renew_online(
        &self,
        request: Request<OnlineReq>,
    ) -> Result<Response<OnlineReply>, Status> {
        let encoding = request.metadata().get("grpc-encoding");
        let encoding = encoding.map(|encoding| encoding.to_str().unwrap().to_owned());
        self.note(Asked::Renew(request.into_inner(), encoding)).await;
        let all_room_count = self.script(|script| script.online.clone());
        Ok(Response::new(OnlineReply { all_room_count }))
    }

    async fn receive(
        &self,
        request: Request<ReceiveReq>,
    ) -> Result<Response<ReceiveReply>, Status> {
        let request = request.into_inner();
        self.note(Asked::Receive(request.clone())).await;
        self.script(|script| (script.receive)(&request)).map(Response::new)
    }

    async fn nodes(&self, _: Request<NodesReq>) -> Result<Response<NodesReply>, Status> {
        Err(Status::unimplemented("no comet asks this"))
    }
}

pub(crate) struct FakeLogic {
    pub(crate) address: SocketAddr,
    asked: Receiver<Asked>,
    service: Service,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// Reserves the port while nothing listens there. Otherwise the kernel could assign it to others.
    _port: TcpSocket,
}

impl FakeLogic {
    /// Listens at a free port.
    pub(crate) fn start() -> Self {
        let mut logic = Self::absent();
        logic.revive();
        logic
    }

    /// Has a port, but does not listen there.
    pub(crate) fn absent() -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseport(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (sender, asked) = mpsc::channel();
        let script = Script {
            connect: Box::new(open_door),
            heartbeat: Box::new(|_| Ok(HeartbeatReply {})),
            receive: Box::new(|_| Ok(ReceiveReply {})),
            online: HashMap::new(),
        };
        let shared = Shared {
            asked: Mutex::new(sender),
            script: Mutex::new(script),
            held: watch::Sender::new(false),
        };
        Self {
            address: port.local_addr().unwrap(),
            asked,
            service: Service(Arc::new(shared)),
            running: None,
            _port: port,
        }
    }

    /// Accepts calls again, at the same address.
    pub(crate) fn revive(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (listening, is_listening) = mpsc::channel();
        let (service, address) = (self.service.clone(), self.address);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_reuseport(true).unwrap();
                socket.bind(address).unwrap();
                let incoming = TcpListenerStream::new(socket.listen(64).unwrap());
                listening.send(()).unwrap();
                let service = LogicServer::new(service)
                    .accept_compressed(CompressionEncoding::Gzip)
                    .send_compressed(CompressionEncoding::Gzip);
                let served = Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    ended = served => panic!("logic ended by itself: {ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        is_listening.recv_timeout(PATIENCE).expect("the port is ours");
        self.running = Some((stop, thread));
    }

    /// Cuts every connection and stops listening.
    pub(crate) fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        self.service.script(change);
    }

    /// Records calls from now on, and answers them when this is called with `false`.
    pub(crate) fn hold(&self, held: bool) {
        self.service.0.held.send_replace(held);
    }

    /// Waits for a call of interest, and skips the others.
    #[track_caller]
    pub(crate) fn asked<T>(&self, pick: impl Fn(Asked) -> Option<T>) -> T {
        loop {
            let asked = self.asked.recv_timeout(PATIENCE).expect("the call has to come");
            if let Some(picked) = pick(asked) {
                return picked;
            }
        }
    }

    /// The calls so far that no test step has waited for.
    pub(crate) fn all_asked(&self) -> Vec<Asked> {
        self.asked.try_iter().collect()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> ConnectReq {
        self.asked(|asked| match asked {
            Asked::Connect(request) => Some(request),
            _ => None,
        })
    }

    /// The next notice of a session.
    #[track_caller]
    pub(crate) fn notice(&self) -> Asked {
        self.asked(|asked| {
            matches!(asked, Asked::Disconnect(_) | Asked::Heartbeat(_)).then_some(asked)
        })
    }
}

impl Drop for FakeLogic {
    fn drop(&mut self) {
        self.kill();
    }
}
