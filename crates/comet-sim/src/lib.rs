//! One seed determines a whole run: shards, a mesh, control, sockets and clients on one thread with a fake clock. There
//! are delays, cuts, slow readers, full queues, protocol violations, lost connections, and stalls of the control
//! thread, of cores and of the process. Checkers say "delivered once, in order, or counted".
//!
//! The shards are the real ones, and so is the hub of the control thread. The fake drivers keep the contract in
//! [`comet_core`]'s module documentation, and the fake control thread that of [`comet_hub::Hub`]. A failure names its
//! seed, which is all that [`replay`] needs to reproduce it.
//!
//! **Invariant:** nothing here reads a clock, opens a socket or depends on the order of a hash map.

mod activity;
mod call;
mod call_checker;
mod check;
mod client;
mod control;
mod crowds;
mod deadlines;
mod deflate;
mod drain;
mod driver;
mod elsewhere;
mod env;
mod fanout;
mod fanout_summary;
pub mod hosts;
mod listings;
mod live_traces;
mod logic;
mod logic_faults;
mod logic_services;
mod logic_summary;
mod mesh;
mod paced;
mod plan;
mod positions;
mod posts;
mod presence;
mod profile;
mod push_callers;
mod received;
mod release;
mod request;
mod rng;
mod socket;
mod socket_faults;
mod source;
mod stall_log;
mod summary;
mod trace;
mod trace_log;
mod violation;
mod wire;
mod world;

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use fanout_summary::FanoutSummary;
pub use logic_summary::LogicSummary;
pub use socket_faults::SocketFaults;
pub use summary::Summary;

use rng::Rng;
use trace::Trace;
use world::World;

/// A violation in a run, and how to reproduce it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Replays the run.
    pub seed: u64,
    /// The step in which it was found.
    pub step: u64,
    /// What did not hold.
    pub what: String,
    /// The last events; empty unless the run was a [`replay`].
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let Self { seed, step, what, .. } = self;
        write!(f, "seed {seed}, step {step}: {what}\nreplay: make sim SEED={seed}")
    }
}

impl Error for Failure {}

/// Runs the decisions of `seed`.
///
/// # Errors
/// The first violation, including a panic.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    simulate(seed, Trace::default())
}

/// As [`run`], but a failure includes the last events.
///
/// # Errors
/// As [`run`].
pub fn replay(seed: u64) -> Result<Summary, Box<Failure>> {
    simulate(seed, Trace { is_on: true, ..Trace::default() })
}

/// Runs the decisions in `input`, two bytes each, and after its end those of seed 0. A failure includes the last
/// events; its seed does not reproduce it.
///
/// # Errors
/// As [`run`].
pub fn run_input(input: &[u8]) -> Result<Summary, Box<Failure>> {
    simulate_with(Rng::with_input(0, input), 0, Trace { is_on: true, ..Trace::default() })
}

fn simulate(seed: u64, trace: Trace) -> Result<Summary, Box<Failure>> {
    simulate_with(Rng::new(seed), seed, trace)
}

/// `seed` is for the fan-out.
fn simulate_with(rng: Rng, seed: u64, trace: Trace) -> Result<Summary, Box<Failure>> {
    let mut world = World::new(rng, trace);
    // A failed assertion of the core is a violation like any other. The world is not examined after it.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let summary = world.run()?;
        Ok(Summary { fanout: fanout::run(seed)?, ..summary })
    }));
    let what = match outcome {
        Ok(Ok(summary)) => return Ok(summary),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("without a message"))
        }
    };
    let Trace { step, lines, .. } = std::mem::take(&mut world.env.trace);
    Err(Box::new(Failure { seed, step, what, trace: lines.into() }))
}
