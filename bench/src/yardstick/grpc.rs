//! The push API on a bare single-threaded tonic server. As the yardstick of a call it decodes every push and answers at
//! once that nobody got it. As the yardstick of a push to a small room it makes the bare ring send it to a group.

mod groups;

use std::net::TcpListener;

use comet_wire::goim::comet::comet_server::{Comet, CometServer};
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
    RoomsReply, RoomsReq,
};
use tokio::runtime;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use self::groups::Groups;
use super::loops::RingLoop;
use crate::Result;
use crate::grpc::Ledger;

/// The longest request that is decoded, bytes.
const REQUEST_MAX: usize = 64 << 20;
/// The reason given for everything that is not delivered.
const REASON: &str = "yardstick";

/// Answers until the process is killed. Fails if the runtime refuses the listener.
pub(super) fn serve(listener: TcpListener) -> Result<()> {
    let nobody = CometServer::new(Nobody).max_decoding_message_size(REQUEST_MAX);
    run(listener, Routes::new(nobody))
}

/// The same, but a push to a room is sent to a group of the ring's sockets before it is answered.
pub(super) fn serve_groups(listener: TcpListener, ring: RingLoop) -> Result<()> {
    let groups = Groups::new(ring);
    run(listener, Routes::new(groups.calls()).add_service(groups.streams()))
}

fn run(listener: TcpListener, services: Routes) -> Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = TcpListenerStream::new(listener).map(|accepted| {
            let stream = accepted?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        Ok(Server::builder().add_routes(services).serve_with_incoming(incoming).await?)
    })
}

struct Nobody;

fn dropped(connections: usize) -> Option<Ledger> {
    let connections = connections as u64;
    let dropped = [(REASON.to_owned(), connections)].into();
    Some(Ledger { matched: connections, dropped, ..Ledger::default() })
}

#[tonic::async_trait]
impl Comet for Nobody {
    async fn push_msg(&self, push: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        let ledger = dropped(push.get_ref().keys.len());
        Ok(Response::new(PushMsgReply { ledger }))
    }

    async fn broadcast(
        &self,
        _: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        Err(Status::unimplemented("there is nobody"))
    }

    async fn broadcast_room(
        &self,
        _: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        Ok(Response::new(BroadcastRoomReply { ledger: dropped(1) }))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Ok(Response::new(RoomsReply::default()))
    }
}
