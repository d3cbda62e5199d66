//! The receiving side of a run: the clients of this process, or those of several workers together.

use std::ops::Range;
use std::sync::Arc;

use indicatif::ProgressBar;

use crate::Result;
use crate::args::DialArgs;
use crate::clients::{ChurnPlan, Clients, Order, Setup};
use crate::crowd::Crowd;
use crate::findings::Findings;
use crate::process::{CpuSample, Gauge};
use crate::sampler::{Counts, Sampler, Series};
use crate::sender::Progress;
use crate::target::Target;
use crate::worker::Workers;

/// All clients of a run.
pub(crate) struct Crew {
    party: Party,
    /// Takes samples of all they do, while there is one.
    sampler: Option<Sampler>,
}

enum Party {
    Here(Box<Clients>),
    Apart(Workers),
}

/// Of which run the first messages are, and what is special about the connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brief {
    pub run: u32,
    pub operation: i32,
    /// Bytes of nearly all bodies.
    pub size: usize,
    /// Kernel receive buffer of those who are slow to read.
    pub slow_buffer: Option<usize>,
}

impl Crew {
    /// Clients for `crowd` that are not connected yet, in as many processes as `dial` says.
    ///
    /// # Errors
    ///
    /// A process could not be started, or the host refuses another descriptor.
    pub(crate) fn gather(
        brief: Brief,
        target: &Target,
        crowd: &Crowd,
        dial: &DialArgs,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let setup = Setup {
            run: brief.run,
            operation: brief.operation,
            size: brief.size,
            doors: target.doors.clone(),
            crowd: crowd.clone(),
            sources: dial.source.clone(),
            slow_buffer: brief.slow_buffer,
            in_flight: dial.in_flight as usize,
        };
        let party = match dial.processes {
            0 | 1 => Party::Here(Box::new(Clients::new(setup, progress)?)),
            processes => Party::Apart(Workers::start(setup, processes as usize, progress)?),
        };
        Ok(Self { party, sampler: None })
    }

    /// From now on samples are taken, of the clients and of the process they are connected to.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn start_series(&mut self, gauge: Gauge) -> Result<()> {
        self.sampler = Some(Sampler::start(gauge, self.party.counts())?);
        Ok(())
    }

    /// The samples that were taken since [`Crew::start_series`].
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub(crate) fn end_series(&mut self) -> Result<Series> {
        let sampler = self.sampler.take().expect("a series was started");
        sampler.finish(self.party.counts())
    }

    /// Distinct deliveries since the books were opened.
    pub(crate) fn received(&self) -> u64 {
        match &self.party {
            Party::Here(clients) => clients.received(),
            Party::Apart(workers) => workers.received(),
        }
    }

    /// Connections that are authenticated and open.
    pub(crate) fn live(&self) -> usize {
        self.party.counts().connections as usize
    }

    /// CPU time so far of the bench, the processes that hold connections for it included.
    ///
    /// # Errors
    ///
    /// One of them has ended, or the kernel has no schedstat.
    pub(crate) fn cpu(&self) -> Result<CpuSample> {
        let mut sample = CpuSample::of(std::process::id())?;
        if let Party::Apart(workers) = &self.party {
            for pid in workers.pids() {
                sample.add(CpuSample::of(pid)?);
            }
        }
        Ok(sample)
    }

    /// Connects members `which`; returns when all are live.
    ///
    /// # Errors
    ///
    /// A connection was refused, closed, or nothing happened for ten seconds; or a sampled process has ended.
    pub(crate) fn dial(&mut self, which: Range<usize>, bar: &ProgressBar) -> Result<()> {
        let sampler = &mut self.sampler;
        let mut watch = |counts: Counts| {
            bar.set_position(counts.connections);
            sampler.as_mut().map_or(Ok(()), |sampler| sampler.look(counts))
        };
        match &mut self.party {
            Party::Here(clients) => clients.dial(which, |clients| watch(clients.counts())),
            Party::Apart(workers) => workers.dial(which, |workers| watch(workers.counts())),
        }?;
        // A storm may be over between two samples, and would look as long as the time between them.
        self.sampler.as_mut().map_or(Ok(()), |sampler| sampler.mark(self.party.counts()))
    }

    /// Handles what comes, for at most `timeout_ns`.
    ///
    /// # Errors
    ///
    /// The clients' side failed, or a sampled process has ended. What a server does to a connection is counted.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        // Where nothing comes, that is to be seen as well.
        let sample_ns = self.sampler.as_ref().map_or(u64::MAX, Sampler::left_ns);
        let timeout_ns = timeout_ns.min(sample_ns);
        match &mut self.party {
            Party::Here(clients) => clients.turn(timeout_ns),
            Party::Apart(workers) => workers.turn(timeout_ns),
        }?;
        let sampler = self.sampler.as_mut();
        sampler.map_or(Ok(()), |sampler| sampler.look(self.party.counts()))
    }

    /// Tells the clients what to do.
    ///
    /// # Errors
    ///
    /// The clients' side failed.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        match &mut self.party {
            Party::Here(clients) => clients.obey(order),
            Party::Apart(workers) => workers.order(&order),
        }
    }

    /// Lets guests come and go: `arrivals` a second, to stay for `life_s` seconds on average.
    ///
    /// # Errors
    ///
    /// The clients' side failed.
    pub(crate) fn churn(
        &mut self,
        arrivals: f64,
        life_s: f64,
        moves: f64,
        crowd: &Crowd,
    ) -> Result<()> {
        let plan = ChurnPlan::of(arrivals, life_s, moves, crowd.connections);
        match &mut self.party {
            Party::Here(clients) => clients.obey(Order::Churn(plan)),
            Party::Apart(workers) => workers.churn(&plan),
        }
    }

    /// What was found since the books were opened; `sent` has the number of messages of each stream by
    /// kind. The books stay open.
    ///
    /// # Errors
    ///
    /// The clients' side failed.
    pub(crate) fn findings(&mut self, sent: &[Vec<u64>]) -> Result<Findings> {
        match &mut self.party {
            Party::Here(clients) => Ok(clients.findings(sent)),
            Party::Apart(workers) => workers.findings(sent),
        }
    }
}

impl Party {
    fn counts(&self) -> Counts {
        match self {
            Self::Here(clients) => clients.counts(),
            Self::Apart(workers) => workers.counts(),
        }
    }
}
