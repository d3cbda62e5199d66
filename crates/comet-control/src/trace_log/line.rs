//! The lines of the trace log: a time in RFC 3339 with milliseconds, then words and `name=value`. A key,
//! a room and everything else a client chose is quoted and escaped, so that a line stays a line.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use comet_core::{Millis, TraceEvent, TraceKind};
use jiff::{SignedDuration, Timestamp};

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

    /// Adds the line of `event`.
    pub(super) fn event(&mut self, event: &TraceEvent) {
        let TraceEvent { conn, user, key, what, at: Millis(at) } = event;
        let at = SignedDuration::from_millis(i64::try_from(*at).unwrap_or(i64::MAX));
        let at = self.epoch.saturating_add(at).unwrap_or_default();
        let (shard, slot, generation) = (conn.shard.0, conn.slot, conn.generation);
        self.write(format_args!(
            "{at:.3} conn={shard}/{slot}.{generation} key={key:?} user={user} "
        ));
        match what {
            TraceKind::Authenticated { room: None } => self.write(format_args!("authenticated")),
            TraceKind::Authenticated { room: Some(room) } => {
                self.write(format_args!("authenticated room={room:?}"));
            }
            TraceKind::Read { operation, sequence, bytes } => {
                self.write(format_args!("read op={operation} seq={sequence} bytes={bytes}"));
            }
            TraceKind::Wrote { operation, sequence, bytes } => {
                self.write(format_args!("wrote op={operation} seq={sequence} bytes={bytes}"));
            }
            TraceKind::Closed { reason } => {
                self.write(format_args!("closed reason={}", reason.label()));
            }
            TraceKind::Missed { events } => self.write(format_args!("missed events={events}")),
        }
        self.text.push('\n');
    }

    /// Adds the line that says how many events the file has not.
    pub(super) fn missing(&mut self, events: u64) {
        let now = self.now;
        self.write(format_args!("{now:.3} missed events={events}\n"));
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use comet_core::{CloseReason, ConnId, Generation, ShardId, Slot};

    use super::*;

    #[test]
    fn each_event_is_one_line_whatever_is_in_it() {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut lines = Lines::new(epoch + Duration::from_secs(60), Duration::from_secs(60));
        let room = Some("a\" b\n".into());
        let events = [
            TraceKind::Authenticated { room: None },
            TraceKind::Authenticated { room },
            TraceKind::Read { operation: 2, sequence: -1, bytes: 16 },
            TraceKind::Wrote { operation: 1000, sequence: 0, bytes: 20 },
            TraceKind::Closed { reason: CloseReason::Replaced },
            TraceKind::Missed { events: 3 },
        ];
        for (at, what) in (0..).zip(events) {
            lines.event(&TraceEvent {
                conn: ConnId { shard: ShardId(1), slot: Slot(2), generation: Generation(3) },
                user: 7,
                key: "k\r\u{1b}[31m".into(),
                what,
                at: Millis(at * 1_001),
            });
        }
        lines.missing(9);
        let who = r#"conn=1/2.3 key="k\r\u{1b}[31m" user=7"#;
        let expected = [
            format!("2023-11-14T22:13:20.000Z {who} authenticated\n"),
            format!("2023-11-14T22:13:21.001Z {who} authenticated room=\"a\\\" b\\n\"\n"),
            format!("2023-11-14T22:13:22.002Z {who} read op=2 seq=-1 bytes=16\n"),
            format!("2023-11-14T22:13:23.003Z {who} wrote op=1000 seq=0 bytes=20\n"),
            format!("2023-11-14T22:13:24.004Z {who} closed reason=replaced\n"),
            format!("2023-11-14T22:13:25.005Z {who} missed events=3\n"),
            "2023-11-14T22:14:20.000Z missed events=9\n".to_owned(),
        ];
        assert_eq!(lines.text, expected.concat());
    }

    #[test]
    fn times_beyond_all_bounds_do_not_stop_the_log() {
        let mut lines = Lines::new(SystemTime::UNIX_EPOCH, Duration::MAX);
        lines.event(&TraceEvent {
            conn: ConnId { shard: ShardId(0), slot: Slot(0), generation: Generation(0) },
            user: 0,
            key: "".into(),
            what: TraceKind::Missed { events: 1 },
            at: Millis(u64::MAX),
        });
        assert!(lines.text.ends_with("missed events=1\n"));
    }
}
