//! The gRPC services: requests unpacked, handed to [`Pushes`], answers packed and counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use comet_wire::comet::v1::push_server::Push;
use comet_wire::comet::v1::{PushStreamReq, PushUsersReply, PushUsersReq};
use comet_wire::goim::comet::comet_server::Comet;
use comet_wire::goim::comet::{
    BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
    RoomsReply, RoomsReq,
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::push_stream::PushStream;
use crate::pushes::Pushes;
use crate::serve::{Phase, stopped};

/// How many calls were answered, by name (over HTTP the path) and code.
#[derive(Default)]
pub(crate) struct Answers(Mutex<BTreeMap<(&'static str, i32), u64>>);

impl Answers {
    /// The answer, counted; [`Code::Cancelled`] where the caller leaves before there is one.
    pub(crate) async fn of<T>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut awaited = Awaited { answers: self, rpc, is_there: false };
        let answer = answer.await;
        awaited.is_there = true;
        self.count(rpc, &answer);
        answer
    }

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

/// An answer that somebody waits for.
struct Awaited<'a> {
    answers: &'a Answers,
    rpc: &'static str,
    is_there: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_there {
            self.answers.add(self.rpc, Code::Cancelled);
        }
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
        let answer = self.pushes.to_keys(keys, proto, proto_op);
        let ledger = Some(self.answers.of("PushMsg", answer).await?);
        Ok(Response::new(PushMsgReply { ledger }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastReq>,
    ) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed } = request.into_inner();
        let answer = self.pushes.to_all(proto, proto_op, speed);
        let ledger = Some(self.answers.of("Broadcast", answer).await?);
        Ok(Response::new(BroadcastReply { ledger }))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto } = request.into_inner();
        let answer = self.pushes.to_room(room_id, proto);
        let ledger = Some(self.answers.of("BroadcastRoom", answer).await?);
        Ok(Response::new(BroadcastRoomReply { ledger }))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        let rooms = self.answers.of("Rooms", self.pushes.rooms()).await?;
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
        let ledger = Some(self.answers.of("PushUsers", answer).await?);
        Ok(Response::new(PushUsersReply { ledger }))
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
