//! The gRPC services: requests are decoded and passed to the backend; answers are encoded and counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comet_serve::{Arrivals, CallCounts, GrpcApi, Phase, leaving};
use comet_wire::comet::v1::push_server::{Push, PushServer};
use comet_wire::comet::v1::push_stream_req::{Keys, Users};
use comet_wire::comet::v1::{
    Broadcast, CancelBroadcastReply, CancelBroadcastReq, ChangeRoomsReply, ChangeRoomsReq,
    CountsReply, CountsReq, KickReply, KickReq, ListBroadcastsReply, ListBroadcastsReq,
    PushStreamReq, PushUsersReply, PushUsersReq, change_rooms_req, kick_req,
};
use comet_wire::goim::comet::comet_server::{Comet, CometServer};
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, Ledger, PushMsgReply,
    PushMsgReq, RoomMembers, RoomsReply, RoomsReq,
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::access;
use crate::backend::{
    ChangeTarget, KickNotice, KickTarget, OfAllHosts, PushBackend, RoomChange, RoomsPage,
    RoomsQuery, StreamBackend,
};
use crate::push_stream::PushStream;

/// Both push services: goim's and comet's own. Streams of pushes end at [`Phase::Upgrading`] and [`Phase::Stopped`].
pub fn grpc_api<B: StreamBackend>(
    backend: Arc<B>,
    counts: Arc<CallCounts>,
    phase: watch::Receiver<Phase>,
) -> GrpcApi {
    let request_max = backend.bounds().request_max();
    let service = Arc::new(PushService { backend, counts, phase });
    GrpcApi::default()
        .stream("/comet.v1.Push/PushStream")
        .list("/goim.comet.Comet/Rooms")
        .service(CometServer::from_arc(Arc::clone(&service)).max_decoding_message_size(request_max))
        .service(PushServer::from_arc(service).max_decoding_message_size(request_max))
}

struct PushService<B> {
    backend: Arc<B>,
    counts: Arc<CallCounts>,
    phase: watch::Receiver<Phase>,
}

impl<B: StreamBackend> PushService<B> {
    async fn change_rooms(
        &self,
        request: ChangeRoomsReq,
        is_join: bool,
    ) -> Result<ChangeRoomsReply, Status> {
        let ChangeRoomsReq { target, rooms } = request;
        let target = match target {
            Some(change_rooms_req::Target::Keys(Keys { keys })) => ChangeTarget::Keys(keys),
            Some(change_rooms_req::Target::Users(Users { users })) => ChangeTarget::Users(users),
            None => {
                let sentence = "target is missing: name keys or users";
                return Err(Status::invalid_argument(sentence));
            }
        };
        access::change_rooms(&*self.backend, RoomChange { target, rooms, is_join }).await
    }
}

#[tonic::async_trait]
impl<B: StreamBackend> Comet for PushService<B> {
    async fn push_msg(
        &self,
        request: Request<PushMsgReq>,
    ) -> Result<Response<PushMsgReply>, Status> {
        let PushMsgReq { keys, proto, proto_op } = request.into_inner();
        let answer = access::to_keys(&*self.backend, keys, proto, proto_op);
        let ledger = Some(self.counts.of("PushMsg", answer).await?.ledger);
        Ok(Response::new(PushMsgReply { ledger }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed } = request.into_inner();
        let answer = access::to_all(&*self.backend, proto, proto_op, speed);
        let ledger = Some(self.counts.of("Broadcast", answer).await?.ledger);
        Ok(Response::new(BroadcastReply { ledger }))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto } = request.into_inner();
        let answer = access::to_room(&*self.backend, room_id, proto);
        let ledger = Some(self.counts.of("BroadcastRoom", answer).await?.ledger);
        Ok(Response::new(BroadcastRoomReply { ledger }))
    }

    async fn rooms(&self, request: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        let RoomsReq { limit, after, prefix } = request.into_inner();
        let answer = async {
            match (limit, &*after, &*prefix) {
                (0, "", "") => all_rooms(&*self.backend).await,
                _ => {
                    rooms_page(&*self.backend, RoomsQuery { prefix, after, limit: limit as usize })
                        .await
                }
            }
        };
        Ok(Response::new(self.counts.of("Rooms", answer).await?))
    }
}

/// The answer to goim's request for all rooms.
async fn all_rooms<B: PushBackend>(backend: &B) -> Result<RoomsReply, Status> {
    let rooms = |rooms: Vec<(Arc<str>, u32)>| {
        rooms.into_iter().map(|(room, _)| (room.as_ref().to_owned(), true)).collect()
    };
    let OfAllHosts { value: rooms, unanswered } = backend.rooms(rooms).await?;
    Ok(RoomsReply { rooms, unanswered, ..RoomsReply::default() })
}

async fn rooms_page<B: StreamBackend>(
    backend: &B,
    query: RoomsQuery,
) -> Result<RoomsReply, Status> {
    let (limit, most) = (query.limit, RoomsQuery::LIMIT_MAX);
    if limit > most {
        return Err(Status::invalid_argument(format!("limit: {limit} is more than {most}")));
    }
    let limit = if limit == 0 { most } else { limit };
    let RoomsPage { rooms, has_more, unanswered } =
        backend.rooms_page(RoomsQuery { limit, ..query }).await?;
    let next = rooms.last().filter(|_| has_more);
    Ok(RoomsReply {
        rooms: HashMap::new(),
        next: next.map(|(room, _)| String::from(&**room)).unwrap_or_default(),
        members: rooms
            .into_iter()
            .map(|(room, members)| RoomMembers { room: String::from(&*room), members })
            .collect(),
        unanswered,
    })
}

#[tonic::async_trait]
impl<B: StreamBackend> Push for PushService<B> {
    async fn push_users(
        &self,
        request: Request<PushUsersReq>,
    ) -> Result<Response<PushUsersReply>, Status> {
        let PushUsersReq { users, proto, proto_op } = request.into_inner();
        let answer = access::to_users(&*self.backend, users, proto, proto_op);
        let ledger = Some(self.counts.of("PushUsers", answer).await?.ledger);
        Ok(Response::new(PushUsersReply { ledger }))
    }

    async fn list_broadcasts(
        &self,
        _: Request<ListBroadcastsReq>,
    ) -> Result<Response<ListBroadcastsReply>, Status> {
        self.counts.add("ListBroadcasts", Duration::ZERO, Code::Ok);
        let broadcasts = self.backend.broadcasts().into_iter();
        let broadcasts = broadcasts.map(|broadcast| Broadcast {
            id: broadcast.id,
            proto_op: broadcast.operation,
            speed: broadcast.speed,
            since_ms: u64::try_from(broadcast.since.as_millis()).unwrap_or(u64::MAX),
            name: broadcast.name.as_deref().unwrap_or_default().to_owned(),
        });
        Ok(Response::new(ListBroadcastsReply { broadcasts: broadcasts.collect() }))
    }

    async fn cancel_broadcast(
        &self,
        request: Request<CancelBroadcastReq>,
    ) -> Result<Response<CancelBroadcastReply>, Status> {
        let answer = self.backend.cancel_broadcast(request.into_inner().id);
        let ledger = Some(self.counts.of("CancelBroadcast", answer).await?);
        Ok(Response::new(CancelBroadcastReply { ledger }))
    }

    async fn kick(&self, request: Request<KickReq>) -> Result<Response<KickReply>, Status> {
        let KickReq { target, reason, retry_after_ms } = request.into_inner();
        let answer = async {
            let target = match target {
                Some(kick_req::Target::Keys(Keys { keys })) => KickTarget::Keys(keys),
                Some(kick_req::Target::Users(Users { users })) => KickTarget::Users(users),
                Some(kick_req::Target::RoomId(room)) => KickTarget::Room(room),
                Some(kick_req::Target::Address(address)) => KickTarget::Address(address),
                None => {
                    return Err(Status::invalid_argument(
                        "target is missing: name keys, users, a room or an address",
                    ));
                }
            };
            access::kick(&*self.backend, target, KickNotice { reason, retry_after_ms }).await
        };
        let ledger = self.counts.of("Kick", answer).await?;
        let Ledger { queued, absent, parked, dropped, unanswered, .. } = ledger;
        Ok(Response::new(KickReply {
            closed: queued,
            absent,
            not_closed: dropped.into_iter().collect(),
            unanswered,
            parked,
        }))
    }

    async fn join_rooms(
        &self,
        request: Request<ChangeRoomsReq>,
    ) -> Result<Response<ChangeRoomsReply>, Status> {
        let answer = self.change_rooms(request.into_inner(), true);
        self.counts.of("JoinRooms", answer).await.map(Response::new)
    }

    async fn leave_rooms(
        &self,
        request: Request<ChangeRoomsReq>,
    ) -> Result<Response<ChangeRoomsReply>, Status> {
        let answer = self.change_rooms(request.into_inner(), false);
        self.counts.of("LeaveRooms", answer).await.map(Response::new)
    }

    async fn counts(&self, request: Request<CountsReq>) -> Result<Response<CountsReply>, Status> {
        let answer = access::counts(&*self.backend, request.into_inner().rooms);
        self.counts.of("Counts", answer).await.map(Response::new)
    }

    type PushStreamStream = PushStream<B>;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamReq>>,
    ) -> Result<Response<PushStream<B>>, Status> {
        let (backend, counts) = (Arc::clone(&self.backend), Arc::clone(&self.counts));
        let stopped = leaving(self.phase.clone());
        let arrivals = request.extensions().get::<Arrivals>().cloned().unwrap_or_default();
        let requests = request.into_inner();
        Ok(Response::new(PushStream::new(requests, arrivals, backend, counts, stopped)))
    }
}
