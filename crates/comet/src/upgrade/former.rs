//! The former process: it holds back new work, waits for work under way, and hands the rest over.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, io};

use comet_handover::feature;
use comet_net::{Core, FrozenTurn, Pending, Survey};
use comet_ops::Signals;
use comet_upgrade::{Channel, Failure, Greeting, Predecessor, Timeouts};

use crate::App;
use crate::pid_file::PidFile;

use super::handover_data::{Process, Sockets};
use super::request::{Answer, Request, own_binary};

/// How long clients in a handshake may take to send their tokens.
const HANDSHAKES: Duration = Duration::from_millis(300);

/// How long logic and homes may take to answer requests of clients. No further requests of clients are read meanwhile;
/// pushes continue.
const ANSWERS: Duration = Duration::from_secs(3);

/// How long sending the close notices of connections that stay may take.
const NOTICES: Duration = Duration::from_millis(100);

/// How long callers may take to get the answers to their calls.
const CALLERS: Duration = Duration::from_secs(1);

/// How long input of clients, heartbeats included, may wait in all before the cores are frozen. Clients wait 5 s for
/// the answer to a heartbeat.
const HELD: Duration = Duration::from_millis(4_500);

/// How long control may take to begin the pushes received from other hosts. Pushes to clients continue meanwhile.
const PUSHES_OF_HOSTS: Duration = Duration::from_secs(5);

/// How long the pushes that this process's own former process held may take to arrive. Nothing is stopped meanwhile.
const FORMER_HOSTS: Duration = Duration::from_secs(15);

/// How long the mesh may take to become empty, and after how many rounds, at least, it is given up. Three or four
/// rounds are enough. On a very busy host each round waits for a CPU several times.
const MESH: Duration = Duration::from_secs(2);
const ROUNDS: usize = 16;

/// How long a core may take for an order without a bound of its own.
const ORDER: Duration = Duration::from_secs(5);

/// How long writing and taking the state of a core may take.
const OFFER: Duration = Duration::from_secs(60);

/// How long no client may be served: the minimum, the addition for each connection, and that for each MiB of this
/// process, which may be data waiting for clients. Usually a tenth of that is enough.
const FROZEN: Duration = Duration::from_secs(5);
const FROZEN_EACH: Duration = Duration::from_micros(500);
const FROZEN_MIB: Duration = Duration::from_millis(20);

/// How often a condition is checked.
const LOOK: Duration = Duration::from_millis(2);

/// The command that starts the new process, with the arguments of this one. The new process reads its configuration
/// anew.
fn command(request: &Request) -> Command {
    let mut command = Command::new(request.binary.clone().unwrap_or_else(own_binary));
    command.args(env::args_os().skip(1));
    // The variable names this process, but the service manager has to accept notifications of the new one.
    command.env_remove("WATCHDOG_PID");
    command
}

/// A running server that hands itself over.
pub(crate) struct Former<'a> {
    app: &'a App,
    pid_file: Option<&'a PidFile>,
    /// The signals of this process. Until the commit, a signal to end overrides the upgrade.
    signals: &'a mut Signals,
    /// The longest retry time of clients that have to come back, milliseconds.
    retry_after_ms: u32,
    /// Connections that could be handed over when checked before the new process was started.
    movable: usize,
    /// The features that they require of a process that takes them over.
    required: Vec<&'static str>,
    /// Connections that were offered.
    moved: usize,
    /// Connections that were closed because they could not be handed over.
    closed: usize,
    /// Since when input of clients is held.
    held: Option<Instant>,
    frozen: Option<Instant>,
    /// How long no client may be served.
    frozen_max: Duration,
    pause: Duration,
}

impl<'a> Former<'a> {
    pub(crate) fn new(
        app: &'a App,
        pid_file: Option<&'a PidFile>,
        signals: &'a mut Signals,
    ) -> Self {
        let retry_after_ms = app.config().server.retry_after.as_millis();
        Self {
            app,
            pid_file,
            signals,
            retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
            movable: 0,
            required: Vec::new(),
            moved: 0,
            closed: 0,
            held: None,
            frozen: None,
            frozen_max: FROZEN,
            pause: Duration::ZERO,
        }
    }

    /// Starts the new process and hands over to it. Returns its id.
    ///
    /// # Errors
    /// Why this process continues.
    pub(crate) fn hand_over(&mut self, request: &Request) -> Result<u32, Failure> {
        if std::process::id() == 1 {
            let why = "it is the first process of a container, which ends with it";
            return Err(Failure::Unready(why.to_owned()));
        }
        // Checked first, to avoid starting a process in vain.
        self.check_state().map_err(Failure::Unready)?;
        self.take_over_hosts().map_err(Failure::Unready)?;
        Survey { movable: self.movable, required: self.required, .. } =
            self.survey().map_err(Failure::Unready)?;
        let mib = comet_ops::allocated_bytes().map_or(0, |bytes| bytes >> 20);
        let many = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        self.frozen_max = FROZEN + FROZEN_EACH * many(self.movable as u64) + FROZEN_MIB * many(mib);
        let timeouts = Timeouts { start: request.start, frozen: self.frozen_max };
        comet_upgrade::upgrade(self, command(request), timeouts)
    }

    /// A description of what would be handed over, for an operator.
    pub(crate) fn check(&self) -> Answer {
        match self.check_state() {
            Err(why) => Answer { is_done: false, text: format!("it cannot hand over now: {why}") },
            Ok(Survey { movable, handshakes, await_answers, closing, .. }) => {
                let text = format!(
                    "would go on: {movable}\nwould be closed: {handshakes} in a handshake, if {} ms do \
                     not end that, and {await_answers} that wait for an answer, if {} s do not\n\
                     closing: {closing}",
                    HANDSHAKES.as_millis(),
                    ANSWERS.as_secs()
                );
                Answer { is_done: true, text }
            }
        }
    }

    /// What could be handed over now.
    ///
    /// # Errors
    /// Why nothing can be. An order to close clients exists only in this process, and a frozen core would not carry it
    /// out.
    fn check_state(&self) -> Result<Survey, String> {
        self.app.control().check_upgrade()?;
        let survey = self.survey()?;
        match survey.orders {
            0 => Ok(survey),
            _ => Err("clients are moved off: wait for the end of that, or cancel it".to_owned()),
        }
    }

    /// The present state of all cores.
    ///
    /// # Errors
    /// If a core does not answer.
    fn survey(&self) -> Result<Survey, String> {
        let mut sum = Survey::default();
        for survey in all(self.app.cores(), Core::survey, ORDER)? {
            let Survey { movable, required, handshakes, await_answers, closing, .. } = survey;
            let Survey { orders, calls, .. } = survey;
            sum.required.extend(required);
            sum.movable += movable;
            sum.handshakes += handshakes;
            sum.await_answers += await_answers;
            sum.closing += closing;
            sum.orders += orders;
            sum.calls += calls;
        }
        Ok(sum)
    }

    /// What was done, as a sentence without its end.
    pub(crate) fn describe(&self) -> String {
        let Self { moved, closed, pause, .. } = self;
        let pause = pause.as_secs_f64() * 1_000.0;
        format!("{moved} connections go on after a pause of {pause:.1} ms, {closed} were closed")
    }

    /// Waits until the next check.
    fn pause(&mut self) -> Result<(), String> {
        self.check_wanted()?;
        sleep(LOOK);
        Ok(())
    }

    /// Waits until `count` returns 0, or `time` is over.
    fn wait_for(&mut self, time: Duration, count: impl Fn(&Survey) -> usize) -> Result<(), String> {
        let end = Instant::now() + time;
        while count(&self.survey()?) > 0 && Instant::now() < end {
            self.pause()?;
        }
        Ok(())
    }

    /// Waits until this process has received the pushes that its own former process held. It can hold none before that.
    fn take_over_hosts(&mut self) -> Result<(), String> {
        let end = Instant::now() + FORMER_HOSTS;
        while !self.app.control().has_taken_over_hosts() {
            if Instant::now() >= end {
                return Err("pushes of other hosts from the last upgrade have not come".to_owned());
            }
            self.pause()?;
        }
        Ok(())
    }

    /// Holds pushes of other hosts, and waits until earlier ones have begun, while clients are served.
    fn hold_hosts(&mut self) -> Result<(), String> {
        let control = self.app.control();
        control.hold_hosts();
        let end = bound(Instant::now(), PUSHES_OF_HOSTS, self.held);
        loop {
            match control.pushes_of_hosts() {
                Some(0) => return Ok(()),
                Some(pushes) if Instant::now() >= end => {
                    return Err(format!("{pushes} pushes of other hosts do not begin in time"));
                }
                None if Instant::now() >= end => {
                    return Err("pushes of other hosts are not held in time".to_owned());
                }
                _ => self.pause()?,
            }
        }
    }

    /// Stops reading requests of clients, and waits for the answers to those under way.
    fn answer_requests(&mut self) -> Result<(), String> {
        let cores = self.app.cores();
        self.held = Some(Instant::now());
        all(cores, Core::hold_input, ORDER)?.into_iter().collect::<Result<(), _>>()?;
        let clients = self.survey()?.await_answers;
        if clients == 0 {
            return Ok(());
        }
        log::info!("upgrade: {clients} clients wait for an answer, at most {ANSWERS:?}");
        self.wait_for(ANSWERS, |survey| survey.await_answers)
    }

    /// Closes the connections that cannot be handed over.
    fn close_unmovable(&mut self) -> Result<(), String> {
        let Survey { handshakes, await_answers, .. } = self.survey()?;
        self.closed = handshakes + await_answers;
        if self.closed == 0 {
            return Ok(());
        }
        let retry_after_ms = self.retry_after_ms;
        all(self.app.cores(), |core| core.close_unmovable(retry_after_ms), ORDER)?
            .into_iter()
            .collect::<Result<(), _>>()?;
        self.wait_for(NOTICES, |survey| survey.closing)
    }

    /// Has the callers leave after their answers, and takes no more pushes by frames. A caller that takes longer is cut
    /// off without an answer when this process ends.
    fn wait_for_callers(&mut self) -> Result<(), String> {
        let control = self.app.control();
        control.begin_upgrade()?;
        let cores = self.app.cores();
        let held = all(cores, |core| core.hold_callers(true), ORDER)?;
        held.into_iter().collect::<Result<(), _>>()?;
        let end = bound(Instant::now(), CALLERS, self.held);
        loop {
            let (callers, calls) = (control.callers(), control.calls_under_way());
            let is_over = Instant::now() >= end;
            let is_control_done = callers + calls == 0;
            // A survey visits all connections, so it is made only when needed.
            let pushes = if is_control_done || is_over { self.survey()?.calls } else { 0 };
            if is_control_done && pushes == 0 {
                return Ok(());
            }
            if is_over {
                log::warn!(
                    "upgrade: {callers} callers, {calls} calls and {pushes} pushes by frames do not end in time"
                );
                return Ok(());
            }
            self.pause()?;
        }
    }

    /// Runs rounds of turns until all cores were still in the same round.
    fn empty_mesh(&self) -> Result<(), String> {
        let end = Instant::now() + MESH;
        for round in 1.. {
            let turns = all(self.app.cores(), Core::frozen_turn, ORDER)?;
            match self.under_way(&turns) {
                None => break,
                Some(under_way) if round >= ROUNDS && Instant::now() >= end => {
                    return Err(format!("under way: {under_way}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What prevents the hand-over of frozen cores after a round of `turns`. `None`: nothing.
    fn under_way(&self, turns: &[FrozenTurn]) -> Option<String> {
        if let Some(obstacles) = turns.iter().find_map(|turn| turn.obstacles.clone()) {
            return Some(obstacles);
        }
        let busy = turns.iter().filter(|turn| !turn.is_still).count();
        let control = self.app.control();
        // The order matters: a report may lead to a message.
        let reports = control.reports_under_way();
        let messages = control.messages_under_way();
        let counts = [
            (reports, "reports of cores"),
            (messages, "messages to cores"),
            (busy, "cores with messages"),
        ];
        let left = counts.iter().filter(|(count, _)| *count > 0);
        let left: Vec<_> = left.map(|(count, what)| format!("{count} {what}")).collect();
        (!left.is_empty()).then(|| left.join(", "))
    }
}

impl Predecessor for Former<'_> {
    fn greeting(&self) -> Greeting {
        // These are the features known before the freeze. A process of an older release may take over if nothing
        // requires a feature that it does not know. Requirements that show later are in the state, and are refused
        // there.
        let hosts = self.app.control().has_hosts().then_some(feature::HOSTS);
        let features = self.required.iter().copied().chain(hosts);
        let features = features.map(str::to_owned).collect();
        Greeting { version: comet_handover::VERSION, features }
    }

    fn listeners(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        let sockets = Sockets {
            names: comet_listen::names(self.app.sockets()),
            pid_file: self.pid_file.map(|file| file.path().to_owned()),
            clock_us: u64::try_from(self.app.clock().as_micros()).unwrap_or(0),
            connections: self.movable as u64,
            key_sets: self.app.key_sets(),
        };
        let descriptors = self.app.sockets().map(AsFd::as_fd);
        (sockets.encode(), descriptors.chain(self.pid_file.map(AsFd::as_fd)).collect())
    }

    fn check_wanted(&mut self) -> Result<(), String> {
        match self.signals.find_end() {
            Some(signal) => Err(format!("{signal} ends it")),
            None => Ok(()),
        }
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.check_state()?;
        let cores = self.app.cores();
        all(cores, Core::stop_accepts, ORDER)?.into_iter().collect::<Result<(), _>>()?;
        self.wait_for(HANDSHAKES, |survey| survey.handshakes)?;
        self.answer_requests()?;
        // From here on no caller can push.
        self.wait_for_callers()?;
        // Nor can one give an order.
        self.check_state()?;
        self.close_unmovable()?;
        self.hold_hosts()?;
        self.frozen = Some(Instant::now());
        all(cores, Core::freeze, ORDER)?.into_iter().collect::<Result<(), _>>()?;
        self.empty_mesh()
    }

    fn send(&mut self, mut channel: Channel) -> Result<Channel, io::Error> {
        let control = self.app.control();
        // From here on the cores take no turns.
        control.suspend_liveness(self.frozen_max);
        let blocks = control.blocks();
        let blocks = blocks.iter().map(|block| (block.network.to_string(), block.until.0));
        let process = Process {
            last_call: control.last_call(),
            upgrades: comet_ops::upgrades(),
            counters: control.counters(),
            blocks: blocks.collect(),
            paced: control.paced(),
            hosts: control.hosts(),
        };
        channel.send_shard(&process.encode(), &[])?;
        for core in self.app.cores() {
            let (give, take) = channel_of();
            let offered = core.offer(move |offer| {
                let connections = offer.sockets.len();
                let sent = channel.send_shard(&offer.state.encode(), &offer.sockets);
                // The receiver waits for this.
                let _ = give.send(sent.map(|()| (channel, connections)));
                Ok(())
            });
            let taken = offered.wait(OFFER).and_then(|offered| offered);
            taken.map_err(io::Error::other)?;
            let sent = take.recv().map_err(io::Error::other)?;
            let connections;
            (channel, connections) = sent?;
            self.moved += connections;
        }
        Ok(channel)
    }

    fn thaw(&mut self) {
        let cores = self.app.cores().iter();
        let orders: Vec<_> =
            cores.flat_map(|core| [core.thaw(), core.hold_callers(false)]).collect();
        for done in orders {
            if let Err(error) = done.wait(ORDER).and_then(|done| done) {
                log::error!("upgrade: a core does not go on: {error}");
            }
        }
        self.app.control().end_upgrade();
    }

    fn release(&mut self) {
        self.pause = self.frozen.map_or(Duration::ZERO, |begin| begin.elapsed());
        comet_listen::keep_socket_files(true);
        self.app.control().withdraw();
        for released in self.app.cores().iter().map(Core::release).collect::<Vec<_>>() {
            if let Err(error) = released.wait(ORDER).and_then(|released| released) {
                log::error!("upgrade: {error}");
            }
        }
    }
}

/// The end of a step that begins at `now` and may take `time`. All steps since `held` together may take [`HELD`].
fn bound(now: Instant, time: Duration, held: Option<Instant>) -> Instant {
    held.map_or(now + time, |held| (now + time).min(held + HELD))
}

/// A channel that returns the connection to the new process.
#[allow(clippy::type_complexity, reason = "the two ends")]
fn channel_of() -> (
    std::sync::mpsc::Sender<io::Result<(Channel, usize)>>,
    std::sync::mpsc::Receiver<io::Result<(Channel, usize)>>,
) {
    channel()
}

/// Gives an order to all cores, and waits for all answers.
fn all<T>(
    cores: &[Core],
    order: impl Fn(&Core) -> Pending<T>,
    time: Duration,
) -> Result<Vec<T>, String> {
    let pending: Vec<_> = cores.iter().map(order).collect();
    pending.into_iter().map(|pending| pending.wait(time)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients that waited for logic and for callers do not wait for other hosts as long again.
    #[test]
    fn what_clients_send_waits_no_longer_than_a_heartbeat_may() {
        let held = Instant::now();
        let after = |seconds| held + Duration::from_secs(seconds);
        assert_eq!(bound(after(0), CALLERS, None), after(1));
        assert_eq!(bound(after(3), CALLERS, Some(held)), after(4));
        assert_eq!(bound(after(4), CALLERS, Some(held)), held + HELD);
        assert_eq!(bound(after(4), PUSHES_OF_HOSTS, Some(held)), held + HELD);
        assert!(ANSWERS + CALLERS + NOTICES < HELD);
    }
}
