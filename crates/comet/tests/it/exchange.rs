//! A recorded exchange: the bytes an unchanged goim v2 client sends for each operation, and those it gets.
//!
//! What is sent, and what it means, is goim's: the frame is that of `api/protocol/protocol.go`, the operations
//! those of `api/protocol/operation.go`, requests those of `examples/javascript/client.js` (WebSocket) and
//! `benchmarks/client/main.go` (TCP), pushes those of `internal/job/push.go` and `internal/job/room.go`. What
//! comes back is what `internal/comet/operation.go`, `server_tcp.go` and `server_websocket.go` beside it
//! answer with.
//!
//! A line is a frame: its header in hexadecimal, then its body. packLen (4 bytes), headerLen and version
//! (2 each), operation and sequence (4 each), as in
//!
//! ```text
//! 00000012 0010 0001 00000007 00000001   42
//! ```

use comet_client::Transport;
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq};
use comet_wire::goim::protocol::Proto;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::peer::{BINARY, Peer, UPGRADE, unmasked};
use crate::support::{BOTH, Server};

/// The token of `examples/javascript/client.js`.
const TOKEN_OF_THE_WEB: &str =
    r#"{"mid":123, "room_id":"live://1000", "platform":"web", "accepts":[1000,1001,1002]}"#;

/// A token of `benchmarks/client/main.go`, for the connection with number 7.
const TOKEN_OF_THE_BENCHMARK: &str =
    r#"{"mid":7,"key":"","room_id":"test://1","platform":"ios","accepts":[1000,1001,1002]}"#;

/// Who says a line.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Client,
    Server,
}
use Says::{Client, Server as Comet};

/// A line: who says it, the header, the body.
type Line<'a> = (Says, &'a str, &'a str);

/// The bytes written as hexadecimal digits, with spaces anywhere.
fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks_exact(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// What comes next is `expected`, byte for byte.
#[track_caller]
fn expect(peer: &mut Peer, expected: &[u8]) {
    let got = peer.read(expected.len());
    assert_eq!(got, expected, "{}\n{}", got.escape_ascii(), expected.escape_ascii());
}

/// `frame` as the server sends it.
fn as_sent(transport: Transport, frame: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Tcp => frame.to_vec(),
        Transport::WebSocket => unmasked(BINARY, frame),
    }
}

#[track_caller]
fn exchange(peer: &mut Peer, transport: Transport, lines: &[Line<'_>]) {
    for (who, header, body) in lines {
        let frame = [&bytes(header), body.as_bytes()].concat();
        if *who == Client {
            let wrapped = peer.wrap(&frame);
            peer.write(&wrapped);
        } else {
            expect(peer, &as_sent(transport, &frame));
        }
    }
}

/// A connection of goim's web client, over either transport: in room `live://1000`.
fn web_client(server: &Server, transport: Transport) -> Peer {
    let mut peer = Peer::open(server, transport);
    exchange(
        &mut peer,
        transport,
        &[
            (Client, "00000062 0010 0001 00000007 00000001", TOKEN_OF_THE_WEB),
            (Comet, "00000010 0010 0001 00000008 00000001", ""),
        ],
    );
    peer
}

/// goim's job: what is pushed is a frame, or some of a room, as the body of an operation 9.
struct Job {
    runtime: Runtime,
    comet: CometClient<Channel>,
}

impl Job {
    fn of(server: &Server) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Channel::from_shared(format!("http://{}", server.grpc())).unwrap();
        let comet = CometClient::new(runtime.block_on(endpoint.connect()).unwrap());
        Self { runtime, comet }
    }

    fn push_keys(&mut self, keys: &[&str], operation: i32, frame: &[u8]) {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let request = PushMsgReq { keys, proto: raw(frame), proto_op: operation };
        self.runtime.block_on(self.comet.push_msg(request)).unwrap();
    }

    fn push_room(&mut self, room: &str, frames: &[u8]) {
        let request = BroadcastRoomReq { room_id: room.to_owned(), proto: raw(frames) };
        self.runtime.block_on(self.comet.broadcast_room(request)).unwrap();
    }

    fn push_all(&mut self, operation: i32, frame: &[u8]) {
        let request = BroadcastReq { proto_op: operation, proto: raw(frame), speed: 0 };
        self.runtime.block_on(self.comet.broadcast(request)).unwrap();
    }
}

fn raw(frames: &[u8]) -> Option<Proto> {
    Some(Proto { ver: 1, op: 9, seq: 0, body: frames.to_vec().into(), ..Proto::default() })
}

#[test]
fn authentication_by_number_and_by_json() {
    let server = Server::start(&[]);
    let exchanges: [&[Line<'_>]; 3] = [
        &[
            (Client, "00000012 0010 0001 00000007 00000001", "42"),
            (Comet, "00000010 0010 0001 00000008 00000001", ""),
        ],
        &[
            (Client, "00000062 0010 0001 00000007 00000001", TOKEN_OF_THE_WEB),
            (Comet, "00000010 0010 0001 00000008 00000001", ""),
        ],
        // This client counts from 0, and its heartbeats have no version.
        &[
            (Client, "00000063 0010 0001 00000007 00000000", TOKEN_OF_THE_BENCHMARK),
            (Comet, "00000010 0010 0001 00000008 00000000", ""),
            (Client, "00000010 0010 0000 00000002 00000001", ""),
            (Comet, "00000014 0010 0000 00000003 00000001", "\0\0\0\u{1}"),
        ],
    ];
    for transport in BOTH {
        for lines in exchanges {
            exchange(&mut Peer::open(&server, transport), transport, lines);
            // The rooms are counted, so nobody may be left in one.
            server.until("comet_connections", 0);
        }
    }
}

#[test]
fn requests() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut peer = web_client(&server, transport);
        exchange(
            &mut peer,
            transport,
            &[
                // Heartbeat in a room of one.
                (Client, "00000010 0010 0001 00000002 00000001", ""),
                (Comet, "00000014 0010 0001 00000003 00000001", "\0\0\0\u{1}"),
                // A message to logic, as operation 4 and as one that has no meaning of its own.
                (Client, "00000015 0010 0001 00000004 00000002", "hello"),
                (Comet, "00000010 0010 0001 00000004 00000002", ""),
                (Client, "00000015 0010 0001 000003e8 00000003", "hello"),
                (Comet, "00000010 0010 0001 000003e8 00000003", ""),
                // Another room, which has one in it, and then none.
                (Client, "0000001b 0010 0001 0000000c 00000004", "live://2000"),
                (Comet, "0000001b 0010 0001 0000000d 00000004", "live://2000"),
                (Client, "00000010 0010 0001 00000002 00000005", ""),
                (Comet, "00000014 0010 0001 00000003 00000005", "\0\0\0\u{1}"),
                (Client, "00000010 0010 0001 0000000c 00000006", ""),
                (Comet, "00000010 0010 0001 0000000d 00000006", ""),
                // Heartbeat in no room.
                (Client, "00000010 0010 0001 00000002 00000007", ""),
                (Comet, "00000014 0010 0001 00000003 00000007", "\0\0\0\0"),
                // Subscribe and unsubscribe.
                (Client, "00000019 0010 0001 0000000e 00000008", "1003,1004"),
                (Comet, "00000019 0010 0001 0000000f 00000008", "1003,1004"),
                (Client, "00000014 0010 0001 00000010 00000009", "1003"),
                (Comet, "00000014 0010 0001 00000011 00000009", "1003"),
                // A second token is a message to logic like any other.
                (Client, "00000012 0010 0001 00000007 0000000a", "43"),
                (Comet, "00000010 0010 0001 00000007 0000000a", ""),
                // Sequences are whatever the client likes.
                (Client, "00000010 0010 0001 00000002 ffffffff", ""),
                (Comet, "00000014 0010 0001 00000003 ffffffff", "\0\0\0\0"),
            ],
        );
        drop(peer);
        server.until("comet_connections", 0);
    }
}

#[test]
fn pushes_of_the_job_by_key_room_and_all() {
    let server = Server::start(&[]);
    let mut job = Job::of(&server);
    let token = r#"{"mid":1,"key":"k","room_id":"r","platform":"web","accepts":[1000]}"#;
    // The message the job was given: operation 1000, sequence 0.
    let inside = [&bytes("00000015 0010 0001 000003e8 00000000")[..], b"hello"].concat();
    // What WebSocket clients get around it: operation 9 with the length of all.
    let around = bytes("00000025 0010 0001 00000009 00000000");
    let not_accepted = [&bytes("00000015 0010 0001 000003e9 00000000")[..], b"never"].concat();
    for transport in BOTH {
        let mut peer = Peer::open(&server, transport);
        exchange(
            &mut peer,
            transport,
            &[
                (Client, "00000053 0010 0001 00000007 00000001", token),
                (Comet, "00000010 0010 0001 00000008 00000001", ""),
            ],
        );
        let expected = match transport {
            Transport::Tcp => inside.clone(),
            Transport::WebSocket => as_sent(transport, &[&around[..], &inside].concat()),
        };
        job.push_keys(&["k"], 1000, &inside);
        expect(&mut peer, &expected);
        job.push_keys(&["k"], 1001, &not_accepted);
        job.push_all(1001, &not_accepted);
        job.push_room("r", &inside);
        expect(&mut peer, &expected);
        job.push_all(1000, &inside);
        expect(&mut peer, &expected);
    }
}

/// What the job gathered for a room is one operation 9: on TCP the frames as they are, on WebSocket one message.
#[test]
fn a_batch_of_the_job_to_a_room() {
    let server = Server::start(&[]);
    let mut job = Job::of(&server);
    let first = [&bytes("00000015 0010 0001 000003e8 00000000")[..], b"first"].concat();
    let second = [&bytes("00000016 0010 0001 000003e9 00000000")[..], b"second"].concat();
    // Members are not asked what they accept.
    let third = bytes("00000010 0010 0001 000007d0 00000000");
    let batch = [first, second, third].concat();
    for transport in BOTH {
        let mut peer = web_client(&server, transport);
        job.push_room("live://1000", &batch);
        match transport {
            Transport::Tcp => expect(&mut peer, &batch),
            Transport::WebSocket => {
                let header = bytes("82 4b 0000004b 0010 0001 00000009 00000000");
                expect(&mut peer, &[header, batch.clone()].concat());
            }
        }
    }
}

/// A push of a frame that is not wrapped, as goim's comet takes it from others than the job.
#[test]
fn pushes_of_a_plain_frame() {
    let server = Server::start(&[]);
    let mut job = Job::of(&server);
    let proto = Proto { ver: 1, op: 5, seq: 7, body: b"hello".to_vec().into(), ..Proto::default() };
    for transport in BOTH {
        let mut peer = web_client(&server, transport);
        let room_id = "live://1000".to_owned();
        let request = BroadcastRoomReq { room_id, proto: Some(proto.clone()) };
        job.runtime.block_on(job.comet.broadcast_room(request)).unwrap();
        let line = (Comet, "00000015 0010 0001 00000005 00000007", "hello");
        exchange(&mut peer, transport, &[line]);
    }
}

/// Every byte of a WebSocket connection, the client's masked as RFC 6455 wants it.
#[test]
fn a_websocket_connection_from_upgrade_to_close() {
    let server = Server::start(&[]);
    let mut peer = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
    peer.write(UPGRADE.as_bytes());
    expect(
        &mut peer,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    for (sent, answered) in [
        // Token 42.
        (
            "82 92 01020304 01020316 01120305 01020303 01020305 3530",
            "82 10 00000010 0010 0001 00000008 00000001",
        ),
        // Heartbeat with sequence 1, in a room of one.
        (
            "82 90 01020304 01020314 01120305 01020306 01020305",
            "82 14 00000014 0010 0001 00000003 00000001 00000001",
        ),
        // Ping `Hello`.
        ("89 85 01020304 49676f686e", "8a 05 48656c6c6f"),
        // Close with code 1000: answered with the code and `peer_closed`, and the stream ends.
        ("88 82 01020304 02ea", "88 0d 03e8 706565725f636c6f736564"),
    ] {
        peer.write(&bytes(sent));
        expect(&mut peer, &bytes(answered));
    }
    peer.expect_end();
}

/// goim's clients go without a word, and none is said to them.
#[test]
fn a_tcp_client_that_disconnects_gets_no_close_notice() {
    let server = Server::start(&[]);
    let mut peer = web_client(&server, Transport::Tcp);
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    peer.expect_end();
}

/// goim defines operation 6 and never sends it: its clients take it for a message.
#[test]
fn the_server_goes_without_an_operation_6_unless_it_is_wanted() {
    for (transport, goodbye) in
        BOTH.map(|transport| [(transport, false), (transport, true)]).concat()
    {
        let server = Server::start(&[&format!("protocol.goodbye={goodbye}")]);
        let mut peer = web_client(&server, transport);
        let drained = std::thread::spawn(|| server.drain());
        if goodbye {
            let line = (Comet, "00000018 0010 0001 00000006 00000000", "draining");
            exchange(&mut peer, transport, &[line]);
        }
        if transport == Transport::WebSocket {
            expect(&mut peer, &bytes("88 0a 03e9 647261696e696e67"));
        }
        peer.expect_end();
        drop(peer);
        drained.join().unwrap();
    }
}
