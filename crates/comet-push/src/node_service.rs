//! The gRPC service of operators: requests unpacked, handed to [`Operations`], answers counted.

use std::sync::Arc;

use comet_serve::{CallCounts, GrpcApi};
use comet_wire::comet::v1::node_server::{Node, NodeServer};
use comet_wire::comet::v1::{
    CancelMoveOffReq, DrainReq, MoveOffReq, NodeStatus, StatusReq, UndrainReq,
};
use tonic::{Request, Response, Status};

use crate::operations::Operations;

/// Adds `comet.v1.Node` to `api`.
pub fn with_node_service<O: Operations>(
    api: GrpcApi,
    operations: Arc<O>,
    counts: Arc<CallCounts>,
) -> GrpcApi {
    api.service(NodeServer::new(NodeService { operations, counts }))
}

struct NodeService<O> {
    operations: Arc<O>,
    counts: Arc<CallCounts>,
}

#[tonic::async_trait]
impl<O: Operations> Node for NodeService<O> {
    async fn status(&self, _: Request<StatusReq>) -> Result<Response<NodeStatus>, Status> {
        self.counts.of("Status", self.operations.status()).await.map(Response::new)
    }

    async fn drain(&self, request: Request<DrainReq>) -> Result<Response<NodeStatus>, Status> {
        let drained = self.operations.drain(request.into_inner());
        self.counts.of("Drain", drained).await.map(Response::new)
    }

    async fn undrain(&self, _: Request<UndrainReq>) -> Result<Response<NodeStatus>, Status> {
        self.counts.of("Undrain", self.operations.undrain()).await.map(Response::new)
    }

    async fn move_off(&self, request: Request<MoveOffReq>) -> Result<Response<NodeStatus>, Status> {
        let moved = self.operations.move_off(request.into_inner());
        self.counts.of("MoveOff", moved).await.map(Response::new)
    }

    async fn cancel_move_off(
        &self,
        _: Request<CancelMoveOffReq>,
    ) -> Result<Response<NodeStatus>, Status> {
        let cancelled = self.operations.cancel_move_off();
        self.counts.of("CancelMoveOff", cancelled).await.map(Response::new)
    }
}
