//! The debug addresses: profiles, log level, white list.

use comet_control::Options;
use comet_core::Message;
use log::LevelFilter;
use serde_json::{Value, json};

use crate::fake::{PATIENT, ROOMY, options, start, start_with};

#[tokio::test]
async fn the_index_names_what_is_there() {
    let fake = start(PATIENT, &[ROOMY]);
    let (status, page) = fake.debug("GET", "/debug/pprof/", "").await;
    assert_eq!(status, 200);
    for path in ["profile", "flamegraph", "heap", "heap/flamegraph", "/log/level", "/white_list"] {
        assert!(page.contains(path), "{path} in {page}");
    }
    assert_eq!(fake.debug("GET", "/metrics", "").await.0, 404);
    assert_eq!(fake.debug("DELETE", "/white_list", "").await.0, 405);
}

#[tokio::test]
async fn seconds_are_bounded() {
    let fake = start(PATIENT, &[ROOMY]);
    for (path, seconds) in [
        ("profile", "0"),
        ("profile", "61"),
        ("flamegraph", "x"),
        ("heap", "61"),
        ("heap/flamegraph", "-1"),
    ] {
        let path = format!("/debug/pprof/{path}?seconds={seconds}");
        let sentence = format!("seconds: {seconds:?} is not a whole number from 1 to 60\n");
        assert_eq!(fake.debug("GET", &path, "").await, (400, sentence));
    }
}

#[tokio::test]
async fn a_flame_graph_of_the_heap_shows_one_of_four_counts() {
    let fake = start(PATIENT, &[ROOMY]);
    let (status, sentence) = fake.debug("GET", "/debug/pprof/heap/flamegraph?sample=cpu", "").await;
    let expected = "sample: \"cpu\" is none of alloc_objects, alloc_space, inuse_objects, \
                    inuse_space\n";
    assert_eq!((status, sentence.as_str()), (400, expected));
}

/// The only test of this program that changes the level: it belongs to the process.
#[tokio::test]
async fn the_log_level_is_changed_alive() {
    let fake = start(PATIENT, &[ROOMY]);
    let level = async |method: &str, body: &str| {
        let (status, answer) = fake.debug(method, "/log/level", body).await;
        (status, serde_json::from_str::<Value>(&answer).unwrap())
    };
    log::set_max_level(LevelFilter::Info);
    assert_eq!(level("GET", "").await, (200, json!({ "level": "info" })));
    assert_eq!(level("PUT", "Debug\n").await, (200, json!({ "level": "debug", "old": "info" })));
    assert_eq!(log::max_level(), LevelFilter::Debug);
    assert_eq!(level("GET", "").await, (200, json!({ "level": "debug" })));
    let (status, sentence) = fake.debug("PUT", "/log/level", "loud").await;
    let expected =
        "\"loud\" is no level: send off, error, warn, info, debug or trace as the body\n";
    assert_eq!((status, sentence.as_str()), (400, expected));
    assert_eq!(log::max_level(), LevelFilter::Debug);
}

#[tokio::test]
async fn every_shard_hears_of_a_new_white_list() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("white-list.log");
    let with_file = Options { trace_log: Some(file), ..options(PATIENT) };
    let fake = start_with(with_file, &[ROOMY, ROOMY]);
    let put = async |body: &str| fake.debug("PUT", "/white_list", body).await;
    let (status, answer) = put(r#"{"users":[7,-1,7]}"#).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"old":[],"users":[-1,7]}"#));
    for shard in &fake.shards {
        let Message::Configure { limits } = shard.next().await else { panic!("nothing else") };
        assert_eq!(*limits.trace_users, [-1, 7]);
    }
    let (status, answer) = fake.debug("GET", "/white_list", "").await;
    assert_eq!((status, answer.as_str()), (200, r#"{"users":[-1,7]}"#));
    let bad = ["", "[1]", "{}", r#"{"users":1}"#, r#"{"users":[1.5]}"#, r#"{"users":[],"x":1}"#];
    for body in bad {
        let (status, sentence) = put(body).await;
        assert_eq!(status, 400, "{body}");
        assert!(sentence.starts_with("the body is not "), "{sentence}");
    }
    let (status, answer) = put(r#"{"users":[]}"#).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"old":[-1,7],"users":[]}"#));
}

#[tokio::test]
async fn a_white_list_without_a_file_is_refused() {
    let fake = start(PATIENT, &[ROOMY]);
    let (status, sentence) = fake.debug("PUT", "/white_list", r#"{"users":[1]}"#).await;
    assert_eq!(status, 409);
    assert!(sentence.starts_with("white_list.file is not set"), "{sentence}");
    assert_eq!(fake.debug("PUT", "/white_list", r#"{"users":[]}"#).await.0, 200);
}
