//! Logic as another process: the driver of [`LogicClient`].
//!
//! What the client decides becomes connections and calls of `goim.logic.Logic`, each a task of its own on
//! the control thread, and what comes of them goes back to it. Nothing is decided here.

mod attempt;
mod connection;
mod failure;
mod stats;

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use comet_core::{Millis, Report};
use comet_histogram::Histogram;
use comet_hub::logic::{
    Action, AttemptId, ConnectionId, Event, LogicClient, LogicConfig, Request, RoomPieces,
    UnknownCode,
};
use comet_serve::{ApiTls, BadAddress, BearerToken, GrpcChannel, Peer, free_aside, poll_aside};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep_until, timeout};

use crate::hub::HubDriver;

pub(crate) use self::stats::LogicStats;

/// How logic services are called.
#[derive(Clone, Debug)]
pub struct LogicOptions {
    /// Where they are (`logic.addrs`), in the form of [`Peer`](comet_serve::Peer); at least one.
    pub addrs: Vec<String>,
    /// What logic asks for (`logic.token`).
    pub token: BearerToken,
    /// How long a call may take, its second attempt included (`logic.timeout`).
    pub timeout: Duration,
    /// Calls under way at most (`logic.calls`), at least one.
    pub calls: usize,
    /// How often each address is asked whether it is there (`logic.ping`).
    pub ping: Duration,
    /// How often logic hears who is online in which room (`logic.renew`).
    pub renew: Duration,
    /// The longest that clients are told to wait when no logic is there, the shortest is half of it
    /// (`logic.retry_after`). Zero: they are told nothing.
    pub retry_after: Duration,
    /// The meaning of the gRPC code UNKNOWN (`logic.unknown`).
    pub unknown: UnknownCode,
}

/// An answer passes from its socket through several tasks to the client, one in each round of the runtime.
/// A timer that has fired lets answers that have arrived go first.
const TASKS_OF_AN_ANSWER: usize = 8;

/// How long the end of the server waits for the last notices.
const NOTICES_GRACE: Duration = Duration::from_secs(5);

/// Logic, seen from the control thread.
pub(crate) struct Logic {
    /// Id of this server, by which logic sends pushes back.
    server: String,
    /// The latest addresses.
    peers: watch::Sender<Peers>,
    tls: ApiTls,
    token: BearerToken,
    timeout: Duration,
    hub: Arc<HubDriver>,
    /// Zero of the client's clock.
    epoch: Instant,
    state: Mutex<State>,
    /// Something is due earlier than the timer is set to.
    sooner: Notify,
    /// Every notice is delivered.
    delivered: Notify,
}

/// How each address is connected to, by its name.
type Peers = BTreeMap<String, Peer>;

struct State {
    client: LogicClient,
    /// Of all addresses that the client knows.
    peers: Peers,
    /// By address: its open connection.
    channels: HashMap<usize, GrpcChannel>,
    /// By address: what opens or pings its connection.
    probes: HashMap<usize, AbortHandle>,
    attempts: HashMap<AttemptId, Attempt>,
    /// How long attempts took, by the name of the call.
    times: BTreeMap<&'static str, Histogram>,
    /// What the timer is set to.
    due: Option<Millis>,
}

impl Logic {
    /// # Errors
    /// Names the address that is none.
    pub(crate) fn new(
        options: &LogicOptions,
        tls: &ApiTls,
        server: String,
        hub: Arc<HubDriver>,
    ) -> Result<Self, BadAddress> {
        let peers = peers(&options.addrs, tls, options.timeout)?;
        let config = LogicConfig {
            addresses: names(&peers),
            timeout_ms: millis(options.timeout),
            calls: options.calls,
            ping_ms: millis(options.ping),
            renew_ms: millis(options.renew),
            retry_after_ms: u32::try_from(millis(options.retry_after)).unwrap_or(u32::MAX),
            unknown: options.unknown,
            shards: hub.shards(),
            seed: rand::random(),
        };
        let state = State {
            client: LogicClient::new(config, Millis(0)),
            peers: peers.clone(),
            channels: HashMap::new(),
            probes: HashMap::new(),
            attempts: HashMap::new(),
            times: BTreeMap::new(),
            due: None,
        };
        Ok(Self {
            server,
            peers: watch::Sender::new(peers),
            tls: tls.clone(),
            token: options.token.clone(),
            timeout: options.timeout,
            hub,
            epoch: Instant::now(),
            state: Mutex::new(state),
            sooner: Notify::new(),
            delivered: Notify::new(),
        })
    }

    /// Starts connecting, and the timer, which ends with the set.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(self).keep_time());
        tasks.spawn(Arc::clone(self).follow_addresses());
        tasks
    }

    /// Logic is at `addrs` from now on. May be called by any thread.
    ///
    /// # Errors
    /// Names the address that is none; then nothing changes.
    pub(crate) fn set_addresses(&self, addrs: &[String]) -> Result<(), BadAddress> {
        self.peers.send_replace(peers(addrs, &self.tls, self.timeout)?);
        Ok(())
    }

    async fn follow_addresses(self: Arc<Self>) {
        let mut newer = self.peers.subscribe();
        // Those since the start are new, too.
        newer.mark_changed();
        while newer.changed().await.is_ok() {
            let newer = newer.borrow_and_update().clone();
            self.update(|state, now| {
                state.client.set_addresses(now, names(&newer));
                state.peers = newer;
            });
        }
    }

    /// The former process ends now. May be called by any thread.
    pub(crate) fn take_over(&self) {
        let now = Millis(millis(self.epoch.elapsed()));
        self.lock().client.take_over(now);
    }

    /// Takes what a shard asks of logic.
    pub(crate) fn take(self: &Arc<Self>, report: Report) {
        self.update(|state, now| state.client.handle_report(now, report));
    }

    pub(crate) fn stats(&self) -> LogicStats {
        let state = self.lock();
        let times = state.times.iter().map(|(rpc, times)| (*rpc, times.clone())).collect();
        LogicStats::of(&state.client, times)
    }

    /// Resolves when every notice is delivered, when no logic is available, or after [`NOTICES_GRACE`].
    pub(crate) async fn until_all_heard(&self) {
        if self.lock().client.available() == 0 {
            return;
        }
        let all_delivered = async {
            loop {
                let delivered = self.delivered.notified();
                if self.lock().client.has_delivered_notices() {
                    return;
                }
                delivered.await;
            }
        };
        // Logic learns of the rest by expiry.
        let _ = timeout(NOTICES_GRACE, all_delivered).await;
    }

    /// Wakes the client whenever something is due.
    async fn keep_time(self: Arc<Self>) {
        loop {
            self.update(|state, now| state.client.handle_timeout(now));
            let due = {
                let mut state = self.lock();
                state.due = state.client.poll_timeout();
                state.due
            };
            let is_due = async {
                match due {
                    Some(Millis(due)) => {
                        sleep_until((self.epoch + Duration::from_millis(due)).into()).await;
                    }
                    None => pending().await,
                }
            };
            select! {
                () = self.sooner.notified() => {}
                () = is_due => {
                    for _ in 0..TASKS_OF_AN_ANSWER {
                        yield_now().await;
                    }
                }
            }
        }
    }

    /// Hands something to the client, and does what it wants done about it.
    fn update(self: &Arc<Self>, hand_in: impl FnOnce(&mut State, Millis)) {
        let mut state = self.lock();
        hand_in(&mut state, Millis(millis(self.epoch.elapsed())));
        while let Some((shard, message)) = state.client.poll_message() {
            self.hub.tell(shard, message);
        }
        while let Some(action) = state.client.poll_action() {
            self.act(&mut state, action);
        }
        while let Some(event) = state.client.poll_event() {
            log(&event);
        }
        if state.client.has_delivered_notices() {
            self.delivered.notify_waiters();
        }
        if let Some(next) = state.client.poll_timeout()
            && state.due.is_none_or(|due| next < due)
        {
            state.due = Some(next);
            self.sooner.notify_one();
        }
    }

    fn act(self: &Arc<Self>, state: &mut State, action: Action) {
        let logic = Arc::clone(self);
        match action {
            Action::Connect(connection) => {
                let peer = state.peers[state.client.address_of(connection)].clone();
                let opening = tokio::spawn(async move {
                    let opened = connection::open(peer, logic.token.clone()).await;
                    logic.update(|state, now| state.opened(now, connection, opened));
                });
                state.probes.insert(connection.address, opening.abort_handle());
            }
            Action::Ping(connection) => {
                let Some(channel) = state.channels.get(&connection.address) else { return };
                let channel = channel.clone();
                let pinging = tokio::spawn(async move {
                    let outcome = connection::ping(channel).await;
                    logic.update(|state, now| {
                        state.probes.remove(&connection.address);
                        state.client.handle_ping(now, connection, outcome);
                    });
                });
                state.probes.insert(connection.address, pinging.abort_handle());
            }
            Action::Close(connection) => {
                // Calls under way keep the connection open.
                state.channels.remove(&connection.address);
                if let Some(probe) = state.probes.remove(&connection.address) {
                    probe.abort();
                }
            }
            Action::Send { attempt, connection, request } => {
                let channel = state.channels.get(&connection.address).cloned();
                let channel = channel.expect("calls go to connections that were pinged");
                let (rpc, begin) = (request.rpc(), Instant::now());
                let sending = tokio::spawn(async move {
                    let server = (logic.server.clone(), logic.hub.shards());
                    let has_rooms = matches!(*request, Request::RenewOnline { .. });
                    let sending = attempt::send(channel, server, request, logic.timeout);
                    let outcome = if has_rooms { poll_aside(sending).await } else { sending.await };
                    logic.update(|state, now| {
                        state.end_attempt(attempt);
                        state.client.handle_reply(now, attempt, outcome);
                    });
                });
                let sending = sending.abort_handle();
                state.attempts.insert(attempt, Attempt { rpc, begin, sending });
            }
            Action::Abandon(attempt) => {
                if let Some(sending) = state.end_attempt(attempt) {
                    sending.abort();
                }
            }
            Action::CountRooms { told } => {
                tokio::spawn(async move {
                    let limit = logic.timeout;
                    let cut = move |rooms| RoomPieces::cut(rooms, told.as_ref());
                    let rooms = logic.hub.rooms(limit, cut).await;
                    logic.update(|state, now| state.client.handle_rooms(now, rooms.ok()));
                });
            }
            Action::Free(unneeded) => free_aside(unneeded),
        }
    }

    /// Never held across an await, and only the control thread comes here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

/// An attempt of a call that is under way.
struct Attempt {
    rpc: &'static str,
    begin: Instant,
    sending: AbortHandle,
}

impl State {
    /// Times an attempt that was answered or is given up, and returns what sends it.
    fn end_attempt(&mut self, attempt: AttemptId) -> Option<AbortHandle> {
        let Attempt { rpc, begin, sending } = self.attempts.remove(&attempt)?;
        self.times.entry(rpc).or_default().record_time(begin.elapsed());
        Some(sending)
    }

    fn opened(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        opened: Result<GrpcChannel, String>,
    ) {
        self.probes.remove(&connection.address);
        match opened {
            Ok(channel) => {
                self.channels.insert(connection.address, channel);
                self.client.handle_connected(now, connection);
            }
            Err(cause) => self.client.handle_connect_failed(now, connection, &cause),
        }
    }
}

/// # Errors
/// Names the address that is none.
fn peers(addrs: &[String], tls: &ApiTls, limit: Duration) -> Result<Peers, BadAddress> {
    let named = |name: &String| Ok((name.clone(), Peer::new(name, tls, limit)?));
    addrs.iter().map(named).collect()
}

fn names(peers: &Peers) -> Vec<Box<str>> {
    peers.keys().map(|name| name.as_str().into()).collect()
}

fn log(event: &Event) {
    let level = match event {
        Event::Available { .. } | Event::CallsSucceed { .. } => log::Level::Info,
        Event::NotReached { .. }
        | Event::Unavailable { .. }
        | Event::CallsFail { .. }
        | Event::RoomsBeyond { .. } => log::Level::Warn,
        Event::NoneAvailable => log::Level::Error,
    };
    log::log!(level, "{event}");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
