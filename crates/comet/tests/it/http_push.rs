//! goim's HTTP push API on a running server: what clients get, what callers are told.

use std::io::{Read, Write};
use std::net::TcpStream;

use comet::App;
use comet_client::Transport;
use serde_json::{Value, json};

use crate::peer::{Peer, frame};
use crate::support::{BOTH, PATIENCE, Server, config, http, received_until, until};

/// Sends a request and reads status and JSON of its answer.
fn request(server: &Server, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
    let (status, answer) = http(server.http(), method, target, body);
    (status, serde_json::from_slice(&answer).expect("JSON"))
}

/// The ledger in the answer to a push.
#[track_caller]
fn push(server: &Server, target: &str, body: &[u8]) -> Value {
    answered(request(server, "POST", &format!("/goim/push/{target}"), body))
}

#[track_caller]
fn get(server: &Server, target: &str) -> Value {
    answered(request(server, "GET", &format!("/goim/{target}"), b""))
}

/// The data of an answer without a fault.
#[track_caller]
fn answered((status, mut answer): (u16, Value)) -> Value {
    assert_eq!((status, &answer["code"], &answer["message"]), (200, &json!(0), &json!("")));
    answer["data"].take()
}

fn ledger(queued: u64, absent: u64) -> Value {
    json!({ "matched": queued, "queued": queued, "dropped": {}, "absent": absent, "scheduled": 0 })
}

fn token(user: i64, room: &str) -> String {
    let token =
        json!({ "mid": user, "key": format!("k{user}"), "room_id": room, "accepts": [1000] });
    token.to_string()
}

#[test]
fn every_kind_of_push_is_one_frame_for_exactly_whom_it_names() {
    let server = Server::start(&[]);
    let clients = [
        (Transport::Tcp, 41, "live://1"),
        (Transport::WebSocket, 42, "live://1"),
        (Transport::Tcp, 43, "live://2"),
        (Transport::WebSocket, 44, "chat://1"),
    ];
    let mut peers =
        clients.map(|(transport, user, room)| Peer::live_1(&server, transport, &token(user, room)));
    let cases: &[(&str, Value, &[usize])] = &[
        ("keys?operation=1000&keys=k41,gone,k44", ledger(2, 1), &[0, 3]),
        ("keys?operation=1000&keys=k42&keys=k43", ledger(2, 0), &[1, 2]),
        ("mids?operation=1000&mids=42,43,99,0", ledger(2, 2), &[1, 2]),
        ("room?operation=1000&type=live&room=1", ledger(2, 0), &[0, 1]),
        ("room?operation=1000&type=live&room=2", ledger(1, 0), &[2]),
        ("room?operation=1000&type=live&room=3", ledger(0, 0), &[]),
        ("room?operation=1000&room=live://1", ledger(2, 0), &[0, 1]),
        ("all?operation=1000", ledger(4, 0), &[0, 1, 2, 3]),
        ("all?operation=1000&speed=0", ledger(4, 0), &[0, 1, 2, 3]),
    ];
    for (target, ledger, receivers) in cases {
        assert_eq!(push(&server, target, target.as_bytes()), *ledger, "{target}");
        for receiver in *receivers {
            assert_eq!(peers[*receiver].read_frame(), frame(1000, 0, target.as_bytes()));
        }
    }
    // Any bytes are a message, as many as push.frame_max says.
    let longest: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
    for body in [&b""[..], &longest] {
        assert_eq!(push(&server, "keys?operation=1000&keys=k41,k42", body), ledger(2, 0));
        for peer in &mut peers[..2] {
            assert!(peer.read_frame() == frame(1000, 0, body), "{} bytes", body.len());
        }
    }
    let filtered = json!({
        "matched": 4, "queued": 0, "dropped": { "filtered": 4 }, "absent": 0, "scheduled": 0,
    });
    assert_eq!(push(&server, "all?operation=1001", b"nobody accepts it"), filtered);
    // And nothing else came: the reply to a heartbeat is next.
    for peer in &mut peers {
        peer.online();
    }
}

#[test]
fn a_paced_push_to_all_is_scheduled_and_arrives() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..6).map(|index| server.client(BOTH[index % 2], "7")).collect();
    let ledger = push(&server, "all?operation=5&speed=1000", b"paced");
    let scheduled =
        json!({ "matched": 0, "queued": 0, "dropped": {}, "absent": 0, "scheduled": 6 });
    assert_eq!(ledger, scheduled);
    for client in &mut clients {
        assert_eq!(received_until(client, b"paced"), [b"paced"]);
    }
}

/// Calls on one connection arrive in their order, in a room that both cores have members of.
#[test]
fn pushes_of_a_caller_arrive_in_order() {
    const PUSHES: u32 = 200;
    let server = Server::start(&[]);
    let token = token(7, "live://1").replace("\"key\":\"k7\",", "");
    let mut clients: Vec<_> = (0..8).map(|index| server.client(BOTH[index % 2], &token)).collect();
    let mut stream = TcpStream::connect(server.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for number in 1..=PUSHES {
        let body = format!("{number:04}");
        write!(
            stream,
            "POST /goim/push/room?operation=1000&type=live&room=1 HTTP/1.1\r\nHost: localhost\r\n\
             Connection: {}\r\nContent-Length: 4\r\n\r\n{body}",
            if number == PUSHES { "close" } else { "keep-alive" },
        )
        .unwrap();
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("\"queued\":8,").count(), PUSHES as usize);
    let expected: Vec<_> = (1..=PUSHES).map(|number| format!("{number:04}").into_bytes()).collect();
    for client in &mut clients {
        assert_eq!(received_until(client, format!("{PUSHES:04}").as_bytes()), expected);
    }
}

#[test]
fn who_is_online_is_told_by_room_and_in_all() {
    let server = Server::start(&[]);
    assert_eq!(get(&server, "online/top?type=live&limit=9"), json!([]));
    assert_eq!(get(&server, "online/total"), json!({ "conn_count": 0, "ip_count": 0 }));
    let rooms = ["live://1", "live://2", "live://1", "chat://1", "live://2", "live://2", ""];
    let clients: Vec<_> = (1..)
        .zip(rooms)
        .map(|(user, room)| server.client(BOTH[user as usize % 2], &token(user, room)))
        .collect();
    // Connected, but nobody yet.
    let stranger = Peer::open(&server, Transport::Tcp);
    let [first, second] =
        [json!({ "room_id": "2", "count": 3 }), json!({ "room_id": "1", "count": 2 })];
    // A room's home hears of members on other cores a little later.
    let all = json!([first, second]);
    until("the rooms to be full", || get(&server, "online/top?type=live&limit=9") == all);
    assert_eq!(get(&server, "online/top?type=live&limit=1"), json!([first]));
    assert_eq!(
        get(&server, "online/room?type=live&rooms=1,2,3"),
        json!({ "1": 2, "2": 3, "3": 0 })
    );
    assert_eq!(get(&server, "online/room?type=chat&rooms=1"), json!({ "1": 1 }));
    assert_eq!(get(&server, "online/total"), json!({ "conn_count": 7, "ip_count": 0 }));
    drop((clients, stranger));
    server.until("comet_connections", 0);
    until("the rooms to be gone", || get(&server, "online/top?type=live&limit=9") == json!([]));
}

#[test]
fn clients_find_the_server_by_what_it_tells() {
    let sets = [
        "server.id=\"edge-7\"",
        "server.domain=\"127.0.0.1\"",
        "server.weight=20",
        "protocol.heartbeat=\"60s\"",
    ];
    let server = Server::start(&sets);
    let weighted = get(&server, "nodes/weighted?platform=web");
    let [tcp, websocket] = BOTH.map(|transport| server.address(transport).port());
    let expected = json!({
        "domain": "127.0.0.1",
        "tcp_port": tcp,
        "ws_port": websocket,
        "heartbeat": 30,
        "heartbeat_max": 2,
        "nodes": ["127.0.0.1"],
        "backoff": { "max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3 },
    });
    assert_eq!(weighted, expected);

    let _client = server.client(Transport::Tcp, "1");
    let mut instances = get(&server, "nodes/instances");
    assert!(instances[0]["latest_timestamp"].take().is_u64());
    let expected = json!([{
        "region": "", "zone": "", "env": "",
        "appid": "goim.comet",
        "hostname": "edge-7",
        "addrs": [
            format!("grpc://{}", server.grpc()),
            format!("tcp://127.0.0.1:{tcp}"),
            format!("ws://127.0.0.1:{websocket}"),
        ],
        "version": env!("CARGO_PKG_VERSION"),
        "latest_timestamp": null,
        "metadata": {
            "addrs": "127.0.0.1", "conn_count": "1", "offline": "false", "weight": "20",
        },
    }]);
    assert_eq!(instances, expected);
}

#[test]
fn bad_requests_are_answered_with_what_is_wrong_and_nobody_gets_them() {
    let server = Server::start(&["push.keys_max=2", "push.frame_max=\"1KiB\""]);
    let mut client = server.client(Transport::WebSocket, &token(7, "live://1"));
    let long = vec![b'x'; 3_000_000];
    let hi = &b"hi"[..];
    let bad: &[(&str, &[u8], &str)] = &[
        ("POST /goim/push/keys?keys=k7", hi, "operation is missing"),
        ("POST /goim/push/keys?operation=1000", hi, "keys is missing"),
        (
            "POST /goim/push/keys?operation=1000&keys=a,b,c",
            hi,
            "3 keys are more than the 2 of one call",
        ),
        (
            "POST /goim/push/mids?operation=1000&mids=seven",
            hi,
            "mids: \"seven\" is not a whole number from -9223372036854775808 to \
             9223372036854775807",
        ),
        (
            "POST /goim/push/all?operation=1e3",
            hi,
            "operation: \"1e3\" is not a whole number from -2147483648 to 2147483647",
        ),
        (
            "POST /goim/push/all?operation=1000&speed=-5",
            hi,
            "speed: \"-5\" is not a whole number from 0 to 2147483647",
        ),
        (
            "POST /goim/push/all?operation=1000",
            &long[..1025],
            "the body has 1025 bytes, more than the 1024 allowed",
        ),
        (
            "POST /goim/push/all?operation=1000",
            &long,
            "the body has 3000000 bytes, more than the 1024 allowed",
        ),
        (
            "POST /goim/push/all?operation=9",
            hi,
            "the body of operation 9 is not a run of whole frames: the last 2 bytes are not a \
             whole frame",
        ),
        ("GET /goim/online/top?type=live", b"", "limit is missing"),
        ("GET /goim/online/room?type=live&rooms=1,,2", b"", "rooms: element 2 is empty"),
    ];
    for (line, body, message) in bad {
        let (method, target) = line.split_once(' ').unwrap();
        let answer = request(&server, method, target, body);
        assert_eq!(answer, (200, json!({ "code": -400, "message": message })), "{line}");
    }
    for (method, target, status, message) in [
        ("GET", "/goim/push/all?operation=1000", 405, "/goim/push/all does not take GET"),
        ("DELETE", "/goim/nodes/weighted", 405, "/goim/nodes/weighted does not take DELETE"),
        ("POST", "/goim/push/nobody", 404, "there is no /goim/push/nobody"),
    ] {
        let answer = request(&server, method, target, b"");
        let expected = json!({ "code": -i32::from(status), "message": message });
        assert_eq!(answer, (status, expected), "{method} {target}");
    }
    assert_eq!(push(&server, "all?operation=1000", &long[..1024]), ledger(1, 0));
    assert_eq!(received_until(&mut client, &long[..1024]).len(), 1);
}

#[test]
fn the_address_can_be_left_out_and_a_taken_one_is_named() {
    let server = Server::start(&[]);
    let taken = server.http();
    let error = App::start(&config(&[&format!("push.http=[\"{taken}\"]")])).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.starts_with(&format!("push.http: {taken} is in use: ")), "{sentence}");

    let without = App::start(&config(&["push.http=[]"])).unwrap();
    assert!(without.http_addrs().is_empty());
    let ended = without.drain();
    assert_eq!(ended.drained, ended.cores);
}
