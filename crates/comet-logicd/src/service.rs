//! `goim.logic.Logic`: the identity of a client, its session, and the members of rooms.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use comet_logic::{AnyAuthenticator, Authenticator, Identity, NAME_MAX, OperationFilter};
use comet_push::{ClientEndpoint, NodeList};
use comet_router::{Buckets, Placed, Sessions, Store};
use comet_serve::CallCounts;
use comet_wire::goim::logic::logic_server::Logic;
use comet_wire::goim::logic::{
    Backoff, ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReply,
    HeartbeatReq, NodesReply, NodesReq, OnlineReply, OnlineReq, ReceiveReply, ReceiveReq,
};
use tonic::{Request, Response, Status};

use crate::comets::unavailable;
use crate::nodes::Nodes;
use crate::room_sums::RoomSums;

/// Longest server id, bytes.
const SERVER_MAX: usize = 255;

#[derive(Clone)]
pub(crate) struct LogicService {
    pub(crate) authenticator: AnyAuthenticator,
    pub(crate) sessions: Arc<Store>,
    pub(crate) room_sums: Arc<RoomSums>,
    pub(crate) nodes: Nodes,
    pub(crate) node: ClientEndpoint,
    pub(crate) counts: Arc<CallCounts>,
}

impl LogicService {
    async fn begin(&self, request: ConnectReq) -> Result<ConnectReply, Status> {
        let ConnectReq { server, cookie, token } = request;
        check_server(&server)?;
        let identity = self.authenticator.auth(&token, &cookie).map_err(|refusal| match refusal
            .is_temporary()
        {
            true => Status::unavailable(refusal.to_string()),
            false => Status::unauthenticated(refusal.to_string()),
        })?;
        let Identity { user, key, room, rooms, accepts, expires_in_ms, .. } = identity;
        let key = key.as_deref().unwrap_or_default();
        let Placed { key, .. } =
            self.sessions.put(user, key, &server).await.map_err(unavailable)?;
        let (accepts, accepts_all) = match accepts {
            OperationFilter::Only(operations) => (operations.into(), false),
            // No token excludes operations; only operation 16 does.
            OperationFilter::All | OperationFilter::AllBut(_) => (Vec::new(), true),
        };
        Ok(ConnectReply {
            mid: user,
            key,
            room_id: room.map(Into::into).unwrap_or_default(),
            accepts,
            heartbeat: i64::try_from(self.node.heartbeat.as_nanos()).unwrap_or(i64::MAX),
            accepts_all,
            expires_at: expires_in_ms.map_or(0, expires_at),
            rooms: rooms.into_iter().map(Into::into).collect(),
        })
    }

    async fn end(&self, request: DisconnectReq) -> Result<DisconnectReply, Status> {
        let DisconnectReq { mid, key, server } = request;
        check_session(&key, &server)?;
        let has = self.sessions.del(mid, &key, &server).await.map_err(unavailable)?;
        Ok(DisconnectReply { has })
    }

    async fn renew(&self, request: HeartbeatReq) -> Result<HeartbeatReply, Status> {
        let HeartbeatReq { mid, key, server } = request;
        check_session(&key, &server)?;
        // A key that is at another comet by now stays there; the late comet need not be told.
        self.sessions.renew(mid, &key, &server).await.map_err(unavailable)?;
        Ok(HeartbeatReply {})
    }

    async fn count(&self, request: OnlineReq) -> Result<OnlineReply, Status> {
        let OnlineReq { server, room_count, buckets, more } = request;
        check_server(&server)?;
        let rooms: HashMap<String, u32> = room_count
            .into_iter()
            .filter_map(|(room, online)| Some((room, u32::try_from(online).ok()?)))
            .filter(|(room, online)| *online > 0 && !room.is_empty() && room.len() <= NAME_MAX)
            .collect();
        let buckets = if buckets == 0 { Buckets::ALL } else { Buckets(buckets) };
        self.sessions.add_room_counts(&server, buckets, &rooms).await.map_err(unavailable)?;
        if more {
            return Ok(OnlineReply::default());
        }
        let all = self.room_sums.read(&self.sessions).await.map_err(unavailable)?;
        let online = |online: u32| i32::try_from(online).unwrap_or(i32::MAX);
        let all = all.iter().map(|(room, members)| (room.clone(), online(*members)));
        Ok(OnlineReply { all_room_count: all.collect() })
    }

    /// A client's message is only counted and goes nowhere, as in goim's logic.
    fn count_message(request: ReceiveReq) -> Result<ReceiveReply, Status> {
        let ReceiveReq { mid, proto } = request;
        let proto =
            proto.ok_or_else(|| Status::invalid_argument("proto is missing: nothing was said"))?;
        log::debug!("user {mid} said {} bytes with operation {}", proto.body.len(), proto.op);
        Ok(ReceiveReply {})
    }

    async fn nodes(&self) -> Result<NodesReply, Status> {
        let ClientEndpoint { domain, .. } = &self.node;
        let port = |port: Option<u16>| i32::from(port.unwrap_or(0));
        Ok(NodesReply {
            domain: domain.clone(),
            tcp_port: port(self.node.tcp_port()),
            ws_port: port(self.node.websocket_port()),
            wss_port: port(self.node.websocket_tls_port()),
            heartbeat: i32::try_from(self.node.heartbeat_seconds()).unwrap_or(i32::MAX),
            nodes: self.nodes.hosts().await,
            backoff: Some(Backoff {
                max_delay: ClientEndpoint::BACKOFF.max_delay,
                base_delay: ClientEndpoint::BACKOFF.base_delay,
                // Seconds and factors need only a few digits.
                factor: ClientEndpoint::BACKOFF.factor as f32,
                jitter: ClientEndpoint::BACKOFF.jitter as f32,
            }),
            heartbeat_max: ClientEndpoint::HEARTBEAT_MAX as i32,
        })
    }

    /// Waits for an answer, counts it, and encodes it. Only lists of rooms are worth compressing.
    async fn answer<T>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let answer = self.counts.of(rpc, answer).await;
        if let Err(status) = &answer {
            log::debug!("{rpc}: {:?}, {:?}", status.code(), status.message());
        }
        let mut response = Response::new(answer?);
        if rpc != "RenewOnline" {
            response.disable_compression();
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl Logic for LogicService {
    async fn connect(
        &self,
        request: Request<ConnectReq>,
    ) -> Result<Response<ConnectReply>, Status> {
        self.answer("Connect", self.begin(request.into_inner())).await
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectReq>,
    ) -> Result<Response<DisconnectReply>, Status> {
        self.answer("Disconnect", self.end(request.into_inner())).await
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatReq>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        self.answer("Heartbeat", self.renew(request.into_inner())).await
    }

    async fn renew_online(
        &self,
        request: Request<OnlineReq>,
    ) -> Result<Response<OnlineReply>, Status> {
        self.answer("RenewOnline", self.count(request.into_inner())).await
    }

    async fn receive(
        &self,
        request: Request<ReceiveReq>,
    ) -> Result<Response<ReceiveReply>, Status> {
        self.answer("Receive", ready(Self::count_message(request.into_inner()))).await
    }

    async fn nodes(&self, _: Request<NodesReq>) -> Result<Response<NodesReply>, Status> {
        self.answer("Nodes", Self::nodes(self)).await
    }
}

/// The Unix time in seconds at which a token expires, rounded up.
fn expires_at(in_ms: u64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = now.saturating_add(Duration::from_millis(in_ms)).as_millis().div_ceil(1_000);
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn check_server(server: &str) -> Result<(), Status> {
    match server.len() {
        0 => Err(Status::invalid_argument("server is empty: name the comet")),
        1..=SERVER_MAX => Ok(()),
        more => Err(Status::invalid_argument(format!(
            "server has {more} bytes, more than {SERVER_MAX}"
        ))),
    }
}

fn check_session(key: &str, server: &str) -> Result<(), Status> {
    check_server(server)?;
    match key.len() {
        0 => Err(Status::invalid_argument("key is empty: name the session")),
        1..=NAME_MAX => Ok(()),
        more => {
            Err(Status::invalid_argument(format!("key has {more} bytes, more than {NAME_MAX}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use comet_logic::UnverifiedTokens;
    use comet_push::CallLimits;
    use comet_router::{Redis, RedisOptions};
    use comet_serve::BearerToken;
    use tonic::Code;

    use crate::comets::Comets;

    use super::*;

    /// The time of a call begins before the store is asked, and its caller may leave meanwhile.
    #[tokio::test]
    async fn a_caller_that_leaves_while_the_comets_are_looked_up_counts() {
        // This listener never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sessions = Redis::new(&RedisOptions {
            servers: vec![format!("redis://{}", listener.local_addr().unwrap())],
            ca: None,
            lifetime: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
        });
        let sessions = Arc::new(Store::Redis(sessions.unwrap()));
        let bounds = CallLimits { frame_max: 1, keys_max: 1, timeout: Duration::from_secs(1) };
        let comets = Comets::new(BearerToken::new(None), Arc::clone(&sessions), bounds);
        let service = LogicService {
            authenticator: AnyAuthenticator::Open(UnverifiedTokens),
            sessions,
            room_sums: Arc::default(),
            nodes: Nodes { comets: Arc::new(comets), domain: String::new() },
            node: ClientEndpoint {
                domain: String::new(),
                tcp: Vec::new(),
                websocket: Vec::new(),
                websocket_tls: Vec::new(),
                heartbeat: Duration::from_secs(300),
            },
            counts: Arc::default(),
        };
        {
            let mut call = pin!(Logic::nodes(&service, Request::new(NodesReq::default())));
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(service.counts.all(), [("Nodes", Code::Cancelled, 1)]);
    }
}
