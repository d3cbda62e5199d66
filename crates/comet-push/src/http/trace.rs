//! `/comet/node/trace`: a live trace, as a line of JSON for each event.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use comet_serve::Query;
use comet_wire::comet::v1::trace_req::Subject;
use comet_wire::comet::v1::{TraceReply, TraceReq};
use serde_json::{Value, json};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::http::push::room_id;
use crate::node_admin::NodeAdmin;
use crate::trace_fields::trace_fields;

/// The kinds of subjects; a request names exactly one.
const SUBJECTS: [&str; 4] = ["key", "mid", "room", "address"];

pub(super) async fn begin<O: NodeAdmin>(
    admin: Arc<O>,
    request: Request,
) -> Result<O::Trace, Status> {
    let query = Query::read(request.uri().query())?;
    let mut named = Vec::new();
    for name in SUBJECTS {
        named.extend(query.text_if_given(name)?.map(|_| name));
    }
    let subject = match named[..] {
        ["key"] => Subject::Key(query.text("key")?.to_owned()),
        ["mid"] => Subject::User(query.number("mid", i64::MIN..=i64::MAX)?),
        ["room"] => Subject::RoomId(room_id(&query)?),
        ["address"] => Subject::Address(query.text("address")?.to_owned()),
        _ => {
            let sentence = format!("name one of {}", SUBJECTS.join(", "));
            return Err(Status::invalid_argument(sentence));
        }
    };
    let seconds = query.optional_number("seconds", 0..=i64::from(u32::MAX))?;
    admin.trace(TraceReq { subject: Some(subject), seconds })
}

/// The answer, which continues until the trace ends or its caller leaves.
pub(super) fn lines<T>(trace: T) -> Response
where
    T: Stream<Item = Result<TraceReply, Status>> + Send + 'static,
{
    let lines = Body::from_stream(trace.map(|reply| reply.map(text)));
    let head = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
    (head, lines).into_response()
}

fn text(TraceReply { events, missed }: TraceReply) -> String {
    let events = events.into_iter().map(|event| {
        let fields = trace_fields(event).into_iter();
        Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
    });
    let missed = (missed > 0).then(|| json!({ "missed": missed }));
    events.chain(missed).map(|line| format!("{line}\n")).collect()
}
