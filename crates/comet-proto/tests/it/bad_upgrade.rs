//! Bad upgrade requests: the fault and the response.

use comet_proto::websocket::{UpgradeFault, upgrade};

use crate::support::{GOOD_HEADERS, request};

#[test]
fn bad_upgrades_are_refused() {
    #[track_caller]
    fn check(head: &[u8], fault: UpgradeFault, status: u16) {
        let result = upgrade(head, "/sub", 1024);
        assert_eq!(result, Err(fault));
        assert_eq!(fault.status(), status);
        let response = String::from_utf8(fault.response()).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
        assert_eq!(body, format!("{fault}\n"));
    }
    let get = |headers: &[&str]| request("GET /sub HTTP/1.1", headers);
    let line = |line| request(line, &GOOD_HEADERS);
    let replaced = |at: usize, header| {
        let mut headers = GOOD_HEADERS;
        headers[at] = header;
        get(&headers)
    };
    let without = |at: usize| {
        let mut headers = GOOD_HEADERS.to_vec();
        headers.remove(at);
        get(&headers)
    };
    let missing = UpgradeFault::MissingHeader;
    let key = missing("Sec-WebSocket-Key");

    check(&line("POST /sub HTTP/1.1"), UpgradeFault::Method, 405);
    check(&request("POST /sub HTTP/1.1", &["Content-Length: 5"]), UpgradeFault::Method, 405);
    check(&request("HEAD /elsewhere HTTP/1.1", &[]), UpgradeFault::Method, 405);
    check(&request("get /sub HTTP/1.1", &[]), UpgradeFault::Method, 405);

    check(&line("GET / HTTP/1.1"), UpgradeFault::Path, 404);
    check(&line("GET /sub/ HTTP/1.1"), UpgradeFault::Path, 404);
    check(&line("GET /subx?/sub HTTP/1.1"), UpgradeFault::Path, 404);
    check(&line("GET * HTTP/1.1"), UpgradeFault::Path, 404);
    check(&request("GET /elsewhere HTTP/1.1", &[]), UpgradeFault::Path, 404);

    check(&get(&[]), missing("Connection"), 400);
    check(&without(0), missing("Upgrade"), 400);
    check(&without(1), missing("Connection"), 400);
    check(&without(2), key, 400);
    check(&without(3), missing("Sec-WebSocket-Version"), 400);
    check(&replaced(0, "Upgrade: h2c"), missing("Upgrade"), 400);
    check(&replaced(1, "Connection: keep-alive"), missing("Connection"), 400);
    check(&replaced(2, "Sec-WebSocket-Key: "), key, 400);
    check(&replaced(2, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"), key, 400);
    check(&replaced(2, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ!!"), key, 400);
    check(&get(&[GOOD_HEADERS[0], GOOD_HEADERS[1], "Sec-WebSocket-Version: 8"]), key, 400);

    let without_host = b"GET /sub HTTP/1.1\r\nConnection: Upgrade\r\n\r\n";
    check(without_host, missing("Host"), 400);

    check(&replaced(3, "Sec-WebSocket-Version: 8"), UpgradeFault::Version, 426);
    check(&replaced(3, "Sec-WebSocket-Version: 013"), UpgradeFault::Version, 426);

    check(&line("GET /sub HTTP/1.0"), UpgradeFault::Malformed, 400);
    check(&line("GET /sub HTTP/2.0"), UpgradeFault::Malformed, 400);
    check(&line("GET /sub"), UpgradeFault::Malformed, 400);
    check(&line("GET /s ub HTTP/1.1"), UpgradeFault::Malformed, 400);
    check(&get(&["no colon"]), UpgradeFault::Malformed, 400);
    check(&get(&["Cookie: a\0b"]), UpgradeFault::Malformed, 400);
    check(b"\r\n\r\n", UpgradeFault::Malformed, 400);
    check(b"\r\n\r\nGET /sub HTTP/1.1\r\n\r\n", UpgradeFault::Malformed, 400);
    check(b"\0\0\0\x10\0\x10\0\x01\r\n\r\n", UpgradeFault::Malformed, 400);
    check(&get(&["A: b", " folded"]), UpgradeFault::Malformed, 400);
    check(&get(&["A: b\rc"]), UpgradeFault::Malformed, 400);
    check(&get(&["A: b\x7f"]), UpgradeFault::Malformed, 400);
    check(&get(&["A : b"]), UpgradeFault::Malformed, 400);
    check(&line("GET comet:80 HTTP/1.1"), UpgradeFault::Path, 404);
    check(&line("GET http://comet/elsewhere HTTP/1.1"), UpgradeFault::Path, 404);
    // Bytes of other protocols: they are refused without a blank line.
    for first in [b"\x16", b"\0", b"\x10", b"\r\n\x16", b"{", b" ", b"\x80"] as [&[u8]; 7] {
        check(first, UpgradeFault::Malformed, 400);
    }
    // Bytes that begin no request, whatever follows.
    for begin in [
        "GET /sub HTTP/1.1\n",
        "GET /sub HTTP/1.1\nHost: x\n\n",
        "GET /sub HTTP/1.1\r\nHost: x\n\r\n",
        "GET /sub HTTP/1.1\r\nHost: x\r\r",
        "GET /sub HTTP/1.1\rHost: x\r\r",
        "GET /sub HTTP/1.1\r\nHost: x\0",
        "GET /s\0",
        "GET /s\x1b[m",
        "\nGET /sub",
        "\r\r\n",
        "\n\n",
        "hello\r\n",
        "GET /sub\r\n",
        "GET /sub HTTP/2.0\r\n",
        "\r\nEHLO comet.example\r\n",
        "220 mail.example ESMTP\r\n",
    ] {
        check(begin.as_bytes(), UpgradeFault::Malformed, 400);
    }

    let long = format!("Cookie: {}", "x".repeat(1024));
    check(&get(&[&long]), UpgradeFault::HeadTooLarge, 431);
    check(&[b'x'; 1024], UpgradeFault::HeadTooLarge, 431);
    for target in ["/sub?".to_owned() + &"x".repeat(1024), "/".repeat(1024)] {
        let head = request(&format!("GET {target} HTTP/1.1"), &GOOD_HEADERS);
        check(&head, UpgradeFault::TargetTooLong, 414);
        check(&head[..1024], UpgradeFault::TargetTooLong, 414);
    }
    check(&get(&["A: b"; 125]), UpgradeFault::HeadTooLarge, 431);
}

#[test]
fn a_header_that_stands_once_is_not_repeated() {
    for (line, header) in [
        ("Host: evil.example", "Host"),
        ("host: comet.example", "Host"),
        ("Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==", "Sec-WebSocket-Key"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version"),
        ("Sec-WebSocket-Version: 8", "Sec-WebSocket-Version"),
    ] {
        for headers in
            [[&GOOD_HEADERS[..], &[line]].concat(), [&[line], &GOOD_HEADERS[..]].concat()]
        {
            let head = request("GET /sub HTTP/1.1", &headers);
            let fault = UpgradeFault::RepeatedHeader(header);
            assert_eq!(upgrade(&head, "/sub", 1024), Err(fault), "{line}");
            assert_eq!(fault.status(), 400);
        }
    }
    let origins = ["Origin: https://app.example", "Origin: https://evil.example"];
    let head = request("GET /sub HTTP/1.1", &[&GOOD_HEADERS[..], &origins].concat());
    assert_eq!(upgrade(&head, "/sub", 1024), Err(UpgradeFault::RepeatedHeader("Origin")));
}

#[test]
fn a_request_with_a_body_is_no_upgrade() {
    let with = |more: &[&str]| {
        let head = request("GET /sub HTTP/1.1", &[&GOOD_HEADERS[..], more].concat());
        upgrade(&head, "/sub", 1024).map(|upgrade| upgrade.is_some())
    };
    assert_eq!(with(&["Content-Length: 0"]), Ok(true));
    for line in ["Content-Length: 5", "content-length: +0", "Transfer-Encoding: chunked"] {
        assert_eq!(with(&[line]), Err(UpgradeFault::Body), "{line}");
    }
    let twice = ["Content-Length: 0", "Content-Length: 5"];
    assert_eq!(with(&twice), Err(UpgradeFault::RepeatedHeader("Content-Length")));
}

#[test]
fn error_responses_name_the_required_header() {
    #[track_caller]
    fn check(fault: UpgradeFault, header: &str) {
        let response = String::from_utf8(fault.response()).unwrap();
        assert!(response.contains(header), "{response}");
    }
    check(UpgradeFault::Method, "\r\nAllow: GET\r\n");
    check(UpgradeFault::Version, "\r\nSec-WebSocket-Version: 13\r\n");
    check(UpgradeFault::Version, "\r\nUpgrade: websocket\r\n");
    check(UpgradeFault::MissingHeader("Connection"), "The header Connection is missing or wrong.");
}

#[test]
fn no_head_beyond_the_limit_is_awaited() {
    let head = request("GET /sub HTTP/1.1", &GOOD_HEADERS);
    let head_max = head.len() - 1;
    for end in 0..head_max {
        assert_eq!(upgrade(&head[..end], "/sub", head_max), Ok(None), "{end} bytes");
    }
    for end in head_max..=head.len() {
        assert_eq!(upgrade(&head[..end], "/sub", head_max), Err(UpgradeFault::HeadTooLarge));
    }
}
