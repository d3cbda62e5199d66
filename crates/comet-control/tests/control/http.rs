//! The pages at the stat address.

use comet_core::{CloseReason, Counters, DropReason, Message, Report};
use comet_wire::goim::comet::PushMsgReq;
use comet_wire::goim::comet::comet_client::CometClient;
use serde_json::{Value, json};

use crate::fake::{PATIENT, ROOMY, start};
use crate::text_format::parse;

pub(crate) fn counters(scale: u64) -> Counters {
    let mut counters = Counters {
        accepted_tcp: 3 * scale,
        live: 2 * scale,
        connections: 5 * scale,
        turn_micros_max: 600_000 + scale,
        waiting_bytes: 100 * scale,
        trace_missed: scale,
        ..Counters::default()
    };
    counters.turn_times.record_many(250_000, 4 * scale);
    counters.closed[CloseReason::Replaced as usize] = 7 * scale;
    counters.deliveries.matched = 11 * scale;
    counters.deliveries.queued = 9 * scale;
    counters.deliveries.dropped[DropReason::Filtered as usize] = 2 * scale;
    counters
}

#[tokio::test]
async fn metrics_sum_the_shards() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    // A call that is counted. It is refused, so that no shard has to answer.
    CometClient::new(fake.channel().await).push_msg(PushMsgReq::default()).await.unwrap_err();
    let both = [counters(1), counters(10)];
    let (content_type, body) = fake.metrics(&both).await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let metrics = parse(&body).unwrap();
    let check = |sample: &str, kind: &str, value: f64| {
        assert_eq!(metrics.get(sample), Some(&(kind.to_owned(), value)), "{sample}");
    };
    check("comet_accepted_tcp_total", "counter", 33.0);
    check("comet_live", "gauge", 22.0);
    check("comet_matched_total", "counter", 121.0);
    check("comet_queued_total", "counter", 99.0);
    check("comet_dropped_total{reason=\"filtered\"}", "counter", 22.0);
    check("comet_dropped_total{reason=\"outbox_full\"}", "counter", 0.0);
    check("comet_closed_total{reason=\"replaced\"}", "counter", 77.0);
    check("comet_core_connections{core=\"0\"}", "gauge", 5.0);
    check("comet_core_connections{core=\"1\"}", "gauge", 50.0);
    check("comet_core_inbox_depth{core=\"1\"}", "gauge", 0.0);
    check("comet_calls_total{rpc=\"PushMsg\",code=\"InvalidArgument\"}", "counter", 1.0);
    check("comet_waiting_bytes", "gauge", 1100.0);
    check("comet_white_log_missed_total", "counter", 11.0);
    check("comet_core_turns_total{core=\"1\"}", "counter", 40.0);
    check("comet_core_turn_seconds_total{core=\"1\"}", "counter", 10.0);
    check("comet_core_turn_seconds_max{core=\"0\"}", "gauge", 0.600001);
    let of_process = |name: &str| metrics[name].1;
    assert!(of_process("process_resident_memory_bytes") > 0.0);
    assert!(of_process("process_cpu_seconds_total") > 0.0);
    assert!(of_process("process_open_fds") < of_process("process_max_fds"));
    assert!(of_process("process_start_time_seconds") > 1.5e9);
    let build = metrics.keys().find(|sample| sample.starts_with("comet_build_info{")).unwrap();
    for label in ["version=\"0.0.0\"", "server_id=\"test\"", "rustc=\"rustc 1.", "revision=\""] {
        assert!(build.contains(label), "{label} in {build}");
    }
}

#[tokio::test]
async fn stat_has_totals_cores_and_the_fullest_rooms() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let both = [counters(1), counters(10)];
    let rooms: [&[(&str, u32)]; 2] = [&[("a", 1), ("b", 7)], &[("c", 3)]];
    let answer = async || fake.answer_stat(&both, &rooms).await;
    let (content_type, body) = fake.answered_page("/stat?top=2", answer).await;
    assert_eq!(content_type, "application/json");
    let stat: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(stat["server_id"], "test");
    assert_eq!(stat["phase"], "starting");
    assert!(stat["uptime_seconds"].is_u64());
    assert_eq!(stat["calls_under_way"], 0);
    let totals = &stat["totals"];
    assert_eq!(totals["live"], 22);
    assert_eq!(totals["closed"]["replaced"], 77);
    assert_eq!(totals["dropped"]["filtered"], 22);
    let turns = json!({
        "count": 44, "micros": 11_000_000, "micros_mean": 250_000, "micros_max": 600_010
    });
    assert_eq!(totals["turns"], turns);
    let cores = stat["cores"].as_array().unwrap();
    let on_cores: Vec<_> =
        cores.iter().map(|core| (&core["core"], &core["live"], &core["inbox_depth"])).collect();
    assert_eq!(on_cores, [(&json!(0), &json!(2), &json!(0)), (&json!(1), &json!(20), &json!(0))]);
    assert_eq!(cores[0]["dropped"]["filtered"], 2);
    assert_eq!(cores[1]["turns"]["micros_max"], 600_010);
    let fullest = json!([{ "room": "b", "online": 7 }, { "room": "c", "online": 3 }]);
    assert_eq!(stat["rooms"], json!({ "count": 3, "fullest": fullest }));
}

#[tokio::test]
async fn rooms_are_ten_or_as_many_as_asked_for() {
    let fake = start(PATIENT, &[ROOMY]);
    let names: Vec<String> = (0..12).map(|index| format!("room{index:02}")).collect();
    let rooms: Vec<_> = names.iter().map(String::as_str).zip(1..).collect();
    for (path, count) in [("/stat/rooms", 10), ("/stat/rooms?top=3", 3), ("/stat/rooms?top=20", 12)]
    {
        let answer = async || {
            let Message::Rooms { call } = fake.shards[0].next().await else {
                panic!("only rooms are asked for")
            };
            let rooms = rooms.iter().map(|(name, online)| ((*name).into(), *online)).collect();
            fake.report(Report::Rooms { call, rooms });
        };
        let (_, body) = fake.answered_page(path, answer).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        let fullest = answer["fullest"].as_array().unwrap();
        assert_eq!((&answer["count"], fullest.len()), (&json!(12), count), "{path}");
        assert_eq!(fullest[0], json!({ "room": "room11", "online": 12 }));
    }
    for top in ["0", "10001", "x"] {
        let (status, _, body) = fake.page(&format!("/stat/rooms?top={top}")).await;
        let sentence = format!("top: {top:?} is not a whole number from 1 to 10000\n");
        assert_eq!((status, body), (400, sentence));
    }
}

#[tokio::test]
async fn build_info_describes_the_running_build() {
    let fake = start(PATIENT, &[ROOMY]);
    let (status, content_type, body) = fake.page("/buildinfo").await;
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    let info: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(info["version"], "0.0.0");
    assert!(info["rustc"].as_str().unwrap().starts_with("rustc 1."), "{info}");
    assert!(info["target"].as_str().unwrap().contains("linux"), "{info}");
    assert!(["debug", "release"].contains(&info["profile"].as_str().unwrap()), "{info}");
    let commit = info["commit"].as_str().unwrap();
    assert!(commit == "unknown" || commit.len() >= 7, "{info}");
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_left_out_with_all_sums() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let one = [counters(1)];
    let (_, body) = fake.metrics(&one).await;
    let metrics = parse(&body).unwrap();
    let value = |sample: &str| metrics.get(sample).map(|(_, value)| *value);
    assert_eq!(value("comet_core_answers{core=\"0\"}"), Some(1.0));
    assert_eq!(value("comet_core_answers{core=\"1\"}"), Some(0.0));
    assert_eq!(value("comet_core_connections{core=\"0\"}"), Some(5.0));
    assert_eq!(value("comet_core_connections{core=\"1\"}"), None);
    assert!(value("comet_core_inbox_depth{core=\"1\"}").is_some());
    let sums = ["comet_connections", "comet_queued_total", "comet_white_log_missed_total"];
    assert_eq!(sums.map(value), [None; 3]);
    assert!(!body.contains("comet_closed_total"), "{body}");
}

#[tokio::test]
async fn other_paths_are_not_there() {
    let fake = start(PATIENT, &[ROOMY]);
    assert_eq!(fake.page("/nothing").await.0, 404);
}
