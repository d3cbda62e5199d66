//! The stream of pushes to rooms with a shared history. Its pushes begin here in their order, and none is left out. If
//! a core is behind, the rest waits in the stream.

use std::convert::Infallible;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use comet_core::{CallId, Message, Push, ShardId, StreamState, home_of_room};
use comet_hub::cluster::{
    Event, Part, Publication, QuestionReply, ReplyTarget, StoredPush, StreamCounts, StreamEvent,
    StreamPosition, Target,
};
use comet_ops::{Exposition, Kind};
use comet_wire::goim::protocol::Proto;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::pending_push::{LocalPush, PendingPush, RemoteOutcome};
use crate::status::status;

use super::publication::taken_apart;
use super::{ClusterDriver, STREAM_BYTES_MAX, UNLIMITED, unix_ms};

/// Most pushes of the stream under way on the cores.
const UNDER_WAY_MAX: usize = 512;
/// Time until a push is retried when no more calls may begin.
const RETRY: Duration = Duration::from_millis(2);
/// After this long a push that cannot begin is logged, and other hosts no longer wait for this one.
const LATE: Duration = Duration::from_secs(1);

/// The call of a push on the cores.
enum StreamCall {
    Push(LocalPush),
    /// The push is refused, and its home is told.
    Refusal(LocalPush),
}

impl ClusterDriver {
    /// Puts a push of this host's callers into the stream. Does not wait, so pushes of one caller enter the stream in
    /// the order in which they begin.
    pub(crate) fn store(&self, limit: Duration, publication: Publication) -> RemoteOutcome {
        self.begin_by(limit, |cluster, limit, caller| cluster.store(limit, publication, caller))
    }

    /// Handles the events of the stream as long as it is polled. `prepare` makes a push; pushes that it refuses as
    /// invalid are not delivered.
    pub(crate) async fn run_stream(
        self: Arc<Self>,
        mut events: mpsc::Receiver<StreamEvent>,
        prepare: impl Fn(Proto, i32) -> Result<Push, Status>,
    ) -> Infallible {
        let mut under_way = JoinSet::new();
        let (mut bytes_under_way, mut told) = (0, (0, false));
        let mut has_engine = true;
        loop {
            self.gate.pass().await;
            let has_room = under_way.len() < UNDER_WAY_MAX && bytes_under_way < STREAM_BYTES_MAX;
            tokio::select! {
                biased;
                () = self.gate.closing() => {}
                Some(ended) = under_way.join_next() => {
                    bytes_under_way -= ended.expect("it does not panic");
                }
                event = events.recv(), if has_engine && has_room => {
                    match event {
                        Some(StreamEvent::State(position)) => {
                            let StreamState { epoch, is_read, .. } = position.state;
                            let before = std::mem::replace(&mut told, (epoch, is_read));
                            self.take_state(position, told != before).await;
                        }
                        Some(StreamEvent::Push(push)) => {
                            let bytes = push.publication.body.len();
                            bytes_under_way += bytes;
                            let (begun, reply_target) = self.begun(&prepare, push).await;
                            let answered = Arc::clone(&self).answer_stored(begun, reply_target);
                            under_way.spawn(async move {
                                answered.await;
                                bytes
                            });
                        }
                        None => has_engine = false,
                    }
                }
            }
        }
    }

    /// Tells all homes, and only then stores the position, so that a continuing process never gets a position that some
    /// homes do not know.
    async fn take_state(&self, position: StreamPosition, is_new: bool) {
        self.tell_state(position.state, false).await;
        if is_new && position.state.is_read {
            self.tell_state(position.state, true).await;
        }
        *self.position() = position.state.is_read.then_some(position);
        self.set_reads_stream(position.state.is_read);
    }

    /// Retries until the push has begun, or until its home knows that it is refused.
    async fn begun(
        &self,
        prepare: &impl Fn(Proto, i32) -> Result<Push, Status>,
        push: StoredPush,
    ) -> (StreamCall, Option<ReplyTarget>) {
        let StoredPush { publication, offset, stored_unix_ms, reply_target } = push;
        let (target, accepts, proto) = taken_apart(publication);
        let Target::Room(room) = target else { unreachable!("the stream has pushes to rooms") };
        let home = home_of_room(&room, self.hub.shards());
        let mut prepared = None;
        let (first_try, mut is_late) = (Instant::now(), false);
        let begun = loop {
            self.gate.pass().await;
            let pushed = match &prepared {
                Some(pushed) => Ok(pushed),
                None => match prepare(proto.clone(), accepts) {
                    Err(status) if status.code() != Code::InvalidArgument => Err(status),
                    made => Ok(&*prepared.insert(made.map(|push| Push { offset, ..push }))),
                },
            };
            let begun =
                pushed.and_then(|pushed| {
                    let room = Arc::clone(&room);
                    Ok(match pushed {
                        Ok(push) => StreamCall::Push(self.begin_at(home, |call| {
                            let age_ms = unix_ms(Instant::now()).saturating_sub(stored_unix_ms);
                            Message::PushFromStream { call, room, push: push.clone(), age_ms }
                        })?),
                        Err(_) => StreamCall::Refusal(self.begin_at(home, |call| {
                            Message::RefuseFromStream { call, room, offset }
                        })?),
                    })
                });
            match begun {
                Ok(begun) => break begun,
                Err(status) => {
                    if !is_late && first_try.elapsed() >= LATE {
                        is_late = true;
                        let why = status.message();
                        log::warn!("pushes of the stream of histories wait for the cores: {why}");
                        self.set_reads_stream(false);
                    }
                    sleep(RETRY).await;
                }
            }
        };
        if let Some(Err(status)) = prepared {
            log::debug!("a push of the stream: {}", status.message());
        }
        let mut position = *self.position();
        if let Some(position) = &mut position {
            (position.state.seen, position.seen_unix_ms) = (offset, stored_unix_ms);
        }
        *self.position() = position;
        if is_late {
            self.set_reads_stream(position.is_some());
        }
        (begun, reply_target)
    }

    fn begin_at(
        &self,
        home: ShardId,
        message: impl FnOnce(CallId) -> Message,
    ) -> Result<LocalPush, Status> {
        let call = self.hub.begin(UNLIMITED, |call| [(home, message(call))]);
        Ok(PendingPush::from(call.map_err(status)?).here())
    }

    /// Sets whether this host reads the stream without delay. Other hosts are told, so that they wait for this one or
    /// do not.
    fn set_reads_stream(&self, reads_stream: bool) {
        self.lock().set_reads_stream(self.now(), reads_stream);
        self.wake.notify_one();
    }

    /// See [`ClusterDriver::hand_over`].
    pub(super) fn position(&self) -> MutexGuard<'_, Option<StreamPosition>> {
        self.stream.lock().expect("nothing panics between lock and unlock")
    }

    /// Returns when all shards have taken the state.
    async fn tell_state(&self, state: StreamState, is_settled: bool) {
        let message = |call| Message::Stream { call, state, is_settled };
        let call = loop {
            match self.hub.begin_everywhere(UNLIMITED, message) {
                Ok(call) => break call,
                Err(_) => sleep(RETRY).await,
            }
        };
        // Fails only if a core has ended, and this process with it.
        let _ = call.await;
    }

    async fn answer_stored(self: Arc<Self>, begun: StreamCall, reply_target: Option<ReplyTarget>) {
        let (tally, is_refused) = match begun {
            StreamCall::Push(begun) => (begun.await, false),
            StreamCall::Refusal(begun) => (begun.await, true),
        };
        // Fails only if a core has ended, and this process with it.
        let Ok(tally) = tally else { return };
        let host = Arc::clone(&self.host);
        let mut cluster = self.lock();
        if is_refused {
            let reply = match &reply_target {
                Some(ReplyTarget::To(reply)) => Some(reply),
                _ => None,
            };
            cluster.note_refused(reply);
            if let Some(ReplyTarget::Here(call)) = reply_target {
                cluster.handle_event(self.now(), Event::Refused { call, host });
            }
            return self.carry_out(&mut cluster);
        }
        let (hosts, question_reply) = (Vec::new(), QuestionReply::default());
        let part = Part { host, tally, hosts, may_miss_hosts: false, question_reply };
        match reply_target {
            // If there is no space for the answer, the caller's host counts this one as unanswered.
            Some(ReplyTarget::To(reply)) => _ = self.engine.answer(reply, part),
            Some(ReplyTarget::Here(call)) => {
                cluster.handle_event(self.now(), Event::Answered { call, part });
                self.carry_out(&mut cluster);
            }
            None => {}
        }
    }

    pub(super) fn expose_stream(&self, page: &mut Exposition) {
        let Some(counts) = self.engine.stream_counts() else { return };
        let StreamCounts { read, lost, waiting, is_read } = counts;
        let hosts = self.lock().counts().stream_hosts;
        for (name, kind, help, value) in [
            (
                "comet_cluster_stream_hosts",
                Kind::Gauge,
                "Hosts that read the stream of histories without delay, with this one. Callers do not wait for others.",
                hosts,
            ),
            (
                "comet_cluster_stream_is_read",
                Kind::Gauge,
                "Whether what was in the stream of histories is read since this host began.",
                u64::from(is_read),
            ),
            (
                "comet_cluster_stream_waiting",
                Kind::Gauge,
                "Pushes in the stream of histories that were not read yet with the latest one that was.",
                waiting,
            ),
            (
                "comet_cluster_stream_read_total",
                Kind::Counter,
                "Pushes of the stream of histories that were read.",
                read,
            ),
            (
                "comet_cluster_stream_lost_total",
                Kind::Counter,
                "Pushes that the stream of histories dropped before this host read them. Members are told of a gap.",
                lost,
            ),
        ] {
            page.family(name, kind, help).sample(value);
        }
    }
}
