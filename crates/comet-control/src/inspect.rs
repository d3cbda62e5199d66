//! The gRPC service that shows the state of the server.

use std::sync::Arc;

use comet_serve::{CallCounts, GrpcApi};
use comet_wire::comet::v1::inspect_server::{Inspect, InspectServer};
use comet_wire::comet::v1::{
    ConnectionsReply, ConnectionsReq, HistoryReply, HistoryReq, MembersReply, MembersReq, TopReply,
    TopReq,
};
use tonic::{Request, Response, Status};

use crate::inspector::Inspector;
use crate::questions::Questions;

/// Longest request, bytes: a key and a room of the lengths that a URL allows.
const REQUEST_MAX: usize = 16 << 10;

/// Adds the service to `api`.
pub(crate) fn serve(
    api: GrpcApi,
    inspector: Arc<Inspector>,
    questions: Arc<Questions>,
    counts: Arc<CallCounts>,
) -> GrpcApi {
    let service = InspectServer::new(InspectService { inspector, questions, counts });
    api.list("/comet.v1.Inspect/Connections")
        .list("/comet.v1.Inspect/History")
        .list("/comet.v1.Inspect/Members")
        .list("/comet.v1.Inspect/Top")
        .service(service.max_decoding_message_size(REQUEST_MAX))
}

struct InspectService {
    inspector: Arc<Inspector>,
    questions: Arc<Questions>,
    counts: Arc<CallCounts>,
}

#[tonic::async_trait]
impl Inspect for InspectService {
    async fn connections(
        &self,
        request: Request<ConnectionsReq>,
    ) -> Result<Response<ConnectionsReply>, Status> {
        let request = request.into_inner();
        let answer = self.inspector.connections(&request, |reply| reply);
        Ok(Response::new(self.counts.of("Connections", answer).await?))
    }

    async fn members(
        &self,
        request: Request<MembersReq>,
    ) -> Result<Response<MembersReply>, Status> {
        let answer = self.questions.members(request.into_inner());
        Ok(Response::new(self.counts.of("Members", answer).await?))
    }

    async fn history(
        &self,
        request: Request<HistoryReq>,
    ) -> Result<Response<HistoryReply>, Status> {
        let answer = self.inspector.history(request.into_inner(), |reply| reply);
        Ok(Response::new(self.counts.of("History", answer).await?))
    }

    async fn top(&self, request: Request<TopReq>) -> Result<Response<TopReply>, Status> {
        let answer = self.inspector.top(request.into_inner().limit, |reply| reply);
        Ok(Response::new(self.counts.of("Top", answer).await?))
    }
}
