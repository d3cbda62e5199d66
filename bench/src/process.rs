//! The cost of a process, read from outside: CPU time by thread and resident memory (procfs).

use std::collections::BTreeMap;

use procfs::process::{Process, Task};
use procfs::{ProcError, ProcResult};
use rustix::io::Errno;
use serde::Serialize;

use crate::Result;
use crate::stats::Reasons;

/// Threads whose names begin like this do the work of the push API; the others handle deliveries.
const CONTROL_THREADS: [&str; 2] = ["comet-control", "tokio"];

/// Reads the cost of a process; returns nothing if the process is not known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    pub pid: Option<u32>,
}

/// CPU time of each thread at one moment.
#[derive(Clone, Default, Debug)]
pub(crate) struct CpuSample {
    threads: BTreeMap<u32, ThreadTime>,
}

#[derive(Clone, Debug)]
struct ThreadTime {
    name: String,
    cpu_ns: u64,
}

/// CPU time spent between two samples.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub(crate) struct CpuUsed {
    /// All threads.
    pub total_ns: u64,
    /// The threads of the control side: gRPC, HTTP.
    pub control_ns: u64,
    /// All others: the data cores.
    pub data_ns: u64,
    /// By thread name; threads of the same name are added up.
    pub by_thread_ns: Reasons,
}

/// Resident memory at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Memory {
    /// Resident pages of all kinds.
    pub rss_bytes: u64,
    /// Of these, heap, stacks and private mappings.
    pub anonymous_bytes: u64,
}

/// Its methods fail if the process is gone.
impl Gauge {
    /// CPU time so far.
    pub(crate) fn cpu(self) -> Result<Option<CpuSample>> {
        self.read("CPU time", CpuSample::of)
    }

    pub(crate) fn memory(self) -> Result<Option<Memory>> {
        self.read("memory", Memory::of)
    }

    /// Open files.
    pub(crate) fn descriptors(self) -> Result<Option<usize>> {
        self.read("number of open files", |pid| process(pid)?.fd_count())
    }

    /// Resident memory, with a read that is cheap enough to be made often.
    pub(crate) fn resident_bytes(self) -> Result<Option<u64>> {
        self.read("memory", resident_bytes)
    }

    fn read<T>(self, what: &str, of: fn(u32) -> ProcResult<T>) -> Result<Option<T>> {
        let sample = self.pid.map(of).transpose();
        sample.map_err(|error| format!("the server's {what} cannot be read: {error}").into())
    }
}

impl CpuSample {
    /// Reads `/proc/PID/task/*/schedstat`, whose first field is time on a CPU in ns
    /// (Documentation/scheduler/sched-stats in the kernel's tree). A running thread's time is at most a
    /// scheduler tick old. Fails if the process is gone, or the kernel has no schedstat.
    pub(crate) fn of(pid: u32) -> ProcResult<Self> {
        let mut threads = BTreeMap::new();
        for task in process(pid)?.tasks()? {
            match task.and_then(|task| Ok((task.tid.unsigned_abs(), ThreadTime::of(&task)?))) {
                Ok((thread, time)) => _ = threads.insert(thread, time),
                // It has ended since the directory was read.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { threads })
    }

    /// Adds the threads of another process.
    pub(crate) fn add(&mut self, other: Self) {
        // Thread numbers are unique on the host.
        self.threads.extend(other.threads);
    }

    /// The CPU time spent since `earlier`. A thread that ended in between is not counted.
    pub(crate) fn since(&self, earlier: &Self) -> CpuUsed {
        let mut used = CpuUsed::default();
        for (thread, now) in &self.threads {
            let before = earlier.threads.get(thread).map_or(0, |before| before.cpu_ns);
            let spent = now.cpu_ns.saturating_sub(before);
            used.total_ns += spent;
            if CONTROL_THREADS.iter().any(|prefix| now.name.starts_with(prefix)) {
                used.control_ns += spent;
            } else {
                used.data_ns += spent;
            }
            used.by_thread_ns.add(&now.name, spent);
        }
        used
    }
}

impl ThreadTime {
    fn of(task: &Task) -> ProcResult<Self> {
        Ok(Self { name: task.stat()?.comm, cpu_ns: task.schedstat()?.sum_exec_runtime })
    }
}

impl Memory {
    /// Reads `/proc/PID/smaps_rollup` (Linux 4.14). Fails if the process is gone or belongs to somebody
    /// else.
    pub(crate) fn of(pid: u32) -> ProcResult<Self> {
        let rollup = process(pid)?.smaps_rollup()?.memory_map_rollup;
        let bytes = |key| rollup.0.first().and_then(|all| all.extension.map.get(key).copied());
        bytes("Rss")
            .zip(bytes("Anonymous"))
            .map(|(rss_bytes, anonymous_bytes)| Self { rss_bytes, anonymous_bytes })
            .ok_or_else(|| ProcError::Other("smaps_rollup names no Rss".to_owned()))
    }
}

/// Resident pages of a process, from `/proc/PID/statm`: unlike [`Memory`], this read walks no page tables, but the
/// kernel's counter may be a few pages behind. Fails if the process is gone.
fn resident_bytes(pid: u32) -> ProcResult<u64> {
    Ok(process(pid)?.statm()?.resident * procfs::page_size())
}

fn process(pid: u32) -> ProcResult<Process> {
    Process::new(pid.cast_signed())
}

fn is_gone(error: &ProcError) -> bool {
    match error {
        ProcError::NotFound(_) => true,
        // For a thread that ends while its files are open, the read fails with ESRCH.
        ProcError::Io(error, _) => error.raw_os_error() == Some(Errno::SRCH.raw_os_error()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_sorted_into_control_and_data() {
        let sample = |times: &[(u32, &str, u64)]| CpuSample {
            threads: times
                .iter()
                .map(|&(id, name, cpu_ns)| (id, ThreadTime { name: name.to_owned(), cpu_ns }))
                .collect(),
        };
        let before = sample(&[(1, "comet-control", 5), (2, "comet-core-0", 10), (4, "gone", 1)]);
        let mut after =
            sample(&[(1, "comet-control", 8), (2, "comet-core-0", 30), (3, "comet-core-0", 2)]);
        after.add(sample(&[(7, "of another process", 4)]));
        let used = after.since(&before);
        assert_eq!((used.total_ns, used.control_ns, used.data_ns), (29, 3, 26));
        assert_eq!(used.by_thread_ns["comet-core-0"], 22);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(!CpuSample::of(pid).unwrap().threads.is_empty());
        let memory = Memory::of(pid).unwrap();
        assert!(memory.rss_bytes > memory.anonymous_bytes && memory.anonymous_bytes > 0);
        assert!(resident_bytes(pid).unwrap() > 0);
        assert!(CpuSample::of(u32::MAX).is_err());
    }
}
