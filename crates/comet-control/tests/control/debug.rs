//! The pages of the debug addresses, and the white list.

use comet_control::Options;
use comet_core::Message;

use crate::fake::{PATIENT, ROOMY, options, start, start_with};

#[tokio::test]
async fn the_debug_index_lists_the_debug_pages() {
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
async fn every_shard_gets_a_new_white_list() {
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
