//! The backend that pushes to the shards: the frame is encoded once and sent to the homes of its targets, and the
//! answer is the ledger of their reports.
//!
//! No code before the first await yields, so calls to one key or room reach its home in the order of their arrival.

mod paced;
mod published;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use comet_core::limits::NAME_MAX;
use comet_core::{
    CallId, Kick, Message, Network, Push, RoomOrder, ShardId, Tally, home_of_key, home_of_room,
    home_of_user,
};
use comet_hub::cluster::{Action, Order, OrderTarget, Publication, Target};
use comet_proto::{Encoded, Frame, VERSION};
use comet_push::{
    Broadcast, CallLimits, ChangeTarget, Clients, KickNotice, KickTarget, OfAllHosts, PushBackend,
    PushResult, RoomChange, RoomsPage, RoomsQuery, StreamBackend, pace,
};
use comet_wire::comet::v1::{ChangeRoomsReply, CountsReply};
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::cluster::ClusterDriver;
use crate::counts::snapshots;
use crate::hub::HubDriver;
use crate::memory_ceiling::MemoryCeiling;
use crate::pending_push::{HostRequestCall, PendingPush, RemoteOutcome};
use crate::questions::Questions;
use crate::status::{ledger, status};

/// Pushes to the shards of this process.
pub(crate) struct Pushes {
    hub: Arc<HubDriver>,
    memory: Arc<MemoryCeiling>,
    questions: Arc<Questions>,
    bounds: CallLimits,
    /// Other hosts; `None`: there are none.
    cluster: Option<Arc<ClusterDriver>>,
}

impl Pushes {
    pub(crate) fn new(
        hub: Arc<HubDriver>,
        memory: Arc<MemoryCeiling>,
        questions: Arc<Questions>,
        bounds: CallLimits,
        cluster: Option<Arc<ClusterDriver>>,
    ) -> Self {
        Self { hub, memory, questions, bounds, cluster }
    }

    /// Checks and encodes the frame, if there is memory for pushes. `operation` is the one that a connection must
    /// accept; 0 stands for the frame's own.
    fn push(&self, proto: Option<Proto>, operation: i32) -> Result<Push, Status> {
        self.memory.check_push()?;
        let proto = self.bounds.check_proto(proto)?;
        let version = match proto.ver {
            0 => VERSION,
            other => u16::try_from(other).map_err(|_| {
                Status::invalid_argument(format!("ver {other} does not fit a frame header"))
            })?,
        };
        let frame = Encoded::frame(&Frame {
            version,
            operation: proto.op,
            sequence: proto.seq,
            body: &proto.body,
        });
        let collapse_id = (!proto.collapse_id.is_empty()).then(|| proto.collapse_id.into());
        let operation = if operation == 0 { proto.op } else { operation };
        Ok(Push { collapse_id, ..Push::new(operation, frame) })
    }
}

impl PushBackend for Pushes {
    fn bounds(&self) -> CallLimits {
        self.bounds
    }

    async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PushResult, Status> {
        Ok(self.begin_keys(keys, proto, operation)?.await?.into())
    }

    async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PushResult, Status> {
        Ok(self.begin_users(users, proto, operation)?.await?.into())
    }

    async fn to_room(&self, room: String, proto: Option<Proto>) -> Result<PushResult, Status> {
        Ok(self.begin_room(room, proto)?.await?.into())
    }

    async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<PushResult, Status> {
        let publication = self.publication(proto.as_ref(), operation, || Target::All);
        let speed = pace(speed)?;
        let push = self.push(proto, operation)?;
        let Some(speed) = speed else {
            let begun = self.begin_to_all(&push)?;
            return Ok(self.everywhere(begun, publication).await?.into());
        };
        self.begin_paced(&push, speed, publication).await
    }

    async fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<OfAllHosts<T>, Status> {
        self.questions.rooms(make).await
    }

    async fn members_of(&self, rooms: Vec<String>) -> Result<OfAllHosts<Vec<u64>>, Status> {
        self.questions.members_of(rooms).await
    }

    async fn clients(&self) -> Result<OfAllHosts<Clients>, Status> {
        self.questions.clients().await
    }
}

impl StreamBackend for Pushes {
    type UnderWay = PendingPush;

    fn broadcasts(&self) -> Vec<Broadcast> {
        self.paced_under_way()
    }

    async fn cancel_broadcast(&self, id: u64) -> Result<Ledger, Status> {
        self.cancel_paced(CallId(id)).await
    }

    async fn kick(&self, target: KickTarget, notice: KickNotice) -> Result<Ledger, Status> {
        let KickNotice { reason, retry_after_ms } = notice;
        let target = match target {
            KickTarget::Keys(keys) => OrderTarget::Keys(keys),
            KickTarget::Users(users) => OrderTarget::Users(users),
            KickTarget::Room(room) => OrderTarget::Room(room.into()),
            KickTarget::Address(address) => OrderTarget::Network(address.into()),
        };
        self.change_everywhere(target, Action::Kick { reason, retry_after_ms })?.await
    }

    async fn change_rooms(&self, change: RoomChange) -> Result<ChangeRoomsReply, Status> {
        let RoomChange { target, rooms, is_join } = change;
        let target = match target {
            ChangeTarget::Keys(keys) => OrderTarget::Keys(keys),
            ChangeTarget::Users(users) => OrderTarget::Users(users),
        };
        let action = Action::ChangeRooms { rooms, is_join };
        let (tally, unanswered) = self.change_everywhere(target, action)?.sum().await?;
        let Ledger { queued, dropped, absent, .. } = ledger(&tally);
        let Tally { unchanged, refused, .. } = tally;
        Ok(ChangeRoomsReply {
            changed: queued,
            unchanged,
            refused,
            absent,
            not_reached: dropped.into_iter().collect(),
            unanswered,
        })
    }

    async fn counts(&self, rooms: Vec<String>) -> Result<CountsReply, Status> {
        self.questions.counts(rooms).await
    }

    async fn rooms_page(&self, query: RoomsQuery) -> Result<RoomsPage, Status> {
        self.questions.rooms_page(query).await
    }

    fn begin_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PendingPush, Status> {
        let target = || Target::Keys(keys.iter().map(|key| key.as_str().into()).collect());
        let publication = self.publication(proto.as_ref(), operation, target);
        let begun = self.begin_to_keys(keys, || self.push(proto, operation))?;
        Ok(self.everywhere(begun, publication))
    }

    fn begin_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<PendingPush, Status> {
        let target = || Target::Users(users.iter().copied().filter(|user| *user != 0).collect());
        let publication = self
            .publication(proto.as_ref(), operation, target)
            .filter(|_| users.iter().any(|user| *user != 0));
        let begun = self.begin_to_users(users, || self.push(proto, operation))?;
        Ok(self.everywhere(begun, publication))
    }

    fn begin_room(&self, room: String, proto: Option<Proto>) -> Result<PendingPush, Status> {
        let target = || Target::Room(room.as_str().into());
        let publication = self.publication(proto.as_ref(), 0, target);
        if let Some(cluster) = self.stream_of(&room) {
            check_room(&room)?;
            Self::check_frames(&self.push(proto, 0)?)?;
            let publication = publication.expect("there are other hosts");
            return Ok(PendingPush::stored(cluster.store(self.bounds.timeout, publication)));
        }
        let begun = self.begin_to_room(&room, || self.push(proto, 0))?;
        Ok(self.everywhere(begun, publication))
    }
}

/// Pushes to other hosts, and pushes from them.
impl Pushes {
    /// The push as published to other hosts. `None`: there are none.
    fn publication(
        &self,
        proto: Option<&Proto>,
        operation: i32,
        target: impl FnOnce() -> Target,
    ) -> Option<Publication> {
        let proto = proto.filter(|_| self.cluster.is_some())?;
        Some(Publication {
            target: target(),
            accepts: operation,
            operation: proto.op,
            version: proto.ver,
            sequence: proto.seq,
            collapse_id: proto.collapse_id.as_str().into(),
            body: proto.body.to_vec(),
            paced: None,
        })
    }

    fn elsewhere(&self, publication: Option<Publication>) -> Option<RemoteOutcome> {
        let cluster = self.cluster.as_ref()?;
        publication.map(|publication| cluster.begin(self.bounds.timeout, publication))
    }

    /// Begins a push that has begun here on the other hosts as well.
    fn everywhere(&self, begun: PendingPush, publication: Option<Publication>) -> PendingPush {
        begun.with(self.elsewhere(publication))
    }

    /// The number of clients on this host.
    pub(crate) async fn live_here(&self) -> Result<u64, Status> {
        let shards = snapshots(&self.hub, self.bounds.timeout).await.map_err(status)?;
        Ok(shards.iter().map(|(_, counters)| counters.live).sum())
    }

    /// Begins a change that has begun here on the other hosts as well.
    fn change_everywhere(
        &self,
        target: OrderTarget,
        action: Action,
    ) -> Result<PendingPush, Status> {
        let order = || Order::Change { target: target.clone(), action: action.clone() };
        let there = self.cluster.as_ref().map(|cluster| (cluster, order()));
        let begun = self.begin_change(target, action)?;
        Ok(begun.with(there.map(|(cluster, order)| cluster.order(self.bounds.timeout, order))))
    }

    /// Begins an order of another host.
    pub(crate) fn begin_order(&self, order: Order) -> Result<HostRequestCall, Status> {
        Ok(match order {
            Order::Change { target, action } => {
                HostRequestCall::Push(self.begin_change(target, action)?.here())
            }
            Order::Tell(question) => {
                let questions = Arc::clone(&self.questions);
                HostRequestCall::Told(Box::pin(async move {
                    let question_reply = questions.answer(question).await?;
                    Ok((Tally::default(), question_reply))
                }))
            }
            Order::CancelBroadcast { name } => self.cancel_here(&name),
        })
    }

    /// Begins a change, of a caller or of another host, on the shards here.
    fn begin_change(&self, target: OrderTarget, action: Action) -> Result<PendingPush, Status> {
        let push = match action {
            Action::Kick { reason, retry_after_ms } => {
                let notice = KickNotice { reason, retry_after_ms };
                notice.check()?;
                let KickNotice { reason, .. } = notice;
                let sentence = if reason.is_empty() { reason } else { format!("kicked: {reason}") };
                let retry_after_ms = (retry_after_ms > 0).then_some(retry_after_ms);
                Push::kick(Kick { sentence: sentence.into(), retry_after_ms })
            }
            Action::ChangeRooms { rooms, is_join } => {
                RoomChange::check_rooms(&rooms)?;
                if is_join {
                    self.memory.check_push()?;
                }
                let rooms = rooms.into_iter().map(String::into_boxed_str).collect();
                Push::rooms(RoomOrder { rooms, is_join })
            }
        };
        match target {
            OrderTarget::Keys(keys) => self.begin_to_keys(keys, || Ok(push)),
            OrderTarget::Users(users) => self.begin_to_users(users, || Ok(push)),
            OrderTarget::Room(room) => self.begin_to_room(&room, || Ok(push)),
            OrderTarget::Network(network) => self.begin_to_network(network_of(&network)?, &push),
        }
    }

    fn begin_to_all(&self, push: &Push) -> Result<PendingPush, Status> {
        let call = self.hub.begin_everywhere(self.bounds.timeout, |call| Message::Broadcast {
            call,
            push: push.clone(),
            speed: None,
        });
        Ok(call.map_err(status)?.into())
    }
}

impl Pushes {
    /// `push` is called once the names are checked.
    fn begin_to_keys(
        &self,
        keys: Vec<String>,
        push: impl FnOnce() -> Result<Push, Status>,
    ) -> Result<PendingPush, Status> {
        self.bounds.check_count("key", keys.len())?;
        let push = push()?;
        let keys = keys.into_iter().map(String::into_boxed_str);
        let homes = by_home(keys, self.hub.shards(), |key| home_of_key(key, self.hub.shards()));
        let given = homes.iter().map(|(_, keys)| keys.len() as u64).sum();
        let call = self.hub.begin(self.bounds.timeout, |call| {
            homes.into_iter().map(move |(home, keys)| {
                (home, Message::PushKeys { call, keys, push: push.clone() })
            })
        });
        Ok(PendingPush::to_names(call.map_err(status)?, given, 0))
    }

    fn begin_to_users(
        &self,
        users: Vec<i64>,
        push: impl FnOnce() -> Result<Push, Status>,
    ) -> Result<PendingPush, Status> {
        self.bounds.check_count("user", users.len())?;
        let push = push()?;
        let given = users.len();
        // User 0 stands for all users without an id. It has no home, so it cannot be pushed to.
        let users: Vec<i64> = users.into_iter().filter(|user| *user != 0).collect();
        let absent = (given - users.len()) as u64;
        if users.is_empty() {
            return Ok(PendingPush::absent(absent));
        }
        let homes = by_home(users.into_iter(), self.hub.shards(), |user| {
            home_of_user(*user, self.hub.shards())
        });
        let given = homes.iter().map(|(_, users)| users.len() as u64).sum();
        let call = self.hub.begin(self.bounds.timeout, |call| {
            homes.into_iter().map(move |(home, users)| {
                (home, Message::PushUsers { call, users, push: push.clone() })
            })
        });
        Ok(PendingPush::to_names(call.map_err(status)?, given, absent))
    }

    /// Only for kicks: pushes are never addressed to networks.
    pub(crate) fn begin_to_network(
        &self,
        network: Network,
        kick: &Push,
    ) -> Result<PendingPush, Status> {
        let call = self.hub.begin_everywhere(self.bounds.timeout, |call| Message::KickNetwork {
            call,
            network,
            push: kick.clone(),
        });
        Ok(call.map_err(status)?.into())
    }

    fn begin_to_room(
        &self,
        room: &str,
        push: impl FnOnce() -> Result<Push, Status>,
    ) -> Result<PendingPush, Status> {
        if room.is_empty() {
            return Err(Status::invalid_argument("roomID is empty: name the room"));
        }
        check_room(room)?;
        let push = push()?;
        let home = home_of_room(room, self.hub.shards());
        let call = self.hub.begin(self.bounds.timeout, |call| {
            [(home, Message::PushRoom { call, room: Arc::from(room), push })]
        });
        Ok(call.map_err(status)?.into())
    }
}

/// No client can be in a room with a longer name, but a room with a history would keep the push.
fn check_room(room: &str) -> Result<(), Status> {
    match room.len() {
        0..=NAME_MAX => Ok(()),
        length => Err(Status::invalid_argument(format!(
            "the name of the room has {length} bytes, more than the {NAME_MAX} allowed"
        ))),
    }
}

/// # Errors
/// If `text` is neither an address nor a network.
pub(crate) fn network_of(text: &str) -> Result<Network, Status> {
    text.parse().map_err(|sentence: String| Status::invalid_argument(sentence))
}

/// Groups `items` by home, in the given order and each only once. Homes without items are left out.
fn by_home<T: Hash + Eq>(
    items: impl Iterator<Item = T>,
    shards: u16,
    home: impl Fn(&T) -> ShardId,
) -> Vec<(ShardId, Vec<T>)> {
    let items: Vec<T> = items.collect();
    let mut seen = HashSet::with_capacity(items.len());
    let is_first: Vec<bool> = items.iter().map(|item| seen.insert(item)).collect();
    let mut homes: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for (item, _) in items.into_iter().zip(is_first).filter(|(_, is_first)| *is_first) {
        homes[usize::from(home(&item).0)].push(item);
    }
    (0..).map(ShardId).zip(homes).filter(|(_, items)| !items.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_order_within_a_home_and_are_there_once() {
        let homes = by_home([4, 1, 2, 7, 4].into_iter(), 4, |n: &u16| ShardId(n % 3));
        assert_eq!(homes, [(ShardId(1), vec![4, 1, 7]), (ShardId(2), vec![2])]);
    }
}
