//! Pushes faster than one can be sent after the other: what waits leaves in long sends, and costs those that
//! take everything nothing.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use comet_client::Transport;
use comet_wire::comet::v1::PushStreamReq;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_req::Target;
use comet_wire::goim::protocol::Proto;
use rustls::version::TLS13;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::peer::{BINARY, Peer, frame, unmasked};
use crate::process::Server as Program;
use crate::support::{BOTH, Metrics, Server, To, queued, received, until};
use crate::tls::{self, Certificates};

/// All `pushes` to the room `1` at once: the stream does not wait for answers.
fn push_at_once(grpc: SocketAddr, pushes: u32, body: fn(u32) -> Vec<u8>) {
    let pushes = (0..pushes).map(move |number| PushStreamReq {
        id: number.into(),
        target: Some(Target::RoomId("1".to_owned())),
        proto: Some(Proto { ver: 1, op: 5, seq: 0, body: body(number).into(), ..Proto::default() }),
        proto_op: 0,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).unwrap();
        let mut client = PushClient::new(endpoint.connect().await.unwrap());
        let replies = client.push_stream(tokio_stream::iter(pushes)).await.unwrap();
        let answers = replies.into_inner().map(|reply| reply.unwrap().answers.len());
        answers.collect::<Vec<_>>().await
    });
}

fn body(number: u32) -> Vec<u8> {
    let mut body = vec![0; 1_100];
    body[..4].copy_from_slice(&number.to_be_bytes());
    body
}

/// By turns short and too long for a buffer with others: such are sent from where they are.
fn mixed_body(number: u32) -> Vec<u8> {
    let len = if number.is_multiple_of(2) { 100_000 } else { 900_000 };
    (0..len).map(|at| (number + at * 7 + at / 251) as u8).collect()
}

/// The bytes of a push as a client of `transport` gets them.
fn on_the_wire(transport: Transport, body: &[u8]) -> Vec<u8> {
    let frame = frame(5, 0, body);
    match transport {
        Transport::Tcp => frame,
        Transport::WebSocket => unmasked(BINARY, &frame),
    }
}

/// The bursts are repeated, since a reader that the machine holds up is a slow one.
#[test]
fn a_reader_that_takes_everything_loses_nothing_of_a_burst() {
    const PUSHES: u32 = 3_000;
    for transport in BOTH {
        let server = Program::start(&[]);
        let mut reader = server.live(transport, "1");
        let end = reader.stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || while reader.stream.read(&mut [0; 1 << 20]).unwrap() > 0 {});
            let mut dropped = 0;
            until("a burst of which nothing is dropped", || {
                push_at_once(server.grpc, PUSHES, body);
                let before = dropped;
                dropped = Metrics::read(server.stat).dropped("outbox_full");
                dropped == before
            });
            let waiting = || Metrics::read(server.stat).value("comet_waiting");
            until("all to be sent", || waiting() == 0);
            end.shutdown(std::net::Shutdown::Both).unwrap();
        });
    }
}

const LARGE_OUTBOXES: [&str; 4] = [
    "protocol.svr_proto=60000",
    "protocol.outbox_bytes=\"64MiB\"",
    "protocol.write_timeout=\"1h\"",
    "tcp.sndbuf=262144",
];

#[test]
fn a_long_backlog_leaves_in_few_sends() {
    check_backlogs(5_000, body);
}

#[test]
fn frames_too_long_to_be_joined_arrive_between_others() {
    check_backlogs(20, mixed_body);
}

/// Checks a backlog of `pushes` over both transports, without TLS and inside it.
fn check_backlogs(pushes: u32, body: fn(u32) -> Vec<u8>) {
    let certificates = Certificates::new(&["a.example"]);
    let client = Arc::new(certificates.client(&[&TLS13]));
    for transport in BOTH {
        let server = Server::start(&LARGE_OUTBOXES);
        check_backlog(&server, Peer::live_1(&server, transport, "1"), pushes, body);
        server.drain();
        let server = certificates.server(&LARGE_OUTBOXES);
        check_backlog(&server, tls::live_1(&server, transport, &client, "1"), pushes, body);
    }
}

/// A reader that begins when all `pushes` are made gets them in order, in sends of many.
fn check_backlog<S: Read + Write>(
    server: &Server,
    mut slow: Peer<S>,
    pushes: u32,
    body: fn(u32) -> Vec<u8>,
) {
    push_at_once(server.grpc(), pushes, body);
    assert_eq!(server.metric("comet_queued_total"), u64::from(pushes));
    let (sends, waiting) = (server.metric("comet_sends_total"), server.metric("comet_waiting"));
    for number in 0..pushes {
        let expected = on_the_wire(slow.transport, &body(number));
        assert!(slow.read(expected.len()) == expected, "push {number}");
    }
    server.until("comet_waiting", 0);
    let sends = server.metric("comet_sends_total") - sends;
    let bytes: u64 = (0..pushes).map(|number| body(number).len() as u64).sum();
    // The kernel may take a window in pieces.
    assert!(sends <= bytes / 8_192, "{sends} sends of {waiting} pushes");
}

/// Most of a room is stuck. Each push reaches the one that reads, and replaces one at each of the others.
#[test]
fn drop_oldest_replaces_one_push_at_each_of_many() {
    const STUCK: usize = 100;
    const PUSHES: u32 = 1_500;
    let sets = [
        "protocol.slow_consumer=\"drop-oldest\"",
        "protocol.svr_proto=64",
        "protocol.write_timeout=\"1h\"",
        "tcp.sndbuf=65536",
    ];
    let server = Server::start(&sets);
    let mut healthy = server.client(Transport::Tcp, "1");
    let mut stuck: Vec<_> =
        (0..STUCK).map(|number| Peer::live(&server, BOTH[number % 2], "2")).collect();
    for number in 0..PUSHES {
        let ledger = server.push(To::Room("1"), 5, &body(number));
        assert_eq!(ledger, queued(STUCK as u64 + 1), "push {number}");
        assert!(received(&mut healthy) == body(number), "push {number}");
    }
    let superseded = server.metric("comet_superseded_total");
    assert!(superseded > 0);
    let mut heard = 0;
    for peer in &mut stuck {
        let mut last = None;
        while last != Some(PUSHES - 1) {
            let next = u32::from_be_bytes(peer.recv().body[..4].try_into().unwrap());
            assert!(last.is_none_or(|last| last < next), "{next} after {last:?}");
            last = Some(next);
            heard += 1;
        }
    }
    assert_eq!(heard + superseded, STUCK as u64 * u64::from(PUSHES));
}
