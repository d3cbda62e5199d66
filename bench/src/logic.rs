//! A logic service in the bench: it accepts everybody with a token of the bench, and counts the messages of clients.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use comet_wire::goim::logic::logic_server::{Logic, LogicServer};
use comet_wire::goim::logic::{
    ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReply, HeartbeatReq,
    NodesReply, NodesReq, OnlineReply, OnlineReq, ReceiveReply, ReceiveReq,
};
use serde::{Deserialize, Serialize};
use tokio::runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::Result;
use crate::clients::talk_of;

/// The messages of clients.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Said {
    /// Each counted once.
    pub received: u64,
    pub doubled: u64,
    /// Messages that arrived after a later one of the same client.
    pub out_of_order: u64,
    /// Messages that have not arrived although a later one of the same client has.
    pub lost: u64,
    /// Messages that are not of this bench, or carry the name of another user.
    pub foreign: u64,
    /// Sessions whose end comet has reported.
    pub disconnects: u64,
}

#[derive(Default)]
struct Books {
    /// The next message of each client, and those before it that have not arrived.
    clients: HashMap<u64, (u64, Vec<u64>)>,
    said: Said,
}

/// The service, which runs on its own thread until the bench ends.
pub(crate) struct LogicBooks {
    pub address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

impl LogicBooks {
    /// Starts it. Fails if no port is free.
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let books = Arc::<Mutex<Books>>::default();
        let service = LogicServer::new(Service(Arc::clone(&books)));
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let incoming = TcpListenerStream::new(listener);
                let served = Server::builder().tcp_nodelay(true).add_service(service);
                served.serve_with_incoming(incoming).await.map_err(std::io::Error::other)
            })
        });
        Ok(Self { address, books })
    }

    /// The messages so far.
    pub(crate) fn said(&self) -> Said {
        let books = lock(&self.books);
        let lost = books.clients.values().map(|(_, missing)| missing.len() as u64).sum();
        Said { lost, ..books.said }
    }
}

struct Service(Arc<Mutex<Books>>);

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().expect("nobody panics with them")
}

impl Books {
    fn note(&mut self, user: i64, body: &[u8]) {
        let Some((member, sequence)) = talk_of(body) else {
            self.said.foreign += 1;
            return;
        };
        // Tokens count from 1.
        if u64::try_from(user).ok() != Some(member + 1) {
            self.said.foreign += 1;
            return;
        }
        let (next, missing) = self.clients.entry(member).or_default();
        if sequence >= *next {
            missing.extend(*next..sequence);
            *next = sequence + 1;
            self.said.received += 1;
        } else if let Some(at) = missing.iter().position(|late| *late == sequence) {
            missing.swap_remove(at);
            self.said.out_of_order += 1;
            self.said.received += 1;
        } else {
            self.said.doubled += 1;
        }
    }
}

/// The fields of the bench's tokens.
#[derive(Deserialize)]
struct Token {
    mid: i64,
    key: String,
    room_id: String,
    accepts: Vec<i32>,
}

#[tonic::async_trait]
impl Logic for Service {
    async fn connect(
        &self,
        request: Request<ConnectReq>,
    ) -> Result<Response<ConnectReply>, Status> {
        let token = serde_json::from_slice(&request.get_ref().token);
        let Token { mid, key, room_id, accepts } =
            token.map_err(|error| Status::unauthenticated(error.to_string()))?;
        let (heartbeat, accepts_all, expires_at, rooms) = (0, false, 0, Vec::new());
        let reply =
            ConnectReply { mid, key, room_id, accepts, heartbeat, accepts_all, expires_at, rooms };
        Ok(Response::new(reply))
    }

    async fn disconnect(
        &self,
        _: Request<DisconnectReq>,
    ) -> Result<Response<DisconnectReply>, Status> {
        lock(&self.0).said.disconnects += 1;
        Ok(Response::new(DisconnectReply { has: true }))
    }

    async fn heartbeat(
        &self,
        _: Request<HeartbeatReq>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        Ok(Response::new(HeartbeatReply {}))
    }

    async fn renew_online(&self, _: Request<OnlineReq>) -> Result<Response<OnlineReply>, Status> {
        Ok(Response::new(OnlineReply::default()))
    }

    async fn receive(
        &self,
        request: Request<ReceiveReq>,
    ) -> Result<Response<ReceiveReply>, Status> {
        let ReceiveReq { mid, proto } = request.into_inner();
        lock(&self.0).note(mid, &proto.unwrap_or_default().body);
        Ok(Response::new(ReceiveReply {}))
    }

    async fn nodes(&self, _: Request<NodesReq>) -> Result<Response<NodesReply>, Status> {
        Err(Status::unimplemented("for nobody"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_counted_once_and_in_order() {
        let mut books = Books::default();
        let body =
            |member: u64, sequence: u64| [member.to_be_bytes(), sequence.to_be_bytes()].concat();
        for sequence in [0, 1, 3, 2, 3, 5] {
            books.note(8, &body(7, sequence));
        }
        books.note(8, &body(6, 0));
        books.note(8, b"");
        let lost: u64 = books.clients.values().map(|(_, missing)| missing.len() as u64).sum();
        let Said { received, doubled, out_of_order, foreign, .. } = books.said;
        assert_eq!((received, doubled, out_of_order, lost, foreign), (5, 1, 1, 1, 2));
    }
}
