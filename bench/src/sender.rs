//! The sending side: a thread that pushes on a schedule, to a server and to a yardstick in the same way.
//!
//! With a rate, the loop is open: ticks keep their schedule, whether or not earlier pushes are answered, and messages
//! carry the scheduled time, so that a slow server cannot slow down the measurement (coordinated omission). Flat out,
//! the loop is closed: a limited number of ticks may be under way, and the next one starts when the receivers have
//! caught up. A push to a stream waits for the answer to the one before, as in goim's job, since nothing guarantees the
//! order of concurrent calls.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::runtime;
use tokio::sync::watch;

use crate::Result;
use crate::clock::{Timer, now_ns};
use crate::message::Stamp;
use crate::plan::{Pattern, Plan};
use crate::sink::{Answers, OpenSink, Sink};
use crate::stats::Reasons;
use crate::yardstick::Feed;

/// Time between the start of the thread and the first tick.
const LEAD_NS: u64 = 20_000_000;
/// How long a flat-out sender waits for receivers that receive nothing more.
const STALL: Duration = Duration::from_secs(5);

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
    /// The number of deliveries that the pushes should lead to.
    pub deliveries: u64,
    /// Of these, the number that the server counted as dropped, by reason; `None` if it counts nothing, like goim.
    pub dropped: Option<Reasons>,
    /// Time from the first tick to the last.
    pub elapsed_ns: u64,
    /// The longest delay behind the sender's own schedule; latencies include it.
    pub behind_ns_max: u64,
    pub answers: Answers,
}

impl Sent {
    /// Deliveries that the server counted as dropped; 0 if it counts nothing.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.as_ref().map_or(0, Reasons::total)
    }

    /// Of these, the number that members or guests that stay may miss.
    pub(crate) fn dropped_of_present(&self) -> u64 {
        // These reasons only apply to connections that are coming or going.
        let passing = |reason: &&str| self.dropped.as_ref()?.get(*reason).copied();
        self.dropped() - ["closing", "not_ready"].iter().filter_map(passing).sum::<u64>()
    }

    /// The message of the first refusal of a push.
    pub(crate) fn refusal(&self) -> Option<String> {
        let answers = &self.answers;
        Some(format!("{} pushes refused: {}", answers.refused, answers.refusal.as_ref()?))
    }
}

/// Starts the sender's thread. A yardstick's feed is returned with the result, since a yardstick ends with its feed and
/// must still be measured.
pub(crate) fn start(
    plan: Plan,
    sink: Sink,
    received: watch::Sender<u64>,
) -> JoinHandle<Result<(Sent, Option<Feed>)>> {
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let progress = received.subscribe();
            let sink = OpenSink::open(sink, received).await?;
            let sent = Sent { messages: vec![0; plan.members.len()], ..Sent::default() };
            Sender { sent, timer: Timer::new()?, plan, sink, progress }.run().await
        })
    })
}

struct Sender {
    plan: Plan,
    sink: OpenSink,
    /// Deliveries that the receivers have; answers also wake it.
    progress: watch::Receiver<u64>,
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
        while tick_ns < end_ns && !self.plan.course.is_over() {
            self.tick(tick_ns).await?;
            tick_ns = match self.plan.interval_ns {
                Some(interval_ns) => {
                    let due_ns = start_ns + self.sent.ticks * interval_ns;
                    self.timer.until(due_ns).await?;
                    due_ns
                }
                None => {
                    if !self.room_for_a_tick().await {
                        break;
                    }
                    now_ns()
                }
            };
        }
        self.sent.elapsed_ns = now_ns() - start_ns;
        let (answers, feed) = self.sink.finish(self.sent.pushes).await?;
        self.sent.dropped = answers.has_ledger().then(|| answers.dropped(self.plan.batch));
        self.sent.answers = answers;
        Ok((self.sent, feed))
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
            let sequence = self.sent.messages[stream];
            let content = self.content(stream, intended_ns);
            self.sink.push(&self.plan, (stream, sequence), content)?;
            self.sent.pushes += 1;
            self.sent.deliveries += self.plan.batch * self.plan.members[stream];
        }
        // Lets the runtime write the calls before the next tick is handled. Flat-out calls are written together, as
        // many as there is room for, so that the sender is not the bottleneck.
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
            if self.sink.takes_frames(plan) {
                stamp.append_frame(plan.operation, plan.size, &mut content);
            } else {
                stamp.append_body(plan.size, &mut content);
            }
        }
        content
    }

    /// Waits until one more tick may be under way; false if the receivers get nothing any more.
    async fn room_for_a_tick(&mut self) -> bool {
        let a_tick = self.sent.deliveries / self.sent.ticks;
        loop {
            if let Some(most) = self.plan.unanswered_max {
                self.progress.borrow_and_update();
                if self.sent.pushes - self.sink.answered() < most {
                    return true;
                }
                if tokio::time::timeout(STALL, self.progress.changed()).await.is_err() {
                    return false;
                }
                continue;
            }
            let done = *self.progress.borrow_and_update() + self.sink.dropped() * self.plan.batch;
            if self.sent.deliveries.saturating_sub(done) <= a_tick * (self.plan.window - 1) {
                return true;
            }
            if tokio::time::timeout(STALL, self.progress.changed()).await.is_err() {
                return false;
            }
        }
    }
}
