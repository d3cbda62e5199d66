//! Clients that speak the text form, beside those that do not.

use std::num::NonZeroU32;

use comet_core::{
    Budget, CloseReason, ConnId, DropReason, Limits, Logic, Message, Millis, Report, SlowConsumer,
    TraceKind, Transport,
};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked, plain, push};

const TEXT: u8 = 0x81;

fn limits() -> Limits {
    Limits { text: true, ..Limits::default() }
}

/// A message of the server with one frame.
fn told(message: &str) -> Vec<u8> {
    plain(TEXT, format!("{message}\n").as_bytes())
}

/// The answer to a message of the client.
fn ask(rig: &mut Rig, conn: ConnId, message: &str) -> Vec<u8> {
    rig.ask(conn, &masked(TEXT, message.as_bytes()))
}

fn open(rig: &mut Rig) -> ConnId {
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, UPGRADE);
    conn
}

fn join(rig: &mut Rig, token: &str) -> ConnId {
    let conn = open(rig);
    let auth = format!(r#"{{"ver":1,"op":7,"seq":1,"body":"{token}"}}"#);
    assert_eq!(ask(rig, conn, &auth), told(r#"[{"ver":1,"op":8,"seq":1,"body":{}}]"#));
    conn
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    let auth = br#"{"ver":1,"op":7,"seq":1,"body":"7/k//"}"#;
    let bad = br#"{"ver":1,"op":4,"seq":2,"body":"#;
    // A stray byte, an overlong form, a surrogate, a character that is cut off.
    for wrong in [&b"\"\xff\"}"[..], b"\"\xc0\xaf\"}", b"\"\xed\xa0\x80\"}", b"\"\xe2\x82\"}"] {
        for is_whole in [true, false] {
            let mut rig = Rig::new(1, limits());
            let conn = open(&mut rig);
            rig.ask(conn, &masked(TEXT, auth));
            let message = match is_whole {
                true => masked(TEXT, &[&bad[..], wrong].concat()),
                false => [masked(0x01, bad), masked(0x80, wrong)].concat(),
            };
            let end = rig.ask(conn, &message);
            assert_eq!(rig.reason(conn), CloseReason::BadWebSocket);
            let close = &end[end.iter().rposition(|byte| *byte == 0x88).unwrap()..];
            assert_eq!(u16::from_be_bytes([close[2], close[3]]), 1007, "{wrong:?} {is_whole}");
        }
    }
    // A character may be cut by a fragment.
    let mut rig = Rig::new(1, limits());
    let conn = join(&mut rig, "7/k//");
    let (first, last) = (&b"{\"ver\":1,\"op\":4,\"seq\":2,\"body\":\"\xe2\x82"[..], b"\xac\"}");
    let sent = [masked(0x01, first), masked(0x80, last)].concat();
    assert_eq!(
        rig.ask(conn, &sent),
        told("[{\"ver\":1,\"op\":5,\"seq\":2,\"body\":\"\u{20ac}\"}]")
    );
}

#[test]
fn requests_are_answered_as_by_goim_v1() {
    let mut rig = Rig::new(2, limits());
    let conn = join(&mut rig, "7/k/r/");
    for (request, reply) in [
        (r#"{"ver":1,"op":2,"seq":2,"body":{}}"#, r#"[{"ver":1,"op":3,"seq":2,"body":{}}]"#),
        (
            r#"{"ver":2,"op":4,"seq":3,"body":{"a":[1]}}"#,
            r#"[{"ver":2,"op":5,"seq":3,"body":{"a":[1]}}]"#,
        ),
        (r#"{"op":4,"seq":4,"body":"x\n"}"#, r#"[{"ver":1,"op":5,"seq":4,"body":"x\n"}]"#),
        (r#"{"op":254,"seq":5}"#, r#"[{"ver":1,"op":255,"seq":5,"body":{"test":"come on"}}]"#),
        (
            r#"{"op":12,"seq":6,"body":"live://1"}"#,
            r#"[{"ver":1,"op":13,"seq":6,"body":"live://1"}]"#,
        ),
        (r#"{"op":14,"seq":7,"body":"5,6"}"#, r#"[{"ver":1,"op":15,"seq":7,"body":"5,6"}]"#),
        (r#"{"op":16,"seq":8,"body":6}"#, r#"[{"ver":1,"op":17,"seq":8,"body":6}]"#),
        (r#"{"op":777,"seq":9,"body":[]}"#, r#"[{"ver":1,"op":777,"seq":9,"body":{}}]"#),
    ] {
        let reply = told(reply);
        assert_eq!(ask(&mut rig, conn, request), reply, "{}", reply.escape_ascii());
    }
    assert_eq!(rig.ask(conn, &masked(0x89, b"hi")), plain(0x8a, b"hi"));
    assert_eq!(rig.push_room("live://1", 5, b"").queued, 1);
}

#[test]
fn a_push_reaches_each_client_in_its_form() {
    let mut rig = Rig::new(1, limits());
    let tcp = rig.join(0, "1/a/r/");
    let binary = open(&mut rig);
    rig.ask(binary, &masked(0x82, &frame(7, 1, b"1/b/r/")));
    let texts = ["1/c/r/", "1/d/r/"].map(|token| join(&mut rig, token));
    for (body, text) in [
        (&b"{\"a\": 1}"[..], r#"[{"ver":1,"op":5,"seq":0,"body":{"a":1}}]"#),
        (b"", r#"[{"ver":1,"op":5,"seq":0,"body":{}}]"#),
        (b"say \"hi\"", r#"[{"ver":1,"op":5,"seq":0,"body":"say \"hi\""}]"#),
        (b"\x01\xff", "[{\"ver\":1,\"op\":5,\"seq\":0,\"body\":\"\\u0001\u{fffd}\"}]"),
    ] {
        assert_eq!(rig.push_room("r", 5, body).queued, 4);
        assert_eq!(rig.take(tcp), frame(5, 0, body));
        assert_eq!(rig.take(binary), plain(0x82, &frame(5, 0, body)));
        for conn in texts {
            assert_eq!(rig.take(conn), told(text));
        }
    }
    // A batch.
    rig.push_room("r", op::RAW, &[frame(5, 1, b"1"), frame(6, 2, b"b")].concat());
    let batch = r#"[{"ver":1,"op":5,"seq":1,"body":1},{"ver":1,"op":6,"seq":2,"body":"b"}]"#;
    for conn in texts {
        assert_eq!(rig.take(conn), plain(TEXT, batch.as_bytes()));
    }
    let counters = rig.shards[0].counters();
    assert_eq!((counters.sent, counters.waiting, counters.lost), (20, 0, 0));
}

/// Outboxes of all forms are bounded, each by its own bytes.
#[test]
fn an_outbox_is_bounded_by_the_bytes_of_its_form() {
    let text = r#"[{"ver":1,"op":5,"seq":0,"body":"x"}]"#;
    let outbox_bytes = told(text).len() as u32;
    let mut rig = Rig::new(1, Limits { outbox_bytes, ..limits() });
    let conn = join(&mut rig, "1/c/r/");
    rig.allow(conn, Some(0));
    assert_eq!(rig.push_room("r", 5, b"x").queued, 1);
    assert_eq!(rig.push_room("r", 5, b"x").queued, 0);
    rig.allow(conn, None);
    assert_eq!(rig.take(conn), told(text));
    assert_eq!(rig.push_room("r", 5, b"xx").queued, 0, "it is longer than the outbox");
}

/// A slice ends after an encoding that takes as long as a slice, so the driver checks its clock.
#[test]
fn a_push_in_text_is_work_by_its_bytes() {
    let body = vec![b'x'; 128 << 10];
    let mut rig = Rig::new(1, limits());
    rig.join(0, "1/a/binary/");
    join(&mut rig, "1/b/text/");
    for (room, pushes_of_a_slice) in [("binary", 3), ("text", 1)] {
        let before = rig.shards[0].counters().pushes;
        for _ in 0..3 {
            let call = rig.call();
            let message = Message::PushRoom { call, room: room.into(), push: push(5, &body) };
            rig.shards[0].handle_message(message);
        }
        rig.shards[0].handle_pushes(&mut Budget::slice(), |_| None);
        assert_eq!(rig.shards[0].counters().pushes - before, pushes_of_a_slice, "{room}");
        rig.run();
        assert_eq!(rig.shards[0].counters().pushes - before, 3, "{room}");
    }
}

#[test]
fn a_paced_broadcast_is_encoded_once() {
    let mut rig = Rig::new(1, limits());
    for key in ["a", "b"] {
        join(&mut rig, &format!("1/{key}//"));
    }
    let (call, push) = (rig.call(), push(5, &vec![b'x'; 128 << 10]));
    let broadcast = Message::Broadcast { call, push, speed: NonZeroU32::new(1) };
    rig.shards[0].handle_message(broadcast);
    for (second, is_encoded) in [(0, true), (1, false)] {
        rig.shards[0].handle_time(Millis(second * 1_000));
        let mut budget = Budget::slice();
        rig.shards[0].handle_deadlines(&mut budget);
        assert_eq!(rig.shards[0].counters().deliveries.queued, second + 1);
        assert_eq!(budget.is_left(), !is_encoded, "second {second}");
    }
}

#[test]
fn a_push_is_too_long_for_text_alone() {
    let slow_consumer = SlowConsumer::Close;
    let mut rig = Rig::new(1, Limits { text_push_max: 20, slow_consumer, ..limits() });
    let binary = rig.join(0, "1/a/r/");
    let texts = ["1/b/r/", "1/c/r/"].map(|token| join(&mut rig, token));
    for (body, queued) in [(&b"1234"[..], 3), (b"12345", 1), (b"1234", 3)] {
        let tally = rig.push_room("r", 5, body);
        assert_eq!((tally.queued, tally.matched), (queued, 3));
        assert_eq!(tally.dropped[DropReason::TextTooLong as usize], 3 - queued);
        assert_eq!(rig.take(binary), frame(5, 0, body));
        for conn in texts {
            assert_eq!(!rig.take(conn).is_empty(), queued == 3);
        }
    }
}

#[test]
fn the_form_is_chosen_with_the_token_and_stays() {
    let mut rig = Rig::new(1, limits());
    // Messages before the token are ignored, in either form.
    let conn = open(&mut rig);
    rig.feed(conn, &masked(0x82, &frame(2, 1, b"")));
    let auth = r#"{"op":7,"body":"1/k//"}"#;
    assert_eq!(ask(&mut rig, conn, auth), told(r#"[{"ver":1,"op":8,"seq":0,"body":{}}]"#));
    rig.feed(conn, &masked(0x82, &frame(2, 1, b"")));
    let notice = "a binary message of a client that speaks text";
    let text = format!(r#"[{{"ver":1,"op":6,"seq":0,"body":"{notice}"}}]"#);
    let close = [b"\x03\xeb", format!("websocket_text: {notice}").as_bytes()].concat();
    let close = plain(0x88, &close);
    assert_eq!(rig.take(conn), [told(&text), close].concat());

    let binary = open(&mut rig);
    rig.ask(binary, &masked(0x82, &frame(7, 1, b"1/l//")));
    rig.feed(binary, &masked(TEXT, br#"{"op":2}"#));
    assert_eq!(rig.reason(binary), CloseReason::WebSocketText);

    let mut rig = Rig::new(1, Limits::default());
    let conn = open(&mut rig);
    rig.feed(conn, &masked(TEXT, auth.as_bytes()));
    assert_eq!(rig.reason(conn), CloseReason::WebSocketText, "it is not switched on");
}

#[test]
fn an_invalid_text_message_closes_the_connection() {
    let deep = "[".repeat(70);
    for (message, detail) in [
        ("", "a text message is one JSON object, its values nested at most 64 deep"),
        ("[]", "a text message is one JSON object, its values nested at most 64 deep"),
        (r#"{"op":2}{}"#, "a text message is one JSON object, its values nested at most 64 deep"),
        (
            &format!(r#"{{"op":2,"body":{deep}"#),
            "a text message is one JSON object, its values nested at most 64 deep",
        ),
        (r#"{"ver":1}"#, "the message has no \"op\""),
        (r#"{"op":2.0}"#, "\"op\" is not a whole number of 32 bits"),
        (r#"{"op":2,"seq":99999999999}"#, "\"seq\" is not a whole number of 32 bits"),
        (r#"{"op":2,"ver":1e9}"#, "\"ver\" is not a whole number of 16 bits"),
        (r#"{"op":14,"body":{}}"#, "operations are decimal numbers with commas between them"),
    ] {
        let mut rig = Rig::new(1, limits());
        let conn = join(&mut rig, "7/k//");
        rig.feed(conn, &masked(TEXT, message.as_bytes()));
        assert_eq!(rig.reason(conn), CloseReason::BadFrame, "{message}");
        let quoted = detail.replace('"', "\\\"");
        let notice = told(&format!(r#"[{{"ver":1,"op":6,"seq":0,"body":"{quoted}"}}]"#));
        let close = [b"\x03\xea", format!("bad_frame: {detail}").as_bytes()].concat();
        let close = plain(0x88, &close);
        assert_eq!(rig.take(conn), [notice, close].concat(), "{message}");
    }
}

#[test]
fn remote_logic_gets_the_body_of_a_text_message_unchanged() {
    let mut rig = Rig::with_logic(1, limits(), Logic::Remote { renew_ms: (1000, 2000) });
    let conn = open(&mut rig);
    rig.feed(conn, &masked(TEXT, br#"{"op":7,"seq":1,"body":"7/k//"}"#));
    rig.admit(conn);
    assert_eq!(rig.take(conn), told(r#"[{"ver":1,"op":8,"seq":1,"body":{}}]"#));
    for (outcome, reply) in [
        (Ok(()), r#"[{"ver":1,"op":5,"seq":3,"body":"as it is"}]"#),
        (Err("try later".into()), r#"[{"ver":1,"op":5,"seq":3,"body":"try later"}]"#),
    ] {
        rig.take_reports();
        rig.feed(conn, &masked(TEXT, br#"{"op":4,"seq":3,"body":"as it is"}"#));
        let reports = rig.take_reports();
        let [Report::Receive { operation: 4, body, .. }] = &reports[..] else {
            panic!("{reports:?}")
        };
        assert_eq!(&**body, br#""as it is""#);
        rig.send(conn.shard, Message::Receipt { conn, outcome });
        assert_eq!(rig.take(conn), told(reply));
    }
}

#[test]
fn frames_written_to_a_text_client_are_traced() {
    let mut rig = Rig::new(1, Limits { trace_users: [7].into(), ..limits() });
    let conn = join(&mut rig, "7/k/r/");
    rig.take_reports();
    rig.push_room("r", op::RAW, &[frame(5, 0, b"1"), frame(6, 2, b"2")].concat());
    let wrote: Vec<_> = rig
        .take_reports()
        .into_iter()
        .filter_map(|report| match report {
            Report::Trace(event) => match event.what {
                TraceKind::Wrote { operation, sequence, .. } => Some((operation, sequence)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(wrote, [(5, 0), (6, 2)]);
    rig.take(conn);
}
