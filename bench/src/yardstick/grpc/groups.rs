//! A push to a room with gRPC and nothing else: the cost of tonic, and the ring's ten sends.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use comet_wire::comet::v1::push_server::{Push, PushServer};
use comet_wire::comet::v1::push_stream_reply::Answer;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::Target;
use comet_wire::comet::v1::{
    CancelBroadcastReply, CancelBroadcastReq, ChangeRoomsReply, ChangeRoomsReq, CountsReply,
    CountsReq, KickReply, KickReq, ListBroadcastsReply, ListBroadcastsReq, PushStreamReply,
    PushStreamReq, PushUsersReply, PushUsersReq,
};
use comet_wire::goim::comet::comet_server::{Comet, CometServer};
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
    RoomsReply, RoomsReq,
};
use comet_wire::goim::protocol::Proto;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::Ledger;
use crate::message::append_header;
use crate::yardstick::FAN;
use crate::yardstick::loops::RingLoop;

type Replies = Pin<Box<dyn Stream<Item = Result<PushStreamReply, Status>> + Send>>;

/// The sockets, in groups. Clones share them.
#[derive(Clone)]
pub(super) struct Groups(Arc<Mutex<RingLoop>>);

impl Groups {
    pub(super) fn new(ring: RingLoop) -> Self {
        Self(Arc::new(Mutex::new(ring)))
    }

    pub(super) fn calls(&self) -> CometServer<Self> {
        CometServer::new(self.clone())
    }

    pub(super) fn streams(&self) -> PushServer<Self> {
        PushServer::new(self.clone())
    }

    /// Sends the push to each socket of the group whose number ends the room's name.
    fn send(&self, room: &str, proto: Option<Proto>) -> Result<Ledger, Status> {
        let digits = room.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        let group: usize = digits.parse().unwrap_or_default();
        let mut ring = self.0.lock().expect("the only thread has not panicked");
        if group == 0 || group * FAN > ring.sockets() {
            return Err(Status::invalid_argument(format!("{room} names no group, from 1 on")));
        }
        let proto = proto.unwrap_or_default();
        let mut frame = Vec::new();
        append_header(proto.op, proto.seq as u32, proto.body.len(), &mut frame);
        frame.extend_from_slice(&proto.body);
        ring.round(frame, (group - 1) * FAN..group * FAN)
            .map_err(|error| Status::internal(error.to_string()))?;
        let sent = FAN as u64;
        Ok(Ledger { matched: sent, queued: sent, ..Ledger::default() })
    }

    fn answer(&self, push: PushStreamReq) -> Result<PushStreamReply, Status> {
        let Some(Target::RoomId(room)) = push.target else { return Err(not_here()) };
        let outcome = Some(Outcome::Ledger(self.send(&room, push.proto)?));
        Ok(PushStreamReply { answers: vec![Answer { id: push.id, outcome }] })
    }
}

fn not_here() -> Status {
    Status::unimplemented("a yardstick takes pushes to rooms alone")
}

#[tonic::async_trait]
impl Comet for Groups {
    async fn push_msg(&self, _: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        Err(not_here())
    }

    async fn broadcast(
        &self,
        _: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        Err(not_here())
    }

    async fn broadcast_room(
        &self,
        push: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto } = push.into_inner();
        let ledger = Some(self.send(&room_id, proto)?);
        Ok(Response::new(BroadcastRoomReply { ledger }))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        Err(not_here())
    }
}

#[tonic::async_trait]
impl Push for Groups {
    type PushStreamStream = Replies;

    async fn push_stream(
        &self,
        pushes: Request<Streaming<PushStreamReq>>,
    ) -> Result<Response<Replies>, Status> {
        let groups = self.clone();
        let replies = pushes.into_inner().map(move |push| groups.answer(push?));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn push_users(
        &self,
        _: Request<PushUsersReq>,
    ) -> Result<Response<PushUsersReply>, Status> {
        Err(not_here())
    }

    async fn list_broadcasts(
        &self,
        _: Request<ListBroadcastsReq>,
    ) -> Result<Response<ListBroadcastsReply>, Status> {
        Err(not_here())
    }

    async fn cancel_broadcast(
        &self,
        _: Request<CancelBroadcastReq>,
    ) -> Result<Response<CancelBroadcastReply>, Status> {
        Err(not_here())
    }

    async fn kick(&self, _: Request<KickReq>) -> Result<Response<KickReply>, Status> {
        Err(not_here())
    }

    async fn join_rooms(
        &self,
        _: Request<ChangeRoomsReq>,
    ) -> Result<Response<ChangeRoomsReply>, Status> {
        Err(not_here())
    }

    async fn leave_rooms(
        &self,
        _: Request<ChangeRoomsReq>,
    ) -> Result<Response<ChangeRoomsReply>, Status> {
        Err(not_here())
    }

    async fn counts(&self, _: Request<CountsReq>) -> Result<Response<CountsReply>, Status> {
        Err(not_here())
    }
}
