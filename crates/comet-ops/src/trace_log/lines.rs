//! The lines of a trace log: a time in RFC 3339 with milliseconds, then the event, as text or as the fields of an object.

use std::fmt::Display;
use std::io::Write;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::line_writer::{Change, Format};
use crate::log_format::{LogFormat, now, write_object};

/// An event that becomes a line: [`Display`] is its text, without a time and a line end. Text chosen by a client is
/// quoted and escaped, so that the event stays on one line.
pub trait TraceLine: Display + Send + 'static {
    /// When it happened, relative to the zero of the events' clock.
    fn at(&self) -> Duration;

    /// The event as fields of JSON, in the order in which they are written.
    fn fields(&self) -> Vec<(&'static str, Value)>;
}

/// Converts events to lines.
pub(super) struct Lines<L> {
    path: PathBuf,
    format: LogFormat,
    /// The zero of the events' times.
    epoch: Instant,
    clock: Clock,
    events: PhantomData<fn(L)>,
}

impl<L> Lines<L> {
    /// `path` is the file's name in messages.
    pub(super) fn new(path: PathBuf, format: LogFormat, epoch: Instant) -> Self {
        let clock = Clock::new(now(), epoch.elapsed());
        Self { path, format, epoch, clock, events: PhantomData }
    }
}

impl<L: TraceLine> Format for Lines<L> {
    type Entry = L;

    fn size(_: &L) -> usize {
        size_of::<L>()
    }

    fn begin(&mut self) {
        // The wall clock may have been set since the last batch.
        self.clock = Clock::new(now(), self.epoch.elapsed());
    }

    fn line(&mut self, event: L, lines: &mut Vec<u8>) {
        let at = self.clock.time(event.at());
        match self.format {
            LogFormat::Text => write_text(lines, at, event),
            LogFormat::Json => write_object(lines, at, &event.fields()),
        }
    }

    fn missing(&mut self, events: u64, lines: &mut Vec<u8>) {
        let now = self.clock.now;
        match self.format {
            LogFormat::Text => write_text(lines, now, format_args!("missed events={events}")),
            LogFormat::Json => {
                let fields = [("event", "missed".into()), ("events", events.into())];
                write_object(lines, now, &fields);
            }
        }
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

/// Converts times of events to times of day.
struct Clock {
    now: Timestamp,
    /// The zero of the events' times.
    epoch: Timestamp,
}

impl Clock {
    /// `now` is `since_epoch` after the zero of the events' times.
    fn new(now: Timestamp, since_epoch: Duration) -> Self {
        let epoch = now.saturating_sub(since_epoch).unwrap_or_default();
        Self { now, epoch }
    }

    /// The time of an event that happened `at`.
    fn time(&self, at: Duration) -> Timestamp {
        self.epoch.saturating_add(at).unwrap_or_default()
    }
}

fn write_text(lines: &mut Vec<u8>, at: Timestamp, event: impl Display) {
    writeln!(lines, "{at:.3} {event}").expect("a Vec takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Event(Duration);

    impl Display for Event {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a=\"\\n\"")
        }
    }

    impl TraceLine for Event {
        fn at(&self) -> Duration {
            self.0
        }

        fn fields(&self) -> Vec<(&'static str, Value)> {
            vec![("z", 1.into()), ("a", "\n".into())]
        }
    }

    /// The lines of events with these times, relative to a zero a minute ago.
    fn lines(format: LogFormat, events: &[Duration]) -> String {
        let mut all = Lines::new(PathBuf::new(), format, Instant::now());
        let epoch = Timestamp::from_second(1_700_000_000).unwrap();
        let minute = Duration::from_secs(60);
        all.clock = Clock::new(epoch.checked_add(minute).unwrap(), minute);
        let mut lines = Vec::new();
        for at in events {
            all.line(Event(*at), &mut lines);
        }
        all.missing(9, &mut lines);
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn lines_begin_with_their_time() {
        let events = [Duration::ZERO, Duration::from_millis(1_001)];
        assert_eq!(
            lines(LogFormat::Text, &events),
            "2023-11-14T22:13:20.000Z a=\"\\n\"\n2023-11-14T22:13:21.001Z a=\"\\n\"\n\
             2023-11-14T22:14:20.000Z missed events=9\n"
        );
        assert_eq!(
            lines(LogFormat::Json, &events[1..]),
            "{\"time\":\"2023-11-14T22:13:21.001Z\",\"z\":1,\"a\":\"\\n\"}\n\
             {\"time\":\"2023-11-14T22:14:20.000Z\",\"event\":\"missed\",\"events\":9}\n"
        );
    }

    #[test]
    fn times_beyond_all_bounds_do_not_stop_the_log() {
        let lines = lines(LogFormat::Text, &[Duration::from_millis(u64::MAX), Duration::MAX]);
        assert_eq!(lines.lines().count(), 3, "{lines}");
        let clock = Clock::new(Timestamp::UNIX_EPOCH, Duration::MAX);
        assert!(clock.epoch <= clock.now);
    }
}
