//! The gRPC services: requests unpacked, handed to [`Pushes`], answers packed and counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::push_stream::PushStream;
use crate::pushes::Pushes;
use crate::serve::{Phase, stopped};
use crate::wire::comet::v1::push_server::Push;
use crate::wire::comet::v1::{PushStreamReq, PushUsersReply, PushUsersReq};
use crate::wire::goim::comet::comet_server::Comet;
use crate::wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
    RoomsReply, RoomsReq,
};

/// How many calls were answered, by name (over HTTP the path) and code.
#[derive(Default)]
pub(crate) struct Answers(Mutex<BTreeMap<(&'static str, i32), u64>>);

impl Answers {
    pub(crate) fn count<T>(&self, rpc: &'static str, answer: &Result<T, Status>) {
        self.add(rpc, answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
    }

    pub(crate) fn add(&self, rpc: &'static str, code: Code) {
        *self.0.lock().expect(NO_PANIC).entry((rpc, code as i32)).or_default() += 1;
    }

    /// Name, code and count of all answers so far.
    pub(crate) fn all(&self) -> Vec<(&'static str, Code, u64)> {
        let answers = self.0.lock().expect(NO_PANIC);
        answers.iter().map(|((rpc, code), count)| (*rpc, Code::from_i32(*code), *count)).collect()
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

/// Both push services: goim's and comet's own.
#[derive(Clone)]
pub(crate) struct PushService {
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) answers: Arc<Answers>,
    pub(crate) phase: watch::Receiver<Phase>,
}

#[tonic::async_trait]
impl Comet for PushService {
    async fn push_msg(
        &self,
        request: Request<PushMsgReq>,
    ) -> Result<Response<PushMsgReply>, Status> {
        let PushMsgReq { keys, proto, proto_op } = request.into_inner();
        let answer = self.pushes.to_keys(keys, proto, proto_op).await;
        self.answers.count("PushMsg", &answer);
        Ok(Response::new(PushMsgReply { ledger: Some(answer?) }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed } = request.into_inner();
        let answer = self.pushes.to_all(proto, proto_op, speed).await;
        self.answers.count("Broadcast", &answer);
        Ok(Response::new(BroadcastReply { ledger: Some(answer?) }))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto } = request.into_inner();
        let answer = self.pushes.to_room(room_id, proto).await;
        self.answers.count("BroadcastRoom", &answer);
        Ok(Response::new(BroadcastRoomReply { ledger: Some(answer?) }))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        let answer = self.pushes.rooms().await;
        self.answers.count("Rooms", &answer);
        let rooms = answer?.into_iter().map(|(room, _)| (room.as_ref().to_owned(), true)).collect();
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
        let answer = self.pushes.to_users(users, proto, proto_op).await;
        self.answers.count("PushUsers", &answer);
        Ok(Response::new(PushUsersReply { ledger: Some(answer?) }))
    }

    type PushStreamStream = PushStream;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamReq>>,
    ) -> Result<Response<PushStream>, Status> {
        let (pushes, answers) = (Arc::clone(&self.pushes), Arc::clone(&self.answers));
        let stopped = stopped(self.phase.clone());
        Ok(Response::new(PushStream::new(request.into_inner(), pushes, answers, stopped)))
    }
}
