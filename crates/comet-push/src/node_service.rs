//! The gRPC service for operators: requests are decoded and passed to [`NodeAdmin`]; answers are counted.

use std::sync::Arc;
use std::time::Duration;

use comet_serve::{CallCounts, GrpcApi};
use comet_wire::comet::v1::node_server::{Node, NodeServer};
use comet_wire::comet::v1::{
    BlockReply, BlockReq, CancelMoveOffReq, DrainReq, ListBlocksReply, ListBlocksReq, MoveOffReq,
    NodeStatus, StatusReq, TraceReq, UnblockReply, UnblockReq, UndrainReq,
};
use tonic::{Code, Request, Response, Status};

use crate::node_admin::NodeAdmin;

/// Adds `comet.v1.Node` to `api`.
pub fn with_node_service<O: NodeAdmin>(
    api: GrpcApi,
    admin: Arc<O>,
    counts: Arc<CallCounts>,
) -> GrpcApi {
    api.service(NodeServer::new(NodeService { admin, counts }))
}

struct NodeService<O> {
    admin: Arc<O>,
    counts: Arc<CallCounts>,
}

#[tonic::async_trait]
impl<O: NodeAdmin> Node for NodeService<O> {
    async fn status(&self, _: Request<StatusReq>) -> Result<Response<NodeStatus>, Status> {
        self.counts.of("Status", self.admin.status()).await.map(Response::new)
    }

    async fn drain(&self, request: Request<DrainReq>) -> Result<Response<NodeStatus>, Status> {
        let drained = self.admin.drain(request.into_inner());
        self.counts.of("Drain", drained).await.map(Response::new)
    }

    async fn undrain(&self, _: Request<UndrainReq>) -> Result<Response<NodeStatus>, Status> {
        self.counts.of("Undrain", self.admin.undrain()).await.map(Response::new)
    }

    async fn move_off(&self, request: Request<MoveOffReq>) -> Result<Response<NodeStatus>, Status> {
        let moved = self.admin.move_off(request.into_inner());
        self.counts.of("MoveOff", moved).await.map(Response::new)
    }

    async fn cancel_move_off(
        &self,
        _: Request<CancelMoveOffReq>,
    ) -> Result<Response<NodeStatus>, Status> {
        let cancelled = self.admin.cancel_move_off();
        self.counts.of("CancelMoveOff", cancelled).await.map(Response::new)
    }

    async fn block(&self, request: Request<BlockReq>) -> Result<Response<BlockReply>, Status> {
        let blocked = self.admin.block(request.into_inner());
        self.counts.of("Block", blocked).await.map(Response::new)
    }

    async fn unblock(
        &self,
        request: Request<UnblockReq>,
    ) -> Result<Response<UnblockReply>, Status> {
        let unblocked = async { self.admin.unblock(&request.into_inner().address) };
        self.counts.of("Unblock", unblocked).await?;
        Ok(Response::new(UnblockReply {}))
    }

    async fn list_blocks(
        &self,
        _: Request<ListBlocksReq>,
    ) -> Result<Response<ListBlocksReply>, Status> {
        self.counts.add("ListBlocks", Duration::ZERO, Code::Ok);
        Ok(Response::new(ListBlocksReply { blocks: self.admin.blocks() }))
    }

    type TraceStream = O::Trace;

    /// A trace is counted when it begins.
    async fn trace(&self, request: Request<TraceReq>) -> Result<Response<O::Trace>, Status> {
        let begun = async { self.admin.trace(request.into_inner()) };
        self.counts.of("Trace", begun).await.map(Response::new)
    }
}
