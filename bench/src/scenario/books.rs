//! `books`: three comets and a NATS server get numbered pushes, while one of the comets and NATS are killed. Every push
//! must be delivered to every client that it was for, or somebody must have been told that it was not.

mod caller;
mod client;
mod faults;
mod hosts;
mod record;
mod seen;
mod settle;
mod table;

use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use self::caller::{Plan, Progress};
use self::client::{Habit, Member};
use self::hosts::{Hosts, NAMES};
use self::record::{Call, Death, Phase, Records, VICTIM};
use self::table::{Books, reasons, results, sums, table};
use super::pin;
use crate::Result;
use crate::args::{BooksArgs, Fault};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, seconds_to_ns, sleep_until};
use crate::report;

/// How long NATS is stopped.
const NATS_AWAY_NS: u64 = 1_500 * MILLISECOND_NS;
/// How long it may take, at the end, until everything outstanding has arrived.
const END_NS: u64 = 30 * SECOND_NS;
const LOOK_NS: u64 = 5 * MILLISECOND_NS;

/// Runs it; returns whether everything is explained.
pub(crate) fn run(args: &BooksArgs) -> Result<bool> {
    if args.server.addr.is_some() {
        return Err("books starts its own servers: without --addr".into());
    }
    pin(&args.host)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mut run = Run::start(args, seed)?;
    run.commit_faults(args)?;
    let (books, counters) = run.end()?;
    let text = [format!("seed {seed}\n"), table(&books), sums(&books), reasons(&books), counters.0];
    let mut results = results(&books);
    results["seed"] = json!(seed);
    results["counters"] = counters.1;
    report::finish("books", args, (&args.host, Some(&args.server)), results, &text.join("\n"))
}

/// A run with its callers under way.
struct Run {
    hosts: Hosts,
    plan: Plan,
    progress: Progress,
    callers: JoinHandle<Result<Vec<Call>>>,
    phases: Vec<Phase>,
    death: Option<Death>,
}

impl Run {
    fn start(args: &BooksArgs, seed: u64) -> Result<Self> {
        let hosts = Hosts::start(args, &members(args.clients as usize))?;
        let plan = Plan {
            pushes: args.pushes as usize,
            seed,
            length_ns: seconds_to_ns(args.seconds),
            callers: args.callers as usize,
            size: args.size as usize,
            members: hosts.members.clone(),
            hosts: hosts.push_apis(),
        };
        plan.until_known(END_NS)?;
        let progress = Progress::default();
        let phases = vec![Phase { name: "no fault", begin_ns: now_ns() }];
        let callers = plan.clone().start(Progress::clone(&progress));
        Ok(Self { hosts, plan, progress, callers, phases, death: None })
    }

    fn begin_phase(&mut self, name: &'static str) {
        self.phases.push(Phase { name, begin_ns: now_ns() });
    }

    /// Waits until this share of the pushes has begun.
    fn until(&self, share: f64) {
        let pushes = (self.plan.pushes as f64 * share) as usize;
        while self.progress.load(SeqCst) < pushes && !self.callers.is_finished() {
            sleep_until(now_ns() + LOOK_NS);
        }
    }

    fn commit_faults(&mut self, args: &BooksArgs) -> Result<()> {
        let has = |fault: Fault| args.faults.contains(&fault);
        if has(Fault::Stall) {
            self.until(0.08);
            self.begin_phase("a client stalls");
            self.hosts.shared.is_stalled.store(true, SeqCst);
            self.until(0.13);
            self.hosts.shared.is_stalled.store(false, SeqCst);
            self.until(0.17);
            self.begin_phase("no fault");
        }
        if has(Fault::Kill) {
            self.until(1.0 / 3.0);
            self.begin_phase("c is killed");
            self.death = Some(Death { host: VICTIM, from_ns: now_ns(), to_ns: u64::MAX });
            self.hosts.kill_victim();
        }
        if has(Fault::Nats) {
            self.until(0.5);
            self.begin_phase("NATS is away");
            self.hosts.nats.stop();
            sleep_until(now_ns() + NATS_AWAY_NS);
            self.hosts.nats.restart()?;
            self.begin_phase("NATS is back");
        }
        if self.death.is_some() {
            self.until(0.75);
            if has(Fault::Return) {
                self.begin_phase("c is back");
                self.death.iter_mut().for_each(|death| death.to_ns = now_ns());
                self.hosts.start_victim(args)?;
            }
            self.hosts.shared.is_late_time.store(true, SeqCst);
        }
        Ok(())
    }

    /// Waits for all answers, and for all clients to receive what is outstanding, and settles the books.
    fn end(self) -> Result<(Books, (String, Value))> {
        let calls = self.callers.join().map_err(|_| "the callers panicked")??;
        let has_ended = self.plan.end(|| self.hosts.has_ended(), END_NS)?;
        let counters = self.hosts.counters()?;
        let diaries = self.hosts.end();
        let records = Records {
            calls: &calls,
            diaries: &diaries,
            names: &NAMES,
            phases: &self.phases,
            death: self.death,
        };
        let mut books = records.settle();
        if !has_ended {
            books.faults.push("clients do not get the pushes that end the run".to_owned());
        }
        Ok((books, counters))
    }
}

/// `each` clients at each host.
fn members(each: usize) -> Vec<Member> {
    let all = (0..NAMES.len() * each).map(|number| {
        let (home, place) = (number / each, number % each);
        let habit = match (home, place) {
            (0, 0) => Habit::Slow,
            (1, 0) => Habit::Deaf,
            (VICTIM, place) if place + 1 == each => Habit::Late,
            _ => Habit::Usual,
        };
        Member { number, home, habit }
    });
    all.collect()
}
