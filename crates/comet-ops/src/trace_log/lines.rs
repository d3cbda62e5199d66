//! The lines of a trace log: a time in RFC 3339 with milliseconds, then the event.

use std::fmt::{Arguments, Write};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Lines under construction.
pub(super) struct Lines {
    text: String,
    now: Timestamp,
    /// The zero of the events' times.
    epoch: Timestamp,
}

impl Lines {
    /// `now` is `since_epoch` after the zero of the events' times.
    pub(super) fn new(now: SystemTime, since_epoch: Duration) -> Self {
        // Beyond the year 9999 times are wrong, and lines still come.
        let now = Timestamp::try_from(now).unwrap_or_default();
        let epoch = now.saturating_sub(since_epoch).unwrap_or_default();
        Self { text: String::new(), now, epoch }
    }

    /// Adds the line of an event that happened `at`.
    pub(super) fn event(&mut self, at: Duration, event: impl std::fmt::Display) {
        let at = self.epoch.saturating_add(at).unwrap_or_default();
        self.write(format_args!("{at:.3} {event}\n"));
    }

    /// Adds the line that says how many events are missing.
    pub(super) fn missing(&mut self, events: u64) {
        let now = self.now;
        self.write(format_args!("{now:.3} missed events={events}\n"));
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    fn write(&mut self, text: Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_their_time() {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut lines = Lines::new(epoch + Duration::from_secs(60), Duration::from_secs(60));
        lines.event(Duration::ZERO, "a=1");
        lines.event(Duration::from_millis(1_001), "b=2");
        lines.missing(9);
        assert_eq!(
            lines.text,
            "2023-11-14T22:13:20.000Z a=1\n2023-11-14T22:13:21.001Z b=2\n\
             2023-11-14T22:14:20.000Z missed events=9\n"
        );
    }

    #[test]
    fn times_beyond_all_bounds_do_not_stop_the_log() {
        let mut lines = Lines::new(SystemTime::UNIX_EPOCH, Duration::MAX);
        lines.event(Duration::from_millis(u64::MAX), "missed events=1");
        lines.event(Duration::MAX, "missed events=2");
        assert!(lines.text.ends_with("missed events=2\n"));
    }
}
