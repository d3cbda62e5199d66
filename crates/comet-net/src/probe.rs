//! Checks of the machine before anything is bound. Each failure is one sentence about what is missing.

use std::fmt;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::ring::{self, Call};

/// glommio refuses to start an executor with less locked memory.
const MEMLOCK_MIN: u64 = 512 << 10;
/// Locked memory of a core beside its own ring, as measured: glommio's three rings and their buffers.
const MEMLOCK_OVERHEAD: u64 = 256 << 10;
/// The oldest kernel known to count rings as locked memory; 6.1 does not.
const COUNTS_RINGS: (u32, u32) = (6, 18);
/// The smallest ring that is tried in order to fit the locked memory.
const ENTRIES_MIN: u32 = 256;
/// Descriptors other than connections, those of a core apart: control's listeners and sockets, files.
const DESCRIPTORS_OVERHEAD: u64 = 224;
/// Descriptors of a core other than connections: its rings and event descriptors, 6 as measured, and its listeners.
const DESCRIPTORS_OF_A_CORE: u64 = 16;
/// Most entries for which the descriptor table is enlarged at start: 8 MiB of the kernel's memory.
const RESERVED_MAX: u64 = 1 << 20;

/// A sentence about what is missing and what to change.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeError(String);

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProbeError {}

/// Checks kernel, io_uring with all of its calls, and locked memory for `cores` cores with rings of up to `entries`. Raises
/// the soft limits of locked memory and of open files to the hard limits. Returns how many connections the limit of
/// open files allows.
///
/// # Errors
/// The first thing that is missing.
pub fn probe(entries: u32, cores: usize) -> Result<u64, ProbeError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    check_kernel(&release)?;
    // First, as all that follows opens files.
    let open_files = check_open_files(raise(Resource::Nofile), cores)?;
    ring::rehearse().map_err(|(call, error)| ProbeError(explain_ring(call, &error)))?;
    let memlock = raise(Resource::Memlock);
    let counts = version(&release) >= COUNTS_RINGS && !may_lock_all();
    check_memlock(
        memlock,
        if counts { locked_memory(entries.min(ENTRIES_MIN), cores) } else { 0 },
    )?;
    Ok(open_files)
}

/// Descriptors other than connections, of a process with `cores` data cores.
fn overhead(cores: usize) -> u64 {
    DESCRIPTORS_OVERHEAD + DESCRIPTORS_OF_A_CORE * cores as u64
}

/// The number of connections that a limit of open files allows.
fn check_open_files(limit: Option<u64>, cores: usize) -> Result<u64, ProbeError> {
    let limit = limit.unwrap_or(u64::MAX);
    match limit.saturating_sub(overhead(cores)) {
        0 => Err(ProbeError(format!(
            "open files are limited to {limit}, and comet needs {} on this many cores ({cores}), and one more for each \
             connection: raise the limit (ulimit -n, or LimitNOFILE= in a systemd unit)",
            overhead(cores)
        ))),
        open_files => Ok(open_files),
    }
}

/// Makes the kernel enlarge the table of descriptors for `connections` on `cores` data cores, and returns whether it did.
/// Call it after [`probe`] and before threads are started. In a process with threads the kernel
/// waits for an RCU grace period each time the table doubles (`expand_fdtable` in fs/file.c); the
/// core that accepts is blocked for those 6 to 26 ms.
pub fn reserve_descriptors(connections: u64, cores: usize) -> bool {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = connections.saturating_add(overhead(cores)).min(RESERVED_MAX).min(allowed);
    // The table never shrinks, so the descriptor at its end may be closed again.
    let last = i32::try_from(wanted.saturating_sub(1)).expect("bounded above");
    let any = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
    any.and_then(|any| rustix::io::fcntl_dupfd_cloexec(any, last)).is_ok()
}

/// The largest ring, up to `entries`, with which `cores` cores stay within the limit of locked
/// memory. Newer kernels (6.18 is one, 6.1 is not) count rings as locked memory, unless the process
/// has `CAP_IPC_LOCK`. A smaller ring only makes turns shorter. Call it after [`probe`].
#[must_use]
pub fn fit_ring(entries: u32, cores: usize) -> u32 {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if !may_lock_all() => fit(entries, cores, bytes),
        _ => entries,
    }
}

fn fit(entries: u32, cores: usize, bytes: u64) -> u32 {
    let halves = std::iter::successors(Some(entries), |entries| Some(entries / 2));
    let mut halves = halves.take_while(|&entries| entries >= ENTRIES_MIN);
    halves
        .find(|&entries| locked_memory(entries, cores) <= bytes)
        .unwrap_or(entries.min(ENTRIES_MIN))
}

/// Bytes that the rings of `cores` cores take, each of `entries`; newer kernels count them as locked memory.
#[must_use]
pub fn locked_memory(entries: u32, cores: usize) -> u64 {
    cores as u64 * (MEMLOCK_OVERHEAD + ring::ring_bytes(entries))
}

/// Whether the process is exempt from the limit of locked memory.
fn may_lock_all() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK))
}

fn check_kernel(release: &str) -> Result<(), ProbeError> {
    if version(release) < (6, 1) {
        let sentence = format!("the kernel is {release}: comet needs Linux 6.1 or newer");
        return Err(ProbeError(sentence));
    }
    Ok(())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn explain_ring(call: Call, error: &io::Error) -> String {
    let name = match call {
        Call::Setup => "io_uring_setup",
        Call::Register => "io_uring_register",
        Call::Enter => "io_uring_enter",
    };
    let allow = "allow io_uring_setup, io_uring_register and io_uring_enter in the seccomp profile (that of a \
                 container forbids them by default)";
    let sysctl = "set sysctl kernel.io_uring_disabled=0";
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!("io_uring is forbidden here, {name} is refused: {allow}, and {sysctl}")
        }
        Some(libc::ENOSYS) => format!(
            "io_uring is not there, {name} is unknown: {allow}, and {sysctl}; or the kernel was built \
             without io_uring"
        ),
        Some(libc::ENOMEM) => {
            "io_uring got no locked memory: raise the limit (ulimit -l, or LimitMEMLOCK= in a \
             systemd unit) to 1 MiB a core and more"
                .into()
        }
        _ => format!("io_uring cannot be used, {name} failed: {error}"),
    }
}

/// `needed` is the locked memory of the smallest rings, on kernels that count rings.
fn check_memlock(limit: Option<u64>, needed: u64) -> Result<(), ProbeError> {
    match limit {
        Some(bytes) if bytes < MEMLOCK_MIN => Err(ProbeError(format!(
            "locked memory is limited to {} KiB: raise it to at least {} KiB (ulimit -l, or \
             LimitMEMLOCK= in a systemd unit)",
            bytes >> 10,
            MEMLOCK_MIN >> 10
        ))),
        Some(bytes) if bytes < needed => Err(ProbeError(format!(
            "locked memory is limited to {} KiB, and the rings of all cores need {} KiB: raise it (ulimit -l, \
             or LimitMEMLOCK= in a systemd unit) to 1 MiB a core and more, or name fewer server.cores",
            bytes >> 10,
            needed.div_ceil(1 << 10)
        ))),
        _ => Ok(()),
    }
}

/// Raises the soft limit to the hard limit. Returns the new soft limit; `None`: no limit.
fn raise(resource: Resource) -> Option<u64> {
    let limit = getrlimit(resource);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(resource, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_1_are_refused() {
        for (release, good) in [
            ("6.1.0-13-amd64", true),
            ("6.18.44", true),
            ("7.0", true),
            ("6.0.19", false),
            ("5.15.0-91-generic", false),
            ("", false),
        ] {
            assert_eq!(check_kernel(release).is_ok(), good, "{release}");
        }
    }

    #[test]
    fn errors_name_the_limit_to_raise() {
        let memlock = check_memlock(Some(64 << 10), 0).unwrap_err();
        assert!(memlock.to_string().contains("64 KiB: raise it to at least 512 KiB"), "{memlock}");
        assert_eq!(check_memlock(None, 0), Ok(()));
        assert_eq!(check_memlock(Some(768 << 10), locked_memory(256, 2)), Ok(()));
        let rings = check_memlock(Some(600 << 10), locked_memory(256, 2)).unwrap_err();
        let sentence = "limited to 600 KiB, and the rings of all cores need 674 KiB: raise it";
        assert!(rings.to_string().contains(sentence), "{rings}");
        assert_eq!(check_open_files(Some(256), 1), Ok(16));
        assert_eq!(check_open_files(None, 64), Ok(u64::MAX - 1_248));
        let files = check_open_files(Some(256), 2).unwrap_err().to_string();
        assert!(
            files.contains("limited to 256, and comet needs 256 on this many cores (2)"),
            "{files}"
        );
        let forbidden = explain_ring(Call::Setup, &io::Error::from_raw_os_error(libc::EPERM));
        assert!(forbidden.contains("kernel.io_uring_disabled=0"), "{forbidden}");
    }

    #[test]
    fn rings_are_halved_until_all_cores_fit() {
        let mib = 1 << 20;
        assert_eq!(fit(4096, 2, 8 * mib), 4096);
        assert_eq!(fit(4096, 16, 8 * mib), 512);
        assert_eq!(fit(4096, 24, 8 * mib), 256);
        assert_eq!(fit(1024, 2, 768 << 10), 256);
        // Not enough for the smallest ring: the start fails and names the limit to raise.
        assert_eq!(fit(4096, 400, 8 * mib), 256);
        assert_eq!(fit(64, 400, 8 * mib), 64);
    }

    #[test]
    fn reserving_enlarges_the_table_of_descriptors() {
        probe(256, 1).unwrap();
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let wanted = 2000.min(allowed - overhead(1));
        assert!(reserve_descriptors(wanted, 1));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(size.trim().parse::<u64>().unwrap() >= wanted, "{size}");
        // A number beyond the limit is cut to the limit.
        assert!(reserve_descriptors(u64::MAX - overhead(1), 1));
    }

    #[test]
    fn this_machine_runs_comet() {
        assert!(probe(256, 1).unwrap() > 0);
    }
}
