//! Whether the new process works or hangs, as the kernel sees it. A process that is slow because its host is busy is
//! running, ready to run, or waiting for a disk. A stopped or deadlocked process is in none of these states.

use std::fs;
use std::time::Duration;

/// Time between two checks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// Checks in a row without any sign of work before the process counts as hung. They are counted, not timed, so time in
/// which this process does not run either is left out.
const QUIET_MAX: u32 = 10;

/// The latest observation of a process.
#[derive(Debug)]
pub(crate) struct HangDetector {
    process: u32,
    /// CPU time of all its threads, in ticks of the kernel.
    ticks: u64,
    quiet: u32,
}

impl HangDetector {
    pub(crate) fn of(process: u32) -> Self {
        Self { process, ticks: 0, quiet: 0 }
    }

    /// Notes that the process answered or took something.
    pub(crate) fn note_progress(&mut self) {
        self.quiet = 0;
    }

    /// Checks the process after it has done nothing with the channel for [`LOOK`]. Returns whether it hangs.
    pub(crate) fn hangs(&mut self) -> bool {
        let seen = threads(self.process).fold(None, |sum: Option<(bool, u64)>, (state, ticks)| {
            let (busy, all) = sum.unwrap_or_default();
            Some((busy || matches!(state, b'R' | b'D'), all + ticks))
        });
        // If the kernel gives no information, only the deadline applies.
        let Some((is_busy, ticks)) = seen else { return false };
        if is_busy || ticks != self.ticks {
            self.quiet = 0;
        } else {
            self.quiet += 1;
        }
        self.ticks = ticks;
        self.quiet >= QUIET_MAX
    }
}

/// State and CPU time of each thread of a process.
fn threads(process: u32) -> impl Iterator<Item = (u8, u64)> {
    let folder = fs::read_dir(format!("/proc/{process}/task"));
    let threads = folder.into_iter().flatten().flatten();
    threads.filter_map(|thread| read(&fs::read_to_string(thread.path().join("stat")).ok()?))
}

/// Reads proc_pid_stat(5): field 3, and the sum of fields 14 and 15. The name before them may contain any characters.
fn read(stat: &str) -> Option<(u8, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let mut times = fields.skip(10);
    let mut time = || times.next()?.parse::<u64>().ok();
    Some((state, time()? + time()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_time_are_behind_the_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(read(stat), Some((b'S', 23)));
        assert_eq!(read("7 (a) S 1 2"), None);
    }

    #[test]
    fn a_process_that_is_unknown_or_runs_does_not_hang() {
        let mut unknown = HangDetector::of(u32::MAX);
        let mut this = HangDetector::of(std::process::id());
        for _ in 0..2 * QUIET_MAX {
            assert!(!unknown.hangs() && !this.hangs());
        }
    }
}
