//! The lines of the trace log: what happens to connections of users on the white list. A key, a room and
//! everything else a client chose is quoted and escaped, so that a line stays a line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{Millis, TraceEvent, TraceKind};
use comet_ops::TraceLine;

pub(crate) use comet_ops::LogCounts as Counts;

/// The file that they are written to.
pub(crate) type TraceLog = comet_ops::TraceLog<Line>;

/// An event as a line.
pub(crate) struct Line(Arc<TraceEvent>);

impl From<Arc<TraceEvent>> for Line {
    fn from(event: Arc<TraceEvent>) -> Self {
        Self(event)
    }
}

impl TraceLine for Line {
    fn at(&self) -> Duration {
        let Millis(at) = self.0.at;
        Duration::from_millis(at)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { conn, user, key, what, .. } = &*self.0;
        let (shard, slot, generation) = (conn.shard.0, conn.slot, conn.generation);
        write!(f, "conn={shard}/{slot}.{generation} key={key:?} user={user} ")?;
        match what {
            TraceKind::Authenticated { room: None } => write!(f, "authenticated"),
            TraceKind::Authenticated { room: Some(room) } => {
                write!(f, "authenticated room={room:?}")
            }
            TraceKind::Read { operation, sequence, bytes } => {
                write!(f, "read op={operation} seq={sequence} bytes={bytes}")
            }
            TraceKind::Wrote { operation, sequence, bytes } => {
                write!(f, "wrote op={operation} seq={sequence} bytes={bytes}")
            }
            TraceKind::Closed { reason } => write!(f, "closed reason={}", reason.label()),
            TraceKind::Missed { events } => write!(f, "missed events={events}"),
            TraceKind::Accepted { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Left { .. }
            | TraceKind::Queued { .. }
            | TraceKind::Dropped { .. } => unreachable!("these are told to live traces alone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use comet_core::{CloseReason, ConnId, Generation, ShardId, Slot};

    use super::*;

    #[test]
    fn each_event_is_one_line_whatever_is_in_it() {
        let check = |what, expected: &str| {
            let line = Line(Arc::new(TraceEvent {
                conn: ConnId { shard: ShardId(1), slot: Slot(2), generation: Generation(3) },
                user: 7,
                key: "k\r\u{1b}[31m".into(),
                what,
                at: Millis(1_001),
                is_logged: true,
                traces: [].into(),
            }));
            let conn = r#"conn=1/2.3 key="k\r\u{1b}[31m" user=7"#;
            assert_eq!(line.to_string(), format!("{conn} {expected}"));
            assert_eq!(line.at(), Duration::from_millis(1_001));
        };
        check(TraceKind::Authenticated { room: None }, "authenticated");
        let room = Some("a\" b\n".into());
        check(TraceKind::Authenticated { room }, r#"authenticated room="a\" b\n""#);
        let read = TraceKind::Read { operation: 2, sequence: -1, bytes: 16 };
        check(read, "read op=2 seq=-1 bytes=16");
        let wrote = TraceKind::Wrote { operation: 1000, sequence: 0, bytes: 20 };
        check(wrote, "wrote op=1000 seq=0 bytes=20");
        check(TraceKind::Closed { reason: CloseReason::Replaced }, "closed reason=replaced");
        check(TraceKind::Missed { events: 3 }, "missed events=3");
    }
}
