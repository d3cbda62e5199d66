//! The gRPC services: requests unpacked, handed to [`Pushes`], answers packed and counted.

use std::sync::Arc;

use comet_serve::{CallCounts, Phase, stopped};
use comet_wire::comet::v1::push_server::Push;
use comet_wire::comet::v1::{PushStreamReq, PushUsersReply, PushUsersReq};
use comet_wire::goim::comet::comet_server::Comet;
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
    RoomsReply, RoomsReq,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::push_stream::PushStream;
use crate::pushes::Pushes;

/// Both push services: goim's and comet's own.
#[derive(Clone)]
pub(crate) struct PushService {
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) counts: Arc<CallCounts>,
    pub(crate) phase: watch::Receiver<Phase>,
}

#[tonic::async_trait]
impl Comet for PushService {
    async fn push_msg(
        &self,
        request: Request<PushMsgReq>,
    ) -> Result<Response<PushMsgReply>, Status> {
        let PushMsgReq { keys, proto, proto_op } = request.into_inner();
        let answer = self.pushes.to_keys(keys, proto, proto_op);
        let ledger = Some(self.counts.of("PushMsg", answer).await?);
        Ok(Response::new(PushMsgReply { ledger }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed } = request.into_inner();
        let answer = self.pushes.to_all(proto, proto_op, speed);
        let ledger = Some(self.counts.of("Broadcast", answer).await?);
        Ok(Response::new(BroadcastReply { ledger }))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto } = request.into_inner();
        let answer = self.pushes.to_room(room_id, proto);
        let ledger = Some(self.counts.of("BroadcastRoom", answer).await?);
        Ok(Response::new(BroadcastRoomReply { ledger }))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        let rooms = self.counts.of("Rooms", self.pushes.rooms()).await?;
        let rooms = rooms.into_iter().map(|(room, _)| (room.as_ref().to_owned(), true)).collect();
        Ok(Response::new(RoomsReply { rooms }))
    }
}

#[tonic::async_trait]
impl Push for PushService {
    async fn push_users(
        &self,
        request: Request<PushUsersReq>,
    ) -> Result<Response<PushUsersReply>, Status> {
        let PushUsersReq { users, proto, proto_op } = request.into_inner();
        let answer = self.pushes.to_users(users, proto, proto_op);
        let ledger = Some(self.counts.of("PushUsers", answer).await?);
        Ok(Response::new(PushUsersReply { ledger }))
    }

    type PushStreamStream = PushStream;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamReq>>,
    ) -> Result<Response<PushStream>, Status> {
        let (pushes, counts) = (Arc::clone(&self.pushes), Arc::clone(&self.counts));
        let stopped = stopped(self.phase.clone());
        Ok(Response::new(PushStream::new(request.into_inner(), pushes, counts, stopped)))
    }
}
