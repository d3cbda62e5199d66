//! Callers that give up, stop midway, announce much and say nothing.

use comet_core::{Counters, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{HASTY, PATIENT, ROOMY, start};
use crate::h2_frames::{Connection, cancel, data, head, message};

const PUSH_MSG: &str = "/goim.comet.Comet/PushMsg";
const PUSH_STREAM: &str = "/comet.v1.Push/PushStream";

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

/// Bytes for calls that the server has ended already.
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
    // Head alone, the start of a message, and the start of one in a stream; a message without the end of the call.
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

/// More than the bound of all requests: the slowest are given up, and others are served.
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

/// A stream that is not taken on, since its answers are not read, leaves other calls of the connection alone.
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

/// Twice as many as there are places: the silent leave.
#[tokio::test]
async fn silent_connections_lock_nobody_out() {
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
