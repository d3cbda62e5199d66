//! The pages at the stat address.

use comet_control::wire::goim::comet::PushMsgReq;
use comet_control::wire::goim::comet::comet_client::CometClient;
use comet_core::{CloseReason, Counters, DropReason};

use crate::fake::{PATIENT, ROOMY, start};
use crate::text_format::parse;

fn counters(scale: u64) -> Counters {
    let mut counters = Counters {
        accepted_tcp: 3 * scale,
        live: 2 * scale,
        connections: 5 * scale,
        ..Counters::default()
    };
    counters.closed[CloseReason::Replaced as usize] = 7 * scale;
    counters.deliveries.matched = 11 * scale;
    counters.deliveries.queued = 9 * scale;
    counters.deliveries.dropped[DropReason::Filtered as usize] = 2 * scale;
    counters
}

#[tokio::test]
async fn metrics_sum_the_shards() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    // A call to be counted: refused, so that no shard has to answer.
    CometClient::new(fake.channel().await).push_msg(PushMsgReq::default()).await.unwrap_err();
    let both = [counters(1), counters(10)];
    let ((status, content_type, body), ()) =
        tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&both));
    assert_eq!((status, content_type.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let metrics = parse(&body).unwrap();
    let check = |sample: &str, kind: &str, value: u64| {
        assert_eq!(metrics.get(sample), Some(&(kind.to_owned(), value)), "{sample}");
    };
    check("comet_accepted_tcp_total", "counter", 33);
    check("comet_live", "gauge", 22);
    check("comet_matched_total", "counter", 121);
    check("comet_queued_total", "counter", 99);
    check("comet_dropped_total{reason=\"filtered\"}", "counter", 22);
    check("comet_dropped_total{reason=\"outbox_full\"}", "counter", 0);
    check("comet_closed_total{reason=\"replaced\"}", "counter", 77);
    check("comet_core_connections{core=\"0\"}", "gauge", 5);
    check("comet_core_connections{core=\"1\"}", "gauge", 50);
    check("comet_core_inbox_depth{core=\"1\"}", "gauge", 0);
    check("comet_calls_total{rpc=\"PushMsg\",code=\"InvalidArgument\"}", "counter", 1);
    check("comet_build_info{version=\"0.0.0\",server_id=\"test\"}", "gauge", 1);
}

#[tokio::test]
async fn stat_has_the_same_totals() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let both = [counters(1), counters(10)];
    let ((status, content_type, body), ()) =
        tokio::join!(fake.page("/stat"), fake.answer_snapshots(&both));
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    let stat: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(stat["server_id"], "test");
    assert_eq!(stat["cores"], 2);
    assert_eq!(stat["totals"]["live"], 22);
    assert_eq!(stat["totals"]["closed"]["replaced"], 77);
    assert_eq!(stat["totals"]["dropped"]["filtered"], 22);
}

#[tokio::test]
async fn a_shard_that_does_not_answer_fails_the_page() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let one = [counters(1)];
    let ((status, _, body), ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&one));
    assert_eq!(status, 503);
    assert!(body.starts_with("reports still missing after 1s: 1; "), "{body}");
}

#[tokio::test]
async fn other_paths_are_not_there() {
    let fake = start(PATIENT, &[ROOMY]);
    assert_eq!(fake.page("/nothing").await.0, 404);
}
