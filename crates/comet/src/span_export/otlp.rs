//! Traced pushes as the messages of OTLP.

use std::time::{SystemTime, UNIX_EPOCH};

use comet_control::{PushedNames, Reported, ShardSpan, TracedPush};
use comet_core::DropReason;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

/// The parent of a call's span is on another host, as bits 8 and 9 of the flags state (`SpanFlags`). Bit 0: sampled.
const REMOTE_PARENT: u32 = 0x301;
const LOCAL_PARENT: u32 = 0x101;

pub(super) fn request(server_id: &str, pushes: Vec<TracedPush>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", "comet"),
            text("service.instance.id", server_id),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "comet.push".to_owned(), ..Default::default() };
    let spans = pushes.into_iter().flat_map(spans).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans =
        ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// How many spans the collector rejected; `None`: the answer is not from a collector.
pub(super) fn rejected(answer: &[u8]) -> Option<u64> {
    let answer = ExportTraceServiceResponse::decode(answer).ok()?;
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    Some(rejected.try_into().unwrap_or(0))
}

fn spans(push: TracedPush) -> impl Iterator<Item = Span> {
    let TracedPush { parent, id, path, begin, end, names, error, shards, left_out } = push;
    let PushedNames { keys, users, rooms } = names;
    let mut attributes = vec![
        number("comet.keys", keys as u64),
        number("comet.users", users as u64),
        number("comet.rooms", rooms as u64),
    ];
    attributes.extend(error.map(|error| text("error.type", error)));
    if left_out > 0 {
        attributes.push(number("comet.spans_left_out", left_out.into()));
    }
    let trace_id = parent.trace.to_be_bytes().to_vec();
    let call = Span {
        trace_id: trace_id.clone(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent.span.to_be_bytes().to_vec(),
        flags: REMOTE_PARENT,
        name: path.trim_start_matches('/').to_owned(),
        kind: SpanKind::Server as i32,
        start_time_unix_nano: nanos(begin),
        end_time_unix_nano: nanos(end),
        attributes,
        status: error.map(failed),
        ..Span::default()
    };
    [call].into_iter().chain(shards.into_iter().map(move |shard| of_shard(&trace_id, &shard)))
}

fn of_shard(trace_id: &[u8], span: &ShardSpan) -> Span {
    let mut attributes = vec![number("comet.shard", span.shard.0.into())];
    let mut error = None;
    match &span.reported {
        Some(Reported::Tally(tally)) => {
            attributes.extend([
                number("comet.matched", tally.matched),
                number("comet.queued", tally.queued),
                number("comet.absent", tally.absent),
                number("comet.parked", tally.parked),
            ]);
            for reason in DropReason::ALL {
                let dropped = tally.dropped[*reason as usize];
                if dropped > 0 {
                    attributes.push(number(&format!("comet.dropped.{}", reason.label()), dropped));
                }
            }
        }
        Some(Reported::Scheduled(connections)) => {
            attributes.push(number("comet.scheduled", *connections));
        }
        Some(Reported::Busy) => error = Some("too many paced broadcasts"),
        None => error = Some("no report"),
    }
    let posted = span.posted.map(|posted| Event {
        time_unix_nano: nanos(posted),
        name: "in the inbox".to_owned(),
        ..Event::default()
    });
    Span {
        trace_id: trace_id.to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: span.parent.to_be_bytes().to_vec(),
        flags: LOCAL_PARENT,
        name: if span.is_home { "home" } else { "shard" }.to_owned(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: nanos(span.begin),
        end_time_unix_nano: nanos(span.end),
        attributes,
        events: posted.into_iter().collect(),
        status: error.map(failed),
        ..Span::default()
    }
}

fn failed(message: &str) -> Status {
    Status { message: message.to_owned(), code: StatusCode::Error as i32 }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
