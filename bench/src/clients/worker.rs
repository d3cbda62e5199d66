//! Workers: processes of the bench that each hold a part of the connections.
//!
//! A worker reads tasks from its standard input and writes notes to its standard output, a line of JSON each.
//! Times need no conversion, since the clock is the host's.

use std::io::{self, BufRead, BufWriter, Write};
use std::ops::Range;
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use comet_cpus::CpuList;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::clients::local::{ClientCommand, LocalClients};
use crate::clients::visits::VisitPlan;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::dial::{Dialer, ensure_descriptors};
use crate::findings::Findings;
use crate::launch::Running;
use crate::sampler::Counts;

/// The longest a worker waits before it checks for tasks.
const LOOK_NS: u64 = 2 * MILLISECOND_NS;
/// The shortest time between two reports of one worker.
const REPORT_NS: u64 = MILLISECOND_NS;
/// How long a worker may take to answer; dialing has its own limit.
const ANSWER: Duration = Duration::from_secs(60);

/// A task from the bench to a worker.
#[derive(Serialize, Deserialize)]
enum Task {
    Setup(Box<Dialer>),
    Execute(ClientCommand),
    /// Asks for the findings; holds the number of messages sent to each stream, by kind.
    Findings(Vec<Vec<u64>>),
}

/// A note from a worker to the bench.
#[derive(Serialize, Deserialize)]
enum Note {
    Counts(Counts),
    Findings(Box<Findings>),
    Failed(String),
}

/// The workers of a run, seen from the bench. Their methods fail if one has failed or ended.
pub(super) struct Workers {
    workers: Vec<Worker>,
    notes: Receiver<(usize, io::Result<Note>)>,
    /// The number of all members.
    connections: usize,
}

struct Worker {
    process: Running,
    tasks: BufWriter<ChildStdin>,
    counts: Counts,
}

impl Workers {
    /// Starts `count` workers.
    pub(super) fn start(dialer: Dialer, count: usize) -> Result<Self> {
        let (sender, notes) = channel();
        let connections = dialer.crowd.connections;
        let in_flight = dialer.in_flight.div_ceil(count);
        let dialer = Dialer { in_flight, ..dialer };
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (process, stdin, stdout) = Running::start_piped(&CpuList::allowed(), &["worker"])?;
            let sender = sender.clone();
            thread::spawn(move || {
                read_lines(stdout, |note| sender.send((index, note)).is_ok());
                // Nobody listens any more if the run is over.
                let _ = sender.send((index, Ok(Note::Failed("it ended".to_owned()))));
            });
            let tasks = BufWriter::new(stdin);
            let mut worker = Worker { process, tasks, counts: Counts::default() };
            worker.give(&Task::Setup(Box::new(dialer.clone())))?;
            workers.push(worker);
        }
        Ok(Self { workers, notes, connections })
    }

    /// The sum of the counts since the workers started, as far as they were reported.
    pub(super) fn counts(&self) -> Counts {
        let mut all = Counts::default();
        self.workers.iter().for_each(|worker| all += worker.counts);
        all
    }

    /// Their process ids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(|worker| worker.process.pid())
    }

    /// Handles reports, for at most `timeout_ns`.
    pub(super) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        match self.notes.recv_timeout(Duration::from_nanos(timeout_ns)) {
            Ok((index, note)) => drop(self.take(index, note)?),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("all workers ended".into()),
        }
        Ok(())
    }

    /// Makes each worker do its part of a command.
    pub(super) fn execute(&mut self, command: &ClientCommand) -> Result<()> {
        let count = self.workers.len();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let part = match command {
                ClientCommand::Dial(which) => {
                    let part = part(self.connections, count, index);
                    ClientCommand::Dial(which.start.max(part.start)..which.end.min(part.end))
                }
                ClientCommand::StartGuests(plan) => {
                    ClientCommand::StartGuests(plan.part(count, index))
                }
                // Together they keep the given pace.
                ClientCommand::Talk(interval_ns) => {
                    ClientCommand::Talk(interval_ns.saturating_mul(count as u64))
                }
                ClientCommand::Visit(plan) => {
                    let interval_ns = plan.interval_ns.saturating_mul(count as u64);
                    ClientCommand::Visit(VisitPlan { interval_ns, ..*plan })
                }
                command => command.clone(),
            };
            worker.give(&Task::Execute(part))?;
        }
        if matches!(command, ClientCommand::Restart { .. }) {
            // Messages of the new run may arrive as soon as this returns, so every worker must have restarted.
            self.findings(&[])?;
        }
        Ok(())
    }

    /// The findings of all workers together.
    pub(super) fn findings(&mut self, sent: &[Vec<u64>]) -> Result<Findings> {
        for worker in &mut self.workers {
            worker.give(&Task::Findings(sent.to_vec()))?;
        }
        let mut all = Findings::default();
        let mut missing = self.workers.len();
        while missing > 0 {
            let answer = self.notes.recv_timeout(ANSWER);
            let (index, note) = answer.map_err(|_| "a worker does not answer")?;
            if let Some(findings) = self.take(index, note)? {
                all += *findings;
                missing -= 1;
            }
        }
        Ok(all)
    }

    /// Stores counts, and returns findings.
    fn take(&mut self, index: usize, note: io::Result<Note>) -> Result<Option<Box<Findings>>> {
        match note.unwrap_or_else(|error| Note::Failed(error.to_string())) {
            Note::Counts(counts) => self.workers[index].counts = counts,
            Note::Findings(findings) => return Ok(Some(findings)),
            Note::Failed(reason) => return Err(format!("worker {}: {reason}", index + 1).into()),
        }
        Ok(None)
    }
}

impl Worker {
    fn give(&mut self, task: &Task) -> Result<()> {
        write_line(&mut self.tasks, task).map_err(|error| format!("a worker ended: {error}").into())
    }
}

/// The connections of worker `index` of `count`.
fn part(connections: usize, count: usize, index: usize) -> Range<usize> {
    connections * index / count..connections * (index + 1) / count
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Passes on each line, until the input ends or nobody takes it.
fn read_lines<T: DeserializeOwned>(input: impl BufRead, take: impl Fn(io::Result<T>) -> bool) {
    let mut lines = input.lines();
    let parse = |line: String| Ok(serde_json::from_str(&line)?);
    while lines.next().is_some_and(|line| take(line.and_then(parse))) {}
}

/// Runs a worker until its standard input ends. Fails if the bench has ended, or sends something that is not a task;
/// all other failures are reported to the bench.
pub(crate) fn work() -> Result<()> {
    let (sender, tasks) = channel();
    thread::spawn(move || read_lines(io::stdin().lock(), |task| sender.send(task).is_ok()));
    let mut out = BufWriter::new(io::stdout().lock());
    if let Err(error) = serve(&tasks, &mut out) {
        write_line(&mut out, &Note::Failed(error.to_string()))?;
    }
    Ok(())
}

fn serve(tasks: &Receiver<io::Result<Task>>, out: &mut impl Write) -> Result<()> {
    let Task::Setup(dialer) = tasks.recv()?? else {
        return Err("a worker is set up first".into());
    };
    // The bench has checked that the limit is high enough.
    ensure_descriptors(0, 1)?;
    let mut clients = LocalClients::new(*dialer)?;
    let (mut reported, mut due_ns) = (Counts::default(), 0);
    loop {
        match tasks.try_recv() {
            Ok(task) => match task? {
                Task::Setup(_) => return Err("a worker is set up once".into()),
                Task::Execute(command) => clients.execute(command)?,
                Task::Findings(sent) => {
                    // The counts must not be older than the findings.
                    write_line(out, &Note::Counts(clients.receiver.counts()))?;
                    write_line(out, &Note::Findings(Box::new(clients.findings(&sent))))?;
                }
            },
            Err(TryRecvError::Empty) => clients.turn(LOOK_NS)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        let counts = clients.receiver.counts();
        if counts != reported && now_ns() >= due_ns {
            write_line(out, &Note::Counts(counts))?;
            (reported, due_ns) = (counts, now_ns() + REPORT_NS);
        }
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
