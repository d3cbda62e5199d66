//! The administration of a running server by its operator.

use comet_wire::comet::v1::{
    Block, BlockReply, BlockReq, DrainReq, MoveOffReq, NodeStatus, TraceReply, TraceReq,
};
use tokio_stream::Stream;
use tonic::Status;

/// Executes the calls of `comet.v1.Node`, which are described there. A failed call is a status with a sentence for its
/// caller.
pub trait NodeAdmin: Send + Sync + 'static {
    /// A live trace; it ends when this is dropped.
    type Trace: Stream<Item = Result<TraceReply, Status>> + Send + 'static;

    /// The state of the server.
    fn status(&self) -> impl Future<Output = Result<NodeStatus, Status>> + Send;

    /// Begins a drain, or changes the one under way.
    fn drain(&self, order: DrainReq) -> impl Future<Output = Result<NodeStatus, Status>> + Send;

    /// Ends a drain.
    fn undrain(&self) -> impl Future<Output = Result<NodeStatus, Status>> + Send;

    /// Closes some clients.
    fn move_off(
        &self,
        order: MoveOffReq,
    ) -> impl Future<Output = Result<NodeStatus, Status>> + Send;

    /// Stops closing clients by `move_off`.
    fn cancel_move_off(&self) -> impl Future<Output = Result<NodeStatus, Status>> + Send;

    /// Refuses clients of a network for a time.
    fn block(&self, order: BlockReq) -> impl Future<Output = Result<BlockReply, Status>> + Send;

    /// Ends a block.
    ///
    /// # Errors
    /// If there is no such block.
    fn unblock(&self, address: &str) -> Result<(), Status>;

    /// The blocks, the oldest first.
    fn blocks(&self) -> Vec<Block>;

    /// Begins a live trace.
    ///
    /// # Errors
    /// If the order cannot be read, or too many are under way.
    fn trace(&self, order: TraceReq) -> Result<Self::Trace, Status>;
}
