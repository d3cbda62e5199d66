//! The context of the control thread, and its access to the mesh.

use comet_core::{CallId, Message, Millis, ShardId};
use comet_hub::{Inboxes, PostError};

use crate::call_checker::CallChecker;
use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::trace::Trace;

/// The context in which the control thread works.
pub(crate) struct Context<'env> {
    pub(crate) now: Millis,
    pub(crate) rng: &'env mut Rng,
    pub(crate) plan: &'env Plan,
    pub(crate) mesh: &'env mut Mesh,
    pub(crate) trace: &'env mut Trace,
}

/// The access to the mesh, which keeps account of the messages.
pub(crate) struct Posts<'context> {
    now: Millis,
    rng: &'context mut Rng,
    mesh: &'context mut Mesh,
    calls: &'context mut CallChecker,
    pub(crate) posted: u64,
    /// The first message that must not have been posted.
    pub(crate) violation: Option<String>,
}

impl<'context> Posts<'context> {
    pub(crate) fn new(
        context: &'context mut Context<'_>,
        calls: &'context mut CallChecker,
    ) -> Self {
        let Context { now, rng, mesh, .. } = context;
        Self { now: *now, rng, mesh, calls, posted: 0, violation: None }
    }
}

impl Inboxes for Posts<'_> {
    fn post(&mut self, shard: ShardId, message: Message) -> Result<(), PostError> {
        let (call, class) = (call_of(&message), message.class());
        let sent = self.mesh.send((self.rng, self.now), None, shard, message);
        sent.map_err(|message| PostError::Full(*message))?;
        self.posted += 1;
        if let Some(call) = call
            && let Err(violation) = self.calls.post(call, shard, class)
        {
            self.violation.get_or_insert(violation);
        }
        Ok(())
    }

    fn notify(&mut self, shard: ShardId) {
        self.mesh.notify(shard);
    }
}

/// The call to which control's `message` belongs.
fn call_of(message: &Message) -> Option<CallId> {
    match message {
        Message::PushKeys { call, .. }
        | Message::PushUsers { call, .. }
        | Message::PushRoom { call, .. }
        | Message::PushFromStream { call, .. }
        | Message::RefuseFromStream { call, .. }
        | Message::Stream { call, .. }
        | Message::Broadcast { call, .. }
        | Message::Snapshot { call }
        | Message::Rooms { call }
        | Message::CountRooms { call, .. }
        | Message::Top { call }
        | Message::History { call, .. }
        | Message::Connections { call, .. } => Some(*call),
        _ => None,
    }
}
