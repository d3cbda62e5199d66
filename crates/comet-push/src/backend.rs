//! The backend of pushes: the shards of a comet, or the comets of `comet logic`.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use comet_wire::comet::v1::{ChangeRoomsReply, CountsReply};
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::call_limits::CallLimits;

/// Takes pushes, and knows who is online. It checks every request against its own [`CallLimits`].
///
/// A failed call is a status with a sentence for its caller.
pub trait PushBackend: Send + Sync + 'static {
    /// The limits of one call.
    fn bounds(&self) -> CallLimits;

    /// Pushes to the connections that hold `keys`; a key given twice counts once. `operation` is the
    /// one a connection must accept; 0 stands for the operation of `proto`.
    fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> impl Future<Output = Result<PushResult, Status>> + Send;

    /// Pushes to every session of `users`; user 0 counts as absent.
    fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> impl Future<Output = Result<PushResult, Status>> + Send;

    /// Pushes to the members of `room`.
    fn to_room(
        &self,
        room: String,
        proto: Option<Proto>,
    ) -> impl Future<Output = Result<PushResult, Status>> + Send;

    /// Pushes to every connection: at once if `speed` is 0, otherwise to `speed` connections a second.
    fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> impl Future<Output = Result<PushResult, Status>> + Send;

    /// Applies a function to the rooms with someone online and their counts, on a thread of its own: there may be a
    /// million rooms.
    fn rooms<T: Send + 'static>(
        &self,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> impl Future<Output = Result<OfAllHosts<T>, Status>> + Send;

    /// The number of members of each of these rooms, in their order.
    fn members_of(
        &self,
        rooms: Vec<String>,
    ) -> impl Future<Output = Result<OfAllHosts<Vec<u64>>, Status>> + Send;

    /// The number of clients.
    fn clients(&self) -> impl Future<Output = Result<OfAllHosts<Clients>, Status>> + Send;
}

/// An answer combined from the parts of all hosts that push for each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OfAllHosts<T> {
    /// The answer.
    pub value: T,
    /// Hosts whose part is missing, as in a ledger.
    pub unanswered: Vec<String>,
}

/// The rooms to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomsQuery {
    /// Only rooms whose names begin with this.
    pub prefix: String,
    /// Only rooms after this name: the last one of the previous page.
    pub after: String,
    /// At most this many, up to [`RoomsQuery::LIMIT_MAX`].
    pub limit: usize,
}

impl RoomsQuery {
    /// Most rooms on a page.
    pub const LIMIT_MAX: usize = 10_000;
}

/// Rooms with members, in the order of their names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoomsPage {
    /// Names and members.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// Whether there are more.
    pub has_more: bool,
    /// Hosts whose rooms are missing, as in a ledger.
    pub unanswered: Vec<String>,
}

/// The number of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clients {
    /// Connections that are authenticated.
    pub live: u64,
    /// Distinct addresses of connections; 0 if they are not counted.
    pub addresses: u64,
}

/// A backend whose pushes begin without waiting: when a method returns, the push is queued behind all that began
/// before. So the pushes of a stream keep their order while many are under way.
pub trait StreamBackend: PushBackend {
    /// A push that has begun; ready with its ledger. If dropped before, the push is given up.
    type UnderWay: Future<Output = Result<Ledger, Status>> + Send + Unpin + 'static;

    /// The paced broadcasts under way, the oldest first.
    fn broadcasts(&self) -> Vec<Broadcast>;

    /// Ends a paced broadcast, on all hosts. Returns its result so far.
    fn cancel_broadcast(&self, id: u64) -> impl Future<Output = Result<Ledger, Status>> + Send;

    /// Closes the connections of `target`, behind all pushes that began before. The ledger counts closed connections as
    /// queued.
    fn kick(
        &self,
        target: KickTarget,
        kick: KickNotice,
    ) -> impl Future<Output = Result<Ledger, Status>> + Send;

    /// Puts connections into rooms or removes them, behind all pushes to them that began before.
    fn change_rooms(
        &self,
        change: RoomChange,
    ) -> impl Future<Output = Result<ChangeRoomsReply, Status>> + Send;

    /// Counts the clients and the members of rooms, over all hosts.
    fn counts(
        &self,
        rooms: Vec<String>,
    ) -> impl Future<Output = Result<CountsReply, Status>> + Send;

    /// Lists rooms with members, over all hosts.
    fn rooms_page(
        &self,
        query: RoomsQuery,
    ) -> impl Future<Output = Result<RoomsPage, Status>> + Send;

    /// Begins a push as by [`PushBackend::to_keys`].
    ///
    /// # Errors
    /// If the push is refused; then nothing has begun.
    fn begin_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Self::UnderWay, Status>;

    /// Begins a push as by [`PushBackend::to_users`].
    ///
    /// # Errors
    /// As for [`StreamBackend::begin_keys`].
    fn begin_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Self::UnderWay, Status>;

    /// Begins a push as by [`PushBackend::to_room`].
    ///
    /// # Errors
    /// As for [`StreamBackend::begin_keys`].
    fn begin_room(&self, room: String, proto: Option<Proto>) -> Result<Self::UnderWay, Status>;
}

/// The connections to close.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KickTarget {
    /// Those that hold these keys.
    Keys(Vec<String>),
    /// All sessions of these users.
    Users(Vec<i64>),
    /// The members of this room.
    Room(String),
    /// Those from this address or network.
    Address(String),
}

/// A change of the rooms of connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomChange {
    /// The connections.
    pub target: ChangeTarget,
    /// Which rooms.
    pub rooms: Vec<String>,
    /// Whether the rooms are entered; otherwise they are left.
    pub is_join: bool,
}

/// The connections whose rooms change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeTarget {
    /// Those that hold these keys.
    Keys(Vec<String>),
    /// All sessions of these users.
    Users(Vec<i64>),
}

impl RoomChange {
    /// Most rooms of one call.
    const ROOMS_MAX: usize = 128;
    /// Longest room id, bytes.
    const ROOM_MAX: usize = 256;

    /// # Errors
    /// If there are no rooms or too many, or an id is empty or too long.
    pub fn check_rooms(rooms: &[String]) -> Result<(), Status> {
        let (count, most) = (rooms.len(), Self::ROOMS_MAX);
        let fault = if count == 0 {
            "no room is given: name at least one".to_owned()
        } else if count > most {
            format!("{count} rooms are more than the {most} of one call")
        } else {
            let is_bad = |room: &String| room.is_empty() || room.len() > Self::ROOM_MAX;
            let Some(index) = rooms.iter().position(is_bad) else { return Ok(()) };
            format!("room {} is empty or longer than {} bytes", index + 1, Self::ROOM_MAX)
        };
        Err(Status::invalid_argument(fault))
    }
}

/// The notice to the clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KickNotice {
    /// A sentence; empty: the name of the close reason, `kicked`.
    pub reason: String,
    /// How long they should wait before they connect again, milliseconds; 0: no time is given.
    pub retry_after_ms: u32,
}

impl KickNotice {
    /// Longest [`KickNotice::reason`], bytes.
    const REASON_MAX: usize = 1024;

    /// # Errors
    /// If the reason is too long, or would imitate the notice's retry time.
    pub fn check(&self) -> Result<(), Status> {
        let length = self.reason.len();
        if length > Self::REASON_MAX {
            return Err(Status::invalid_argument(format!(
                "the reason has {length} bytes, more than the {} allowed",
                Self::REASON_MAX
            )));
        }
        if self.reason.contains("retry_after_ms=") {
            return Err(Status::invalid_argument(
                "the reason names retry_after_ms, which has a field of its own",
            ));
        }
        Ok(())
    }
}

/// A paced broadcast that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broadcast {
    /// Its number, which no other broadcast of this process has.
    pub id: u64,
    /// The operation that connections must accept.
    pub operation: i32,
    /// Connections a second, of this host.
    pub speed: u32,
    /// How long it has been under way.
    pub since: Duration,
    /// Its name on all hosts. `None`: it runs only on this one.
    pub name: Option<Arc<str>>,
}

/// The result of a push.
#[derive(Debug, Default)]
pub struct PushResult {
    /// The sum over all servers that took it. `unanswered` has those among `failed` that may have taken it.
    pub ledger: Ledger,
    /// Servers that are not known to have taken it.
    pub failed: Vec<FailedServer>,
}

/// A server that is not known to have taken a push.
#[derive(Debug)]
pub struct FailedServer {
    /// Its id.
    pub server: String,
    /// The reason, as a sentence.
    pub message: String,
}

/// Servers that may have taken a push that has failed: whoever pushes again may double it.
#[derive(Debug)]
pub struct MayHaveTaken(pub Vec<String>);

impl MayHaveTaken {
    /// The status of such a push: as of one that is late, it may have been carried out.
    #[must_use]
    pub fn status(self, sentence: String) -> Status {
        let mut status = Status::deadline_exceeded(sentence);
        status.set_source(Arc::new(self));
        status
    }
}

impl fmt::Display for MayHaveTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} may have taken it", self.0.join(", "))
    }
}

impl Error for MayHaveTaken {}

impl From<Ledger> for PushResult {
    fn from(ledger: Ledger) -> Self {
        Self { ledger, failed: Vec::new() }
    }
}
