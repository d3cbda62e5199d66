//! What the kernel says of this process, under the names every Prometheus client library uses.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::exposition::{Exposition, Kind, Number};

/// The process at one moment.
pub(crate) struct Process {
    /// CPU time of all threads, in the kernel and out of it.
    cpu: Duration,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_files: u64,
    /// `None`: there is no limit.
    open_files_max: Option<u64>,
    /// Since 1970.
    started: Duration,
}

impl Process {
    /// # Errors
    /// If `/proc` is not there.
    pub(crate) fn read() -> io::Result<Self> {
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat")?).ok_or_else(unexpected)?;
        let boot = boot(&fs::read_to_string("/proc/stat")?).ok_or_else(unexpected)?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or_default();
        Ok(Self {
            cpu: Duration::from_secs(seconds) + Duration::from_nanos(cpu.tv_nsec.unsigned_abs()),
            resident_bytes: stat.resident_pages * page_size() as u64,
            virtual_bytes: stat.virtual_bytes,
            open_files: open_files()?,
            open_files_max: getrlimit(Resource::Nofile).current,
            started: boot + ticks(stat.started_ticks),
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
                Some((*open_files).into()),
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

/// As many as there are connections, and more: so they are counted one by one only where the kernel
/// does not say how many there are, which it does since Linux 6.2.
fn open_files() -> io::Result<u64> {
    match fs::metadata("/proc/self/fd")?.len() {
        0 => count_open_files(),
        files => Ok(files),
    }
}

fn count_open_files() -> io::Result<u64> {
    // The directory that is read is open itself.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "/proc does not read as proc(5) says")
}

fn ticks(ticks: u64) -> Duration {
    let second = clock_ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1_000) / second)
}

/// Fields of `/proc/self/stat`, proc_pid_stat(5).
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    /// Field 22, since boot.
    started_ticks: u64,
    /// Field 23.
    virtual_bytes: u64,
    /// Field 24.
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace().skip(22 - 3).map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Self { started_ticks: next()?, virtual_bytes: next()?, resident_pages: next()? })
    }
}

/// When the system booted, since 1970: the line `btime` of `/proc/stat`.
fn boot(text: &str) -> Option<Duration> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let text = format!("7 (a) b) {}", fields.join(" "));
        let stat = Stat { started_ticks: 22, virtual_bytes: 23, resident_pages: 24 };
        assert_eq!(Stat::parse(&text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn boot_is_in_its_line() {
        assert_eq!(
            boot("cpu 1 2\nbtime 1700000000\nx 1\n"),
            Some(Duration::from_secs(1_700_000_000))
        );
        assert_eq!(boot("cpu 1 2\n"), None);
    }

    #[test]
    fn this_process_is_there() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 0 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.cpu > Duration::ZERO);
        assert!(process.started > Duration::from_secs(1_500_000_000));
    }

    /// Other tests open and close files beside this one: a few.
    #[test]
    fn open_files_are_counted_either_way() {
        const MANY: usize = 500;
        let before = open_files().unwrap();
        let many: Vec<_> = (0..MANY).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        for files in [open_files().unwrap(), count_open_files().unwrap()] {
            let more = files.saturating_sub(before);
            assert!(more.abs_diff(MANY as u64) < 100, "{before}, {files}");
        }
        drop(many);
    }
}
