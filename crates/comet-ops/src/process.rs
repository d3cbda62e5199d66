//! The kernel's figures of this process, under the names every Prometheus client library uses.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::exposition::{Exposition, Kind};
use crate::number::Number;

/// The process at one moment.
pub(crate) struct Process {
    /// CPU time of all threads, in user and kernel mode.
    cpu: Duration,
    resident_bytes: u64,
    virtual_bytes: u64,
    /// `None`: the first count is under way.
    open_files: Option<u64>,
    /// `None`: there is no limit.
    open_files_max: Option<u64>,
    /// Since 1970.
    started: Duration,
}

impl Process {
    /// # Errors
    /// If `/proc` is not mounted.
    pub(crate) fn read() -> io::Result<Self> {
        let stat = procfs::process::Process::myself().and_then(|process| process.stat());
        let stat = stat.map_err(io::Error::other)?;
        let boot = procfs::boot_time_secs().map_err(io::Error::other)?;
        let started = Duration::from_millis(
            stat.starttime.saturating_mul(1_000) / procfs::ticks_per_second().max(1),
        );
        // procfs has this only in ticks of 10 ms.
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or_default();
        Ok(Self {
            cpu: Duration::from_secs(seconds) + Duration::from_nanos(cpu.tv_nsec.unsigned_abs()),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            open_files: open_files()?,
            open_files_max: getrlimit(Resource::Nofile).current,
            started: Duration::from_secs(boot) + started,
        })
    }

    /// Adds the families.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        let Self { cpu, resident_bytes, virtual_bytes, open_files, open_files_max, started } = self;
        let families: [(&str, Kind, &str, Option<Number>); 6] = [
            (
                "process_cpu_seconds_total",
                Kind::Counter,
                "CPU time of all threads.",
                Some((*cpu).into()),
            ),
            (
                "process_resident_memory_bytes",
                Kind::Gauge,
                "Memory in RAM.",
                Some((*resident_bytes).into()),
            ),
            (
                "process_virtual_memory_bytes",
                Kind::Gauge,
                "Address space in use.",
                Some((*virtual_bytes).into()),
            ),
            (
                "process_open_fds",
                Kind::Gauge,
                "Open files, sockets too.",
                open_files.map(Number::from),
            ),
            (
                "process_max_fds",
                Kind::Gauge,
                "Open files the limit allows.",
                open_files_max.map(Number::from),
            ),
            (
                "process_start_time_seconds",
                Kind::Gauge,
                "When the process started, in seconds since 1970.",
                Some((*started).into()),
            ),
        ];
        for (name, kind, help, value) in families {
            if let Some(value) = value {
                page.family(name, kind, help).sample(value);
            }
        }
    }
}

/// There are as many open files as connections, and more. They are counted one by one only if the kernel does not
/// provide their number, as it does since Linux 6.2.
fn open_files() -> io::Result<Option<u64>> {
    match fs::metadata("/proc/self/fd")?.len() {
        0 => Ok(COUNT.latest()),
        files => Ok(Some(files)),
    }
}

static COUNT: Count = Count { files: AtomicU64::new(0), is_counting: AtomicBool::new(false) };

/// The count of open files, made by a separate thread: counting a million takes a second, for which the thread that
/// exposes the figures cannot wait.
struct Count {
    /// 0 before the first count.
    files: AtomicU64,
    is_counting: AtomicBool,
}

impl Count {
    /// The latest count. Starts another one, if none is under way.
    fn latest(&'static self) -> Option<u64> {
        if !self.is_counting.swap(true, Ordering::AcqRel) {
            let count = move || {
                if let Ok(files) = count_open_files() {
                    self.files.store(files, Ordering::Release);
                }
                self.is_counting.store(false, Ordering::Release);
            };
            if thread::Builder::new().name("comet-open-files".to_owned()).spawn(count).is_err() {
                self.is_counting.store(false, Ordering::Release);
            }
        }
        Some(self.files.load(Ordering::Acquire)).filter(|files| *files > 0)
    }
}

/// procfs's own count includes the entries `.` and `..`, so it is not used.
fn count_open_files() -> io::Result<u64> {
    // Subtracts the open directory itself.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 0 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.cpu > Duration::ZERO);
        assert!(process.started > Duration::from_secs(1_500_000_000));
    }

    /// Other tests open and close a few files at the same time.
    #[test]
    fn open_files_are_counted_either_way() {
        const MANY: usize = 500;
        let before = open_files().unwrap().unwrap_or_else(|| count_open_files().unwrap());
        let many: Vec<_> = (0..MANY).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let told = open_files().unwrap();
        let is_told = fs::metadata("/proc/self/fd").unwrap().len() > 0;
        for files in told.filter(|_| is_told).into_iter().chain([count_open_files().unwrap()]) {
            let more = files.saturating_sub(before);
            assert!(more.abs_diff(MANY as u64) < 100, "{before}, {files}");
        }
        drop(many);
    }

    #[test]
    fn the_count_comes_from_another_thread() {
        while COUNT.latest().is_none() {
            thread::yield_now();
        }
        assert!(COUNT.latest().is_some());
    }
}
