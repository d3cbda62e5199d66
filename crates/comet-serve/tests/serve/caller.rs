//! A gRPC server with health and reflection, and a caller that controls the flow of the answers itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response};
use comet_serve::{AccessControl, ApiTls, GateLimits, Gates, GrpcApi, Phase, Servers, listen};
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::sync::watch;

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A message without bytes: a health check of the whole server.
pub(crate) const EMPTY: [u8; 5] = [0; 5];
/// The question of reflection for the list of services.
pub(crate) const LIST: [u8; 7] = [0, 0, 0, 0, 2, 0x3a, 0];

/// The status RESOURCE_EXHAUSTED.
pub(crate) const EXHAUSTED: &str = "8";

/// How long a request may take.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(5);

/// The server, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    _servers: Servers,
    _phase: watch::Sender<Phase>,
}

impl Server {
    /// A server behind a gate of `gates` that asks for `tokens`.
    pub(crate) fn start(gates: &Gates, tokens: &[&str]) -> Self {
        let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
        let address = bound.addresses[0].socket().unwrap();
        let tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
        let access = Arc::new(AccessControl::new(tokens, Vec::new()));
        let limits =
            GateLimits { connections: 64, request_max: 4 << 10, request_time: REQUEST_TIME };
        let gate = gates.gate("test", limits, &access);
        let (phase, phases) = watch::channel(Phase::Ready);
        let mut servers = Servers::new(phases);
        servers.grpc(&gate, bound.listeners, GrpcApi::default(), &[]).unwrap();
        Self { address, _servers: servers, _phase: phase }
    }

    /// A connection whose streams have a window of this many bytes each.
    pub(crate) async fn caller(&self, window: u32) -> Caller {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) =
            Builder::new().initial_window_size(window).handshake::<_, Bytes>(stream).await.unwrap();
        let ended = tokio::spawn(async move { drop(connection.await) });
        Caller { send, ended }
    }
}

/// A connection to the server. It answers pings like any caller.
pub(crate) struct Caller {
    send: SendRequest<Bytes>,
    /// Completes when the connection ends.
    pub(crate) ended: tokio::task::JoinHandle<()>,
}

/// A call whose answer has begun.
pub(crate) struct Call {
    pub(crate) head: HeaderMap,
    pub(crate) request: SendStream<Bytes>,
    pub(crate) answer: RecvStream,
}

impl Caller {
    /// A call of `path` with these messages; with `is_end` the request ends after them.
    pub(crate) async fn call(&mut self, path: &str, messages: &[u8], is_end: bool) -> Call {
        self.call_with(path, None, messages, is_end).await
    }

    /// The same with a token.
    pub(crate) async fn call_with(
        &mut self,
        path: &str,
        authorization: Option<&str>,
        messages: &[u8],
        is_end: bool,
    ) -> Call {
        let mut request = Request::post(format!("http://test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        let (answer, mut request) = send.send_request(request.body(()).unwrap(), false).unwrap();
        // Many frames without a byte end a connection.
        if is_end || !messages.is_empty() {
            request.send_data(Bytes::copy_from_slice(messages), is_end).unwrap();
        }
        let (head, answer) = Response::into_parts(answer.await.unwrap());
        Call { head: head.headers, request, answer }
    }

    /// Checks health, and reads the answer: its status.
    pub(crate) async fn check(&mut self) -> String {
        self.call(CHECK, &EMPTY, true).await.status().await
    }
}

impl Call {
    /// The status in the head, if no message follows.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.head.get("grpc-status").map(|status| status.to_str().unwrap())
    }

    /// Takes the next bytes of the answer.
    pub(crate) async fn take(&mut self) -> Bytes {
        let bytes = self.answer.data().await.expect("more of the answer").unwrap();
        self.answer.flow_control().release_capacity(bytes.len()).unwrap();
        bytes
    }

    /// Reads the answer to its end: its status.
    pub(crate) async fn status(mut self) -> String {
        if let Some(status) = self.refused() {
            return status.to_owned();
        }
        while let Some(bytes) = self.answer.data().await {
            self.answer.flow_control().release_capacity(bytes.unwrap().len()).unwrap();
        }
        let trailers = self.answer.trailers().await.unwrap().expect("a status at the end");
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }
}
