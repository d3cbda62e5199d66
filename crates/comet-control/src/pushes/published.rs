//! Pushes that come from other hosts, and those of the stream of histories that hosts share.

use std::sync::Arc;
use std::time::Instant;

use comet_core::limits::STREAM_FRAMES_MAX as FRAMES_MAX;
use comet_core::{Limits, Message, Push, home_of_room};
use comet_hub::cluster::{Publication, StoredPush, Target};
use comet_proto::count_frames;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::cluster::{ClusterDriver, UNLIMITED, unix_ms};
use crate::status::status;
use crate::under_way::{UnderWay, UnderWayHere};

use super::Pushes;

impl Pushes {
    /// The way to the stream, if pushes to `room` go there.
    pub(super) fn stream_of(&self, room: &str) -> Option<&Arc<ClusterDriver>> {
        let cluster = self.cluster.as_ref()?;
        let limits = self.hub.limits();
        let Limits { history_is_shared, history_rules, .. } = &*limits;
        let has_history = || history_rules.iter().any(|rule| rule.covers(room));
        (*history_is_shared && has_history()).then_some(cluster)
    }

    /// Each frame of a push has a place behind the message before it.
    pub(super) fn check_frames(push: &Push) -> Result<(), Status> {
        match count_frames(push.frame.for_tcp()) {
            Ok(frames) if frames as u64 > FRAMES_MAX => Err(Status::invalid_argument(format!(
                "{frames} frames are too many for a room with a history: {FRAMES_MAX} at most"
            ))),
            _ => Ok(()),
        }
    }

    /// Begins a push of the stream.
    pub(crate) fn begin_stored(&self, stored: &StoredPush) -> Result<UnderWayHere, Status> {
        let StoredPush { publication, offset, stored_unix_ms, answer: _ } = stored;
        let (target, accepts, proto) = taken_apart(publication.clone());
        let Target::Room(room) = target else {
            return Err(Status::invalid_argument("the push is to no room"));
        };
        let push = self.push(Some(proto), accepts)?;
        Self::check_frames(&push)?;
        let push = Push { offset: *offset, ..push };
        let home = home_of_room(&room, self.hub.shards());
        let age_ms = unix_ms(Instant::now()).saturating_sub(*stored_unix_ms);
        let call = self
            .hub
            .begin(UNLIMITED, |call| [(home, Message::PushStored { call, room, push, age_ms })]);
        Ok(UnderWay::from(call.map_err(status)?).here())
    }

    /// Begins a push of another host. It is not published again.
    pub(crate) fn begin_here(&self, publication: Publication) -> Result<UnderWayHere, Status> {
        let (target, accepts, proto) = taken_apart(publication);
        let push = || self.push(Some(proto), accepts);
        let begun = match target {
            Target::Room(room) => self.begin_to_room(&room, push),
            Target::Keys(keys) => {
                let keys = keys.iter().map(|key| String::from(&**key)).collect();
                self.begin_to_keys(keys, push)
            }
            Target::Users(users) => self.begin_to_users(users.to_vec(), push),
            Target::All => push().and_then(|push| self.begin_to_all(&push)),
        };
        Ok(begun?.here())
    }
}

/// The target, the operation that a connection must accept, and the frame.
fn taken_apart(publication: Publication) -> (Target, i32, Proto) {
    let Publication { target, accepts, operation, version, sequence, collapse_id, body } =
        publication;
    let proto = Proto {
        ver: version,
        op: operation,
        seq: sequence,
        body: body.into(),
        collapse_id: collapse_id.into(),
    };
    (target, accepts, proto)
}
