//! Other hosts: executes the decisions of [`comet_hub::cluster`], through an engine between the hosts.

mod events;
mod live_upgrade;
mod pause_gate;
mod publication;
mod stream;

use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use comet_core::{Message, Millis, ShardId, home_of_key};
use comet_hub::cluster::{
    Cluster, ClusterCounts, ClusterOutcome, Command, Engine, EngineCounts, Event, HeldElsewhere,
    HeldKey, HostName, KeyListing, Order, Part, Publication, ReplyTo, StreamEvent, StreamPosition,
    Target,
};
use comet_ops::{Exposition, Kind};
use comet_serve::Caller;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{unconstrained, yield_now};
use tokio::time::sleep_until;
use tonic::{Code, Status};

use crate::hub::HubDriver;
use crate::pending_push::{HostRequestCall, RemoteOutcome};

use events::{ClusterEvents, PUSHES_A_TURN, Turn};
use pause_gate::PauseGate;

pub(crate) use publication::taken_apart;

/// Most bytes of pushes under way from the shared stream to the cores. One push may exceed this.
pub const STREAM_BYTES_MAX: usize = 64 << 20;

/// The caller of the stream's pushes. It takes turns with other callers, and with other pushes of other hosts.
pub(crate) const STREAM_CALLER: Caller = Caller(u64::MAX);
/// Pushes of the stream are never dropped, so their calls have no time limit.
pub(crate) const UNLIMITED: Duration = Duration::MAX;

/// The connection of this host with others.
pub struct ClusterOptions {
    /// The name of this host.
    pub host: HostName,
    /// Whether only pushes to rooms with members here are received.
    pub subscribes_rooms: bool,
    /// Whether a key has one owner on all hosts.
    pub sessions: bool,
    /// Sends the messages of this host to others.
    pub engine: Arc<dyn Engine>,
    /// Pushes and orders of other hosts: [`Event::is_push`].
    pub pushes: mpsc::Receiver<Event>,
    /// All other messages of other hosts.
    pub notices: mpsc::Receiver<Event>,
    /// The events of the shared stream.
    pub stream: mpsc::Receiver<StreamEvent>,
    /// Does the work of the engine. It ends once the engine has left.
    pub work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for ClusterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterOptions").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The work of the control thread for its engine.
pub(crate) struct ClusterWork {
    pub(crate) events: ClusterEvents,
    pub(crate) stream: mpsc::Receiver<StreamEvent>,
    pub(crate) work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

type Decisions = Cluster<oneshot::Sender<ClusterOutcome>>;

/// A request of another host to the shards here.
pub(crate) enum HostRequest {
    Push(Publication),
    Order(Order),
}

/// The decisions about other hosts, with a lock and a clock.
pub(crate) struct ClusterDriver {
    /// The zero of its clock, the same as that of the shards.
    epoch: Instant,
    host: HostName,
    hub: Arc<HubDriver>,
    engine: Arc<dyn Engine>,
    cluster: Mutex<Decisions>,
    wake: Notify,
    /// Pushes and orders of other hosts that were begun or refused.
    begun: AtomicU64,
    /// Whether another process continues for this host.
    is_withdrawn: AtomicBool,
    /// Notified when this process becomes this host, after an upgrade.
    commit: Notify,
    /// Pushes of the shared stream pass this gate.
    gate: PauseGate,
    /// The position up to which the shards have begun the stream, once it was read.
    stream: Mutex<Option<StreamPosition>>,
}

impl ClusterDriver {
    /// `epoch` is the zero of the shards' clock.
    pub(crate) fn start(
        options: ClusterOptions,
        hub: Arc<HubDriver>,
        epoch: Instant,
    ) -> (Arc<Self>, ClusterWork) {
        let ClusterOptions { host, subscribes_rooms, sessions, engine, .. } = options;
        let ClusterOptions { pushes, notices, stream, work, .. } = options;
        let events = ClusterEvents::new(pushes, notices);
        let mut cluster = Cluster::new(Arc::clone(&host), subscribes_rooms, rand::random());
        if sessions {
            cluster = cluster.with_sessions(hub.shards(), unix_ms(epoch));
            for shard in (0..hub.shards()).map(ShardId) {
                hub.tell(shard, Message::WatchKeys);
            }
        }
        let (cluster, wake) = (Mutex::new(cluster), Notify::new());
        let (begun, is_withdrawn) = (AtomicU64::new(0), AtomicBool::new(false));
        let commit = Notify::new();
        let driver = Self {
            epoch,
            host,
            hub,
            engine,
            cluster,
            wake,
            begun,
            is_withdrawn,
            commit,
            gate: PauseGate::new(),
            stream: Mutex::new(None),
        };
        (Arc::new(driver), ClusterWork { events, stream, work })
    }

    /// Publishes a push of this host's callers. Does not wait, so pushes of one caller are published in the order in
    /// which they begin.
    pub(crate) fn begin(&self, limit: Duration, publication: Publication) -> RemoteOutcome {
        self.begin_by(limit, |cluster, limit, caller| cluster.begin(limit, publication, caller))
    }

    /// Has the other hosts carry out an order of this host's callers. Does not wait either.
    pub(crate) fn order(&self, limit: Duration, order: Order) -> RemoteOutcome {
        self.begin_by(limit, |cluster, limit, caller| cluster.order(limit, order, caller))
    }

    fn begin_by(
        &self,
        limit: Duration,
        begin: impl FnOnce(&mut Decisions, (Millis, u64), oneshot::Sender<ClusterOutcome>),
    ) -> RemoteOutcome {
        let (caller, outcome) = oneshot::channel();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut cluster = self.lock();
        begin(&mut cluster, (self.now(), limit_ms), caller);
        self.carry_out(&mut cluster);
        self.wake.notify_one();
        RemoteOutcome::new(outcome)
    }

    /// Notes that a room got its first member on this host, or lost its last.
    pub(crate) fn set_interest(&self, room: &Arc<str>, has_members: bool) {
        let mut cluster = self.lock();
        cluster.set_interest(self.now(), room, has_members);
        self.carry_out(&mut cluster);
    }

    /// Notes that a key named by logic has an owner here.
    pub(crate) fn claim(&self, key: HeldKey) {
        let mut cluster = self.lock();
        cluster.claim(self.now(), key);
        self.wake.notify_one();
    }

    /// Takes keys that a shard has listed.
    pub(crate) fn take_keys(&self, shard: ShardId, keys: (Vec<HeldKey>, Option<u32>)) {
        let mut cluster = self.lock();
        cluster.take_keys(self.now(), shard, keys);
        self.wake.notify_one();
    }

    /// The families of `/metrics`.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        let (counts, is_connected) = {
            let cluster = self.lock();
            (cluster.counts(), cluster.is_connected())
        };
        let engine = self.engine.counts();
        let ClusterCounts { hosts, rooms, published, not_published, received, .. } = counts;
        let ClusterCounts { refused, unreported, parts, late_parts, silent, .. } = counts;
        let ClusterCounts { keys_told, keys_heard, .. } = counts;
        let EngineCounts { dropped, dropped_notices, dropped_bytes, dropped_early, .. } = engine;
        let EngineCounts { invalid, untold, disconnects, .. } = engine;
        for (name, help, value) in [
            (
                "comet_cluster_connected",
                "Whether there is a connection by which hosts push for each other.",
                u64::from(is_connected),
            ),
            ("comet_cluster_hosts", "Other hosts that are there.", hosts),
            ("comet_cluster_rooms", "Rooms with members on this host.", rooms),
        ] {
            page.family(name, Kind::Gauge, help).sample(value);
        }
        for (name, help, value) in [
            (
                "comet_cluster_published_total",
                "Pushes of this host's callers that were published for other hosts.",
                published,
            ),
            (
                "comet_cluster_not_published_total",
                "Pushes of this host's callers that reached no other host, because there was no connection or too much waited.",
                not_published,
            ),
            (
                "comet_cluster_received_total",
                "Pushes of other hosts taken from the queue, begun or refused.",
                received,
            ),
            (
                "comet_cluster_refused_total",
                "Pushes of other hosts refused here, before any connection got them or by one of several cores.",
                refused,
            ),
            (
                "comet_cluster_unreported_total",
                "Pushes of other hosts begun here whose cores were too late for an answer. What became of them counts as for all pushes.",
                unreported,
            ),
            ("comet_cluster_parts_total", "Answers of other hosts to pushes.", parts),
            (
                "comet_cluster_late_parts_total",
                "Answers that came when their call was over.",
                late_parts,
            ),
            (
                "comet_cluster_silent_total",
                "Hosts that replies named as unanswered, a host for each reply.",
                silent,
            ),
            (
                "comet_cluster_invalid_total",
                "Messages on comet's subjects that are none of comet's, and announcements of another process with this host's name.",
                invalid,
            ),
            (
                "comet_cluster_untold_total",
                "Messages to other hosts that were dropped, because too many waited or there was no connection.",
                untold,
            ),
            ("comet_cluster_disconnects_total", "Connections that ended.", disconnects),
            (
                "comet_cluster_keys_told_total",
                "Keys with a connection here that other hosts were told of.",
                keys_told,
            ),
            (
                "comet_cluster_keys_heard_total",
                "Keys with a connection on another host that this one was told of.",
                keys_heard,
            ),
        ] {
            page.family(name, Kind::Counter, help).sample(value);
        }
        let mut by_reason = page.family(
            "comet_cluster_dropped_total",
            Kind::Counter,
            "Messages of other hosts that were dropped because this one was late, by what there was too much of.",
        );
        for (reason, value) in [
            ("messages", dropped),
            ("bytes", dropped_bytes),
            ("notices", dropped_notices),
            ("in_client", dropped_early),
        ] {
            by_reason.labelled(&[("reason", &reason)], value);
        }
        self.expose_stream(page);
    }

    /// Handles the events of other hosts as long as it is polled. Their pushes begin in the order of arrival, by
    /// `begin`.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut events: ClusterEvents,
        begin: impl Fn(HostRequest) -> Result<HostRequestCall, Status>,
    ) -> Infallible {
        let mut under_way = FuturesUnordered::new();
        let (mut pushes, mut notices) = (Vec::new(), Vec::new());
        let mut alarm = pin!(sleep_until(Instant::now().into()));
        let mut has_engine = true;
        loop {
            let due = self.turn();
            if let Some(due) = due
                && alarm.deadline() != due.into()
            {
                alarm.as_mut().reset(due.into());
            }
            tokio::select! {
                biased;
                // Takes all that are finished; their number is bounded by that of calls.
                Some(()) = under_way.next() => {
                    while let Some(Some(())) = under_way.next().now_or_never() {}
                }
                turn = events.take(&mut pushes, &mut notices), if has_engine => match turn {
                    Turn::Notices(taken) => {
                        has_engine = taken > 0;
                        let mut cluster = self.lock();
                        for event in notices.drain(..) {
                            self.engine.note_taken(event.bytes());
                            cluster.handle_event(self.now(), event);
                        }
                        self.carry_out(&mut cluster);
                    }
                    Turn::Pushes(taken) => {
                        has_engine = taken > 0;
                        let requests = pushes.drain(..).map(|event| self.host_request(event));
                        for (request, target, reply) in requests {
                            let answer = self.receive(begin(request), target, reply);
                            // The set polls each of its ready futures. With a task budget all but the first would be
                            // polled again and again without progress.
                            under_way.extend(answer.map(unconstrained));
                        }
                        if taken == PUSHES_A_TURN {
                            yield_now().await;
                        }
                    }
                },
                () = self.wake.notified() => {}
                () = &mut alarm, if due.is_some() => {}
            }
        }
    }

    /// The request of another host, its target, and the address for the answer.
    fn host_request(&self, event: Event) -> (HostRequest, Target, Option<ReplyTo>) {
        self.engine.note_taken(event.bytes());
        match event {
            Event::Push { publication, reply } => {
                let target = publication.target.clone();
                (HostRequest::Push(publication), target, reply)
            }
            // All hosts answer, as they do to a push to all.
            Event::Ordered { order, reply } => {
                (HostRequest::Order(order), Target::All, Some(reply))
            }
            event => unreachable!("it is no push: {event:?}"),
        }
    }

    /// `None`: the request is refused.
    fn receive(
        self: &Arc<Self>,
        begun: Result<HostRequestCall, Status>,
        target: Target,
        reply: Option<ReplyTo>,
    ) -> Option<impl Future<Output = ()> + use<>> {
        self.lock().note_received(reply.as_ref());
        if !matches!(begun, Ok(HostRequestCall::Paced(_))) {
            self.begun.fetch_add(1, SeqCst);
        }
        match begun {
            Ok(begun) => Some(Arc::clone(self).answer(begun, target, reply)),
            Err(status) => {
                self.refuse(&status, reply.as_ref());
                None
            }
        }
    }

    /// Sends the caller's host the result of its push here.
    async fn answer(
        self: Arc<Self>,
        begun: HostRequestCall,
        target: Target,
        reply: Option<ReplyTo>,
    ) {
        let is_paced = matches!(begun, HostRequestCall::Paced(_));
        let outcome = begun.await;
        self.begun.fetch_add(is_paced.into(), SeqCst);
        match (outcome, reply) {
            (Ok((tally, question_reply)), Some(reply)) => {
                let part = self.lock().part(self.now(), &target, tally, &reply);
                let part = Part { question_reply, ..part };
                // If there is no space for the answer, the caller's host counts this one as unanswered.
                self.engine.answer(reply, part);
            }
            (Ok(_), None) => {}
            // The cores have the push, and it continues there.
            (Err(status), reply) if status.code() == Code::DeadlineExceeded => {
                self.lock().note_unreported(reply.as_ref());
            }
            (Err(status), reply) => self.refuse(&status, reply.as_ref()),
        }
    }

    /// Refuses a push or an order. Its caller learns that this host has not answered.
    fn refuse(&self, status: &Status, reply: Option<&ReplyTo>) {
        let mut cluster = self.lock();
        cluster.note_refused(reply);
        self.carry_out(&mut cluster);
        log::debug!("a push of another host: {}", status.message());
    }

    /// The name of this host.
    pub(crate) fn host(&self) -> &HostName {
        &self.host
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.lock().is_connected()
    }

    /// Announces that this host leaves. The engine's work then ends.
    pub(crate) fn leave(&self) {
        let mut cluster = self.lock();
        cluster.leave();
        self.carry_out(&mut cluster);
    }

    /// Does the work that is due. Returns when the next turn is due.
    fn turn(&self) -> Option<Instant> {
        let lost = self.engine.counts().lost_notices();
        let mut cluster = self.lock();
        cluster.note_lost(self.now(), lost);
        cluster.handle_timeout(self.now());
        self.carry_out(&mut cluster);
        cluster.poll_timeout().map(|at| self.epoch + Duration::from_millis(at.0))
    }

    fn carry_out(&self, cluster: &mut Decisions) {
        while let Some(command) = cluster.poll_command() {
            match self.engine.submit(command) {
                Ok(()) => {}
                Err(Command::Publish { call, .. } | Command::PublishOrder { call, .. }) => {
                    cluster.not_published(call);
                }
                Err(Command::Store { call, .. }) => cluster.not_published(Some(call)),
                Err(command) => cluster.handle_refused(self.now(), command),
            }
        }
        while let Some(held) = cluster.poll_held_elsewhere() {
            self.tell_homes(held);
        }
        while let Some(KeyListing { shard, since, table }) = cluster.poll_key_listing() {
            self.hub.tell(shard, Message::ListKeys { since, table });
        }
        while let Some((caller, outcome)) = cluster.poll_outcome() {
            // Fails only if the caller left at this very moment.
            let _ = caller.send(outcome);
        }
    }

    fn tell_homes(&self, HeldElsewhere { keys, wins_ties }: HeldElsewhere) {
        let shards = self.hub.shards();
        let mut homes: Vec<Vec<HeldKey>> = (0..shards).map(|_| Vec::new()).collect();
        for (key, at) in keys {
            homes[usize::from(home_of_key(&key, shards).0)].push((key, at));
        }
        for (home, keys) in (0..).map(ShardId).zip(homes).filter(|(_, keys)| !keys.is_empty()) {
            self.hub.tell(home, Message::HeldElsewhere { keys, wins_ties });
        }
    }

    /// Rounded up, so that no push has less than its limit.
    fn now(&self) -> Millis {
        Millis(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Decisions> {
        self.cluster.lock().expect("nothing panics between lock and unlock")
    }
}

/// The time at `epoch`, in milliseconds since 1970.
pub(crate) fn unix_ms(epoch: Instant) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(epoch.elapsed()).as_millis()).unwrap_or(u64::MAX)
}
