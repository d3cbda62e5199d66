//! Keeping the CPUs of the host out of their idle states.

use std::fs::File;
use std::io::{self, Write};
use std::mem;

/// The kernel's bound on the time that waking a CPU may take (admin-guide/pm/cpuidle). Root may write to it.
pub(crate) const IDLE_CONTROL: &str = "/dev/cpu_dma_latency";

/// Keeps all CPUs of the host out of their idle states until the process ends. Fails if the kernel has no
/// such control, or the user may not use it.
pub(crate) fn stay_awake() -> io::Result<()> {
    let mut control = File::options().write(true).open(IDLE_CONTROL)?;
    let none_us: i32 = 0;
    control.write_all(&none_us.to_ne_bytes())?;
    // It holds for as long as the file is open.
    mem::forget(control);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};

    use super::*;

    #[test]
    fn awake_is_what_the_kernel_says_then() {
        match stay_awake() {
            Ok(()) => {
                let mut allowed_us = [0xff; 4];
                File::open(IDLE_CONTROL).unwrap().read_exact(&mut allowed_us).unwrap();
                assert_eq!(i32::from_ne_bytes(allowed_us), 0);
            }
            Err(error) => {
                let refused = [ErrorKind::PermissionDenied, ErrorKind::NotFound];
                assert!(refused.contains(&error.kind()), "{error}");
            }
        }
    }
}
