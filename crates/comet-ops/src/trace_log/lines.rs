//! The lines of a trace log: a time in RFC 3339 with milliseconds, then the event.

use std::fmt::Display;
use std::io::Write;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use crate::line_writer::{Change, Format};

/// An event that becomes a line: [`Display`] is its text, without a time and a line end. What
/// a client chose is quoted and escaped, so that a line stays a line.
pub trait TraceLine: Display + Send + 'static {
    /// When it happened, after the zero of the events' clock.
    fn at(&self) -> Duration;
}

/// Makes lines of events.
pub(super) struct Lines<L> {
    path: PathBuf,
    /// The zero of the events' times.
    epoch: Instant,
    clock: Clock,
    events: PhantomData<fn(L)>,
}

impl<L> Lines<L> {
    /// `path` is the file's name in messages.
    pub(super) fn new(path: PathBuf, epoch: Instant) -> Self {
        let clock = Clock::new(SystemTime::now(), epoch.elapsed());
        Self { path, epoch, clock, events: PhantomData }
    }
}

impl<L: TraceLine> Format for Lines<L> {
    type Entry = L;

    fn size(_: &L) -> usize {
        size_of::<L>()
    }

    fn begin(&mut self) {
        // The wall clock may have been set since the last batch.
        self.clock = Clock::new(SystemTime::now(), self.epoch.elapsed());
    }

    fn line(&mut self, event: L, lines: &mut Vec<u8>) {
        self.clock.event(event.at(), event, lines);
    }

    fn missing(&mut self, events: u64, lines: &mut Vec<u8>) {
        self.clock.missing(events, lines);
    }

    fn changed(&mut self, change: Change<'_>) {
        let path = self.path.display();
        match change {
            Change::Failed(error) => log::error!("white_list.file: {path}: {error}"),
            Change::Recovered => log::info!("white_list.file: {path} takes lines again"),
            Change::NotReopened(error) => log::error!(
                "white_list.file: {path} cannot be opened again, the old file is written on: {error}"
            ),
        }
    }
}

/// What turns times of events into times of the day.
struct Clock {
    now: Timestamp,
    /// The zero of the events' times.
    epoch: Timestamp,
}

impl Clock {
    /// `now` is `since_epoch` after the zero of the events' times.
    fn new(now: SystemTime, since_epoch: Duration) -> Self {
        // Beyond the year 9999 times are wrong, and lines still come.
        let now = Timestamp::try_from(now).unwrap_or_default();
        let epoch = now.saturating_sub(since_epoch).unwrap_or_default();
        Self { now, epoch }
    }

    /// Appends the line of an event that happened `at`.
    fn event(&self, at: Duration, event: impl Display, lines: &mut Vec<u8>) {
        let at = self.epoch.saturating_add(at).unwrap_or_default();
        writeln!(lines, "{at:.3} {event}").expect("a Vec takes everything");
    }

    /// Appends the line that says how many events are missing.
    fn missing(&self, events: u64, lines: &mut Vec<u8>) {
        writeln!(lines, "{:.3} missed events={events}", self.now).expect("a Vec takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_their_time() {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = Clock::new(epoch + Duration::from_secs(60), Duration::from_secs(60));
        let mut lines = Vec::new();
        clock.event(Duration::ZERO, "a=1", &mut lines);
        clock.event(Duration::from_millis(1_001), "b=2", &mut lines);
        clock.missing(9, &mut lines);
        assert_eq!(
            str::from_utf8(&lines).unwrap(),
            "2023-11-14T22:13:20.000Z a=1\n2023-11-14T22:13:21.001Z b=2\n\
             2023-11-14T22:14:20.000Z missed events=9\n"
        );
    }

    #[test]
    fn times_beyond_all_bounds_do_not_stop_the_log() {
        let clock = Clock::new(SystemTime::UNIX_EPOCH, Duration::MAX);
        let mut lines = Vec::new();
        clock.event(Duration::from_millis(u64::MAX), "missed events=1", &mut lines);
        clock.event(Duration::MAX, "missed events=2", &mut lines);
        assert!(lines.ends_with(b"missed events=2\n"));
    }
}
