//! The receiving side of a run: all its clients, in this process or shared by several workers.

mod churn;
mod local;
mod member;
mod slow;
mod talk;
mod visits;
mod worker;

use std::ops::Range;

use indicatif::ProgressBar;
use tokio::sync::watch;

pub(crate) use self::churn::{ChurnPlan, guests_max};
pub(crate) use self::local::ClientCommand;
use self::local::LocalClients;
pub(crate) use self::talk::talk_of;
pub(crate) use self::visits::VisitPlan;
use self::worker::Workers;
pub(crate) use self::worker::work;
use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::dial::Dialer;
use crate::findings::Findings;
use crate::process::{CpuSample, Gauge};
use crate::sampler::{Counts, Sampler, Series};

/// The longest time without any progress while handshakes are under way.
const STALL_NS: u64 = 10 * SECOND_NS;

/// All clients of a run. Their methods fail if a worker or the sampled server has ended; what a server does to a
/// connection is only counted.
pub(crate) struct Clients {
    clients: Group,
    /// Samples everything they do, while there is one.
    sampler: Option<Sampler>,
    /// Distinct deliveries since the last restart, which the senders wait for; and when the number last changed.
    received: watch::Sender<u64>,
    received_ns: u64,
}

enum Group {
    Local(Box<LocalClients>),
    Workers(Workers),
}

impl Clients {
    /// Clients that are not connected yet, in `processes` processes.
    pub(crate) fn new(dialer: Dialer, processes: u32) -> Result<Self> {
        let clients = match processes {
            0 | 1 => Group::Local(Box::new(LocalClients::new(dialer)?)),
            _ => Group::Workers(Workers::start(dialer, processes as usize)?),
        };
        Ok(Self { clients, sampler: None, received: watch::Sender::new(0), received_ns: 0 })
    }

    /// From now on the clients, and the process they are connected to, are sampled.
    pub(crate) fn start_series(&mut self, gauge: Gauge) -> Result<()> {
        self.sampler = Some(Sampler::start(gauge, self.counts())?);
        Ok(())
    }

    /// The samples that were taken since [`Clients::start_series`].
    pub(crate) fn end_series(&mut self) -> Result<Series> {
        let sampler = self.sampler.take().expect("a series was started");
        sampler.finish(self.counts())
    }

    /// Distinct deliveries since the last restart, as of the last turn.
    pub(crate) fn received(&self) -> u64 {
        *self.received.borrow()
    }

    /// When the number of deliveries last changed.
    pub(crate) fn received_ns(&self) -> u64 {
        self.received_ns
    }

    /// Passes the number of deliveries to others, and wakes those that wait for it.
    pub(crate) fn watch_received(&self) -> watch::Sender<u64> {
        self.received.clone()
    }

    /// Connections that are authenticated and open.
    pub(crate) fn live(&self) -> usize {
        self.counts().connections as usize
    }

    /// CPU time so far of the bench, its workers included.
    pub(crate) fn cpu(&self) -> Result<CpuSample> {
        let mut sample = CpuSample::of(std::process::id())?;
        if let Group::Workers(workers) = &self.clients {
            for pid in workers.pids() {
                sample.add(CpuSample::of(pid)?);
            }
        }
        Ok(sample)
    }

    /// Connects members `which`; returns when all are live. Also fails if a connection was refused or closed, or
    /// nothing happened for ten seconds.
    pub(crate) fn dial(&mut self, which: Range<usize>, bar: &ProgressBar) -> Result<()> {
        let wanted = self.live() + which.len();
        self.execute(ClientCommand::Dial(which))?;
        let (mut live, mut moved_ns) = (self.live(), now_ns());
        while self.live() < wanted {
            self.turn(100 * MILLISECOND_NS)?;
            let counts = self.counts();
            bar.set_position(counts.connections);
            if counts.closed > 0 {
                let closed = self.findings(&[])?.closed;
                return Err(format!("connections failed: {:?}", *closed).into());
            }
            if self.live() > live {
                (live, moved_ns) = (self.live(), now_ns());
            } else if now_ns() > moved_ns + STALL_NS {
                let waiting = wanted - live;
                return Err(format!("{waiting} connections are not made; {live} are").into());
            }
        }
        // A storm may be over between two samples, and would then look as long as the time between them.
        let counts = self.counts();
        self.sampler.as_mut().map_or(Ok(()), |sampler| sampler.mark(counts))
    }

    /// Handles events, for at most `timeout_ns`.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        // A time without events must be sampled as well.
        let sample_ns = self.sampler.as_ref().map_or(u64::MAX, Sampler::left_ns);
        let timeout_ns = timeout_ns.min(sample_ns);
        match &mut self.clients {
            Group::Local(clients) => clients.turn(timeout_ns),
            Group::Workers(workers) => workers.turn(timeout_ns),
        }?;
        let counts = self.counts();
        if counts.received_since_restart != self.received() {
            self.received.send_replace(counts.received_since_restart);
            self.received_ns = now_ns();
        }
        self.sampler.as_mut().map_or(Ok(()), |sampler| sampler.look(counts))
    }

    /// Makes the clients carry out a command.
    pub(crate) fn execute(&mut self, command: ClientCommand) -> Result<()> {
        match &mut self.clients {
            Group::Local(clients) => clients.execute(command),
            Group::Workers(workers) => workers.execute(&command),
        }
    }

    /// The findings since the last restart; `sent` holds the number of messages sent to each stream, by kind.
    pub(crate) fn findings(&mut self, sent: &[Vec<u64>]) -> Result<Findings> {
        match &mut self.clients {
            Group::Local(clients) => Ok(clients.findings(sent)),
            Group::Workers(workers) => workers.findings(sent),
        }
    }

    fn counts(&self) -> Counts {
        match &self.clients {
            Group::Local(clients) => clients.receiver.counts(),
            Group::Workers(workers) => workers.counts(),
        }
    }
}
