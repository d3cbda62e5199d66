//! Callers that give up, stop midway, announce long messages or stay silent.

use std::sync::Arc;

use comet_control::{AccessControl, Options};
use comet_core::{Counters, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{HASTY, PATIENT, ROOMY, options, start, start_with};
use crate::h2_frames::{Connection, cancel, data, head, head_with, message};

const PUSH_MSG: &str = "/goim.comet.Comet/PushMsg";
const PUSH_STREAM: &str = "/comet.v1.Push/PushStream";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Asks for a push to no key, which the service itself refuses.
async fn still_serves(connection: &mut Connection, stream: u32) {
    let call = [head(stream, PUSH_MSG), data(stream, &message(b""), true)].concat();
    connection.send(&call).await;
    connection.answer(stream).await;
}

#[tokio::test]
async fn calls_that_are_given_up_end_no_connection() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut connection = Connection::open(fake.control.grpc_addrs()[0].socket().unwrap()).await;
    let mut stream = 1;
    for calls in [21, 1_100, 6_000] {
        let mut burst = Vec::new();
        for _ in 0..calls {
            burst.extend([head(stream, PUSH_MSG), cancel(stream)].concat());
            stream += 2;
        }
        connection.send(&burst).await;
        still_serves(&mut connection, stream).await;
        stream += 2;
    }
}

/// Bytes that arrive for calls that the server has ended already.
#[tokio::test]
async fn late_bytes_of_ended_calls_end_no_connection() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut connection = Connection::open(fake.control.grpc_addrs()[0].socket().unwrap()).await;
    let mut last = 0;
    for round in 0..4 {
        let streams = (0..500).map(|index| round * 1_000 + 2 * index + 1);
        for stream in streams.clone() {
            // Longer than any request: refused by its prefix.
            connection
                .send(&[head(stream, PUSH_MSG), data(stream, &[0, 255, 0, 0, 0], false)].concat())
                .await;
            connection.answer(stream).await;
        }
        for stream in streams {
            connection.send(&data(stream, b"more", false)).await;
            last = stream;
        }
    }
    still_serves(&mut connection, last + 2).await;
}

#[tokio::test]
async fn a_call_that_stops_midway_is_answered() {
    let fake = start(HASTY, &[ROOMY]);
    let address = fake.control.grpc_addrs()[0].socket().unwrap();
    let [mut connection, mut other] =
        [Connection::open(address).await, Connection::open(address).await];
    let begun = message(&[0; 200]);
    // The head alone, the start of a message, the start of a message in a stream, and a message without the end of the call.
    let silent = head(1, PUSH_MSG);
    let midway = [head(3, PUSH_MSG), data(3, &begun[..50], false)].concat();
    let in_stream = [head(5, PUSH_STREAM), data(5, &begun[..50], false)].concat();
    connection.send(&[silent, midway, in_stream].concat()).await;
    other.send(&[head(1, PUSH_MSG), data(1, &begun, false)].concat()).await;
    for stream in [1, 3] {
        connection.answer(stream).await;
    }
    other.answer(1).await;
    let counters = [Counters::default()];
    let (page, ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
    let (_, _, page) = page;
    assert!(
        page.contains(r#"comet_api_refused_total{listener="push.grpc",reason="late"}"#),
        "{page}"
    );
}

/// More bytes than the bound of all requests: the oldest incomplete calls are given up, and others are served.
#[tokio::test]
async fn announced_messages_take_no_room() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(fake.control.grpc_addrs()[0].socket().unwrap()).await;
        for index in 0..1_000 {
            let stream = 2 * index + 1;
            connection
                .send(
                    &[head(stream, PUSH_MSG), data(stream, &message(&[0; 900])[..5], false)]
                        .concat(),
                )
                .await;
        }
        connections.push(connection);
    }
    let mut honest = Connection::open(fake.control.grpc_addrs()[0].socket().unwrap()).await;
    still_serves(&mut honest, 1).await;
}

/// Health checks need no token. As many such calls as all requests have memory for take none of it from callers with a token.
#[tokio::test]
async fn calls_without_a_token_take_no_room_of_others() {
    let push_access = Arc::new(AccessControl::new(vec!["a-token".to_owned()], Vec::new()));
    let fake = start_with(Options { push_access, ..options(PATIENT) }, &[ROOMY]);
    let address = fake.control.grpc_addrs()[0].socket().unwrap();
    let mut honest = Connection::open(address).await;
    // Room "r" and an empty frame, and the beginning of the next message.
    let push = message(&[0x08, 1, 0x22, 1, b'r', 0x2a, 2, 0x10, 5]);
    let begun = [&push[..], &push[..6]].concat();
    honest.send(&head_with(1, PUSH_STREAM, Some("Bearer a-token"))).await;
    honest.send(&data(1, &begun, false)).await;
    assert!(matches!(fake.shards[0].next().await, Message::PushRoom { .. }));
    let mut strangers = Vec::new();
    for _ in 0..17 {
        let mut stranger = Connection::open(address).await;
        for index in 0..1_000 {
            stranger.send(&head(2 * index + 1, CHECK)).await;
        }
        // By then the server has read all of them.
        stranger.send(&[head(2_001, CHECK), data(2_001, &message(b""), true)].concat()).await;
        stranger.answer(2_001).await;
        strangers.push(stranger);
    }
    honest.send(&data(1, &push[6..], false)).await;
    assert!(matches!(fake.shards[0].next().await, Message::PushRoom { .. }));
    // A message that is longer than any health check, by its bytes or by its announced length, is refused.
    for bytes in [message(&[0; 5_000]), message(&[0; 5_000])[..5].to_vec()] {
        let mut stranger = Connection::open(address).await;
        stranger.send(&[head(1, CHECK), data(1, &bytes, false)].concat()).await;
        let answer = stranger.answer(1).await;
        // UNAUTHENTICATED, 16, in Huffman code.
        let is_refused = answer.windows(2).any(|pair| pair == [0x0b, 0x9f]);
        assert!(is_refused, "{}", answer.escape_ascii());
    }
}

/// Connections that check health without a token make room for others, however many calls they begin and do not end.
#[tokio::test]
async fn connections_without_a_token_displace_no_caller_with_one() {
    let push_access = Arc::new(AccessControl::new(vec!["a-token".to_owned()], Vec::new()));
    // This number of files leaves room for eight connections.
    let options = Options { push_access, open_files: 128, ..options(PATIENT) };
    let fake = start_with(options, &[ROOMY]);
    let address = fake.control.grpc_addrs()[0].socket().unwrap();
    let push = |stream| {
        let head = head_with(stream, PUSH_MSG, Some("Bearer a-token"));
        [head, data(stream, &message(b""), true)].concat()
    };
    let mut caller = Connection::open(address).await;
    caller.send(&push(1)).await;
    caller.answer(1).await;
    let mut strangers = Vec::new();
    for _ in 0..16 {
        let mut stranger = Connection::open(address).await;
        let unended = [head(1, CHECK), data(1, &message(b""), false)];
        let ended = [head(3, CHECK), data(3, &message(b""), true)];
        stranger.send(&[unended, ended].concat().concat()).await;
        stranger.answer(3).await;
        strangers.push(stranger);
    }
    caller.send(&push(3)).await;
    caller.answer(3).await;
}

/// A stream of pushes that waits because its answers are not read does not affect other calls of the connection.
#[tokio::test]
async fn a_stream_that_waits_ends_no_connection() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut connection = Connection::open(fake.control.grpc_addrs()[0].socket().unwrap()).await;
    connection.send(&head(1, PUSH_STREAM)).await;
    // Room "r" and an empty frame, in a frame of its own each: as small as a push can be.
    let push = message(&[0x08, 1, 0x22, 1, b'r', 0x2a, 2, 0x10, 5]);
    // As many as the flow control window takes.
    let pushes = (64 << 10) / push.len();
    for _ in 0..pushes {
        connection.send(&data(1, &push, false)).await;
    }
    assert!(matches!(fake.shards[0].next().await, Message::PushRoom { .. }));
    still_serves(&mut connection, 3).await;
}

/// Twice as many connections as places: the silent ones are closed.
#[tokio::test]
async fn silent_connections_do_not_lock_out_others() {
    let fake = start(PATIENT, &[ROOMY]);
    for address in [
        fake.control.stat_addrs()[0].socket().unwrap(),
        fake.control.http_addrs()[0].socket().unwrap(),
    ] {
        let mut silent = Vec::new();
        for _ in 0..1_100 {
            silent.push(TcpStream::connect(address).await.unwrap());
            if silent.len() % 100 == 0 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /nothing HTTP/1.0\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.0 404"), "{answer:?}");
            }
        }
        assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
    }
}
