//! Origins and their patterns, against the form of RFC 6454 6.2 that browsers send.

use comet_proto::websocket::{Origin, OriginPattern};

#[track_caller]
fn check(pattern: &str, matching: &[&str], others: &[&str]) {
    let read = OriginPattern::parse(pattern).expect(pattern);
    let matches = |origin: &str| Origin::parse(origin).is_some_and(|origin| read.matches(&origin));
    for origin in matching {
        assert!(matches(origin), "{pattern} and {origin}");
    }
    for origin in others {
        assert!(!matches(origin), "{pattern} and {origin}");
    }
    assert_eq!(OriginPattern::parse(&read.to_string()), Ok(read), "{pattern} read back");
}

#[test]
fn both_sides_have_one_form() {
    let app = ["https://app.example", "https://app.example:443", "HTTPS://App.Example"];
    let others = [
        "http://app.example",
        "http://app.example:443",
        "https://app.example:444",
        "https://app.example.",
        "https://app.example.evil",
        "https://evil.app.example",
        "https://app.example/",
        "https://app.example https://app.example",
        "https://user@app.example",
        "https://app.example:",
        "https://app.example:+443",
        "app.example",
        "null",
        "",
    ];
    for pattern in app {
        check(pattern, &app, &others);
    }
    check(
        "http://localhost:80",
        &["http://localhost", "http://localhost:80"],
        &["http://localhost:8080", "https://localhost:80"],
    );
    check("http://[2001:DB8::0:1]:8080", &["http://[2001:db8::1]:8080"], &["http://[2001:db8::1]"]);
    check("http://127.0.0.1:3000", &["http://127.0.0.1:3000"], &["http://127.0.0.2:3000"]);
    check("capacitor://localhost", &["capacitor://localhost"], &["http://localhost"]);
    check("file://", &["file://"], &["null", "http://"]);
}

#[test]
fn stars_stand_for_labels_ports_and_everything() {
    check(
        "https://*.example",
        &["https://a.example", "https://a.b.example:443", "https://A.EXAMPLE"],
        &["https://example", "https://aexample", "https://.example", "http://a.example"],
    );
    check("https://*.example:8443", &["https://a.example:8443"], &["https://a.example"]);
    check(
        "http://localhost:*",
        &["http://localhost", "http://localhost:3000"],
        &["https://localhost", "http://local"],
    );
    check("https://*", &["https://a", "https://b.example"], &["http://a", "https://a:1", "null"]);
    check("null", &["null"], &["https://null", "NULL", ""]);
    check("*", &["null", "https://a", "http://[::1]:8080"], &["", "a", "http://"]);
}

#[test]
fn a_pattern_that_no_browser_can_match_is_a_mistake() {
    #[track_caller]
    fn check(pattern: &str, what: &str) {
        let error = OriginPattern::parse(pattern).expect_err(pattern).to_string();
        assert!(error.contains(what), "{pattern}: {error}");
    }
    let long = format!("https://{}.example", "a".repeat(255));
    for pattern in [
        "",
        "example.com",
        "https://",
        "://a",
        "1a://a",
        "https://a/",
        "https://a/path",
        "https://a?b",
        "https://a b",
        "https://a:",
        "https://a:x",
        "https://a:65536",
        "https://a:-1",
        "https://a,https://b",
        "https://user@a",
        "https://a..b",
        "https://1.2.3",
        "https://1.2.3.256",
        "https://[::1",
        "https://[::g]",
        "https://[::1]x",
        "https://::1",
        &long,
    ] {
        check(pattern, "write SCHEME://HOST or SCHEME://HOST:PORT");
    }
    check("ws://a", "write http:// or https://");
    check("wss://a.example:1", "write http:// or https://");
    check("https://bücher.example", "xn--");
    for pattern in ["https://*example.com", "https://a.*.example", "https://*.*.example"] {
        check(pattern, "write *.HOST");
    }
}
