//! Runs senders beside a crew that does more than receive, and waits for what they sent.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::Result;
use crate::clock::{MILLISECOND_NS, now_ns};
use crate::crew::Crew;
use crate::findings::Findings;
use crate::measure::{QUIET_NS, turn_for};
use crate::outlet::Sink;
use crate::sender::{self, Plan, Progress, Sent};
use crate::yardstick::Feed;

/// Time between two looks at what is missing.
const LOOK_NS: u64 = 50 * MILLISECOND_NS;

type Thread = JoinHandle<Result<(Sent, Option<Feed>)>>;

/// Pushes all plans at once and handles what comes, until the last is through; `watch` is called now and
/// then. The order of the plans is that of the results.
///
/// # Errors
///
/// A sender or the clients' side failed.
pub(crate) fn push_all(
    crew: &mut Crew,
    pushes: Vec<(Plan, Sink)>,
    progress: &Arc<Progress>,
    mut watch: impl FnMut(&mut Crew) -> Result<()>,
) -> Result<Vec<Sent>> {
    let start = |(plan, sink)| sender::start(plan, sink, Arc::clone(progress));
    let threads: Vec<Thread> = pushes.into_iter().map(start).collect();
    while !threads.iter().all(JoinHandle::is_finished) {
        crew.turn(20 * MILLISECOND_NS)?;
        watch(crew)?;
    }
    let join = |thread: Thread| {
        let (sent, _) = thread.join().map_err(|_| "the sender panicked")??;
        Ok(sent)
    };
    threads.into_iter().map(join).collect()
}

/// Waits until no more is missing than `dropped`, or nothing comes any more; says what was found. `sent` has
/// the messages of each stream by kind.
///
/// # Errors
///
/// The clients' side failed.
pub(crate) fn await_all(crew: &mut Crew, sent: &[Vec<u64>], dropped: u64) -> Result<Findings> {
    let mut received = crew.received();
    let mut quiet_since_ns = now_ns();
    loop {
        turn_for(crew, LOOK_NS)?;
        let findings = crew.findings(sent)?;
        if crew.received() != received {
            received = crew.received();
            quiet_since_ns = now_ns();
        }
        if findings.lost() <= dropped || now_ns() > quiet_since_ns + QUIET_NS {
            return Ok(findings);
        }
    }
}
