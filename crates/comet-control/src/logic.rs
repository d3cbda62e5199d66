//! Logic in another process: the driver of [`LogicClient`].
//!
//! The client's decisions become connections and calls of `goim.logic.Logic`, each a task of its own on the control
//! thread, and their outcomes go back to it. Nothing is decided here.

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
use comet_serve::{
    ApiTls, BadAddress, BearerToken, GrpcChannel, Peer, drop_offloaded, poll_offloaded,
};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep_until, timeout};

use crate::hub::HubDriver;

pub(crate) use self::stats::LogicStats;

/// The parameters of calls to logic services.
#[derive(Clone, Debug)]
pub struct LogicOptions {
    /// The addresses (`logic.addrs`), in the form of [`Peer`](comet_serve::Peer); at least one.
    pub addrs: Vec<String>,
    /// The token for calls to logic (`logic.token`).
    pub token: BearerToken,
    /// How long a call may take, its second attempt included (`logic.timeout`).
    pub timeout: Duration,
    /// Calls under way at most (`logic.calls`), at least one.
    pub calls: usize,
    /// How often each address is pinged (`logic.ping`).
    pub ping: Duration,
    /// How often room counts are sent to logic (`logic.renew`).
    pub renew: Duration,
    /// The longest retry time for clients when no logic is available; the shortest is half of it (`logic.retry_after`).
    /// Zero: they are told none.
    pub retry_after: Duration,
    /// The meaning of the gRPC code UNKNOWN (`logic.unknown`).
    pub unknown: UnknownCode,
}

/// An answer passes from its socket through several tasks to the client, one in each round of the runtime. When the
/// timer fires, it lets answers that have arrived go first.
const TASKS_OF_AN_ANSWER: usize = 8;

/// How long the server waits for the last notices when it ends.
const NOTICES_GRACE: Duration = Duration::from_secs(5);

/// The connection of the control thread to logic.
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
    /// Notified when something is due earlier than the timer is set to.
    sooner: Notify,
    /// Notified when every notice is delivered.
    delivered: Notify,
}

/// The connection settings of each address, by its name.
type Peers = BTreeMap<String, Peer>;

struct State {
    client: LogicClient,
    /// The peers of all addresses that the client knows.
    peers: Peers,
    /// By address: its open connection.
    channels: HashMap<usize, GrpcChannel>,
    /// By address: the task that opens or pings its connection.
    probes: HashMap<usize, AbortHandle>,
    attempts: HashMap<AttemptId, Attempt>,
    /// How long attempts took, by the name of the call.
    times: BTreeMap<&'static str, Histogram>,
    /// The time to which the timer is set.
    due: Option<Millis>,
}

impl Logic {
    /// # Errors
    /// Names the invalid address.
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

    /// Starts connecting, and starts the timer. Both end when the set is dropped.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(self).keep_time());
        tasks.spawn(Arc::clone(self).follow_addresses());
        tasks
    }

    /// Sets the addresses of logic. May be called by any thread.
    ///
    /// # Errors
    /// Names the invalid address; then nothing changes.
    pub(crate) fn set_addresses(&self, addrs: &[String]) -> Result<(), BadAddress> {
        self.peers.send_replace(peers(addrs, &self.tls, self.timeout)?);
        Ok(())
    }

    async fn follow_addresses(self: Arc<Self>) {
        let mut newer = self.peers.subscribe();
        // Addresses set since the start count as new.
        newer.mark_changed();
        while newer.changed().await.is_ok() {
            let newer = newer.borrow_and_update().clone();
            self.update(|state, now| {
                state.client.set_addresses(now, names(&newer));
                state.peers = newer;
            });
        }
    }

    /// The former process is ending. May be called by any thread.
    pub(crate) fn take_over(&self) {
        let now = Millis(millis(self.epoch.elapsed()));
        self.lock().client.take_over(now);
    }

    /// Takes a report that is for logic.
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

    /// Calls the client whenever something is due.
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

    /// Passes an input to the client, and executes its actions.
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
                // Calls under way hold the connection open.
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
                    let outcome =
                        if has_rooms { poll_offloaded(sending).await } else { sending.await };
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
            Action::CountRooms { sent_rooms } => {
                tokio::spawn(async move {
                    let limit = logic.timeout;
                    let cut = move |rooms| RoomPieces::cut(rooms, sent_rooms.as_ref());
                    let rooms = logic.hub.rooms(limit, cut).await;
                    logic.update(|state, now| state.client.handle_rooms(now, rooms.ok()));
                });
            }
            Action::Free(unneeded) => drop_offloaded(unneeded),
        }
    }

    /// The lock is never held across an await, and only the control thread takes it.
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
    /// Records the time of an attempt that was answered or given up, and returns the handle of its task.
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
/// Names the invalid address.
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
