//! A thread with a runtime of its own, on the CPUs it is given.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Builder;

use crate::start_error::StartError;

/// How long work beside the thread, such as looking up a name, may take to end after the thread does. Longer work is
/// left until the process ends.
const END: Duration = Duration::from_secs(1);

/// Starts the thread `comet-<name>` on `cpus` (none: wherever the process may run), with a runtime of its
/// own. `serve` is called inside that runtime, and the thread runs the future it makes to its end.
///
/// Returns once `serve` has returned.
///
/// # Errors
/// If the thread, its runtime or its CPUs are not available, and those of `serve`. Then no thread is left.
///
/// # Panics
/// If `serve` panics.
pub fn spawn<S, F, E>(name: &'static str, cpus: Vec<usize>, serve: S) -> Result<JoinHandle<()>, E>
where
    S: FnOnce() -> Result<F, E> + Send + 'static,
    F: Future<Output = ()>,
    E: From<StartError> + Send + 'static,
{
    let failed = |error| StartError::Thread { thread: name, error };
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(format!("comet-{name}"))
        .spawn(move || run(name, cpus, serve, &started))
        .map_err(failed)?;
    outcome.recv().expect("the thread reports how it started before it ends")?;
    Ok(thread)
}

/// The thread from its start to its end.
fn run<F: Future<Output = ()>, E: From<StartError>>(
    thread: &'static str,
    cpus: Vec<usize>,
    serve: impl FnOnce() -> Result<F, E>,
    started: &mpsc::SyncSender<Result<(), E>>,
) {
    let report = |outcome| started.send(outcome).expect("whoever starts the thread waits for this");
    if let Err(error) = pin(&cpus) {
        return report(Err(StartError::Pin { thread, cpus, error }.into()));
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(StartError::Thread { thread, error }.into())),
    };
    let served = {
        let _entered = runtime.enter();
        serve()
    };
    match served {
        Ok(serving) => {
            report(Ok(()));
            runtime.block_on(serving);
        }
        Err(error) => report(Err(error)),
    }
    runtime.shutdown_timeout(END);
}

/// Pins this thread to `cpus`. Does nothing if there are none.
fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::from(rustix::io::Errno::INVAL));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[test]
    fn cpus_that_do_not_exist_fail_the_start() {
        for cpu in [1_023, 100_000] {
            let started = spawn("test", vec![cpu], || Ok::<_, StartError>(ready(())));
            assert_eq!(
                started.unwrap_err().to_string(),
                format!(
                    "cannot run the test thread on CPUs [{cpu}]: Invalid argument (os error 22)"
                )
            );
        }
    }

    /// A lookup with silent name servers hangs like this.
    #[test]
    fn work_that_hangs_does_not_hold_up_the_end() {
        let (held, hangs) = mpsc::channel::<()>();
        let serve = || {
            let work = tokio::task::spawn_blocking(move || hangs.recv());
            Ok::<_, StartError>(async move { drop(work) })
        };
        let thread = spawn("test", Vec::new(), serve).unwrap();
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(thread.join().is_ok()));
        let is_ended = end.recv_timeout(20 * END);
        drop(held);
        assert_eq!(is_ended, Ok(true));
    }

    #[test]
    fn an_error_of_the_servers_is_returned() {
        let serve = || {
            let error = io::ErrorKind::AddrInUse.into();
            Err::<std::future::Ready<()>, _>(StartError::Thread { thread: "test", error })
        };
        let started = spawn("test", Vec::new(), serve);
        assert!(matches!(started.unwrap_err(), StartError::Thread { .. }));
    }
}
