//! The stream of pushes to rooms with a history that hosts share: its pushes begin here as they come, and none is left out. Where a core
//! is behind, the rest waits in the stream.

use std::convert::Infallible;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use comet_core::{Message, StreamState};
use comet_hub::cluster::{
    Answer, Event, Part, Publication, StoredPush, StreamCounts, StreamEvent, StreamPlace, Told,
};
use comet_ops::{Exposition, Kind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::under_way::{Elsewhere, UnderWayHere};

use super::{ClusterDriver, STREAM_BYTES_MAX, UNLIMITED};

/// Pushes of the stream that may be under way on the cores.
const UNDER_WAY_MAX: usize = 512;
/// Time until the cores are tried again where so many calls are under way that no more may begin.
const RETRY: Duration = Duration::from_millis(2);

impl ClusterDriver {
    /// Has the stream take a push of this host's callers. Does not wait, so pushes of one caller come into the stream in the order
    /// in which they begin.
    pub(crate) fn store(&self, limit: Duration, publication: Publication) -> Elsewhere {
        self.begin_by(limit, |cluster, limit, caller| cluster.store(limit, publication, caller))
    }

    /// Takes what the stream has, for as long as it is polled. `begin` begins a push; what it refuses as invalid goes to nobody.
    pub(crate) async fn run_stream(
        self: Arc<Self>,
        mut events: mpsc::Receiver<StreamEvent>,
        begin: impl Fn(&StoredPush) -> Result<UnderWayHere, Status>,
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
                        Some(StreamEvent::State(place)) => {
                            let StreamState { epoch, is_read, .. } = place.state;
                            let before = std::mem::replace(&mut told, (epoch, is_read));
                            self.take_state(place, told != before).await;
                        }
                        Some(StreamEvent::Push(push)) => {
                            if let Some(begun) = self.begun(&begin, &push).await {
                                let bytes = push.publication.body.len();
                                bytes_under_way += bytes;
                                let answered = Arc::clone(&self).answer_stored(begun, push.answer);
                                under_way.spawn(async move {
                                    answered.await;
                                    bytes
                                });
                            } else {
                                self.lock().note_refused(None);
                            }
                        }
                        None => has_engine = false,
                    }
                }
            }
        }
    }

    /// Homes are all told, or none that the process that goes on knows of.
    async fn take_state(&self, place: StreamPlace, is_new: bool) {
        self.tell_state(place.state, false).await;
        if is_new && place.state.is_read {
            self.tell_state(place.state, true).await;
        }
        *self.place() = place.state.is_read.then_some(place);
    }

    /// Tries until it has begun. `None`: it is invalid.
    async fn begun(
        &self,
        begin: &impl Fn(&StoredPush) -> Result<UnderWayHere, Status>,
        push: &StoredPush,
    ) -> Option<UnderWayHere> {
        loop {
            self.gate.pass().await;
            let begun = match begin(push) {
                Ok(begun) => Some(begun),
                Err(status) if status.code() == Code::InvalidArgument => {
                    log::debug!("a push of the stream: {}", status.message());
                    None
                }
                Err(_) => {
                    sleep(RETRY).await;
                    continue;
                }
            };
            if let Some(place) = &mut *self.place() {
                place.state.seen = push.offset;
            }
            return begun;
        }
    }

    /// See [`ClusterDriver::hand_over`].
    pub(super) fn place(&self) -> MutexGuard<'_, Option<StreamPlace>> {
        self.stream.lock().expect("nothing panics between lock and unlock")
    }

    /// Returns when all shards have taken it.
    async fn tell_state(&self, state: StreamState, is_settled: bool) {
        let message = |call| Message::Stream { call, state, is_settled };
        let call = loop {
            match self.hub.begin_everywhere(UNLIMITED, message) {
                Ok(call) => break call,
                Err(_) => sleep(RETRY).await,
            }
        };
        // Fails only where a core has ended, and this process with it.
        let _ = call.await;
    }

    async fn answer_stored(self: Arc<Self>, begun: UnderWayHere, answer: Option<Answer>) {
        let (Ok(tally), Some(answer)) = (begun.await, answer) else { return };
        let mut cluster = self.lock();
        let host = Arc::clone(&self.host);
        let (hosts, told) = (Vec::new(), Told::default());
        let part = Part { host, tally, hosts, may_miss_hosts: false, told };
        match answer {
            // If it has no room, the caller is told that this host has not answered.
            Answer::To(reply) => _ = self.engine.answer(reply, part),
            Answer::Here(call) => {
                cluster.handle_event(self.now(), Event::Answered { call, part });
                self.carry_out(&mut cluster);
            }
        }
    }

    pub(super) fn expose_stream(&self, page: &mut Exposition) {
        let Some(counts) = self.engine.stream_counts() else { return };
        let StreamCounts { read, lost, waiting, is_read } = counts;
        for (name, kind, help, value) in [
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
