//! Event streams (Server-Sent Events), beside clients of the other transports.

use comet_core::{CloseReason, ConnId, Denied, Hangup, Limits, Logic, Message, Report, Transport};
use comet_proto::op;
use comet_proto::websocket::OriginPattern;

use crate::rig::{Rig, frame, frame_2};

pub(crate) const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
    X-Accel-Buffering: no\r\nConnection: close\r\n\r\nretry: 3000\n\n";
/// Longest time between comments, milliseconds.
const COMMENT_MS: u64 = 25_000;

pub(crate) fn request(query: &str, headers: &str) -> String {
    format!("GET /sse{query} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

pub(crate) fn ask(rig: &mut Rig, conn: ConnId, request: &str) -> String {
    String::from_utf8(rig.ask(conn, request.as_bytes())).unwrap()
}

/// A connection that sent a request with `query`, and the answer to it.
pub(crate) fn open(rig: &mut Rig, shard: u16, query: &str) -> (ConnId, String) {
    let conn = rig.connect(shard, Transport::WebSocket);
    let told = ask(rig, conn, &request(query, ""));
    (conn, told)
}

pub(crate) fn take(rig: &mut Rig, conn: ConnId) -> String {
    String::from_utf8(rig.take(conn)).unwrap()
}

pub(crate) fn event(data: &str) -> String {
    format!("data: [{data}]\n\n")
}

/// The bounds on frames of clients do not apply to the rooms of a request.
#[test]
fn rooms_that_a_request_may_name_are_entered() {
    let many = Limits { rooms: 1_024, head_max: 64 << 10, ..Limits::default() };
    let short = Limits { body_max: 16, ..Limits::default() };
    for (limits, count, length) in [(many, 1_000, 50), (short, 1, 100)] {
        let mut rig = Rig::new(2, limits);
        let names = (0..count).map(|number| format!("{number:0length$}"));
        let query = format!("?token=7/k//&rooms={}", names.collect::<Vec<_>>().join(","));
        let (_, told) = open(&mut rig, 0, &query);
        assert!(told.starts_with(HEAD), "{told}");
        assert_eq!(told.matches("event: room").count(), count);
    }
}

#[test]
fn a_stream_begins_with_its_rooms_and_has_an_event_for_each_push() {
    let mut rig = Rig::new(2, Limits::default());
    let (conn, told) = open(&mut rig, 0, "?token=7/k/main/&rooms=a,b%20c");
    let rooms =
        ["main", "a", "b c"].map(|room| format!("event: room\ndata: {{\"room\":\"{room}\"}}\n\n"));
    assert_eq!(told, format!("{HEAD}{}", rooms.concat()));
    let tcp = rig.join(1, "8/t/a/");
    for (body, json) in [
        (&b"{\"a\": 1}"[..], r#"{"a":1}"#),
        (b"two\nlines\r\n", r#""two\nlines\r\n""#),
        (b"[\n1,\r\n2 ]", "[1,2]"),
        (b"", "{}"),
        (b"\xff\x01", "\"\u{fffd}\\u0001\""),
    ] {
        assert_eq!(rig.push_room("a", 5, body).queued, 2);
        let data = format!(r#"{{"ver":1,"op":5,"seq":0,"room":"a","body":{json}}}"#);
        assert_eq!(take(&mut rig, conn), event(&data));
        assert_eq!(rig.take(tcp), frame(5, 0, body));
    }
    assert_eq!(rig.push_room("main", 6, b"1").queued, 1);
    assert_eq!(take(&mut rig, conn), event(r#"{"ver":1,"op":6,"seq":0,"room":"main","body":1}"#));
    let all = [rig.push_keys(&["k"], 5, b"1"), rig.push_user(7, 5, b"1")];
    assert!(all.iter().all(|tally| tally.queued == 1));
    assert_eq!(rig.push_all(5, b"1", None).queued, 2);
    assert_eq!(take(&mut rig, conn), event(r#"{"ver":1,"op":5,"seq":0,"body":1}"#).repeat(3));
    let batch = [frame(5, 0, b"1"), frame(6, 0, b"x")].concat();
    rig.push_keys(&["k"], op::RAW, &batch);
    let batch = r#"{"ver":1,"op":5,"seq":0,"body":1},{"ver":1,"op":6,"seq":0,"body":"x"}"#;
    assert_eq!(take(&mut rig, conn), event(batch));
    assert_eq!(rig.push_all(5, b"1", Some(1_000)).queued, 0);
    rig.pass(1_000);
    assert_eq!(take(&mut rig, conn), event(r#"{"ver":1,"op":5,"seq":0,"body":1}"#));
}

#[test]
fn all_event_streams_share_an_event() {
    let mut rig = Rig::new(1, Limits::default());
    let streams: Vec<ConnId> =
        (0..100).map(|_| open(&mut rig, 0, "?token=0///&rooms=a").0).collect();
    let two = rig.connect(0, Transport::Tcp);
    rig.ask(two, &frame_2(op::AUTH, 1, b"1/x/a/"));
    // No socket takes bytes, so everything is held.
    streams.iter().for_each(|&conn| rig.allow(conn, Some(0)));
    let body = vec![b'x'; 10_000];
    assert_eq!(rig.push_room("a", 5, &body).queued, 101);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.event_streams, counters.accepted_websocket), (100, 100));
    assert!(counters.waiting_bytes > 1_000_000, "{}", counters.waiting_bytes);
    assert!(counters.held_bytes < 30_000, "{}", counters.held_bytes);
}

#[test]
fn an_invalid_event_stream_request_is_answered_with_an_error_status() {
    #[track_caller]
    fn check(request: &str, status: u16, sentence: &str) {
        let limits = Limits { rooms: 2, body_max: 32, head_max: 512, ..Limits::default() };
        let mut rig = Rig::new(1, limits);
        let conn = rig.connect(0, Transport::WebSocket);
        let answer = ask(&mut rig, conn, request);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert_eq!(body, format!("{{\"error\":\"bad_upgrade\",\"message\":\"{sentence}\"}}\n"));
        assert_eq!(rig.reason(conn), CloseReason::BadUpgrade);
    }
    let get = |query: &str| request(query, "");
    check(&get("?token=%zz"), 400, "token is no percent-encoded UTF-8.");
    check(&get("?token=a%4"), 400, "token is no percent-encoded UTF-8.");
    check(&get("?rooms=%ff"), 400, "rooms is no percent-encoded UTF-8.");
    check(&get("?token=1&token=2"), 400, "token stands more than once.");
    check(&get("?rooms=a,,b"), 400, "rooms has an empty name.");
    check(&get("?rooms=a,b,c"), 400, "3 rooms; at most 2 are taken.");
    let long = format!("?token={}", "x".repeat(33));
    check(&get(&long), 400, "A token of 33 bytes; at most 32 are taken.");
    check(
        &format!("GET /sse?{} HTTP/1.1\r\n", "x".repeat(600)),
        414,
        "The target of the request is too long.",
    );
    check("POST /sse HTTP/1.1\r\nHost: h\r\n\r\n", 405, "Only GET can open an event stream.");
    check("GET /sse HTTP/1.1\r\n\r\n", 400, "The header Host is missing or wrong.");
    for mode in ["no-cors", "navigate"] {
        let header = format!("Sec-Fetch-Mode: {mode}\r\n");
        let sentence = "In a browser only a script can open an event stream.";
        check(&request("?token=1", &header), 403, sentence);
    }
    let bearer = "Authorization: Bearer 1///\r\n";
    check(
        &request("?token=1", bearer),
        400,
        "A token is in the query or in a header, not in both.",
    );
    check(
        &request("", "Authorization: Basic 1\r\n"),
        400,
        "The Authorization header is: Bearer TOKEN.",
    );
    check(
        &request("", "Content-Length: 1\r\n"),
        400,
        "Nothing follows the head of a request for events.",
    );
    check(&(get("") + "x"), 400, "Nothing follows the head of a request for events.");
}

#[test]
fn other_forms_of_a_good_request_open_a_stream() {
    let head = HEAD.strip_suffix("\r\nretry: 3000\n\n").unwrap();
    for request in [
        request("", "Authorization: bearer  1///\r\n"),
        request(
            "?_=1&token=1%2f%2F/&rooms=",
            "Last-Event-ID: 0123456789abcdef-18446744073709551615\r\n",
        ),
        "GET /sse?token=1/// HTTP/1.0\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.connect(0, Transport::WebSocket);
        let bytes = request.as_bytes();
        let (last, first) = bytes.split_last().unwrap();
        first.iter().for_each(|byte| assert_eq!(rig.ask(conn, &[*byte]), b""));
        let told = rig.ask(conn, &[*last]);
        assert!(told.starts_with(head.as_bytes()), "{}", told.escape_ascii());
    }
}

#[test]
fn a_page_may_read_the_stream_if_its_origin_may_connect() {
    let patterns = ["https://*.example"].map(|pattern| OriginPattern::parse(pattern).unwrap());
    let allows = "Access-Control-Allow-Origin: https://a.example\r\n\
        Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n";
    for (origins, origin, status, cors) in [
        (&patterns[..], "https://a.example", "200", allows),
        (&patterns, "https://a.other", "403", ""),
        (&[], "https://a.other", "200", "Access-Control-Allow-Origin: *\r\n"),
    ] {
        let mut rig = Rig::new(1, Limits { origins: origins.into(), ..Limits::default() });
        for (token, status) in
            [("1///", status), ("bad", if status == "200" { "401" } else { status })]
        {
            let conn = rig.connect(0, Transport::WebSocket);
            let headers = format!("Origin: {origin}\r\n");
            let told = ask(&mut rig, conn, &request(&format!("?token={token}"), &headers));
            assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
            let (head, _) = told.split_once("\r\n\r\n").unwrap();
            assert_eq!(head.contains("Access-Control"), !cors.is_empty(), "{told}");
            assert!(told.contains(cors), "{told}");
        }
    }
}

#[test]
fn a_stream_that_does_not_begin_is_refused_with_a_status() {
    let mut rig = Rig::new(1, Limits::default());
    let (conn, told) = open(&mut rig, 0, "?token=bad");
    let body = "{\"error\":\"auth_refused\",\"message\":\"no such token\"}\n";
    assert!(told.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{told}");
    assert!(told.ends_with(body), "{told}");
    assert_eq!(rig.reason(conn), CloseReason::AuthRefused);

    let mut rig = Rig::with_logic(1, Limits::default(), Logic::Remote { renew_ms: (1, 1) });
    for (retry_after_ms, header) in
        [(Some(1_500), "Retry-After: 2\r\n"), (None, "Retry-After: 5\r\n")]
    {
        let (conn, told) = open(&mut rig, 0, "?token=1///");
        assert_eq!(told, "", "logic has not answered");
        let answer = Err(Denied {
            reason: CloseReason::LogicUnavailable,
            sentence: "logic is away".into(),
            retry_after_ms,
        });
        rig.send(conn.shard, Message::Identified { conn, answer });
        let told = take(&mut rig, conn);
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains(header), "{told}");
    }
    let (conn, _) = open(&mut rig, 0, "?token=1///");
    rig.pass(60_000);
    assert!(take(&mut rig, conn).starts_with("HTTP/1.1 408 "));
    assert_eq!(rig.reason(conn), CloseReason::HandshakeTimeout);
}

#[test]
fn the_last_event_has_the_reason_for_the_end_of_the_stream() {
    let mut rig = Rig::new(1, Limits::default());
    let (older, _) = open(&mut rig, 0, "?token=1/k//");
    let (newer, _) = open(&mut rig, 0, "?token=1/k//");
    let close = |reason: &str, message: &str, rest: &str| {
        format!(
            "event: close\ndata: {{\"reason\":\"{reason}\",\"message\":\"{message}\"{rest}}}\n\n"
        )
    };
    assert_eq!(take(&mut rig, older), close("replaced", "replaced", ""));
    rig.send(newer.shard, Message::Drain { over_ms: 0, retry_after_ms: 2_000 });
    rig.pass(1_000);
    let told = take(&mut rig, newer);
    let (retry, _) = told.strip_prefix("retry: ").unwrap().split_once('\n').unwrap();
    let rest = format!(",\"retry_after_ms\":{retry}");
    assert_eq!(told, format!("retry: {retry}\n{}", close("draining", "draining", &rest)));

    let mut rig = Rig::new(1, Limits::default());
    let (conn, _) = open(&mut rig, 0, "?token=1/k//");
    let message = "an event stream takes no input";
    assert_eq!(ask(&mut rig, conn, "G"), close("bad_frame", message, ""));
    assert_eq!(rig.reason(conn), CloseReason::BadFrame);
    let (conn, _) = open(&mut rig, 0, "?token=1/k//");
    rig.hang_up(conn);
    assert_eq!(take(&mut rig, conn), "");
    assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
}

/// The client sends no heartbeats. The stream lasts as long as its kernel takes the comments.
#[test]
fn comments_keep_a_stream_and_find_a_client_that_does_not_read() {
    let limits = Limits { heartbeat_ms: 60_000, ..Limits::default() };
    let mut rig = Rig::with_logic(1, limits, Logic::Remote { renew_ms: (1, 1) });
    let (conn, _) = open(&mut rig, 0, "?token=1/k//");
    rig.admit(conn);
    rig.take(conn);
    rig.take_reports();
    for _ in 0..20 {
        rig.pass(COMMENT_MS + 300);
        let told = take(&mut rig, conn);
        assert!(told == ": \n\n" || told == ": \n\n".repeat(2), "{told:?}");
        // As the heartbeats of other clients do, it renews the session.
        assert!(rig.take_reports().iter().any(|report| matches!(report, Report::Heartbeat { .. })));
    }
    rig.allow(conn, Some(0));
    rig.pass(COMMENT_MS + 10_000);
    assert_eq!(rig.reason(conn), CloseReason::WriteTimeout);
}

#[test]
fn a_stream_that_ends_while_it_waits_leaves_nothing() {
    let mut rig = Rig::with_logic(1, Limits::default(), Logic::Remote { renew_ms: (1, 1) });
    let (gone, _) = open(&mut rig, 0, "?token=1/k//&rooms=a");
    rig.end(gone, Hangup::Eof);
    rig.admit(gone);
    assert_eq!(rig.push_room("a", 5, b"1"), comet_core::Tally::default());
    let (conn, _) = open(&mut rig, 0, "?token=1/k//&rooms=a");
    rig.admit(conn);
    rig.take(conn);
    rig.hang_up(conn);
    rig.pass(10_000);
    let counters = rig.shards[0].counters();
    let left = (
        counters.connections,
        counters.live,
        counters.rooms,
        counters.further_rooms,
        counters.keys,
    );
    assert_eq!(left, (0, 0, 0, 0, 0));
}
