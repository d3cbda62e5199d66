//! Callers that take no bytes of their answers, by the flow control of HTTP/2, and read everything else.
//!
//! Clocks are paused only for the waits: while bytes are under way a paused clock may go on.

use std::time::Duration;

use axum::body::Bytes;
use comet_serve::{Gates, UNAUTHENTICATED_ANSWERS_MAX};
use tokio::time::{Instant, pause, resume, sleep, timeout};

use crate::caller::{CHECK, Caller, EMPTY, EXHAUSTED, LIST, REFLECTION, Server};

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The window of a stream that takes its answers.
const WIDE: u32 = 64 << 10;

/// How long a caller may take no bytes, and the longest delay until that is noticed.
const TAKES_NOTHING: Duration = Duration::from_secs(30);
const LATER: Duration = Duration::from_secs(30);

const HOUR: Duration = Duration::from_secs(3_600);

fn gates() -> Gates {
    Gates::new(65_536, 64 << 20)
}

/// Waits until the server has closed the connection because its caller takes no bytes.
async fn is_closed(gates: &Gates, caller: Caller, since: Instant) {
    timeout(HOUR, caller.ended).await.expect("the connection is closed").unwrap();
    let after = since.elapsed();
    assert!(after >= TAKES_NOTHING && after < TAKES_NOTHING + LATER, "{after:?}");
    assert!(gates.read()[0].closed.contains(&("write_timeout", 1)));
}

#[tokio::test]
async fn a_connection_is_closed_whose_caller_takes_no_answer() {
    for (path, messages) in [(CHECK, &EMPTY[..]), (WATCH, &EMPTY), (REFLECTION, &LIST)] {
        // The last byte of the shortest answer does not fit.
        for window in [0, 1, 6] {
            let gates = gates();
            let server = Server::start(&gates, &[]);
            let mut caller = server.caller(window).await;
            let since = Instant::now();
            let _call = caller.call(path, messages, path != REFLECTION).await;
            pause();
            is_closed(&gates, caller, since).await;
            resume();
        }
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_its_caller_stays() {
    let gates = gates();
    let server = Server::start(&gates, &[]);
    let mut caller = server.caller(WIDE).await;
    let mut unasked = caller.call(REFLECTION, &[], false).await;
    let mut stream = caller.call(REFLECTION, &LIST, false).await;
    let mut watch = caller.call(WATCH, &EMPTY, true).await;
    stream.take().await;
    watch.take().await;
    pause();
    sleep(HOUR).await;
    resume();
    for stream in [&mut unasked, &mut stream] {
        stream.request.send_data(Bytes::from_static(&LIST), false).unwrap();
        assert!(!stream.take().await.is_empty());
    }
    assert_eq!(caller.check().await, "0");
}

#[tokio::test]
async fn answers_without_a_token_have_a_number() {
    let gates = gates();
    let server = Server::start(&gates, &["a-token"]);
    let mut unauthenticated = server.caller(0).await;
    let mut calls = Vec::new();
    for _ in 0..UNAUTHENTICATED_ANSWERS_MAX {
        let call = unauthenticated.call(CHECK, &EMPTY, true).await;
        assert_eq!(call.refused(), None);
        calls.push(call);
    }
    let mut honest = server.caller(WIDE).await;
    assert_eq!(honest.check().await, EXHAUSTED);
    assert!(gates.read()[0].refused.contains(&("answers", 1)));
    // A call with a token is served.
    let call = honest.call_with(CHECK, Some("Bearer a-token"), &EMPTY, true).await;
    assert_eq!(call.status().await, "0");
    pause();
    unauthenticated.ended.await.unwrap();
    assert_eq!(honest.check().await, "0");
}

#[tokio::test]
async fn streams_have_a_number() {
    let gates = gates();
    let server = Server::start(&gates, &[]);
    let (mut callers, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let mut caller = server.caller(WIDE).await;
        for _ in 0..1_024 {
            let stream = caller.call(REFLECTION, &[], false).await;
            assert_eq!(stream.refused(), None);
            streams.push(stream);
        }
        callers.push(caller);
    }
    let mut caller = server.caller(WIDE).await;
    assert_eq!(caller.check().await, EXHAUSTED);
    streams.pop();
    // Until the server has noticed the end of the connection.
    while caller.check().await == EXHAUSTED {}
}
