//! The clock of a run: `CLOCK_MONOTONIC` in nanoseconds, which is the same in every process of a host, and a timer on
//! it that is more precise than the runtime's own, which counts milliseconds.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::thread::{ClockId as SleepClock, clock_nanosleep_absolute};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A second in nanoseconds.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// A millisecond in nanoseconds.
pub(crate) const MILLISECOND_NS: u64 = 1_000_000;

/// Nanoseconds since the host's boot.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * SECOND_NS + time.tv_nsec.unsigned_abs()
}

/// A span of time in the form of system calls.
pub(crate) fn timespec(nanoseconds: u64) -> Timespec {
    Duration::from_nanos(nanoseconds).try_into().expect("a u64 of ns is below 2^63 s")
}

/// A command line's seconds as nanoseconds; negative ones are 0.
pub(crate) fn seconds_to_ns(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64
}

/// Blocks the thread until `deadline_ns`.
pub(crate) fn sleep_until(deadline_ns: u64) {
    let deadline = timespec(deadline_ns);
    // It fails if a signal interrupts it; then it sleeps again until the same absolute deadline.
    while clock_nanosleep_absolute(SleepClock::Monotonic, &deadline).is_err() {}
}

/// A timer for asynchronous code, precise to a few microseconds.
pub(crate) struct Timer {
    descriptor: AsyncFd<OwnedFd>,
}

impl Timer {
    /// Creates a timer on the current tokio runtime. Fails if the host refuses another descriptor.
    #[expect(
        deprecated,
        reason = "the owner of a descriptor never changes it; `register` is unsafe"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { descriptor: AsyncFd::new(descriptor)? })
    }

    /// Waits until `deadline_ns`; does not yield if that has passed. Fails if the timer's descriptor failed.
    pub(crate) async fn until(&self, deadline_ns: u64) -> io::Result<()> {
        if deadline_ns <= now_ns() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(0), it_value: timespec(deadline_ns) };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &once)?;
        loop {
            let mut ready = self.descriptor.readable().await?;
            let fired = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(outcome) = fired {
                outcome?;
                return Ok(());
            }
        }
    }
}
