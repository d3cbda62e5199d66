//! What a process costs, read from outside: CPU time by thread and resident memory (procfs).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use serde::Serialize;

use crate::Result;

/// Threads whose name starts so do the push API's work; the others carry deliveries.
const CONTROL_THREADS: [&str; 2] = ["comet-control", "tokio"];

/// Reads what a process costs; nothing where it is not known which process that is.
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
    /// Of all threads.
    pub total_ns: u64,
    /// Of the threads of the control side: gRPC, HTTP.
    pub control_ns: u64,
    /// Of all others: the data cores.
    pub data_ns: u64,
    /// By thread name; threads of one name are added up.
    pub by_thread_ns: BTreeMap<String, u64>,
}

/// Resident memory at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(crate) struct Memory {
    /// Resident pages of all kinds.
    pub rss_bytes: u64,
    /// Of these, heap, stacks and private mappings.
    pub anonymous_bytes: u64,
}

/// Its methods fail where the process is gone.
impl Gauge {
    /// CPU time so far.
    pub(crate) fn cpu(self) -> Result<Option<CpuSample>> {
        self.read("CPU time", CpuSample::of)
    }

    pub(crate) fn memory(self) -> Result<Option<Memory>> {
        self.read("memory", Memory::of)
    }

    /// Resident memory, read so cheaply that it can be often.
    pub(crate) fn resident_bytes(self) -> Result<Option<u64>> {
        self.read("memory", resident_bytes)
    }

    fn read<T>(self, what: &str, of: fn(u32) -> io::Result<T>) -> Result<Option<T>> {
        let sample = self.pid.map(of).transpose();
        sample.map_err(|error| format!("the server's {what} cannot be read: {error}").into())
    }
}

impl CpuSample {
    /// Reads `/proc/PID/task/*/schedstat`, whose first field is time on a CPU in ns
    /// (Documentation/scheduler/sched-stats in the kernel's tree). A running thread's time is at most a
    /// scheduler tick old. Fails if the process is gone, or the kernel has no schedstat.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let thread = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(thread) = thread else { continue };
            match thread_time(&path) {
                Ok(time) => threads.insert(thread, time),
                // It ended since the directory was read.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
        }
        Ok(Self { threads })
    }

    /// Adds the threads of another process.
    pub(crate) fn add(&mut self, other: Self) {
        // The host numbers all threads.
        self.threads.extend(other.threads);
    }

    /// What was spent since `earlier`. A thread that ended in between is not in it.
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
            *used.by_thread_ns.entry(now.name.clone()).or_default() += spent;
        }
        used
    }
}

impl Memory {
    /// Reads `/proc/PID/smaps_rollup` (Linux 4.14). Fails if the process is gone or belongs to somebody
    /// else.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        parse_memory(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)
            .ok_or_else(|| io::Error::other("smaps_rollup names no Rss"))
    }
}

/// Resident pages of a process, from `/proc/PID/statm`: unlike [`Memory`] a read that walks no page tables,
/// but the kernel's counter may be some pages behind. Fails if the process is gone.
fn resident_bytes(pid: u32) -> io::Result<u64> {
    let pages = field(&fs::read_to_string(format!("/proc/{pid}/statm"))?, 1)
        .ok_or_else(|| io::Error::other("statm has no resident pages"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn thread_time(path: &std::path::Path) -> io::Result<ThreadTime> {
    let read = |file: &str| fs::read_to_string(PathBuf::from(path).join(file));
    let cpu_ns = field(&read("schedstat")?, 0)
        .ok_or_else(|| io::Error::other("schedstat has no time on CPU"))?;
    Ok(ThreadTime { name: read("comm")?.trim_end().to_owned(), cpu_ns })
}

fn is_gone(error: &io::Error) -> bool {
    // A thread that ends while its files are open answers ESRCH.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn field(line: &str, index: usize) -> Option<u64> {
    line.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn parse_memory(rollup: &str) -> Option<Memory> {
    let bytes = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Memory { rss_bytes: bytes("Rss:")?, anonymous_bytes: bytes("Anonymous:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_numbers() {
        assert_eq!(field("166311 3286336 2\n", 0), Some(166_311));
        assert_eq!(field("1574 281 254 9 0 102 0\n", 1), Some(281));
        assert_eq!((field("", 0), field("x 1 2", 0), field("1574\n", 1)), (None, None, None));
    }

    #[test]
    fn memory_comes_from_the_right_lines() {
        let rollup = "55e4-7ffd ---p 00000000 00:00 0    [rollup]\n\
                      Rss:                1772 kB\n\
                      Pss:                 316 kB\n\
                      Anonymous:           116 kB\n\
                      AnonHugePages:         7 kB\n";
        let expected = Memory { rss_bytes: 1772 * 1024, anonymous_bytes: 116 * 1024 };
        assert_eq!(parse_memory(rollup), Some(expected));
        assert_eq!(parse_memory("Rss: many\n"), None);
    }

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
        assert!(Memory::of(pid).unwrap().rss_bytes > 0);
        assert!(resident_bytes(pid).unwrap() > 0);
        assert!(CpuSample::of(u32::MAX).is_err());
    }
}
