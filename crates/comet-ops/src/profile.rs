//! CPU profiles of the running process.
//!
//! The kernel raises SIGPROF for every 10 ms of CPU time that the process uses, in the thread that uses it; the handler
//! records the thread's stack. A sleeping core is not woken, and an interrupted core continues: its driver treats an
//! interrupted wait as an ended one. The handler allocates nothing. It unwinds the stack with libgcc, which gets its
//! tables from glibc without a lock since glibc 2.35. The vDSO is left out, because its tables are not always right.
//! Between profiles nothing runs.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::Message;
use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Report, Symbol};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::flamegraph::FlameGraph;

/// Samples per second of CPU time. Not 100, to avoid running in step with periodic work.
const FREQUENCY: i32 = 99;

/// Why there is no profile.
#[derive(Debug)]
pub(crate) enum NoProfile {
    /// Another profile is being taken.
    Busy,
    /// The profiler could not be set up or read, as a sentence.
    Failed(String),
}

impl From<std::io::Error> for NoProfile {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Stacks, and how often each was sampled.
pub(crate) struct Profile(Report);

impl Profile {
    /// Takes a profile for `time`. Dropping the future ends it at once.
    pub(crate) async fn take(time: Duration) -> Result<Self, NoProfile> {
        // Finding segments and symbols takes longer than callers of the control thread should wait.
        let guard = blocking(begin).await?;
        sleep(time).await;
        blocking(move || finish(&guard)).await.map(Self)
    }

    /// Encodes it as `perftools.profiles.Profile`, gzipped, for `go tool pprof` and similar tools.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, NoProfile> {
        let profile = self.0.pprof().map_err(|error| NoProfile::Failed(error.to_string()))?;
        Ok(gzip(&profile.encode_to_vec()))
    }

    /// As a flame graph; the outermost frame of each stack is its thread.
    pub(crate) fn flamegraph(&self) -> String {
        let mut graph = FlameGraph::default();
        for (stack, samples) in &self.0.data {
            let frames = stack.frames.iter().rev().flat_map(|inlined| inlined.iter().rev());
            let names = frames.map(ToString::to_string);
            let samples = u64::try_from(*samples).unwrap_or_default();
            graph.add([stack.thread_name_or_id()].into_iter().chain(names), samples);
        }
        graph.svg("CPU", "samples")
    }
}

/// The compression of profiles.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

fn begin() -> pprof::Result<ProfilerGuard<'static>> {
    ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&["vdso"]).build()
}

/// Looks up the symbols, and frees the memory used for that: an unpacked table for every function.
fn finish(guard: &ProfilerGuard<'_>) -> pprof::Result<Report> {
    let report = guard.report().frames_post_processor(leave_out_profiler).build();
    backtrace::clear_symbol_cache();
    report
}

/// The innermost frames are those of the profiler itself.
fn leave_out_profiler(stack: &mut Frames) {
    let is_profiler = |inlined: &Vec<Symbol>| {
        inlined.iter().all(|symbol| {
            let name = symbol.name();
            ["backtrace::", "pprof::", "<pprof::"].iter().any(|begin| name.starts_with(begin))
        })
    };
    let outer = stack.frames.iter().take_while(|inlined| is_profiler(inlined)).count();
    stack.frames.drain(..outer);
}

/// Runs `work` outside of the control thread's event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> pprof::Result<T> + Send + 'static,
) -> Result<T, NoProfile> {
    let done = spawn_blocking(work).await.expect("neither the profiler panics nor is it cancelled");
    done.map_err(|error| match error {
        pprof::Error::Running => NoProfile::Busy,
        error => NoProfile::Failed(error.to_string()),
    })
}
