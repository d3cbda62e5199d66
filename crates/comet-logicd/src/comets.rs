//! The comets that `comet logic` serves, as the way of a push: the sessions say which of them it
//! concerns, each of those is called, and their ledgers are added up.
//!
//! A comet that cannot be reached is named in the answer. If none of those a push concerned took it, the
//! push has failed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use comet_hub::Millis;
use comet_hub::fanout::{
    Call, CallFailure, Check, Fanout, FanoutConfig, FanoutEvent, Health, HealthMonitor,
    HealthTimes, LedgerSum, PushFanout, Refused, Target,
};
use comet_push::{Bounds, FailedServer, Pushed, pace};
use comet_router::{Sessions, Store, StoreError};
use comet_serve::{
    ApiTls, BadAddress, BearerToken, GrpcChannel, Peer, call_until_processed, root_cause,
};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, Ledger, PushMsgReq};
use comet_wire::goim::protocol::Proto;
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tonic::{Code, Status};

/// Pushes that may be under way at once; with the longest body this bounds their memory.
const PUSHES_MAX: usize = 1_024;

/// Calls that may be under way to one comet. A comet that is slow holds no more than half of the pushes.
const CALLS_MAX: usize = PUSHES_MAX / 2;

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
    /// Where its push service is, in the form of [`Peer`].
    pub(crate) address: String,
    token: BearerToken,
    peer: Peer,
    /// Connects when it is used, and again after a failure.
    channel: Mutex<GrpcChannel>,
}

impl Comet {
    pub(crate) fn channel(&self) -> GrpcChannel {
        self.channel.lock().expect(NO_PANIC).clone()
    }

    /// Leaves a connection on which nothing may come any more; calls under way stay with it.
    fn reconnect(&self) {
        *self.channel.lock().expect(NO_PANIC) =
            GrpcChannel::new(self.peer.connect_lazy(), self.token.clone());
    }
}

/// When comets are asked whether they take clients. Each may stall for the limit before it is left out.
const HEALTH_TIMES: HealthTimes = HealthTimes { rest_ms: 1_000, limit_ms: 2_000 };

/// All of them, and where their sessions are.
pub(crate) struct Comets {
    comets: Vec<Comet>,
    sessions: Arc<Store>,
    bounds: Bounds,
    /// Zero of the clock of what is decided.
    epoch: Instant,
    fanout: Arc<Mutex<Fanout>>,
    health: Mutex<HealthMonitor>,
    /// Tells pushes under way that a comet is gone.
    gone: watch::Sender<()>,
}

/// A call under way to a comet.
struct CallUnderWay {
    fanout: Arc<Mutex<Fanout>>,
    comet: usize,
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.fanout.lock().expect(NO_PANIC).end_call(self.comet);
    }
}

/// A place among the pushes under way.
struct Place<'a>(&'a Comets);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fanout().give_place_back();
    }
}

/// What one comet is asked for.
#[derive(Clone)]
enum Request {
    Keys(PushMsgReq),
    Room(BroadcastRoomReq),
    All(BroadcastReq),
}

impl Comets {
    /// `comets` is the server id and the address of each, which `token` opens. Has to be called inside a
    /// runtime.
    ///
    /// # Errors
    /// Names the address that is none.
    pub(crate) fn new(
        comets: &[(String, String)],
        token: &BearerToken,
        tls: &ApiTls,
        sessions: Arc<Store>,
        bounds: Bounds,
    ) -> Result<Self, BadAddress> {
        let comet = |(id, address): &(String, String)| -> Result<Comet, BadAddress> {
            let peer = Peer::new(address, tls, CONNECT_TIMEOUT)?.keep_alive(KEEPALIVE);
            let channel = Mutex::new(GrpcChannel::new(peer.connect_lazy(), token.clone()));
            let token = token.clone();
            Ok(Comet { id: id.clone(), address: address.clone(), token, peer, channel })
        };
        let fanout = Fanout::new(FanoutConfig {
            comets: comets.iter().map(|(id, _)| id.clone()).collect(),
            keys_max: bounds.keys_max,
            limit_ms: millis(bounds.timeout + GRACE),
            places: PUSHES_MAX,
            calls: CALLS_MAX,
        });
        Ok(Self {
            comets: comets.iter().map(comet).collect::<Result<_, _>>()?,
            sessions,
            bounds,
            epoch: Instant::now(),
            fanout: Arc::new(Mutex::new(fanout)),
            health: Mutex::new(HealthMonitor::new(comets.len(), HEALTH_TIMES, Millis(0))),
            gone: watch::Sender::new(()),
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
        self.fanout().failures().clone()
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
        let push = self.fanout().to_sessions(keys.into_iter().zip(servers), 0);
        self.carry(push, |target| to_keys(target, &proto, operation)).await
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
        let push = self.fanout().to_sessions(sessions, nobody as u64);
        self.carry(push, |target| to_keys(target, &proto, operation)).await
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
        let push = self.fanout().to_room();
        self.carry(push, |_| Request::Room(request.clone())).await
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
        let live = match speed {
            None => Vec::new(),
            Some(_) => self.live_by_comet().await?,
        };
        let push = self.fanout().to_all(speed.map(|speed| (speed, &*live)));
        self.carry(push, |target| {
            let speed = match target {
                Target::All { speed } => speed.map_or(0, NonZeroU32::get),
                Target::Keys(_) | Target::Room => unreachable!("a push to everybody"),
            };
            let speed = i32::try_from(speed).unwrap_or(i32::MAX);
            Request::All(BroadcastReq { proto_op: operation, proto: Some(proto.clone()), speed })
        })
        .await
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
            true => Err(Status::failed_precondition(
                "logic_server.comets is empty: there is no comet to push to",
            )),
            false => Ok(()),
        }
    }

    fn place(&self) -> Result<Place<'_>, Status> {
        if self.fanout().take_place() {
            return Ok(Place(self));
        }
        let sentence = "pushes are under way; try again when some are answered";
        Err(Status::resource_exhausted(format!("{PUSHES_MAX} {sentence}")))
    }

    /// Makes the calls of `push`, all at once; `request` says what a comet is asked for.
    async fn carry(
        &self,
        mut push: PushFanout,
        request: impl Fn(Target) -> Request,
    ) -> Result<Pushed, Status> {
        let mut calls = JoinSet::new();
        let mut gone = self.gone.subscribe();
        loop {
            let Some(call) = self.fanout().poll_call(&mut push, self.now()) else { break };
            let Call { part, comet, target } = call;
            let under_way = CallUnderWay { fanout: Arc::clone(&self.fanout), comet };
            let (channel, request) = (self.comets[comet].channel(), request(target));
            calls.spawn(async move {
                let _under_way = under_way;
                (part, ask(channel, request).await)
            });
        }
        while !push.is_complete() {
            let due = push.poll_timeout().map(|due| self.instant(due)).unwrap_or(self.epoch);
            select! {
                biased;
                Some(answered) = calls.join_next() => {
                    let (part, answer) = answered.expect("asking does not panic");
                    push.handle_answer(part, answer.map_err(|status| failure(&status)));
                }
                Ok(()) = gone.changed() => self.fanout().leave_out_gone(&mut push),
                () = sleep_until(due.into()) => push.handle_timeout(self.now()),
            }
        }
        for event in self.fanout().count_parts(self.now(), &push) {
            self.log(&event);
        }
        let pushed = push.finish().map_err(|refused| match refused {
            Refused::BadRequest(message) => Status::invalid_argument(message),
            Refused::Unavailable(sentence) => Status::unavailable(sentence),
        })?;
        let failed = pushed.failed.into_iter();
        let failed =
            failed.map(|failed| FailedServer { server: failed.server, message: failed.message });
        Ok(Pushed { ledger: wire_ledger(pushed.ledger), failed: failed.collect() })
    }

    /// The comet said a moment ago that it takes clients.
    pub(crate) fn is_serving(&self, comet: usize) -> bool {
        *self.health().health(comet) == Health::Serving
    }

    /// Hands something to the monitor of the comets' health, and logs what changed. Returns the comets to
    /// be asked, and when it is due again.
    pub(crate) fn monitor(
        &self,
        hand_in: impl FnOnce(&mut HealthMonitor, Millis),
    ) -> (Vec<Check>, Option<Instant>) {
        let mut monitor = self.health();
        hand_in(&mut monitor, self.now());
        while let Some((comet, health)) = monitor.poll_change() {
            self.fanout().set_health(comet, &health);
            if let Health::Gone(_) = health {
                self.comets[comet].reconnect();
                self.gone.send_replace(());
            }
            log_health(&self.comets[comet], &health);
        }
        let checks = std::iter::from_fn(|| monitor.poll_check()).collect();
        (checks, monitor.poll_timeout().map(|due| self.instant(due)))
    }

    fn log(&self, event: &FanoutEvent) {
        match event {
            FanoutEvent::Fails { comet, message } => {
                log::warn!("comet {:?} does not take a push: {message:?}", self.comets[*comet].id);
            }
            FanoutEvent::Succeeds { comet, failed } => {
                let id = &self.comets[*comet].id;
                log::info!("comet {id:?} takes pushes again: {failed} calls failed");
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(millis(self.epoch.elapsed()))
    }

    fn instant(&self, time: Millis) -> Instant {
        self.epoch + Duration::from_millis(time.0)
    }

    /// These are never held across an await, and only the thread of logic comes here.
    fn fanout(&self) -> MutexGuard<'_, Fanout> {
        self.fanout.lock().expect(NO_PANIC)
    }

    fn health(&self) -> MutexGuard<'_, HealthMonitor> {
        self.health.lock().expect(NO_PANIC)
    }
}

fn log_health(Comet { id, address, .. }: &Comet, health: &Health) {
    match health {
        Health::Unknown => {}
        Health::Serving => log::info!("comet {id:?} at {address} is there"),
        Health::NotServing => log::info!("comet {id:?} at {address} takes no clients"),
        Health::Gone(cause) => log::warn!("comet {id:?} at {address} is gone: {cause:?}"),
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn to_keys(target: Target, proto: &Proto, operation: i32) -> Request {
    let Target::Keys(keys) = target else { unreachable!("a push to keys") };
    Request::Keys(PushMsgReq { keys, proto: Some(proto.clone()), proto_op: operation })
}

async fn ask(channel: GrpcChannel, request: Request) -> Result<LedgerSum, Status> {
    // goim's own comet answers without a ledger.
    let ledger = call_until_processed(|| {
        let (mut client, request) = (CometClient::new(channel.clone()), request.clone());
        async move {
            Ok(match request {
                Request::Keys(request) => client.push_msg(request).await?.into_inner().ledger,
                Request::Room(request) => client.broadcast_room(request).await?.into_inner().ledger,
                Request::All(request) => client.broadcast(request).await?.into_inner().ledger,
            })
        }
    });
    let ledger = ledger.await?;
    let Ledger { matched, queued, dropped, absent, scheduled } = ledger.unwrap_or_default();
    let dropped = dropped.into_iter().collect::<BTreeMap<_, _>>();
    Ok(LedgerSum { matched, queued, dropped, absent, scheduled })
}

fn wire_ledger(sum: LedgerSum) -> Ledger {
    let LedgerSum { matched, queued, dropped, absent, scheduled } = sum;
    Ledger { matched, queued, dropped: dropped.into_iter().collect(), absent, scheduled }
}

pub(crate) fn failure(status: &Status) -> CallFailure {
    let cause = root_cause(status).to_string();
    let message = match status.message() {
        "" => cause,
        // What is beneath a failed connection says more than the status around it.
        _ if status.code() == Code::Unavailable => cause,
        said => said.to_owned(),
    };
    CallFailure { is_bad_request: status.code() == Code::InvalidArgument, message }
}

/// A store that gives no answer is nobody's fault who asks.
#[allow(clippy::needless_pass_by_value, reason = "what map_err calls it with")]
pub(crate) fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}
