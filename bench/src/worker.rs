//! Workers: processes of the bench that each hold a part of the connections.
//!
//! A worker reads what it is to do from its standard input and writes what it has to say to its standard
//! output, a line of JSON each. Times need no conversion, since the clock is the host's.

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use comet_cpus::CpuList;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::clients::{ChurnPlan, Clients, Order, Setup};
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::dial::ensure_descriptors;
use crate::findings::Findings;
use crate::launch::Running;
use crate::sampler::Counts;
use crate::sender::Progress;

/// The longest a worker waits before it looks for orders.
const LOOK_NS: u64 = 2 * MILLISECOND_NS;
/// The least time between two reports of one worker.
const REPORT_NS: u64 = MILLISECOND_NS;
/// How long a worker may take to answer; dialing has a bound of its own.
const ANSWER: Duration = Duration::from_secs(60);

/// What a worker is told.
#[derive(Serialize, Deserialize)]
enum Task {
    Setup(Box<Setup>),
    Dial(Range<usize>),
    Order(Order),
    /// With the messages of each stream, by kind.
    Findings(Vec<Vec<u64>>),
}

/// What a worker says.
#[derive(Serialize, Deserialize)]
enum Note {
    State(State),
    /// All that were to be dialed are live.
    Dialed(State),
    Findings(Box<Findings>),
    Failed(String),
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Since the books were opened.
    received: u64,
    counts: Counts,
}

/// The workers of a run, as the bench sees them.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    notes: Receiver<(usize, Note)>,
    /// Of all members.
    connections: usize,
    progress: Arc<Progress>,
}

struct Worker {
    process: Running,
    tasks: BufWriter<ChildStdin>,
    state: State,
}

impl Workers {
    /// Starts so many workers.
    ///
    /// # Errors
    ///
    /// One cannot be started.
    pub(crate) fn start(setup: Setup, count: usize, progress: Arc<Progress>) -> Result<Self> {
        let (sender, notes) = channel();
        let connections = setup.crowd.connections;
        let in_flight = setup.in_flight.div_ceil(count);
        let setup = Setup { in_flight, ..setup };
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let mut worker = Worker::start(index, sender.clone())?;
            worker.tell(&Task::Setup(Box::new(setup.clone())))?;
            workers.push(worker);
        }
        Ok(Self { workers, notes, connections, progress })
    }

    /// Distinct deliveries, as far as they are reported.
    pub(crate) fn received(&self) -> u64 {
        self.workers.iter().map(|worker| worker.state.received).sum()
    }

    /// What was counted since the workers are there, as far as it is reported.
    pub(crate) fn counts(&self) -> Counts {
        let sum = |count: fn(&Counts) -> u64| {
            self.workers.iter().map(|worker| count(&worker.state.counts)).sum()
        };
        Counts {
            received: sum(|counts| counts.received),
            heartbeats: sum(|counts| counts.heartbeats),
            connections: sum(|counts| counts.connections),
        }
    }

    /// Their process ids.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(|worker| worker.process.pid())
    }

    /// Has each worker connect its part of `which`; returns when all are live. `watch` is called now and
    /// then.
    ///
    /// # Errors
    ///
    /// A worker failed to, or `watch` failed.
    pub(crate) fn dial(
        &mut self,
        which: Range<usize>,
        mut watch: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        let count = self.workers.len();
        let mut dialing = 0;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let part = part(self.connections, count, index);
            let range = which.start.max(part.start)..which.end.min(part.end);
            if !range.is_empty() {
                worker.tell(&Task::Dial(range))?;
                dialing += 1;
            }
        }
        while dialing > 0 {
            if let Note::Dialed(_) = self.answer()? {
                dialing -= 1;
            }
            watch(self)?;
        }
        Ok(())
    }

    /// Takes reports, for at most `timeout_ns`.
    ///
    /// # Errors
    ///
    /// A worker failed.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        match self.notes.recv_timeout(Duration::from_nanos(timeout_ns)) {
            Ok((index, note)) => self.take(index, &note)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("all workers ended".into()),
        }
        self.progress.report(self.received());
        Ok(())
    }

    /// Tells all.
    ///
    /// # Errors
    ///
    /// A worker has ended.
    pub(crate) fn order(&mut self, order: &Order) -> Result<()> {
        let task = Task::Order(order.clone());
        self.workers.iter_mut().try_for_each(|worker| worker.tell(&task))
    }

    /// Each worker has its share of the guests.
    ///
    /// # Errors
    ///
    /// A worker has ended.
    pub(crate) fn churn(&mut self, plan: &ChurnPlan) -> Result<()> {
        let count = self.workers.len();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            worker.tell(&Task::Order(Order::Churn(plan.part(count, index))))?;
        }
        Ok(())
    }

    /// What all have found together.
    ///
    /// # Errors
    ///
    /// A worker failed.
    pub(crate) fn findings(&mut self, sent: &[Vec<u64>]) -> Result<Findings> {
        for worker in &mut self.workers {
            worker.tell(&Task::Findings(sent.to_vec()))?;
        }
        let mut all = Findings::default();
        let mut missing = self.workers.len();
        while missing > 0 {
            if let Note::Findings(findings) = self.answer()? {
                all.add(&findings);
                missing -= 1;
            }
        }
        Ok(all)
    }

    fn answer(&mut self) -> Result<Note> {
        let answer = self.notes.recv_timeout(ANSWER);
        let (index, note) = answer.map_err(|_| "a worker does not answer")?;
        self.take(index, &note)?;
        Ok(note)
    }

    fn take(&mut self, index: usize, note: &Note) -> Result<()> {
        match note {
            Note::State(state) | Note::Dialed(state) => self.workers[index].state = *state,
            Note::Findings(_) => {}
            Note::Failed(reason) => return Err(format!("worker {}: {reason}", index + 1).into()),
        }
        Ok(())
    }
}

impl Worker {
    fn start(index: usize, notes: Sender<(usize, Note)>) -> Result<Self> {
        let mut command = Running::command(&CpuList::allowed(), &std::env::current_exe()?)?;
        command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Running::start(&mut command)?;
        let (stdin, stdout) = process.pipes();
        thread::spawn(move || listen(index, stdout, &notes));
        Ok(Self { process, tasks: BufWriter::new(stdin), state: State::default() })
    }

    fn tell(&mut self, task: &Task) -> Result<()> {
        write_line(&mut self.tasks, task).map_err(|error| format!("a worker ended: {error}").into())
    }
}

/// Hands on what a worker says, to its end.
fn listen(index: usize, stdout: ChildStdout, notes: &Sender<(usize, Note)>) {
    for line in BufReader::new(stdout).lines() {
        let note = line.and_then(|line| Ok(serde_json::from_str(&line)?));
        let note = note.unwrap_or_else(|error| Note::Failed(error.to_string()));
        if notes.send((index, note)).is_err() {
            return;
        }
    }
    // Nobody listens any more where the run is over.
    let _ = notes.send((index, Note::Failed("it ended".to_owned())));
}

/// The connections of one of `count` workers.
fn part(connections: usize, count: usize, index: usize) -> Range<usize> {
    connections * index / count..connections * (index + 1) / count
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Runs a worker until its standard input ends.
///
/// # Errors
///
/// The bench has ended, or does not speak as a bench does. Everything else is told to the bench.
pub(crate) fn work() -> Result<()> {
    let (sender, tasks) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let task = line.and_then(|line| Ok(serde_json::from_str::<Task>(&line)?));
            if sender.send(task).is_err() {
                return;
            }
        }
    });
    let mut out = BufWriter::new(io::stdout().lock());
    if let Err(error) = obey(&tasks, &mut out) {
        write_line(&mut out, &Note::Failed(error.to_string()))?;
    }
    Ok(())
}

fn obey(tasks: &Receiver<io::Result<Task>>, out: &mut impl Write) -> Result<()> {
    let Task::Setup(setup) = tasks.recv()?? else {
        return Err("a worker is set up first".into());
    };
    // The bench has looked whether the limit suffices.
    ensure_descriptors(0, 1)?;
    let mut clients = Clients::new(*setup, Arc::new(Progress::default()))?;
    let mut teller = Teller { out, told: State::default(), report_ns: 0 };
    loop {
        match tasks.try_recv() {
            Ok(task) => carry_out(task?, &mut clients, &mut teller)?,
            Err(TryRecvError::Empty) => clients.turn(LOOK_NS)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        teller.report(&clients)?;
    }
}

fn carry_out(task: Task, clients: &mut Clients, teller: &mut Teller<impl Write>) -> Result<()> {
    match task {
        Task::Setup(_) => return Err("a worker is set up once".into()),
        Task::Dial(which) => {
            clients.dial(which, |clients| teller.report(clients))?;
            teller.tell(&Note::Dialed(clients.state()))?;
        }
        Task::Order(order) => clients.obey(order)?,
        Task::Findings(sent) => {
            // What is counted is not to be behind what was found.
            teller.tell(&Note::State(clients.state()))?;
            teller.tell(&Note::Findings(Box::new(clients.findings(&sent))))?;
        }
    }
    Ok(())
}

/// Tells the bench how far a worker is.
struct Teller<Out> {
    out: Out,
    told: State,
    report_ns: u64,
}

impl<Out: Write> Teller<Out> {
    /// Says how far `clients` are, unless that was said already or a moment ago.
    fn report(&mut self, clients: &Clients) -> Result<()> {
        let state = clients.state();
        if state != self.told && now_ns() >= self.report_ns {
            self.tell(&Note::State(state))?;
            self.told = state;
            self.report_ns = now_ns() + REPORT_NS;
        }
        Ok(())
    }

    fn tell(&mut self, note: &Note) -> Result<()> {
        Ok(write_line(&mut self.out, note)?)
    }
}

impl Clients {
    fn state(&self) -> State {
        State { received: self.received(), counts: self.counts() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_in_one_part() {
        for (connections, count) in [(10, 3), (2, 4), (0, 2), (15_000, 7)] {
            let parts = (0..count).flat_map(|index| part(connections, count, index));
            assert!(parts.eq(0..connections), "{connections} in {count}");
        }
    }
}
