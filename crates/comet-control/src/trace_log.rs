//! The lines of the trace log: events of connections of users on the white list. Keys, rooms and all other text chosen
//! by a client are quoted and escaped, so that each event stays on one line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{Millis, TraceEvent, TraceKind};
use comet_ops::TraceLine;
use serde_json::Value;

pub(crate) use comet_ops::LogCounts as Counts;

/// The file to which the lines are written.
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

    fn fields(&self) -> Vec<(&'static str, Value)> {
        let TraceEvent { user, key, what, .. } = &*self.0;
        let mut fields =
            vec![("conn", self.conn().into()), ("key", (**key).into()), ("user", (*user).into())];
        fields.push(("event", self.event().into()));
        match what {
            TraceKind::Authenticated { room } => {
                fields.extend(room.iter().map(|room| ("room", (**room).into())));
            }
            TraceKind::Read { operation, sequence, bytes }
            | TraceKind::Wrote { operation, sequence, bytes } => {
                fields.push(("op", (*operation).into()));
                fields.push(("seq", (*sequence).into()));
                fields.push(("bytes", (*bytes).into()));
            }
            TraceKind::Closed { reason } => fields.push(("reason", reason.label().into())),
            TraceKind::Missed { events } => fields.push(("events", (*events).into())),
            // These are reported only to live traces.
            TraceKind::Accepted { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Left { .. }
            | TraceKind::Queued { .. }
            | TraceKind::Dropped { .. } => {}
        }
        fields
    }
}

impl Line {
    /// The connection, written as in the log.
    fn conn(&self) -> String {
        let conn = self.0.conn;
        format!("{}/{}.{}", conn.shard.0, conn.slot, conn.generation)
    }

    /// The name of the event.
    fn event(&self) -> &'static str {
        match &self.0.what {
            TraceKind::Authenticated { .. } => "authenticated",
            TraceKind::Read { .. } => "read",
            TraceKind::Wrote { .. } => "wrote",
            TraceKind::Closed { .. } => "closed",
            TraceKind::Missed { .. } => "missed",
            TraceKind::Accepted { .. } => "accepted",
            TraceKind::Joined { .. } => "joined",
            TraceKind::Left { .. } => "left",
            TraceKind::Queued { .. } => "queued",
            TraceKind::Dropped { .. } => "dropped",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { user, key, what, .. } = &*self.0;
        write!(f, "conn={} key={key:?} user={user} {}", self.conn(), self.event())?;
        match what {
            TraceKind::Authenticated { room: None } => Ok(()),
            TraceKind::Authenticated { room: Some(room) } => write!(f, " room={room:?}"),
            TraceKind::Read { operation, sequence, bytes }
            | TraceKind::Wrote { operation, sequence, bytes } => {
                write!(f, " op={operation} seq={sequence} bytes={bytes}")
            }
            TraceKind::Closed { reason } => write!(f, " reason={}", reason.label()),
            TraceKind::Missed { events } => write!(f, " events={events}"),
            TraceKind::Accepted { .. }
            | TraceKind::Joined { .. }
            | TraceKind::Left { .. }
            | TraceKind::Queued { .. }
            | TraceKind::Dropped { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use comet_core::{CloseReason, ConnId, Generation, ShardId, Slot};
    use serde_json::json;

    use super::*;

    #[test]
    fn each_event_is_one_line_whatever_is_in_it() {
        let check = |what, expected: &str, fields: Value| {
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
            let mut all = json!({ "conn": "1/2.3", "key": "k\r\u{1b}[31m", "user": 7 });
            all.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
            assert_eq!(line.fields().into_iter().collect::<Value>(), all);
        };
        let authenticated = json!({ "event": "authenticated" });
        check(TraceKind::Authenticated { room: None }, "authenticated", authenticated);
        let room = Some("a\" b\n".into());
        let fields = json!({ "event": "authenticated", "room": "a\" b\n" });
        check(TraceKind::Authenticated { room }, r#"authenticated room="a\" b\n""#, fields);
        let read = TraceKind::Read { operation: 2, sequence: -1, bytes: 16 };
        let fields = json!({ "event": "read", "op": 2, "seq": -1, "bytes": 16 });
        check(read, "read op=2 seq=-1 bytes=16", fields);
        let wrote = TraceKind::Wrote { operation: 1000, sequence: 0, bytes: 20 };
        let fields = json!({ "event": "wrote", "op": 1000, "seq": 0, "bytes": 20 });
        check(wrote, "wrote op=1000 seq=0 bytes=20", fields);
        let closed = TraceKind::Closed { reason: CloseReason::Replaced };
        let fields = json!({ "event": "closed", "reason": "replaced" });
        check(closed, "closed reason=replaced", fields);
        let fields = json!({ "event": "missed", "events": 3 });
        check(TraceKind::Missed { events: 3 }, "missed events=3", fields);
    }
}
