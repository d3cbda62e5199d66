//! The subject of a measurement, a server or a yardstick, with all its clients.

use std::thread::JoinHandle;

use indicatif::ProgressBar;
use serde::Serialize;

use crate::Result;
use crate::args::{DialArgs, HostArgs, LoadArgs, SetupArgs};
use crate::clients::{ChurnPlan, ClientCommand, Clients};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::Crowd;
use crate::dial::Dialer;
use crate::findings::Findings;
use crate::message::STAMP_LEN;
use crate::plan::{Plan, run_id};
use crate::process::{CpuSample, CpuUsed, Gauge};
use crate::report::progress_bar;
use crate::scrape::Counted;
use crate::sender::{self, Sent};
use crate::sink::{PushMethod, Sink};
use crate::target::Target;
use crate::yardstick::{Feed, Mode};

/// The subject name for the figures of a server in results, whichever server it is.
pub(crate) const COMET: &str = "comet";
/// The same server with a coalescing window.
pub(crate) const COALESCED: &str = "coalesced";
/// The operation of a yardstick's messages; nothing depends on it.
const OPERATION: i32 = 1000;
/// The longest wait for input in one step, so that the sender is checked as well.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;
/// After this long without any delivery, missing messages are considered lost.
pub(crate) const QUIET_NS: u64 = 5 * SECOND_NS;
/// A server has settled once it uses less than this share of one CPU for so long.
const SETTLED_SHARE: f64 = 0.03;
const SETTLED_NS: u64 = 100 * MILLISECOND_NS;
/// If it does not settle in this time, it is measured anyway.
const SETTLING_NS_MAX: u64 = 10 * SECOND_NS;
/// Time between two checks of what is missing.
const MISSING_NS: u64 = 50 * MILLISECOND_NS;

/// The place of a turn in a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Place {
    /// The subject: `comet`, `ring`, `send`.
    pub subject: &'static str,
    /// From 1.
    pub round: u32,
    #[serde(skip)]
    pub rounds: u32,
    /// Counted over all rounds, from 1.
    #[serde(skip)]
    pub turn: u32,
    #[serde(skip)]
    pub turns: u32,
}

impl Place {
    /// A turn of the first round, when the total number of turns is not known.
    pub(crate) fn of(subject: &'static str, rounds: u32) -> Self {
        Self { subject, round: 1, rounds, turn: 0, turns: 0 }
    }

    /// A bar for a part of the turn, which shows the progress of the run.
    pub(crate) fn bar(&self, length: Option<u64>, part: &str) -> ProgressBar {
        let Self { subject, round, rounds, turn, turns } = self;
        let turn = if *turns > 0 { format!(" ({turn} of {turns})") } else { String::new() };
        progress_bar(length, &format!("round {round} of {rounds}, {subject}{turn}: {part}"))
    }

    /// The faults, each prefixed with its turn.
    pub(crate) fn name_faults(&self, faults: impl IntoIterator<Item = String>) -> Vec<String> {
        let Self { subject, round, .. } = self;
        faults.into_iter().map(|fault| format!("{subject}, round {round}: {fault}")).collect()
    }
}

/// A server or a yardstick, and its clients. All methods fail if the target or a worker has ended; lost deliveries are
/// a result.
pub(crate) struct Subject {
    pub place: Place,
    pub clients: Clients,
    pub target: Target,
    pub crowd: Crowd,
    /// False for the bare gRPC server: nobody connects to it or expects anything.
    pub has_receivers: bool,
    /// How pushes to the push API are made.
    pub method: PushMethod,
    /// The operation of the messages that the clients receive.
    pub operation: i32,
    /// Takes the pushes to a yardstick; `None` while a turn uses it.
    feed: Option<Feed>,
}

/// The target's CPU time at one moment.
pub(crate) struct Mark {
    at_ns: u64,
    cpu: Option<CpuSample>,
}

/// The difference between two marks.
pub(crate) struct Interval {
    pub elapsed_ns: u64,
    /// `None` if the target's process is not known.
    pub cpu: Option<CpuUsed>,
}

impl Interval {
    /// The share of one CPU that the target used.
    pub(crate) fn cpu_share(&self) -> Option<f64> {
        Some(self.cpu.as_ref()?.total_ns as f64 / self.elapsed_ns.max(1) as f64)
    }
}

impl Subject {
    /// The server that the arguments name, started unless it already runs, with clients that are not connected yet.
    pub(crate) fn server(place: Place, setup: &SetupArgs, crowd: Crowd) -> Result<Self> {
        let target = Target::server(&setup.server, &setup.host)?;
        Self::of_target(place, target, setup, crowd)
    }

    /// A server that already runs, with clients that are not connected yet.
    pub(crate) fn of_target(
        place: Place,
        target: Target,
        setup: &SetupArgs,
        crowd: Crowd,
    ) -> Result<Self> {
        Self::new(place, (target, None), crowd, setup.server.operation, &setup.dial)
    }

    /// A yardstick, with clients that are not connected yet; the bare gRPC server never has any.
    pub(crate) fn yardstick(
        place: Place,
        mode: Mode,
        (host, dial): (&HostArgs, &DialArgs),
        crowd: Crowd,
    ) -> Result<Self> {
        let (target, feed) = Target::yardstick(mode, crowd.connections, host)?;
        let has_receivers = mode != Mode::Grpc;
        let feed = Some(feed).filter(|_| !mode.takes_calls());
        let subject = Self::new(place, (target, feed), crowd, OPERATION, dial)?;
        Ok(Self { has_receivers, ..subject })
    }

    /// A subject whose clients receive messages with `operation`.
    fn new(
        place: Place,
        (target, feed): (Target, Option<Feed>),
        crowd: Crowd,
        operation: i32,
        dial: &DialArgs,
    ) -> Result<Self> {
        let dialer = Dialer {
            endpoints: target.endpoints.clone(),
            crowd: crowd.clone(),
            sources: dial.source.clone(),
            in_flight: dial.in_flight as usize,
            operation,
        };
        let clients = Clients::new(dialer, dial.processes)?;
        let calls = PushMethod::Calls { callers: crowd.callers as usize };
        let method = target.frames.map_or(calls, PushMethod::Frames);
        Ok(Self { place, clients, target, crowd, has_receivers: true, method, operation, feed })
    }

    /// Connects all members; returns when the target has settled.
    pub(crate) fn connect(&mut self) -> Result<()> {
        let count = if self.has_receivers { self.crowd.connections } else { 0 };
        let bar = self.place.bar(Some(count as u64), "connecting");
        self.clients.dial(0..count, &bar)?;
        bar.finish_and_clear();
        self.settle()
    }

    /// Handles events until the target has nothing left to do.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let deadline_ns = now_ns() + SETTLING_NS_MAX;
        while now_ns() < deadline_ns {
            let before = self.mark()?;
            self.wait(SETTLED_NS)?;
            let Some(used) = self.since(&before)?.cpu else { return Ok(()) };
            if used.total_ns as f64 <= SETTLED_NS as f64 * SETTLED_SHARE {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Handles events for `duration_ns`.
    pub(crate) fn wait(&mut self, duration_ns: u64) -> Result<()> {
        let deadline_ns = now_ns() + duration_ns;
        loop {
            let left_ns = deadline_ns.saturating_sub(now_ns());
            if left_ns == 0 {
                return Ok(());
            }
            self.clients.turn(left_ns)?;
        }
    }

    /// Waits until the server sees a logic service that it can use: before that it refuses clients.
    pub(crate) fn await_logic(&mut self) -> Result<()> {
        let stat = self.target.stat.ok_or("this needs the server's metrics: name --stat")?;
        let is_up = |_: &mut Self| Ok((Counted::of(stat)?.logic_up > 0).then_some(()));
        let is_up = self.wait_for(10 * SECOND_NS, is_up)?;
        is_up.ok_or_else(|| "the server does not see its logic".into())
    }

    /// Handles events for at most the given time, until `look` finds something; `None` if it does not.
    pub(crate) fn wait_for<T>(
        &mut self,
        longest_ns: u64,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline_ns = now_ns() + longest_ns;
        loop {
            self.wait(LOOK_NS)?;
            self.target.ensure_runs()?;
            let found = look(self)?;
            if found.is_some() || now_ns() > deadline_ns {
                return Ok(found);
            }
        }
    }

    pub(crate) fn mark(&mut self) -> Result<Mark> {
        Ok(Mark { at_ns: now_ns(), cpu: self.target.cpu()? })
    }

    /// The time and CPU time since `before`.
    pub(crate) fn since(&mut self, before: &Mark) -> Result<Interval> {
        let now = self.mark()?;
        let cpu = now.cpu.zip(before.cpu.as_ref()).map(|(now, before)| now.since(before));
        Ok(Interval { elapsed_ns: now.at_ns - before.at_ns, cpu })
    }

    /// The share of one CPU that the target uses in `seconds` in which nothing is requested of it.
    pub(crate) fn idle_share(&mut self, seconds: f64) -> Result<Option<f64>> {
        let before = self.mark()?;
        self.wait(seconds_to_ns(seconds))?;
        Ok(self.since(&before)?.cpu_share())
    }

    /// The feed of a yardstick, or the push API with an address for each stream of `crowd`.
    pub(crate) fn sink(&mut self, crowd: &Crowd) -> Result<Sink> {
        if let Some(feed) = self.feed.take() {
            return Ok(Sink::Yardstick(feed));
        }
        let grpc = self.target.grpc.clone().ok_or("no push API: name --grpc")?;
        Ok(Sink::Server { grpc, addresses: crowd.addresses(), method: self.method })
    }

    /// Single messages of `size` bytes to every stream, one tick after the other for a second.
    pub(crate) fn plan(&self, size: u32) -> Plan {
        Plan::new(self.operation, size as usize, self.crowd.members())
    }

    /// The plan that `load` asks for, with pushes to every stream.
    pub(crate) fn plan_of(&self, load: &LoadArgs) -> Plan {
        Plan {
            batch: u64::from(load.batch),
            interval_ns: Plan::interval_of(load.rate),
            duration_ns: seconds_to_ns(load.seconds),
            window: u64::from(load.window),
            ..self.plan(load.size)
        }
    }

    /// From now on the clients record messages of `run`, of `size` bytes. Members get one stream, or with `all_streams`
    /// all that are theirs.
    pub(crate) fn restart(&mut self, run: u32, size: usize, all_streams: bool) -> Result<()> {
        self.clients.execute(ClientCommand::Restart { run, size, all_streams })?;
        // This reports that nothing is received yet.
        self.clients.turn(0)
    }

    /// From now on each connection sends a heartbeat every `interval_s` seconds, spread evenly, and all figures are
    /// reset.
    pub(crate) fn begin_heartbeats(&mut self, interval_s: f64) -> Result<()> {
        self.restart(run_id(), STAMP_LEN, false)?;
        self.clients.execute(ClientCommand::Heartbeat(seconds_to_ns(interval_s)))
    }

    /// Guests begin to come and go, `arrivals` a second, and stay `life_s` seconds on average; the share `moves` of
    /// them changes its room.
    pub(crate) fn start_guests(&mut self, arrivals: f64, life_s: f64, moves: f64) -> Result<()> {
        let guests = ChurnPlan::of(arrivals, life_s, moves, self.crowd.connections);
        guests.map_or(Ok(()), |guests| self.clients.execute(ClientCommand::StartGuests(guests)))
    }

    /// Pushes according to `plan`, like [`Subject::push_all`].
    pub(crate) fn push(
        &mut self,
        plan: Plan,
        bar: &ProgressBar,
        watch: impl FnMut(Gauge) -> Result<()>,
    ) -> Result<Sent> {
        let sink = self.sink(&self.crowd.clone())?;
        let sent = self.push_all(vec![(plan, sink)], bar, watch)?;
        Ok(sent.into_iter().next().expect("one plan, one result"))
    }

    /// Pushes all plans at once and handles events, until the last plan is done; `watch` is called from time to time.
    /// The results are in the order of the plans.
    pub(crate) fn push_all(
        &mut self,
        pushes: Vec<(Plan, Sink)>,
        bar: &ProgressBar,
        mut watch: impl FnMut(Gauge) -> Result<()>,
    ) -> Result<Vec<Sent>> {
        let start = |(plan, sink)| sender::start(plan, sink, self.clients.watch_received());
        let threads: Vec<_> = pushes.into_iter().map(start).collect();
        while !threads.iter().all(JoinHandle::is_finished) {
            self.look(bar)?;
            watch(self.target.gauge)?;
        }
        let mut all = Vec::new();
        for thread in threads {
            let (sent, feed) = thread.join().map_err(|_| "the sender panicked")??;
            all.push(sent);
            // Kept for another turn.
            self.feed = feed;
        }
        Ok(all)
    }

    /// Handles events for a moment. If there is no delivery, checks that the target has not ended, since waiting for it
    /// would be in vain.
    pub(crate) fn look(&mut self, bar: &ProgressBar) -> Result<()> {
        let before = self.clients.received();
        self.clients.turn(LOOK_NS)?;
        bar.set_position(self.clients.received());
        if self.clients.received() == before { self.target.ensure_runs() } else { Ok(()) }
    }

    /// Waits until no more than `dropped` are missing, or nothing arrives any more; returns the findings. `sent` holds
    /// the number of messages of each stream, by kind.
    pub(crate) fn await_deliveries(&mut self, sent: &[Vec<u64>], dropped: u64) -> Result<Findings> {
        let received = |is: &Findings| is.deliveries.received + is.visits.received;
        self.await_findings(sent, MISSING_NS, received, |is| is.lost() <= dropped)
    }

    /// Waits until `asked` requests for further rooms are answered, or no reply arrives any more; returns the findings.
    pub(crate) fn await_joins(&mut self, asked: u64) -> Result<Findings> {
        let answered = |is: &Findings| is.joins.answered();
        self.await_findings(&[], LOOK_NS, answered, |is| is.joins.answered() >= asked)
    }

    /// Stops sending heartbeats and handles events until all are answered, or no reply arrives any more; returns the
    /// findings.
    pub(crate) fn await_replies(&mut self) -> Result<Findings> {
        self.clients.execute(ClientCommand::Heartbeat(0))?;
        let answered = |is: &Findings| is.round_trips.len();
        self.await_findings(&[], LOOK_NS, answered, |is| is.unanswered() == 0)
    }

    /// Handles events until `is_done`, or the count from `came` stays the same; checks every `look_ns`.
    fn await_findings(
        &mut self,
        sent: &[Vec<u64>],
        look_ns: u64,
        came: impl Fn(&Findings) -> u64,
        is_done: impl Fn(&Findings) -> bool,
    ) -> Result<Findings> {
        let mut count = 0;
        let mut quiet_since_ns = now_ns();
        loop {
            self.wait(look_ns)?;
            let findings = self.clients.findings(sent)?;
            if came(&findings) != count {
                count = came(&findings);
                quiet_since_ns = now_ns();
            }
            if is_done(&findings) || now_ns() > quiet_since_ns + QUIET_NS {
                return Ok(findings);
            }
        }
    }
}
