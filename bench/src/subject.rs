//! What is measured, a server or a yardstick, with all its clients.

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

/// What a server's figures stand under in results, whichever server it is.
pub(crate) const COMET: &str = "comet";
/// The same server with a window of coalescing.
pub(crate) const COALESCED: &str = "coalesced";
/// The operation of a yardstick's messages; nothing looks at it.
const OPERATION: i32 = 1000;
/// The time for which one look for input may block, so that the sender is looked at as well.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;
/// After this long without any delivery, what has not come is lost.
pub(crate) const QUIET_NS: u64 = 5 * SECOND_NS;
/// A server has settled once it uses less than this share of one CPU for so long.
const SETTLED_SHARE: f64 = 0.03;
const SETTLED_NS: u64 = 100 * MILLISECOND_NS;
/// It is measured as it is where it does not settle in this time.
const SETTLING_NS_MAX: u64 = 10 * SECOND_NS;
/// Time between two looks at what is missing.
const MISSING_NS: u64 = 50 * MILLISECOND_NS;

/// Which turn of a run it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Place {
    /// What is measured: `comet`, `ring`, `send`.
    pub subject: &'static str,
    /// From 1.
    pub round: u32,
    #[serde(skip)]
    pub rounds: u32,
    /// Over all rounds, from 1.
    #[serde(skip)]
    pub turn: u32,
    #[serde(skip)]
    pub turns: u32,
}

impl Place {
    /// A turn of the first round, if it is not known how many turns there are.
    pub(crate) fn of(subject: &'static str, rounds: u32) -> Self {
        Self { subject, round: 1, rounds, turn: 0, turns: 0 }
    }

    /// A bar for a part of the turn, which shows how far the run is.
    pub(crate) fn bar(&self, length: Option<u64>, part: &str) -> ProgressBar {
        let Self { subject, round, rounds, turn, turns } = self;
        let turn = if *turns > 0 { format!(" ({turn} of {turns})") } else { String::new() };
        progress_bar(length, &format!("round {round} of {rounds}, {subject}{turn}: {part}"))
    }

    /// The faults, each with the turn it is of.
    pub(crate) fn name_faults(&self, faults: impl IntoIterator<Item = String>) -> Vec<String> {
        let Self { subject, round, .. } = self;
        faults.into_iter().map(|fault| format!("{subject}, round {round}: {fault}")).collect()
    }
}

/// A server or a yardstick, and its clients. All methods fail where the target or a worker has ended; lost
/// deliveries are a result.
pub(crate) struct Subject {
    pub place: Place,
    pub clients: Clients,
    pub target: Target,
    pub crowd: Crowd,
    /// False for the bare gRPC server: nobody connects to it or expects anything.
    pub has_receivers: bool,
    /// How pushes to the push API are made.
    pub method: PushMethod,
    /// Of the messages that the clients receive.
    pub operation: i32,
    /// Takes the pushes to a yardstick; not here while a turn has it.
    feed: Option<Feed>,
}

/// The target's CPU time at one moment.
pub(crate) struct Mark {
    at_ns: u64,
    cpu: Option<CpuSample>,
}

/// What lies between two marks.
pub(crate) struct Interval {
    pub elapsed_ns: u64,
    /// None where the target's process is not known.
    pub cpu: Option<CpuUsed>,
}

impl Interval {
    /// The share of one CPU that the target used.
    pub(crate) fn cpu_share(&self) -> Option<f64> {
        Some(self.cpu.as_ref()?.total_ns as f64 / self.elapsed_ns.max(1) as f64)
    }
}

impl Subject {
    /// The server that the arguments name, started unless it runs already, with clients that are not connected.
    pub(crate) fn server(place: Place, setup: &SetupArgs, crowd: Crowd) -> Result<Self> {
        let target = Target::server(&setup.server, &setup.host)?;
        Self::of_target(place, target, setup, crowd)
    }

    /// A server that runs already, with clients that are not connected.
    pub(crate) fn of_target(
        place: Place,
        target: Target,
        setup: &SetupArgs,
        crowd: Crowd,
    ) -> Result<Self> {
        Self::new(place, (target, None), crowd, setup.server.operation, &setup.dial)
    }

    /// A yardstick, with clients that are not connected; the bare gRPC server never has any.
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

    /// The clients receive messages with `operation`.
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

    /// Handles what comes until the target has nothing left to do.
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

    /// Handles what comes for so long.
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

    /// Waits until the server sees a logic service that it can ask: it refuses clients before that.
    pub(crate) fn await_logic(&mut self) -> Result<()> {
        let stat = self.target.stat.ok_or("this needs the server's metrics: name --stat")?;
        let is_up = |_: &mut Self| Ok((Counted::of(stat)?.logic_up > 0).then_some(()));
        let is_up = self.wait_for(10 * SECOND_NS, is_up)?;
        is_up.ok_or_else(|| "the server does not see its logic".into())
    }

    /// Handles what comes for at most so long, until `look` finds something; none where it does not.
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

    /// What has passed since `before`.
    pub(crate) fn since(&mut self, before: &Mark) -> Result<Interval> {
        let now = self.mark()?;
        let cpu = now.cpu.zip(before.cpu.as_ref()).map(|(now, before)| now.since(before));
        Ok(Interval { elapsed_ns: now.at_ns - before.at_ns, cpu })
    }

    /// The share of one CPU that the target uses in so many seconds in which nothing is asked of it.
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

    /// What `load` asks for, pushed to every stream.
    pub(crate) fn plan_of(&self, load: &LoadArgs) -> Plan {
        Plan {
            batch: u64::from(load.batch),
            interval_ns: Plan::interval_of(load.rate),
            duration_ns: seconds_to_ns(load.seconds),
            window: u64::from(load.window),
            ..self.plan(load.size)
        }
    }

    /// From now on the clients record messages of `run`, of `size` bytes. Members get one stream, or `all_streams` that
    /// are theirs.
    pub(crate) fn restart(&mut self, run: u32, size: usize, all_streams: bool) -> Result<()> {
        self.clients.execute(ClientCommand::Restart { run, size, all_streams })?;
        // Reports that nothing is received yet.
        self.clients.turn(0)
    }

    /// From now on each connection sends a heartbeat every so many seconds, spread evenly, and nothing else is found.
    pub(crate) fn begin_heartbeats(&mut self, interval_s: f64) -> Result<()> {
        self.restart(run_id(), STAMP_LEN, false)?;
        self.clients.execute(ClientCommand::Heartbeat(seconds_to_ns(interval_s)))
    }

    /// Guests begin to come and go, so many a second, and stay `life_s` seconds on average; the share `moves` of them
    /// changes its room.
    pub(crate) fn start_guests(&mut self, arrivals: f64, life_s: f64, moves: f64) -> Result<()> {
        let guests = ChurnPlan::of(arrivals, life_s, moves, self.crowd.connections);
        guests.map_or(Ok(()), |guests| self.clients.execute(ClientCommand::StartGuests(guests)))
    }

    /// Pushes as `plan` says, like [`Subject::push_all`].
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

    /// Pushes all plans at once and handles what comes, until the last is through; `watch` is called now and
    /// then. The order of the plans is that of the results.
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
            // For another turn.
            self.feed = feed;
        }
        Ok(all)
    }

    /// Handles what comes for a moment. Where no delivery does, the target may have ended, which would be waited for
    /// in vain.
    pub(crate) fn look(&mut self, bar: &ProgressBar) -> Result<()> {
        let before = self.clients.received();
        self.clients.turn(LOOK_NS)?;
        bar.set_position(self.clients.received());
        if self.clients.received() == before { self.target.ensure_runs() } else { Ok(()) }
    }

    /// Waits until no more is missing than `dropped`, or nothing comes any more; gives what was found. `sent` has
    /// the messages of each stream by kind.
    pub(crate) fn await_deliveries(&mut self, sent: &[Vec<u64>], dropped: u64) -> Result<Findings> {
        let received = |is: &Findings| is.deliveries.received + is.visits.received;
        self.await_findings(sent, MISSING_NS, received, |is| is.lost() <= dropped)
    }

    /// Waits until so many requests for further rooms are answered, or no reply comes any more; gives what was found.
    pub(crate) fn await_joins(&mut self, asked: u64) -> Result<Findings> {
        let answered = |is: &Findings| is.joins.answered();
        self.await_findings(&[], LOOK_NS, answered, |is| is.joins.answered() >= asked)
    }

    /// Has no more heartbeats sent and handles what comes until all are answered, or no reply comes any more;
    /// gives what was found.
    pub(crate) fn await_replies(&mut self) -> Result<Findings> {
        self.clients.execute(ClientCommand::Heartbeat(0))?;
        let answered = |is: &Findings| is.round_trips.len();
        self.await_findings(&[], LOOK_NS, answered, |is| is.unanswered() == 0)
    }

    /// Handles what comes until `is_done`, or the count of what `came` stays the same; looks every `look_ns`.
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
