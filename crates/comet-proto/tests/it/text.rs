//! The text form, against serde_json.

use comet_proto::text::{DEPTH_MAX, TextFault, read};
use comet_proto::{Encoded, Frame, op};
use proptest::prelude::*;
use serde_json::{Value, json};

fn message(operation: i32, body: &[u8]) -> String {
    let frame = Frame { version: 1, operation, sequence: -2, body };
    Encoded::frame(&frame).to_text().text().expect("a text message").to_owned()
}

/// The body of the frame that a client's message encodes.
fn body(operation: i32, body: &str) -> Vec<u8> {
    let message = format!(r#"{{"op":{operation},"body":{body}}}"#);
    read(&message).unwrap().frame().body.to_vec()
}

/// The output of goim v1.2: `WriteJSON` of gorilla for a frame, `json.Marshal` for a batch.
#[test]
fn messages_are_those_of_go_byte_by_byte() {
    for (body, told) in [
        ("", r#"{}"#),
        (r#" { "a" : [ 1 , "b  c" ] } "#, r#"{"a":[1,"b  c"]}"#),
        (r#"["<a href=\"x\">", "& \\"]"#, r#"["\u003ca href=\"x\"\u003e","\u0026 \\"]"#),
        (
            "[\"\u{2028}\u{2029}\u{7f}\u{e9}\",\t1.50e+3,\r\n\"\\/\\u003c\"]",
            "[\"\\u2028\\u2029\u{7f}\u{e9}\",1.50e+3,\"\\/\\u003c\"]",
        ),
    ] {
        let object = format!(r#"{{"ver":1,"op":5,"seq":-2,"body":{told}}}"#);
        assert_eq!(message(5, body.as_bytes()), format!("[{object}]\n"));
        let frame = Frame { version: 1, operation: 5, sequence: -2, body: body.as_bytes() };
        let encoded = Encoded::frame(&frame);
        let batch = message(op::RAW, &encoded.for_tcp().repeat(2));
        assert_eq!(batch, format!("[{object},{object}]"));
    }
}

#[test]
fn a_body_that_is_read_here_may_be_a_string() {
    for operation in [op::AUTH, op::CHANGE_ROOM, op::SUBSCRIBE, op::UNSUBSCRIBE] {
        assert_eq!(body(operation, r#""live://1""#), b"live://1");
        assert_eq!(body(operation, r#""\"\\\/\b\f\n\r\t""#), b"\"\\/\x08\x0c\n\r\t");
        assert_eq!(
            body(operation, r#""\u0041\ud83d\ude00\ud83d\u0041\ude00\ud83d""#),
            "A😀\u{fffd}A\u{fffd}\u{fffd}".as_bytes()
        );
        assert_eq!(body(operation, "1000"), b"1000");
        assert_eq!(body(operation, r#"{"mid": 42}"#), br#"{"mid": 42}"#);
    }
    assert_eq!(body(op::SEND, r#""quoted""#), br#""quoted""#);
    assert_eq!(body(op::SEND, "null"), b"");
}

#[test]
fn members_may_be_left_out_repeated_and_unknown() {
    let request = read(r#" {"seq":1, "x":[{}], "op":2, "op" : 3 } "#).unwrap();
    assert_eq!(request.frame(), Frame { version: 1, operation: 3, sequence: 1, body: b"" });
    assert_eq!(read("{}"), Err(TextFault::NoOperation));
    assert_eq!(read(r#"{"op":2,"ver":-1}"#), Err(TextFault::NotANumber("ver")));
    assert_eq!(read(r#"{"op":"2"}"#), Err(TextFault::NotANumber("op")));
}

#[test]
fn nesting_is_bounded() {
    for depth in [1, DEPTH_MAX - 1, DEPTH_MAX, 100_000] {
        let nested = "[".repeat(depth) + &"]".repeat(depth);
        let request = read(&format!(r#"{{"op":4,"body":{nested}}}"#)).is_ok();
        assert_eq!(request, depth <= DEPTH_MAX, "{depth}");
        let told: Vec<Value> = serde_json::from_str(&message(5, nested.as_bytes())).unwrap();
        // As a string it is no deeper than the message.
        assert_eq!(told[0]["body"].is_array(), depth <= DEPTH_MAX, "{depth}");
    }
}

proptest! {
    /// The scanner takes exactly what serde_json takes.
    #[test]
    fn the_json_scanner_accepts_what_serde_json_accepts(text in "[\\[\\]{},:\" 0-9eE.+\\-\\\\u/ntrfalsebDd\u{1}é]{0,24}") {
        let told = message(5, text.as_bytes());
        let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        let value = serde_json::from_str::<Value>(&text);
        // A number out of all bounds and half a surrogate pair are JSON, but no value of serde_json.
        if is_json(&text) && value.is_err() {
            prop_assert!(is_json(&told), "{}", told);
            return Ok(());
        }
        let told: Vec<Value> = serde_json::from_str(&told).unwrap();
        let expected = match value {
            Ok(value) => value,
            Err(_) if text.is_empty() => json!({}),
            Err(_) => json!(text),
        };
        prop_assert_eq!(&told[0]["body"], &expected);
        prop_assert_eq!(read(&text).is_ok(), false);
    }

    /// Any body arrives, if it is text.
    #[test]
    fn bodies_come_through(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let told: Vec<Value> = serde_json::from_str(&message(5, &bytes)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let is_json = serde_json::from_str::<Value>(&text).is_ok();
        if !is_json && !bytes.is_empty() {
            prop_assert_eq!(told[0]["body"].as_str(), Some(&*text));
        }
    }

    /// A string is read as serde_json writes it.
    #[test]
    fn strings_are_read(text in any::<String>()) {
        let request = json!({ "op": 7, "body": text }).to_string();
        let read = read(&request).unwrap();
        prop_assert_eq!(read.frame().body, text.as_bytes());
    }
}
