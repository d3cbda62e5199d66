//! Live traces: streams of the events of some connections. Shards get the subjects with their limits, and report the
//! events together with those of the trace log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use comet_core::limits::{LIVE_TRACES_MAX, NAME_MAX};
use comet_core::{
    Limits, LiveTrace, Millis, Subject, TooManyTraces, TraceEvent, TraceId, TraceKind,
};
use comet_wire::comet::v1::trace_req::Subject as Asked;
use comet_wire::comet::v1::{self, TraceReply, TraceReq};
use tokio::select;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::Status;

use crate::hub::HubDriver;
use crate::pushes::network_of;
use crate::watchers::Queue;

/// The longest duration of a trace in seconds, and the default.
const SECONDS_MAX: u32 = 3_600;
const SECONDS: u32 = 60;

/// Begins a live trace. It ends with its time, once `stopped` is ready, or when the stream is dropped.
///
/// # Errors
/// If the request cannot be read, or too many traces are under way.
pub(crate) fn begin(
    hub: &Arc<HubDriver>,
    order: TraceReq,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<LiveTraceStream, Status> {
    let TraceReq { subject, seconds } = order;
    let subject = subject_of(subject)?;
    if seconds > SECONDS_MAX {
        let sentence = format!("a trace takes at most {SECONDS_MAX} seconds");
        return Err(Status::invalid_argument(sentence));
    }
    let time = Duration::from_secs(if seconds == 0 { SECONDS } else { seconds }.into());
    let (id, queue) = hub.watchers.add();
    let traces = hub.limits().traces.with(LiveTrace { id, subject: subject.clone() });
    let traces = traces.map_err(|TooManyTraces| {
        hub.watchers.remove(id);
        Status::resource_exhausted(format!("{LIVE_TRACES_MAX} live traces are under way"))
    })?;
    hub.configure(|limits| Limits { traces, ..limits });
    log::info!("{subject:?} is traced by a call for {time:?}");
    // The timer is a task of its own, so a caller that reads nothing does not prolong the trace.
    let at_end = Arc::clone(hub);
    let timer = tokio::spawn(async move {
        select! {
            () = sleep(time) => {}
            () = stopped => {}
        }
        end(&at_end, id);
    });
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) - hub.now().0;
    let (hub, timer) = (Arc::clone(hub), timer.abort_handle());
    Ok(LiveTraceStream { hub, id, queue, timer, epoch_ms })
}

/// Ends a live trace, if it is under way. Its caller can still read the queued events.
fn end(hub: &HubDriver, id: TraceId) {
    if hub.watchers.remove(id) {
        hub.configure(|limits| Limits { traces: limits.traces.without(id), ..limits });
    }
}

fn subject_of(asked: Option<Asked>) -> Result<Subject, Status> {
    let named = |what, name: String| match name.len() {
        1..=NAME_MAX => Ok(name.into_boxed_str()),
        _ => Err(Status::invalid_argument(format!("a {what} has 1 to {NAME_MAX} bytes"))),
    };
    match asked {
        Some(Asked::Key(key)) => Ok(Subject::Key(named("key", key)?)),
        Some(Asked::User(user)) => Ok(Subject::User(user)),
        Some(Asked::RoomId(room)) => Ok(Subject::Room(named("room", room)?)),
        Some(Asked::Address(address)) => Ok(Subject::Network(network_of(&address)?)),
        None => Err(Status::invalid_argument("name a key, a user, a room or an address")),
    }
}

/// The events of a live trace.
pub(crate) struct LiveTraceStream {
    hub: Arc<HubDriver>,
    id: TraceId,
    queue: Queue,
    /// Ends the trace when its time is over.
    timer: AbortHandle,
    /// The zero of the shards' clock, milliseconds since 1970.
    epoch_ms: u64,
}

impl Stream for LiveTraceStream {
    type Item = Result<TraceReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.queue.poll(cx)).map(|(events, missed)| {
            let events = events.iter().map(|event| self.told(event)).collect();
            Ok(TraceReply { events, missed })
        });
        Poll::Ready(next)
    }
}

impl LiveTraceStream {
    /// `event` as a message of the wire.
    fn told(&self, event: &TraceEvent) -> v1::TraceEvent {
        let TraceEvent { conn, user, key, what, at: Millis(at), .. } = event;
        let mut told = v1::TraceEvent {
            at_ms: self.epoch_ms + at,
            connection: format!("{}/{}.{}", conn.shard.0, conn.slot, conn.generation),
            key: key.to_string(),
            user: *user,
            ..v1::TraceEvent::default()
        };
        told.what = match what {
            TraceKind::Accepted { address } => {
                told.address = address.to_canonical().to_string();
                "accepted"
            }
            TraceKind::Authenticated { room } => {
                told.room_id = room.as_deref().unwrap_or_default().to_owned();
                "authenticated"
            }
            TraceKind::Joined { room } => {
                told.room_id = room.to_string();
                "joined"
            }
            TraceKind::Left { room } => {
                told.room_id = room.to_string();
                "left"
            }
            TraceKind::Read { operation, sequence, bytes } => {
                (told.operation, told.sequence, told.bytes) = (*operation, *sequence, *bytes);
                "read"
            }
            TraceKind::Wrote { operation, sequence, bytes } => {
                (told.operation, told.sequence, told.bytes) = (*operation, *sequence, *bytes);
                "wrote"
            }
            TraceKind::Queued { operation, bytes, superseded } => {
                (told.operation, told.bytes, told.superseded) = (*operation, *bytes, *superseded);
                "queued"
            }
            TraceKind::Dropped { operation, reason } => {
                (told.operation, told.reason) = (*operation, reason.label().to_owned());
                "dropped"
            }
            TraceKind::Closed { reason } => {
                reason.label().clone_into(&mut told.reason);
                "closed"
            }
            TraceKind::Missed { .. } => unreachable!("it is a number of the reply"),
        }
        .to_owned();
        told
    }
}

impl Drop for LiveTraceStream {
    fn drop(&mut self) {
        self.timer.abort();
        end(&self.hub, self.id);
    }
}
