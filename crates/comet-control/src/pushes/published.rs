//! Pushes from other hosts, and from the shared stream of histories.

use std::sync::Arc;

use comet_core::limits::STREAM_FRAMES_MAX as FRAMES_MAX;
use comet_core::{Limits, Push};
use comet_hub::cluster::{Publication, Target};
use comet_proto::count_frames;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::cluster::{ClusterDriver, taken_apart};
use crate::pending_push::HostRequestCall;

use super::Pushes;

impl Pushes {
    /// The driver of the stream, if pushes to `room` go there.
    pub(super) fn stream_of(&self, room: &str) -> Option<&Arc<ClusterDriver>> {
        let cluster = self.cluster.as_ref()?;
        let limits = self.hub.limits();
        let Limits { history_is_shared, history_rules, .. } = &*limits;
        let has_history = || history_rules.iter().any(|rule| rule.covers(room));
        (*history_is_shared && has_history()).then_some(cluster)
    }

    /// Each frame of a push has a place of its own in the stream, behind the previous message.
    pub(super) fn check_frames(push: &Push) -> Result<(), Status> {
        match count_frames(push.frame.for_tcp()) {
            Ok(frames) if frames as u64 > FRAMES_MAX => Err(Status::invalid_argument(format!(
                "{frames} frames are too many for a room with a history: {FRAMES_MAX} at most"
            ))),
            _ => Ok(()),
        }
    }

    /// Makes a push from one of the stream.
    pub(crate) fn push_of_stream(&self, proto: Proto, accepts: i32) -> Result<Push, Status> {
        let push = self.push(Some(proto), accepts)?;
        Self::check_frames(&push)?;
        Ok(push)
    }

    /// Begins a push of another host. It is not published again.
    pub(crate) fn begin_here(
        &self,
        mut publication: Publication,
    ) -> Result<HostRequestCall, Status> {
        let paced = publication.paced.take();
        let (target, accepts, proto) = taken_apart(publication);
        let push = || self.push(Some(proto), accepts);
        if let Some(pace) = paced {
            return self.begin_part(push()?, *pace);
        }
        let begun = match target {
            Target::Room(room) => self.begin_to_room(&room, push),
            Target::Keys(keys) => {
                let keys = keys.iter().map(|key| String::from(&**key)).collect();
                self.begin_to_keys(keys, push)
            }
            Target::Users(users) => self.begin_to_users(users.to_vec(), push),
            Target::All => push().and_then(|push| self.begin_to_all(&push)),
        };
        Ok(HostRequestCall::Push(begun?.here()))
    }
}
