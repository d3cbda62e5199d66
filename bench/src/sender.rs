//! The sending side: a thread that pushes on a schedule, to a server or to a yardstick alike.
//!
//! With a rate the loop is open: a tick is due when it is due, whether or not the pushes before it are
//! answered, and its messages carry that time, so that a slow server cannot slow the measurement down
//! (coordinated omission). Flat out the loop is closed: so many ticks may be under way, and the next starts
//! when the receivers have caught up. Pushes of one stream are made one after the other's answer, as goim's
//! job does, for the order of concurrent calls is nobody's promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime;
use tokio::sync::Notify;

use crate::Result;
use crate::clock::{SECOND_NS, Timer, now_ns};
use crate::message::Stamp;
use crate::outlet::{Answers, Outlet, Sink};
use crate::yardstick::Feed;

/// Time between the start of the thread and the first tick.
const LEAD_NS: u64 = 20_000_000;
/// How long a flat-out sender waits for receivers that get nothing more.
const STALL: Duration = Duration::from_secs(5);
/// How far the receivers are; written by theirs, awaited by the sender's thread.
#[derive(Default)]
pub(crate) struct Progress {
    received: AtomicU64,
    changed: Notify,
}

/// What to push, and when.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub run: u32,
    pub operation: i32,
    /// Bytes of each body.
    pub size: usize,
    /// Messages in one push; more than one go as a run of frames.
    pub batch: u64,
    /// Connections of each stream.
    pub members: Vec<u64>,
    pub pattern: Pattern,
    /// Time between ticks; none is flat out.
    pub interval_ns: Option<u64>,
    pub duration_ns: u64,
    /// Ticks under way when flat out.
    pub window: u64,
}

/// Which streams a tick pushes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pattern {
    /// All.
    Every,
    /// One, in turn.
    Rotating {
        /// The one to begin with; beyond the last it starts again.
        first: usize,
    },
}

/// What was pushed.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Sent {
    /// Messages of each stream.
    #[serde(skip)]
    pub messages: Vec<u64>,
    /// When the first tick was due.
    #[serde(skip)]
    pub started_ns: u64,
    pub ticks: u64,
    pub pushes: u64,
    /// Deliveries the pushes are meant to become.
    pub deliveries: u64,
    /// Of these, what the server has owned to not making.
    pub dropped: u64,
    /// Time from the first tick to the last.
    pub elapsed_ns: u64,
    /// The most the sender was behind its own schedule; latencies contain it.
    pub behind_ns_max: u64,
    pub answers: Answers,
}

impl Progress {
    /// `received` deliveries have come.
    pub(crate) fn report(&self, received: u64) {
        if self.received.swap(received, Ordering::Relaxed) != received {
            self.changed.notify_one();
        }
    }

    /// A push was answered: the server may own to not having made deliveries.
    pub(crate) fn answered(&self) {
        self.changed.notify_one();
    }
}

/// Starts the sender's thread. A yardstick's feed comes back with the result, since a yardstick ends with
/// its feed and is still to be measured.
pub(crate) fn start(
    plan: Plan,
    sink: Sink,
    progress: Arc<Progress>,
) -> JoinHandle<Result<(Sent, Option<Feed>)>> {
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let outlet = Outlet::open(sink, &plan, &progress).await?;
            let sender = Sender {
                sent: Sent { messages: vec![0; plan.members.len()], ..Sent::default() },
                timer: Timer::new()?,
                plan,
                outlet,
                progress,
            };
            sender.run().await
        })
    })
}

struct Sender {
    plan: Plan,
    outlet: Outlet,
    progress: Arc<Progress>,
    timer: Timer,
    sent: Sent,
}

impl Sender {
    async fn run(mut self) -> Result<(Sent, Option<Feed>)> {
        let start_ns = now_ns() + LEAD_NS;
        let end_ns = start_ns + self.plan.duration_ns;
        self.sent.started_ns = start_ns;
        let mut tick_ns = start_ns;
        self.timer.until(start_ns).await?;
        while tick_ns < end_ns {
            self.tick(tick_ns).await?;
            tick_ns = match self.plan.interval_ns {
                Some(interval_ns) => {
                    let due_ns = start_ns + self.sent.ticks * interval_ns;
                    self.timer.until(due_ns).await?;
                    due_ns
                }
                None if self.room_for_a_tick().await => now_ns(),
                None => break,
            };
        }
        self.sent.elapsed_ns = now_ns() - start_ns;
        self.sent.answers = self.outlet.answers().await?;
        self.sent.dropped = self.outlet.dropped();
        Ok((self.sent, self.outlet.into_feed()))
    }

    async fn tick(&mut self, intended_ns: u64) -> Result<()> {
        let streams = self.plan.members.len();
        let pushed = match self.plan.pattern {
            Pattern::Every => 0..streams,
            Pattern::Rotating { first } => {
                let stream = (first + usize::try_from(self.sent.ticks)?) % streams;
                stream..stream + 1
            }
        };
        self.sent.ticks += 1;
        let behind_ns = now_ns().saturating_sub(intended_ns);
        self.sent.behind_ns_max = self.sent.behind_ns_max.max(behind_ns);
        for stream in pushed {
            let content = self.content(stream, intended_ns);
            self.outlet.push(stream, content)?;
            self.sent.pushes += 1;
            self.sent.deliveries += self.plan.batch * self.plan.members[stream];
        }
        // Lets the runtime write the calls before the next tick is looked at. Calls that are made flat out
        // are written together, as many as there is room for: the sender is not to be what is measured.
        if self.plan.interval_ns.is_some() || self.plan.pattern == Pattern::Every {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn content(&mut self, stream: usize, intended_ns: u64) -> Vec<u8> {
        let plan = &self.plan;
        let id = u32::try_from(stream).expect("fewer streams than connections");
        let mut content = Vec::new();
        for _ in 0..plan.batch {
            let sequence = self.sent.messages[stream];
            self.sent.messages[stream] += 1;
            let stamp =
                Stamp { run: plan.run, stream: id, sequence, intended_ns: Some(intended_ns) };
            if self.outlet.takes_frames() {
                stamp.append_frame(plan.operation, plan.size, &mut content);
            } else {
                stamp.append_body(plan.size, &mut content);
            }
        }
        content
    }

    /// Waits until one more tick may be under way; false where the receivers have come to a halt.
    async fn room_for_a_tick(&self) -> bool {
        let a_tick = self.sent.deliveries / self.sent.ticks;
        loop {
            let changed = self.progress.changed.notified();
            let done = self.progress.received.load(Ordering::Relaxed) + self.outlet.dropped();
            if self.sent.deliveries.saturating_sub(done) <= a_tick * (self.plan.window - 1) {
                return true;
            }
            if tokio::time::timeout(STALL, changed).await.is_err() {
                return false;
            }
        }
    }
}

impl Plan {
    /// The time between ticks of `rate` a second; none for 0, which is flat out.
    pub(crate) fn interval_of(rate: f64) -> Option<u64> {
        (rate > 0.0).then(|| ((SECOND_NS as f64 / rate) as u64).max(1))
    }

    /// Deliveries that the whole plan will become; flat out nobody can know.
    pub(crate) fn expected(&self) -> Option<u64> {
        let ticks = self.duration_ns.div_ceil(self.interval_ns?);
        let members: u64 = self.members.iter().sum();
        let streams = self.members.len() as u64;
        let every = ticks * members * self.batch;
        Some(match self.pattern {
            Pattern::Every => every,
            Pattern::Rotating { .. } => every / streams,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_knows_its_deliveries() {
        let plan = Plan {
            run: 0,
            operation: 1000,
            size: 64,
            batch: 2,
            members: vec![3, 1],
            pattern: Pattern::Every,
            interval_ns: Plan::interval_of(10.0),
            duration_ns: SECOND_NS,
            window: 1,
        };
        assert_eq!(plan.expected(), Some(80));
        assert_eq!(
            Plan { pattern: Pattern::Rotating { first: 0 }, ..plan.clone() }.expected(),
            Some(40)
        );
        assert_eq!(Plan { interval_ns: Plan::interval_of(0.0), ..plan }.expected(), None);
    }
}
