//! The comets that `comet logic` serves, as the way of a push: the sessions say which of them it
//! concerns, each of those is called, and their ledgers are added up.
//!
//! A comet that cannot be reached is named in the answer. If none of those a push concerned took it, the
//! push has failed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use comet_push::{Bounds, FailedServer, Pushed, pace, shares};
use comet_router::{Sessions, Store, StoreError};
use comet_serve::{BadAddress, endpoint, root_cause};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, Ledger, PushMsgReq};
use comet_wire::goim::protocol::Proto;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Pushes that may be under way at once; with the longest body this bounds their memory.
const PUSHES_MAX: usize = 1_024;

/// How long connecting to a comet may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much longer a comet may take than a push itself: it says more about a push that takes too long.
const GRACE: Duration = Duration::from_secs(1);

/// How often a silent connection to a comet is asked whether it is still there, and how long the answer
/// may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// One comet.
pub(crate) struct Comet {
    /// Its server id, as it calls itself towards logic.
    pub(crate) id: String,
    /// `HOST:PORT` of its push service.
    pub(crate) address: String,
    /// Connects when it is used, and again after a failure.
    pub(crate) channel: Channel,
    /// It said a moment ago that it takes clients.
    serving: AtomicBool,
}

impl Comet {
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    pub(crate) fn set_serving(&self, serving: bool) {
        if self.serving.swap(serving, Ordering::Relaxed) != serving {
            let is = if serving { "is there" } else { "does not serve any more" };
            log::info!("comet {:?} at {} {is}", self.id, self.address);
        }
    }
}

/// All of them, and where their sessions are.
pub(crate) struct Comets {
    comets: Vec<Comet>,
    sessions: Arc<Store>,
    bounds: Bounds,
    places: Semaphore,
    /// Calls that a comet did not take, by server id.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// What one comet is asked for.
enum Request {
    Keys(PushMsgReq),
    Room(BroadcastRoomReq),
    All(BroadcastReq),
}

impl Comets {
    /// `comets` is the server id and the address of each. Has to be called inside a runtime.
    ///
    /// # Errors
    /// Names the address that is none.
    pub(crate) fn new(
        comets: &[(String, String)],
        sessions: Arc<Store>,
        bounds: Bounds,
    ) -> Result<Self, BadAddress> {
        let comet = |(id, address): &(String, String)| -> Result<Comet, BadAddress> {
            let endpoint = endpoint(address)?
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true);
            Ok(Comet {
                id: id.clone(),
                address: address.clone(),
                channel: endpoint.connect_lazy(),
                serving: AtomicBool::new(false),
            })
        };
        Ok(Self {
            comets: comets.iter().map(comet).collect::<Result<_, _>>()?,
            sessions,
            bounds,
            places: Semaphore::new(PUSHES_MAX),
            failures: Mutex::default(),
        })
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(crate) fn all(&self) -> &[Comet] {
        &self.comets
    }

    /// Calls that a comet did not take, by server id.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().expect(NO_PANIC).clone()
    }

    /// To the connections that hold `keys`.
    pub(crate) async fn to_keys(
        &self,
        keys: Vec<String>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        self.bounds.check_count("key", keys.len())?;
        let proto = self.bounds.check_proto(proto)?;
        let _place = self.place()?;
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let servers = self.sessions.servers_of_keys(&asked).await.map_err(unavailable)?;
        self.to_sessions(keys.into_iter().zip(servers), 0, &proto, operation).await
    }

    /// To every session of `users`.
    pub(crate) async fn to_users(
        &self,
        users: Vec<i64>,
        proto: Option<Proto>,
        operation: i32,
    ) -> Result<Pushed, Status> {
        self.bounds.check_count("user", users.len())?;
        let proto = self.bounds.check_proto(proto)?;
        let _place = self.place()?;
        let sessions = self.sessions.sessions_of(&users).await.map_err(unavailable)?;
        let nobody = sessions.iter().filter(|(_, sessions)| sessions.is_empty()).count();
        let sessions = sessions.into_iter().flat_map(|(_, sessions)| sessions);
        let sessions = sessions.map(|(key, server)| (key, Some(server)));
        self.to_sessions(sessions, nobody as u64, &proto, operation).await
    }

    /// To sessions, each a key and its server; `absent` are those that are nowhere.
    async fn to_sessions(
        &self,
        sessions: impl Iterator<Item = (String, Option<String>)>,
        mut absent: u64,
        proto: &Proto,
        operation: i32,
    ) -> Result<Pushed, Status> {
        let mut servers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, server) in sessions {
            match server {
                Some(server) => servers.entry(server).or_default().push(key),
                None => absent += 1,
            }
        }
        let mut strangers = Vec::new();
        let mut requests = Vec::new();
        for (server, keys) in servers {
            if let Some(comet) = self.comets.iter().find(|comet| comet.id == server) {
                // A user may have more sessions than keys fit one call.
                for keys in keys.chunks(self.bounds.keys_max) {
                    let proto = Some(proto.clone());
                    let request = PushMsgReq { keys: keys.to_vec(), proto, proto_op: operation };
                    requests.push((comet, Request::Keys(request)));
                }
            } else {
                let count = keys.len();
                let message = format!("{count} keys are there: logic_server.comets lacks it");
                strangers.push(FailedServer { server, message });
            }
        }
        let mut pushed = self.call(requests, strangers).await?;
        pushed.ledger.absent += absent;
        Ok(pushed)
    }

    /// To the members of `room`, on every comet.
    pub(crate) async fn to_room(
        &self,
        room: String,
        proto: Option<Proto>,
    ) -> Result<Pushed, Status> {
        let proto = self.bounds.check_proto(proto)?;
        self.check_comets()?;
        let _place = self.place()?;
        let request = BroadcastRoomReq { room_id: room, proto: Some(proto) };
        let requests = self.comets.iter().map(|comet| (comet, Request::Room(request.clone())));
        self.call(requests, Vec::new()).await
    }

    /// To every connection of every comet: at once, or `speed` connections a second in all.
    pub(crate) async fn to_all(
        &self,
        proto: Option<Proto>,
        operation: i32,
        speed: i32,
    ) -> Result<Pushed, Status> {
        let speed = pace(speed)?;
        let proto = self.bounds.check_proto(proto)?;
        self.check_comets()?;
        let _place = self.place()?;
        let speeds = match speed {
            None => vec![0; self.comets.len()],
            Some(speed) => self.speeds(speed).await?,
        };
        let requests = self.comets.iter().zip(speeds).map(|(comet, speed)| {
            let proto = Some(proto.clone());
            (comet, Request::All(BroadcastReq { proto_op: operation, proto, speed }))
        });
        self.call(requests, Vec::new()).await
    }

    /// What each comet gets of `speed`, so that all end at about the same time.
    async fn speeds(&self, speed: NonZeroU32) -> Result<Vec<i32>, Status> {
        let shares = shares(speed, &self.live_by_comet().await?).into_iter();
        Ok(shares.map(|share| i32::try_from(share.get()).unwrap_or(i32::MAX)).collect())
    }

    /// The rooms with someone online, and how many, as the comets have said last.
    pub(crate) async fn rooms(&self) -> Result<Vec<(Arc<str>, u32)>, Status> {
        let rooms = self.sessions.room_counts().await.map_err(unavailable)?;
        Ok(rooms.into_iter().map(|(room, online)| (room.into(), online)).collect())
    }

    /// How many sessions there are.
    pub(crate) async fn live(&self) -> Result<u64, Status> {
        Ok(self.sessions.counts().await.map_err(unavailable)?.sessions)
    }

    /// Sessions of each comet, in their order.
    pub(crate) async fn live_by_comet(&self) -> Result<Vec<u64>, Status> {
        let counts = self.sessions.counts().await.map_err(unavailable)?;
        let live = |comet: &Comet| counts.by_server.get(&comet.id).copied().unwrap_or(0);
        Ok(self.comets.iter().map(live).collect())
    }

    /// Ends every session at the comet that calls itself `server`, and says how many there were.
    pub(crate) async fn end_sessions(&self, server: &str) -> Result<u64, Status> {
        self.sessions.del_server(server).await.map_err(unavailable)
    }

    /// A push to everybody that nobody could get is no success.
    fn check_comets(&self) -> Result<(), Status> {
        match self.comets.is_empty() {
            true => Err(Status::failed_precondition("logic_server.comets names nobody to push to")),
            false => Ok(()),
        }
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.places.try_acquire().map_err(|_| {
            let sentence = "pushes are under way; try again when some are answered";
            Status::resource_exhausted(format!("{PUSHES_MAX} {sentence}"))
        })
    }

    /// Asks all at once, and adds up what they say; `failed` are those that cannot be asked.
    async fn call(
        &self,
        requests: impl IntoIterator<Item = (&Comet, Request)>,
        mut failed: Vec<FailedServer>,
    ) -> Result<Pushed, Status> {
        let limit = self.bounds.timeout + GRACE;
        let mut calls = JoinSet::new();
        for (comet, request) in requests {
            let (id, channel) = (comet.id.clone(), comet.channel.clone());
            calls.spawn(async move {
                let answer = timeout(limit, ask(channel, request)).await.unwrap_or_else(|_| {
                    Err(Status::deadline_exceeded(format!("no answer within {limit:?}")))
                });
                (id, answer)
            });
        }
        let mut pushed = Pushed::default();
        let mut taken = 0;
        let mut bad = None;
        for (server, answer) in calls.join_all().await {
            match answer {
                Ok(ledger) => {
                    taken += 1;
                    pushed.ledger += ledger;
                }
                Err(status) => {
                    let message = root_cause(&status).to_string();
                    let message = match status.message() {
                        "" => message,
                        // What is beneath a failed connection says more than the status around it.
                        _ if status.code() == Code::Unavailable => message,
                        said => said.to_owned(),
                    };
                    if status.code() == Code::InvalidArgument {
                        bad.get_or_insert_with(|| message.clone());
                    }
                    failed.push(FailedServer { server, message });
                }
            }
        }
        self.count(&failed);
        if taken == 0 && !failed.is_empty() {
            return Err(refused(bad, &failed));
        }
        failed.sort_by(|one, other| one.server.cmp(&other.server));
        pushed.failed = failed;
        Ok(pushed)
    }

    fn count(&self, failed: &[FailedServer]) {
        let mut failures = self.failures.lock().expect(NO_PANIC);
        for failure in failed {
            log::warn!("comet {:?} did not take a push: {}", failure.server, failure.message);
            // Names come from whoever calls itself a comet: those nobody configured are one.
            let known = self.comets.iter().any(|comet| comet.id == failure.server);
            let server = if known { failure.server.as_str() } else { "unknown" };
            *failures.entry(server.to_owned()).or_default() += 1;
        }
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

async fn ask(channel: Channel, request: Request) -> Result<Ledger, Status> {
    let mut client = CometClient::new(channel);
    // goim's own comet answers without a ledger.
    let ledger = match request {
        Request::Keys(request) => client.push_msg(request).await?.into_inner().ledger,
        Request::Room(request) => client.broadcast_room(request).await?.into_inner().ledger,
        Request::All(request) => client.broadcast(request).await?.into_inner().ledger,
    };
    Ok(ledger.unwrap_or_default())
}

/// Nobody took it: because the request is bad, or because nobody is there.
fn refused(bad: Option<String>, failed: &[FailedServer]) -> Status {
    if let Some(message) = bad {
        return Status::invalid_argument(message);
    }
    let each: Vec<_> =
        failed.iter().map(|failure| format!("{}: {}", failure.server, failure.message)).collect();
    Status::unavailable(format!("no comet took it: {}", each.join("; ")))
}

/// A store that gives no answer is nobody's fault who asks.
#[allow(clippy::needless_pass_by_value, reason = "what map_err calls it with")]
pub(crate) fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}
