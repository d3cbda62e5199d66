//! What this machine must offer, looked at before anything is bound: one sentence for what is missing.

use std::fmt;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::ring;

/// glommio refuses to start an executor with less.
const MEMLOCK_MIN: u64 = 512 << 10;
/// Descriptors beside the connections: listeners, rings, control's sockets, files.
const DESCRIPTORS_BESIDE: u64 = 256;

/// What is missing, and what to change.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeError(String);

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProbeError {}

/// Checks kernel, io_uring, locked memory and open files. Raises the soft limit of open files to the
/// hard one. Returns how many connections the open files allow.
///
/// # Errors
/// The first thing that is missing, in a sentence that says what to change.
pub fn probe() -> Result<u64, ProbeError> {
    check_kernel(rustix::system::uname().release().to_str().unwrap_or_default())?;
    if let Err(error) = ring::build(8) {
        return Err(ProbeError(explain_ring(&error)));
    }
    check_memlock(getrlimit(Resource::Memlock).current)?;
    Ok(raise_open_files())
}

fn check_kernel(release: &str) -> Result<(), ProbeError> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 1) {
        let sentence = format!("the kernel is {release}: comet needs Linux 6.1 or newer");
        return Err(ProbeError(sentence));
    }
    Ok(())
}

fn explain_ring(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, and in a container \
             allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile"
                .into()
        }
        Some(libc::ENOSYS) => "the kernel was built without io_uring: use one that has it".into(),
        Some(libc::ENOMEM) => {
            "io_uring got no locked memory: raise the limit (ulimit -l, or LimitMEMLOCK= in a \
             systemd unit) to 1 MiB a core and more"
                .into()
        }
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

fn check_memlock(limit: Option<u64>) -> Result<(), ProbeError> {
    match limit {
        Some(bytes) if bytes < MEMLOCK_MIN => Err(ProbeError(format!(
            "locked memory is limited to {} KiB: raise it to at least {} KiB (ulimit -l, or \
             LimitMEMLOCK= in a systemd unit)",
            bytes >> 10,
            MEMLOCK_MIN >> 10
        ))),
        _ => Ok(()),
    }
}

fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let open = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    open.unwrap_or(u64::MAX).saturating_sub(DESCRIPTORS_BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
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
    fn what_is_missing_says_what_to_change() {
        let memlock = check_memlock(Some(64 << 10)).unwrap_err();
        assert!(memlock.to_string().contains("64 KiB: raise it to at least 512 KiB"), "{memlock}");
        assert_eq!(check_memlock(None), Ok(()));
        let forbidden = explain_ring(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(forbidden.contains("kernel.io_uring_disabled=0"), "{forbidden}");
    }

    #[test]
    fn this_machine_runs_comet() {
        assert!(probe().unwrap() > 0);
    }
}
