//! Push calls, whatever protocol they came by: the request is checked, its frame encoded once and sent
//! to the homes it concerns, and the answer is the ledger of what became of it.
//!
//! Up to the first await everything happens in one go, so calls to one key or room reach its home in
//! the order they arrived in.

use std::fmt::Display;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use comet_core::{Counters, Message, Push, ShardId, home_of_key, home_of_room, home_of_user};
use comet_hub::shares;
use comet_proto::{Encoded, Frame, VERSION, count_frames, op};
use tonic::Status;

use crate::hub::{Call, CallFailed, Hub};
use crate::status::{invalid, known};
use crate::wire::goim::comet::Ledger;
use crate::wire::goim::protocol::Proto;

/// What one call may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest body of a frame, bytes.
    pub(crate) frame_max: usize,
    /// Keys, users, or rooms asked about, in one call.
    pub(crate) keys_max: usize,
    /// How long a call may take.
    pub(crate) timeout: Duration,
}

impl Bounds {
    /// Refuses more than [`Bounds::keys_max`] of `what`, and none.
    pub(crate) fn check_count(&self, what: &str, count: usize) -> Result<(), Status> {
        let max = self.keys_max;
        match count {
            0 => Err(invalid(format!("no {what} is given: name at least one"))),
            _ if count > max => {
                Err(invalid(format!("{count} {what}s are more than the {max} of one call")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is no frame to push.
    pub(crate) fn check_proto(&self, proto: Option<Proto>) -> Result<Proto, Status> {
        let proto = proto.ok_or_else(|| invalid("proto is missing: nothing to push"))?;
        let (length, max) = (proto.body.len(), self.frame_max);
        if length > max {
            return Err(body_too_long(length, max));
        }
        if proto.op == op::RAW {
            match count_frames(&proto.body) {
                Ok(0) => return Err(invalid("the body of operation 9 holds no frame")),
                Ok(_) => {}
                Err(fault) => {
                    return Err(invalid(format!(
                        "the body of operation 9 is not a run of whole frames: {fault}"
                    )));
                }
            }
        }
        Ok(proto)
    }
}

pub(crate) struct Pushes {
    hub: Arc<Hub>,
    bounds: Bounds,
}

/// A push on its way to the shards; ready with its ledger.
pub(crate) struct UnderWay {
    /// None where nobody could be meant.
    call: Option<Call>,
    /// Beside those that the shards find absent.
    absent: u64,
}

impl Pushes {
    pub(crate) fn new(hub: Arc<Hub>, bounds: Bounds) -> Self {
        Self { hub, bounds }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// To the connections that hold `keys`; a key given twice is pushed to twice.
    pub(crate) async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Ledger, Status> {
        self.begin_keys(keys, proto, operation)?.await
    }

    /// To every session of `users`.
    pub(crate) async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Ledger, Status> {
        self.begin_users(users, proto, operation)?.await
    }

    /// To the members of `room`.
    pub(crate) async fn to_room(
        &self,
        room: String,
        proto: Option<Proto>,
    ) -> Result<Ledger, Status> {
        self.begin_room(room, proto)?.await
    }

    /// What [`Pushes::to_keys`] does before it waits.
    pub(crate) fn begin_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<UnderWay, Status> {
        self.bounds.check_count("key", keys.len())?;
        let push = self.push(proto, operation)?;
        let keys = keys.into_iter().map(String::into_boxed_str);
        let homes = by_home(keys, self.hub.shards(), |key| home_of_key(key, self.hub.shards()));
        let call = self.hub.begin(self.bounds.timeout, |call| {
            homes.map(move |(home, keys)| {
                (home, Message::PushKeys { call, keys, push: push.clone() })
            })
        })?;
        Ok(call.into())
    }

    /// What [`Pushes::to_users`] does before it waits.
    pub(crate) fn begin_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<UnderWay, Status> {
        self.bounds.check_count("user", users.len())?;
        let push = self.push(proto, operation)?;
        let given = users.len();
        // User 0 is everybody without an id: nobody's home, so nobody to push to.
        let users: Vec<i64> = users.into_iter().filter(|user| *user != 0).collect();
        let absent = (given - users.len()) as u64;
        if users.is_empty() {
            return Ok(UnderWay { call: None, absent });
        }
        let homes = by_home(users.into_iter(), self.hub.shards(), |user| {
            home_of_user(*user, self.hub.shards())
        });
        let call = self.hub.begin(self.bounds.timeout, |call| {
            homes.map(move |(home, users)| {
                (home, Message::PushUsers { call, users, push: push.clone() })
            })
        })?;
        Ok(UnderWay { call: Some(call), absent })
    }

    /// What [`Pushes::to_room`] does before it waits.
    pub(crate) fn begin_room(
        &self,
        room: String,
        proto: Option<Proto>,
    ) -> Result<UnderWay, Status> {
        if room.is_empty() {
            return Err(invalid("roomID is empty: name the room"));
        }
        let push = self.push(proto, 0)?;
        let home = home_of_room(&room, self.hub.shards());
        let call = self.hub.begin(self.bounds.timeout, |call| {
            [(home, Message::PushRoom { call, room: Arc::from(room), push })]
        })?;
        Ok(call.into())
    }

    /// To every connection: at once, or `speed` connections a second.
    pub(crate) async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<Ledger, Status> {
        let speed = pace(speed)?;
        let push = self.push(proto, operation)?;
        let Some(speed) = speed else {
            let call = self.hub.begin_everywhere(self.bounds.timeout, |call| {
                Message::Broadcast { call, push: push.clone(), speed: None }
            })?;
            return UnderWay::from(call).await;
        };
        let mut live = vec![0; usize::from(self.hub.shards())];
        for (shard, counters) in snapshots(&self.hub, self.bounds.timeout).await? {
            live[usize::from(shard.0)] = counters.live;
        }
        let shares = shares(speed, &live);
        let call = self.hub.begin(self.bounds.timeout, |call| {
            (0..).map(ShardId).zip(shares).map(move |(shard, share)| {
                (shard, Message::Broadcast { call, push: push.clone(), speed: Some(share) })
            })
        });
        let result = call?.await?;
        if result.busy > 0 {
            return Err(Status::resource_exhausted(format!(
                "{} of {} shards have too many paced broadcasts under way; {}",
                result.busy,
                self.hub.shards(),
                known(&result),
            )));
        }
        Ok(Ledger { scheduled: result.scheduled, ..result.tally.into() })
    }

    /// The rooms with someone online, and how many.
    pub(crate) async fn rooms(&self) -> Result<Vec<(Arc<str>, u32)>, Status> {
        let limit = self.bounds.timeout;
        Ok(self.hub.begin_everywhere(limit, |call| Message::Rooms { call })?.await?.rooms)
    }

    /// How many connections are authenticated.
    pub(crate) async fn live(&self) -> Result<u64, Status> {
        let counters = snapshots(&self.hub, self.bounds.timeout).await?;
        Ok(counters.iter().map(|(_, counters)| counters.live).sum())
    }

    /// Checks and encodes the frame. `operation` is what the accept filter goes by; 0 leaves that to
    /// the frame's own.
    fn push(&self, proto: Option<Proto>, operation: i32) -> Result<Push, Status> {
        let proto = self.bounds.check_proto(proto)?;
        let version = match proto.ver {
            0 => VERSION,
            other => u16::try_from(other)
                .map_err(|_| invalid(format!("ver {other} does not fit a frame header")))?,
        };
        let frame = Encoded::frame(&Frame {
            version,
            operation: proto.op,
            sequence: proto.seq,
            body: &proto.body,
        });
        Ok(Push { operation: if operation == 0 { proto.op } else { operation }, frame })
    }
}

impl From<Call> for UnderWay {
    fn from(call: Call) -> Self {
        Self { call: Some(call), absent: 0 }
    }
}

impl Future for UnderWay {
    type Output = Result<Ledger, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut ledger = match &mut self.call {
            Some(call) => Ledger::from(ready!(Pin::new(call).poll(cx))?.tally),
            None => Ledger::default(),
        };
        ledger.absent += self.absent;
        Poll::Ready(Ok(ledger))
    }
}

/// Connections a second; 0 is all at once.
pub(crate) fn pace(speed: i32) -> Result<Option<NonZeroU32>, Status> {
    u32::try_from(speed)
        .map(NonZeroU32::new)
        .map_err(|_| invalid(format!("speed is {speed}: give 0 or connections a second")))
}

pub(crate) fn body_too_long(length: impl Display, max: usize) -> Status {
    invalid(format!("the body has {length} bytes, more than the {max} allowed"))
}

/// The counters of every shard, in their order.
pub(crate) async fn snapshots(
    hub: &Arc<Hub>,
    limit: Duration,
) -> Result<Vec<(ShardId, Box<Counters>)>, CallFailed> {
    let call = hub.begin_everywhere(limit, |call| Message::Snapshot { call })?;
    let mut counters = call.await?.counters;
    counters.sort_by_key(|(shard, _)| *shard);
    Ok(counters)
}

/// Groups `items` by home, in the order given; homes without any are left out.
fn by_home<T>(
    items: impl Iterator<Item = T>,
    shards: u16,
    home: impl Fn(&T) -> ShardId,
) -> impl Iterator<Item = (ShardId, Vec<T>)> {
    let mut homes: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for item in items {
        homes[usize::from(home(&item).0)].push(item);
    }
    (0..).map(ShardId).zip(homes).filter(|(_, items)| !items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_order_within_a_home() {
        let homes: Vec<_> =
            by_home([4, 1, 2, 7, 4].into_iter(), 4, |n: &u16| ShardId(n % 3)).collect();
        assert_eq!(homes, [(ShardId(1), vec![4, 1, 7, 4]), (ShardId(2), vec![2])]);
    }
}
