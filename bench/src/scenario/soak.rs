//! `soak`: phase after phase of churn, pushes and one fault each, all chosen from a seed. After each phase the server
//! must come to rest with its books balanced, its descriptors closed and its memory as before.

mod curve;
mod faults;
mod log;
mod quiet;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, path, process, thread};

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime;

use self::curve::Curve;
use self::faults::{Culprit, Fault, Faults, Site, configuration};
use self::log::Log;
use self::quiet::{Rest, health_fault};
use super::logic::Logic;
use super::{phase, prepare};
use crate::Result;
use crate::args::{Phase, SetupArgs, SoakArgs};
use crate::clients::{ClientCommand, guests_max};
use crate::clock::{SECOND_NS, now_ns, seconds_to_ns};
use crate::crowd::Crowd;
use crate::grpc::LedgerSums;
use crate::report;
use crate::sender::Sent;
use crate::subject::{COMET, Place, Subject};
use crate::succession::Succession;
use crate::target::Target;

/// Half of the members and guests use WebSocket.
const WEBSOCKET_SHARE: f64 = 0.5;
/// Share of the guests that change their room, and how long they stay on average.
const MOVES: f64 = 0.5;
const LIFE_S: f64 = 0.5;
/// Share of the members that reconnects when that is the fault.
const RECONNECTED: f64 = 0.2;
/// Time between two heartbeats of a member.
const HEARTBEAT_NS: u64 = 5 * SECOND_NS;
/// The shortest and the longest phase, before its rest.
const PHASE_S: Range<f64> = 1.0..3.0;
/// How long the server may take to come to rest.
const REST_NS_MAX: u64 = 20 * SECOND_NS;
/// How long a fault may continue after the pushes of its phase.
const FAULT_NS_MAX: u64 = 60 * SECOND_NS;

/// A soak under way.
struct Soak<'a> {
    args: &'a SoakArgs,
    subject: Subject,
    site: Site,
    faults: Faults,
    stat: SocketAddr,
    random: StdRng,
    /// The state of the server at rest before the first fault.
    base: Rest,
    /// The state of the server at rest after the last phase.
    last: Rest,
    /// Contains the configuration file.
    _folder: TempDir,
}

/// Runs it; returns whether there was no fault to the end.
pub(crate) fn run(args: &SoakArgs) -> Result<bool> {
    if args.setup.server.addr.is_some() {
        return Err("soak starts its server itself: it sends it signals".into());
    }
    // Members that reconnect, guests, and clients that cause faults.
    let beside = u64::from(args.setup.dial.connections) + guests_max(args.arrivals, LIFE_S) + 1024;
    prepare(&args.setup, beside)?;
    let interrupted = watch_interrupts()?;
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut soak = Soak::start(args, seed)?;
    let ends_ns = now_ns() + seconds_to_ns(args.minutes * 60.0);
    let (mut curve, mut faults, mut phases) = (Curve::begin(), Vec::new(), 0);
    // Every fault once, then any of them at random.
    let mut first = Fault::value_variants().to_vec();
    first.shuffle(&mut soak.random);
    while faults.is_empty() && now_ns() < ends_ns && !interrupted.load(Ordering::Relaxed) {
        let fault =
            first.pop().or_else(|| Fault::value_variants().choose(&mut soak.random).copied());
        let fault = fault.expect("there are some");
        phases += 1;
        match soak.pass(fault) {
            Ok((pushes, found)) => {
                faults = found;
                curve.add(fault, pushes, &soak.last, first.is_empty());
                faults.extend(curve.faults(args));
            }
            Err(error) => faults.push(error.to_string()),
        }
        if !faults.is_empty() {
            let place = format!("phase {phases} ({fault:?}), seed {seed}");
            faults.iter_mut().for_each(|found| *found = format!("{place}: {found}"));
            println!("the end of the server's log:{}", soak.site.log.last());
        }
    }
    let results =
        json!({ "seed": seed, "curve": curve.points, "base": soak.base, "faults": faults });
    report::finish("soak", args, args.setup.sides(), results, &curve.summary())
}

/// Becomes true at the first SIGINT; the second ends the bench at once. Fails if the host refuses.
fn watch_interrupts() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let flag = Arc::clone(&interrupted);
    thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    process::exit(130);
                }
                eprintln!("the soak ends with this phase");
            }
        });
    });
    Ok(interrupted)
}

impl<'a> Soak<'a> {
    fn start(args: &'a SoakArgs, seed: u64) -> Result<Self> {
        let SetupArgs { server, host, .. } = &args.setup;
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("comet.toml");
        fs::write(&config, configuration(&mut random))?;
        let cpus = host.control_cores.clone().unwrap_or_else(|| host.bench_core.clone());
        let logic = Logic::start(path::absolute(server.program()?)?, cpus)?;
        let mut arguments = vec!["--config".to_owned(), config.display().to_string()];
        for setting in logic.settings() {
            arguments.extend(["--set".to_owned(), setting]);
        }
        let (log, pipe) = Log::open()?;
        let started = Target::start(server, host, &arguments, pipe);
        let target = started.map_err(|error| format!("{error}{}", log.last()))?;
        let pid = target.gauge.pid.expect("the bench has started it");
        let succession = Succession::of(path::absolute(server.program()?)?, pid)?;
        let site = Site {
            tcp: target.endpoints.tcp,
            websocket: target.endpoints.websocket.expect("the bench has chosen one"),
            grpc: target.grpc.clone().expect("the bench has chosen one"),
            succession: Arc::new(Mutex::new(succession)),
            config,
            log,
            logic: Arc::new(Mutex::new(logic)),
            operation: server.operation,
        };
        let stat = target.stat.expect("the bench has chosen one");
        let crowd =
            Crowd { websocket_share: WEBSOCKET_SHARE, ..Crowd::of(&args.setup, args.rooms) };
        let members = crowd.connections;
        let mut subject = Subject::of_target(Place::of(COMET, 1), target, &args.setup, crowd)?;
        // Wait until it sees its logic.
        await_rest(&mut subject, stat, 0, None)?;
        subject.connect()?;
        let base = await_rest(&mut subject, stat, members, None)?;
        let (faults, last) = (Faults::start(), base.clone());
        Ok(Self { args, subject, site, faults, stat, random, base, last, _folder: folder })
    }

    /// Runs one phase and the rest after it; returns the number of pushes, and what went wrong. Fails if the server has
    /// ended or does not come to rest.
    fn pass(&mut self, fault: Fault) -> Result<(u64, Vec<String>)> {
        let closed_before = self.subject.clients.findings(&[])?.closed.total();
        let phase = self.phase(fault);
        let guests = (LIFE_S, MOVES);
        let pushes = phase::begin(&mut self.subject, &phase, self.args.size, guests)?;
        self.subject.clients.execute(ClientCommand::Heartbeat(HEARTBEAT_NS))?;
        let culprit = Culprit {
            fault,
            site: self.site.clone(),
            random: StdRng::seed_from_u64(self.random.random()),
            ends_ns: now_ns() + seconds_to_ns(phase.seconds),
        };
        let hands_over = fault == Fault::Upgrades;
        let _first = hands_over.then(|| self.subject.target.take_process());
        self.faults.begin(culprit)?;
        let bar = self.subject.place.bar(None, &phase.name);
        let sent = self.subject.push_all(pushes, &bar, |_| Ok(()))?;
        let faults = &self.faults;
        let of_culprit = self.subject.wait_for(FAULT_NS_MAX, |_| faults.poll_outcome())?;
        let of_culprit = of_culprit.ok_or("the fault does not end")?;
        bar.finish_and_clear();
        if hands_over {
            let pid = self.site.succession.lock().expect("no culprit panics").pid();
            self.subject.target.go_on_as(pid);
        }
        self.subject.clients.execute(ClientCommand::StopGuests)?;
        let members = self.subject.crowd.connections;
        let rest = await_rest(&mut self.subject, self.stat, members, Some(&self.base))?;

        let findings = self.subject.await_deliveries(&phase::messages_by_kind(&phase, &sent), 0)?;
        let heartbeats = self.subject.await_replies()?;
        let mut faults = findings.visits.faults(findings.visits.lost);
        // Members read at once, and messages are few: not one of them may be dropped.
        if findings.lost() > 0 {
            faults.push(format!("{} deliveries to clients that stayed are lost", findings.lost()));
        }
        let live = self.subject.clients.live();
        if live != members {
            faults.push(format!("{live} of {members} members are connected"));
        }
        let closed = findings.closed.total() - closed_before;
        if closed > 0 && !fault.is_of_logic() {
            faults.push(format!("{closed} clients closed; of all so far: {:?}", *findings.closed));
        }
        if heartbeats.unanswered() > 0 {
            faults.push(format!("{} heartbeats are unanswered", heartbeats.unanswered()));
        }
        faults.extend(sent.iter().filter_map(Sent::refusal));
        let ledgers = || sent.iter().map(|sent| &sent.answers.ledger).chain([&of_culprit]);
        let sum = |of: fn(&LedgerSums) -> u64| ledgers().map(of).sum();
        let told = [sum(|is| is.matched), sum(|is| is.queued), findings.visits.received];
        faults.extend(rest.ledger_faults(&self.last, told, fault == Fault::Nothing));
        faults.extend(health_fault(self.stat));
        let errors = self.site.log.take_errors().into_iter();
        let is_expected = |line: &String| fault.is_of_logic() && line.contains("no logic service");
        faults
            .extend(errors.filter(|line| !is_expected(line)).map(|line| format!("logged: {line}")));
        self.last = rest;
        Ok((sent.iter().map(|sent| sent.pushes).sum(), faults))
    }

    /// The pushes and the clients while `fault` is in effect.
    fn phase(&mut self, fault: Fault) -> Phase {
        let arrivals = if fault == Fault::Nothing { 0.0 } else { self.args.arrivals };
        Phase {
            name: format!("{fault:?}"),
            seconds: self.random.random_range(PHASE_S),
            connect: 1.0,
            reconnect: if fault == Fault::Reconnects { RECONNECTED } else { 0.0 },
            room_rate: self.random.random_range(10.0..60.0),
            key_rate: self.random.random_range(10.0..200.0),
            broadcast_rate: self.random.random_range(1.0..5.0),
            arrivals,
        }
    }
}

/// Waits until the server is at rest with `members` members, and no more descriptors than at rest before, in `base`.
/// Fails if it has ended, or does not come to rest.
fn await_rest(
    subject: &mut Subject,
    stat: SocketAddr,
    members: usize,
    base: Option<&Rest>,
) -> Result<Rest> {
    let mut unrest = None;
    let rest = subject.wait_for(REST_NS_MAX, |subject| {
        let rest = Rest::of(subject.target.gauge, stat)?;
        unrest = rest.unrest(members as u64, base);
        Ok(unrest.is_none().then_some(rest))
    })?;
    let closed = subject.clients.findings(&[])?.closed;
    let words = || format!("{}; closed so far: {:?}", unrest.unwrap_or_default(), *closed);
    Ok(rest.ok_or_else(words)?)
}
