//! The receiving side of a run: the clients of this process, or those of several workers together.

use std::ops::Range;
use std::sync::Arc;

use indicatif::ProgressBar;

use crate::Result;
use crate::args::DialArgs;
use crate::clients::{ChurnPlan, Clients, Order, Setup};
use crate::crowd::Crowd;
use crate::findings::Findings;
use crate::sender::Progress;
use crate::target::Target;
use crate::worker::Workers;

/// All clients of a run.
pub(crate) enum Crew {
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
        Ok(match dial.processes {
            0 | 1 => Self::Here(Box::new(Clients::new(setup, progress)?)),
            processes => Self::Apart(Workers::start(setup, processes as usize, progress)?),
        })
    }

    /// Distinct deliveries since the books were opened.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::Here(clients) => clients.received(),
            Self::Apart(workers) => workers.received(),
        }
    }

    /// Connections that are authenticated and open.
    pub(crate) fn live(&self) -> usize {
        match self {
            Self::Here(clients) => clients.live(),
            Self::Apart(workers) => workers.live(),
        }
    }

    /// Connects members `which`; returns when all are live.
    ///
    /// # Errors
    ///
    /// A connection was refused, closed, or nothing happened for ten seconds.
    pub(crate) fn dial(&mut self, which: Range<usize>, bar: &ProgressBar) -> Result<()> {
        match self {
            Self::Here(clients) => clients.dial(which, bar),
            Self::Apart(workers) => workers.dial(which, bar),
        }
    }

    /// Handles what comes, for at most `timeout_ns`.
    ///
    /// # Errors
    ///
    /// The clients' side failed. What a server does to a connection is counted.
    pub(crate) fn turn(&mut self, timeout_ns: u64) -> Result<()> {
        match self {
            Self::Here(clients) => clients.turn(timeout_ns),
            Self::Apart(workers) => workers.turn(timeout_ns),
        }
    }

    /// Tells the clients what to do.
    ///
    /// # Errors
    ///
    /// The clients' side failed.
    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        match self {
            Self::Here(clients) => clients.obey(order),
            Self::Apart(workers) => workers.order(&order),
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
        match self {
            Self::Here(clients) => clients.obey(Order::Churn(plan)),
            Self::Apart(workers) => workers.churn(&plan),
        }
    }

    /// What was found since the books were opened; `sent` has the number of messages of each stream by
    /// kind. The books stay open.
    ///
    /// # Errors
    ///
    /// The clients' side failed.
    pub(crate) fn findings(&mut self, sent: &[Vec<u64>]) -> Result<Findings> {
        match self {
            Self::Here(clients) => Ok(clients.findings(sent)),
            Self::Apart(workers) => workers.findings(sent),
        }
    }
}
