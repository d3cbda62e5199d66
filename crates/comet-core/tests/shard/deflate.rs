//! Clients that negotiated permessage-deflate (RFC 7692), beside those that did not.

use comet_core::{
    Budget, CloseReason, ConnId, Deflate, Limits, Message, Millis, SlowConsumer, Transport,
    distribute,
};
use comet_proto::{Position, op};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::history::{TELL, Told, join_since, rules, told};
use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, plain, room_at};

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;
const COMPRESSED: u8 = 0x40;
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

fn limits() -> Limits {
    Limits {
        deflate: Some(Deflate { level: 2, message_min: 100 }),
        text: true,
        ..Limits::default()
    }
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| br#"{"symbol":"ACME","price":12},"#[at % 29]).collect()
}

/// The payload of a compressed message of a client.
fn deflated(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(message.len() + 100);
    let mut compress = Compress::new(Compression::new(6), false);
    compress.compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
    payload.strip_suffix(&TAIL).expect("a sync flush").to_vec()
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 << 20);
    let input = [payload, &TAIL].concat();
    let mut decompress = Decompress::new(false);
    decompress.decompress_vec(&input, &mut message, FlushDecompress::Sync).unwrap();
    message
}

/// The message of the one frame that `bytes` are, and whether it was compressed.
fn message(bytes: &[u8]) -> (u8, Vec<u8>, bool) {
    let header = if bytes[1] == 126 { 4 } else { 2 };
    let (first, payload) = (bytes[0], &bytes[header..]);
    assert_eq!(bytes, plain(first, payload), "one frame");
    match first & COMPRESSED {
        0 => (first, payload.to_vec(), false),
        _ => (first & !COMPRESSED, inflated(payload), true),
    }
}

fn offer() -> Vec<u8> {
    let head = UPGRADE.strip_suffix(b"\r\n").unwrap();
    let offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    [head, offer].concat()
}

fn open(rig: &mut Rig, shard: u16) -> ConnId {
    let conn = rig.connect(shard, Transport::WebSocket);
    let response = String::from_utf8(rig.ask(conn, &offer())).unwrap();
    let answer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                  client_no_context_takeover\r\n\r\n";
    assert!(response.ends_with(answer), "{response}");
    conn
}

fn join(rig: &mut Rig, shard: u16, token: &str) -> ConnId {
    let conn = open(rig, shard);
    let reply = rig.ask(conn, &masked(BINARY, &frame(op::AUTH, 1, token.as_bytes())));
    assert_eq!(message(&reply), (BINARY, frame(op::AUTH_REPLY, 1, b""), false));
    conn
}

fn join_plain(rig: &mut Rig, token: &str) -> ConnId {
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, UPGRADE);
    rig.ask(conn, &masked(BINARY, &frame(op::AUTH, 1, token.as_bytes())));
    conn
}

/// The code of the close frame at the end of `bytes`.
fn close_code(bytes: &[u8]) -> u16 {
    let close = bytes.iter().rposition(|&byte| byte == 0x88).expect("a close frame");
    u16::from_be_bytes(bytes[close + 2..][..2].try_into().unwrap())
}

#[test]
fn an_offer_is_declined_where_compression_is_off() {
    let mut rig = Rig::new(1, Limits { deflate: None, ..limits() });
    let conn = rig.connect(0, Transport::WebSocket);
    let response = String::from_utf8(rig.ask(conn, &offer())).unwrap();
    assert!(response.starts_with("HTTP/1.1 101") && !response.contains("deflate"), "{response}");
    rig.ask(conn, &masked(BINARY, &frame(op::AUTH, 1, b"1/a//")));
    assert_eq!(rig.push_keys(&["a"], 5, &body(300)).queued, 1);
    assert_eq!(message(&rig.take(conn)), (BINARY, frame(5, 0, &body(300)), false));
    rig.feed(conn, &masked(BINARY | COMPRESSED, &deflated(&frame(op::HEARTBEAT, 2, b""))));
    assert_eq!(rig.reason(conn), CloseReason::BadWebSocket);
}

#[test]
fn a_push_is_compressed_once_for_all_members_of_a_form() {
    let mut rig = Rig::new(1, limits());
    let compressed: Vec<ConnId> =
        (0..50).map(|number| join(&mut rig, 0, &format!("1/c{number}/r/"))).collect();
    let text: Vec<ConnId> = (0..50)
        .map(|number| {
            let conn = open(&mut rig, 0);
            let auth = format!(r#"{{"ver":1,"op":7,"seq":1,"body":"1/t{number}/r/"}}"#);
            rig.ask(conn, &masked(TEXT, auth.as_bytes()));
            conn
        })
        .collect();
    let newer: Vec<ConnId> = (0..50)
        .map(|number| {
            let conn = open(&mut rig, 0);
            let token = format!("1/n{number}/r/");
            rig.ask(conn, &masked(BINARY, &frame_2(op::AUTH, 1, token.as_bytes())));
            conn
        })
        .collect();
    let plain_member = join_plain(&mut rig, "1/p/r/");
    let tcp = rig.join(0, "1/tcp/r/");

    let body = body(1_000);
    assert_eq!(rig.push_room("r", 5, &body).queued, 152);
    let counters = rig.shards[0].counters();
    assert_eq!(counters.deflated_connections, 150);
    assert_eq!(counters.deflated_messages, 3, "one of each form, however many members");
    let mut saved = 0;
    for conns in [&compressed, &text, &newer] {
        let first = rig.take(conns[0]);
        let (_, sent, is_compressed) = message(&first);
        assert!(is_compressed);
        saved += 50 * (sent.len() + 4 - first.len()) as u64;
        for &conn in &conns[1..] {
            assert_eq!(rig.take(conn), first);
        }
        match conns[0] {
            conn if conn == compressed[0] => assert_eq!(sent, frame(5, 0, &body)),
            conn if conn == text[0] => {
                assert_eq!(first[0], TEXT | COMPRESSED);
                let sent = String::from_utf8(sent).unwrap();
                assert!(sent.starts_with(r#"[{"ver":1,"op":5,"#) && sent.ends_with("}]\n"));
            }
            _ => assert!(sent[16..].ends_with(&body), "op 20 has the frame in it"),
        }
    }
    assert_eq!(counters.deflate_saved_bytes, saved);
    assert_eq!(message(&rig.take(plain_member)), (BINARY, frame(5, 0, &body), false));
    assert_eq!(rig.take(tcp), frame(5, 0, &body));

    // Outside rooms both protocols have the same binary frame.
    assert_eq!(rig.push_keys(&["c0", "n0"], 5, &body).queued, 2);
    let sent = rig.take(compressed[0]);
    assert_eq!(message(&sent), (BINARY, frame(5, 0, &body), true));
    assert_eq!(rig.take(newer[0]), sent);
    assert_eq!(rig.shards[0].counters().deflated_messages, 4);
    // Nothing is compressed if no client negotiated compression.
    rig.push_keys(&["p"], 5, &body);
    assert_eq!(rig.shards[0].counters().deflated_messages, 4);
}

#[test]
fn a_paced_broadcast_is_compressed_once() {
    let mut rig = Rig::new(1, limits());
    let conns: Vec<ConnId> =
        (0..20).map(|number| join(&mut rig, 0, &format!("1/c{number}//"))).collect();
    rig.push_all(5, &body(300), Some(10));
    rig.pass(5_000);
    for conn in conns {
        assert_eq!(message(&rig.take(conn)), (BINARY, frame(5, 0, &body(300)), true));
    }
    assert_eq!(rig.shards[0].counters().deflated_messages, 1);
}

#[test]
fn a_push_that_gets_no_shorter_is_sent_as_it_is() {
    let mut rig = Rig::new(1, limits());
    let conn = join(&mut rig, 0, "1/a//");
    let mut seed = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    })
    .take(500)
    .collect();
    // Too short to gain anything, incompressible, and too long to be compressed at once.
    for body in [body(83), noise, body(60_000).repeat(5)] {
        rig.push_keys(&["a"], 5, &body);
        let sent = rig.take(conn);
        assert_eq!(sent[0], BINARY);
        assert!(sent.ends_with(&frame(5, 0, &body)));
    }
    let counters = rig.shards[0].counters();
    assert_eq!((counters.deflated_messages, counters.deflate_saved_bytes), (0, 0));
    rig.push_keys(&["a"], 5, &body(84));
    assert_eq!(message(&rig.take(conn)), (BINARY, frame(5, 0, &body(84)), true));
}

#[test]
fn messages_of_clients_are_inflated() {
    let mut rig = Rig::new(2, limits());
    let conn = open(&mut rig, 0);
    let auth = masked(BINARY | COMPRESSED, &deflated(&frame(op::AUTH, 1, b"1/a/r/")));
    let reply = rig.ask(conn, &auth);
    assert_eq!(message(&reply), (BINARY, frame(op::AUTH_REPLY, 1, b""), false));
    // Compressed or not, in fragments, with others between them.
    let payload = deflated(&frame(op::SEND, 2, b"hello"));
    let (first, second) = payload.split_at(3);
    let stream = [
        masked(BINARY & 0x0f | COMPRESSED, first),
        masked(0x89, b""),
        masked(0x80, second),
        masked(BINARY, &frame(op::SEND, 3, b"hello")),
        masked(BINARY | COMPRESSED, &deflated(&frame(op::SEND, 4, b""))),
    ];
    let replies = [
        plain(0x8a, b""),
        plain(BINARY, &frame(op::SEND, 2, b"")),
        plain(BINARY, &frame(op::SEND, 3, b"")),
        plain(BINARY, &frame(op::SEND, 4, b"")),
    ];
    assert_eq!(rig.ask(conn, &stream.concat()), replies.concat());

    let conn = open(&mut rig, 0);
    let auth = br#"{"op":7,"seq":1,"body":"1/t/r/"}"#;
    let reply = rig.ask(conn, &masked(TEXT | COMPRESSED, &deflated(auth)));
    assert_eq!(reply, plain(TEXT, b"[{\"ver\":1,\"op\":8,\"seq\":1,\"body\":{}}]\n"));
}

#[test]
fn an_invalid_compressed_message_closes_the_connection() {
    fn check(first: u8, payload: &[u8], reason: CloseReason, code: u16) {
        let mut rig = Rig::new(1, limits());
        let conn = join(&mut rig, 0, "1/a//");
        let reply = rig.ask(conn, &masked(first, payload));
        assert_eq!(rig.reason(conn), reason, "{first:x}");
        assert_eq!(close_code(&reply), code, "{first:x}");
        assert_eq!(rig.shards[0].counters().closed[reason as usize], 1);
    }
    // The compression bit in frames where it is not allowed: control frames and continuations.
    check(0x89 | COMPRESSED, b"", CloseReason::BadWebSocket, 1002);
    check(0x88 | COMPRESSED, b"", CloseReason::BadWebSocket, 1002);
    check(0x80 | COMPRESSED, b"", CloseReason::BadWebSocket, 1002);
    check(BINARY | COMPRESSED, b"\xff\xff\xff", CloseReason::BadWebSocket, 1007);
    let body_max = Limits::default().body_max;
    let largest = frame(op::SEND, 1, &vec![0; body_max + 1]);
    let bomb = deflated(&largest);
    assert!(bomb.len() < 100);
    check(BINARY | COMPRESSED, &bomb, CloseReason::WebSocketTooLarge, 1009);
    check(BINARY | COMPRESSED, &deflated(b"no frame"), CloseReason::BadFrame, 1002);
    check(TEXT | COMPRESSED, &deflated(b"{}"), CloseReason::WebSocketText, 1003);
    check(BINARY | COMPRESSED, b"", CloseReason::BadFrame, 1002);
}

#[test]
fn text_that_is_not_utf_8_once_it_is_inflated_is_refused() {
    let mut rig = Rig::new(1, limits());
    let conn = open(&mut rig, 0);
    let reply = rig.ask(conn, &masked(TEXT | COMPRESSED, &deflated(b"\xff{}")));
    assert_eq!(close_code(&reply), 1007);
}

/// The messages of one client that a turn inflates have a bound; the rest comes in the next ones.
#[test]
fn the_bytes_that_a_turn_inflates_are_bounded() {
    let limits = Limits { body_max: 1 << 20, cli_proto: 1_000, ..limits() };
    let mut rig = Rig::new(1, limits);
    let conn = join(&mut rig, 0, "1/a//");
    let other = join(&mut rig, 0, "1/b//");
    let message = |sequence| {
        let frame = frame(op::SEND, sequence, &vec![b'x'; 500_000]);
        masked(BINARY | COMPRESSED, &deflated(&frame))
    };
    let stream: Vec<u8> = (0..10).flat_map(message).collect();
    assert!(stream.len() < 1 << 14);
    // The input that the shard reads before its next turn.
    rig.shards[0].handle_recv(conn, &stream);
    let frames = rig.shards[0].counters().frames_in;
    assert_eq!(frames, 2 + 3, "2 tokens, and messages of more than a MiB");
    assert!(rig.shards[0].has_work());
    let heartbeat = masked(BINARY, &frame(op::HEARTBEAT, 9, b""));
    rig.shards[0].handle_recv(other, &heartbeat);
    assert_eq!(rig.shards[0].counters().frames_in, frames, "it may be compressed");
    rig.run();
    assert_eq!(rig.shards[0].counters().frames_in, 2 + 10 + 1);
    assert!(!rig.shards[0].has_work());
    let replies: Vec<u8> =
        (0..10).flat_map(|number| plain(BINARY, &frame(op::SEND, number, b""))).collect();
    assert_eq!(rig.take(conn), replies);
    assert_eq!(rig.take(other).len(), plain(BINARY, &frame(op::HEARTBEAT_REPLY, 9, b"1234")).len());
}

/// Input is read in the order of arrival: a client that floods the server does not use up the turns of clients that wait,
/// and none of these misses a deadline for that.
#[test]
fn clients_with_waiting_input_are_read_before_newly_arrived_input() {
    let limits = Limits { body_max: 1 << 20, cli_proto: 1_000, heartbeat_ms: 1_000, ..limits() };
    let mut rig = Rig::new(1, limits);
    let flooder = join(&mut rig, 0, "1/a//");
    let other = join(&mut rig, 0, "1/b//");
    let message = deflated(&frame(op::SEND, 1, &vec![b'x'; 500_000]));
    let flood = masked(BINARY | COMPRESSED, &message).repeat(3);
    let now = rig.now();
    let shard = &mut rig.shards[0];
    shard.handle_recv(flooder, &flood);
    shard.handle_recv(other, &masked(BINARY, &frame(op::HEARTBEAT, 9, b"")));
    // The first of these turns comes late.
    let mut is_answered = false;
    for _ in 0..3 {
        shard.handle_time(Millis(now + 5_000));
        shard.handle_recv(flooder, &flood);
        shard.handle_deadlines(&mut Budget::slice());
        while let Some(transmit) = shard.poll_transmit() {
            let conn = transmit.conn;
            let bytes = transmit.slices.map(<[u8]>::len).sum();
            is_answered |= conn == other;
            shard.handle_sent(conn, bytes);
        }
    }
    assert!(is_answered);
    assert!(shard.poll_closed().is_none_or(|event| event.conn != other));
}

/// Inflating blocks that yield no bytes takes time as well.
#[test]
fn compressed_bytes_count_where_they_inflate_to_little() {
    let mut rig = Rig::new(1, limits());
    let conn = join(&mut rig, 0, "1/a//");
    let frames = rig.shards[0].counters().frames_in;
    // Empty blocks, and a heartbeat behind them.
    let payload = [[0, 0, 0, 0xff, 0xff].repeat(200), deflated(&frame(op::HEARTBEAT, 1, b""))];
    let messages = masked(BINARY | COMPRESSED, &payload.concat()).repeat(500);
    for part in messages.chunks(60_000) {
        rig.shards[0].handle_recv(conn, part);
    }
    let read = rig.shards[0].counters().frames_in - frames;
    assert!((100..150).contains(&read), "{read} of a KiB each");
}

#[test]
fn another_process_goes_on_with_messages_that_wait_and_with_the_counts() {
    let limits = Limits { body_max: 1 << 20, cli_proto: 1_000, ..limits() };
    let mut rig = Rig::new(1, limits.clone());
    let conn = join(&mut rig, 0, "1/a//");
    rig.push_keys(&["a"], 5, &body(1_000));
    let pushed = rig.take(conn);
    let before = rig.shards[0].counters();
    assert!(before.deflated_messages == 1 && before.deflate_saved_bytes > 500);
    let message = |sequence| {
        let frame = frame(op::SEND, sequence, &vec![b'x'; 500_000]);
        masked(BINARY | COMPRESSED, &deflated(&frame))
    };
    let stream: Vec<u8> = (0..10).flat_map(message).collect();
    rig.shards[0].handle_recv(conn, &stream);
    assert_eq!(rig.shards[0].counters().frames_in, 1 + 3);

    let handed = rig.shards[0].hand_over();
    let mut next = Rig::new(1, limits);
    let (conn, _) = next.take_over(distribute(vec![handed], 1).unwrap())[0];
    assert!(next.shards[0].has_work());
    next.run();
    let replies: Vec<u8> =
        (0..10).flat_map(|number| plain(BINARY, &frame(op::SEND, number, b""))).collect();
    assert_eq!(next.take(conn), replies);
    assert_eq!(next.shards[0].counters().frames_in, 1 + 10);
    next.push_keys(&["a"], 5, &body(1_000));
    assert_eq!(next.take(conn), pushed);
    let after = next.shards[0].counters();
    assert_eq!(after.deflated_messages, 2);
    assert_eq!(after.deflate_saved_bytes, 2 * before.deflate_saved_bytes);
}

#[test]
fn inflated_bytes_count_as_sent_ones() {
    let mut limits = limits();
    limits.rates.bytes = 100;
    let mut rig = Rig::new(1, limits);
    let conn = join(&mut rig, 0, "1/a//");
    let message = masked(BINARY | COMPRESSED, &deflated(&frame(op::SEND, 1, &[0; 2_000])));
    assert!(message.len() < 100);
    rig.feed(conn, &message);
    assert_eq!(rig.reason(conn), CloseReason::ByteRate);
}

#[test]
fn compression_that_is_switched_off_ends_for_connections_there_are() {
    let mut rig = Rig::new(1, limits());
    let conn = join(&mut rig, 0, "1/a//");
    let limits = Limits { deflate: None, ..limits() };
    rig.send_all(&Message::Configure { limits: limits.into() });
    rig.push_keys(&["a"], 5, &body(300));
    assert_eq!(message(&rig.take(conn)), (BINARY, frame(5, 0, &body(300)), false));
    // It may still send compressed messages.
    let payload = deflated(&frame(op::SEND, 2, b""));
    let reply = rig.ask(conn, &masked(BINARY | COMPRESSED, &payload));
    assert_eq!(reply, plain(BINARY, &frame(op::SEND, 2, b"")));
}

/// All messages of `bytes`: their frames, and how many of them were compressed.
fn messages(mut bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut frames, mut compressed) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            short => (2, usize::from(short)),
        };
        let (one, rest) = bytes.split_at(header + length);
        let (_, message, is_compressed) = message(one);
        frames.extend(message);
        compressed += usize::from(is_compressed);
        bytes = rest;
    }
    (frames, compressed)
}

/// Compressed pushes that an outbox drops are reported as gaps and can be recovered. The recovery is not compressed.
#[test]
fn compressed_pushes_that_are_lost_are_reported_and_recovered() {
    let limits = Limits { svr_proto: 3, history_rules: rules(100), ..limits() };
    for slow_consumer in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let mut rig = Rig::new(2, Limits { slow_consumer, ..limits.clone() });
        let room = room_at(1);
        let conn = open(&mut rig, 0);
        rig.ask(conn, &masked(BINARY, &frame_2(op::AUTH, 1, b"7/k//")));
        let (frames, _) = messages(&rig.ask(conn, &masked(BINARY, &join_since(&room, None))));
        let [Told::Joined { position: Some(start), .. }] = told(&frames)[..] else { panic!() };
        rig.allow(conn, Some(0));
        (0..6).for_each(|_| _ = rig.push_room(&room, TELL, &body(2_000)));
        rig.allow(conn, None);
        let (frames, compressed) = messages(&rig.take(conn));
        assert_eq!(compressed, 3);
        let all = told(&frames);
        let offsets = |all: &[Told]| -> Vec<u64> {
            let offset = |told: &Told| match told {
                Told::Push { offset, .. } => Some(*offset),
                _ => None,
            };
            all.iter().filter_map(offset).collect()
        };
        let gaps: Vec<(u64, u64)> = all
            .iter()
            .filter_map(|told| match told {
                Told::Gap(gap) => Some((gap.first, gap.last)),
                _ => None,
            })
            .collect();
        let (kept, lost) = match slow_consumer {
            SlowConsumer::DropOldest => ([1, 5, 6], (2, 4)),
            _ => ([1, 2, 3], (4, 6)),
        };
        assert_eq!((offsets(&all), gaps), (kept.to_vec(), vec![lost]));
        let since = Some(Position { offset: lost.0 - 1, ..start });
        let request = masked(BINARY, &join_since(&room, since));
        let (frames, compressed) = messages(&rig.ask(conn, &request));
        assert_eq!(compressed, 0);
        assert_eq!(offsets(&told(&frames)), (lost.0..=6).collect::<Vec<u64>>());
    }
}
