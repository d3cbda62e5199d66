//! `comet ctl` against the program.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;

use comet::blocking_client::PushClient;
use comet_client::Transport;
use serde_json::{Value, json};

use crate::process::{Server, comet, line_with, lines, run};
use crate::support::{Metrics, PATIENCE, To, get, http, push, until};

/// Exit code, standard output and standard error of an order at `server`.
fn ctl(server: &Server, order: &[&str]) -> (i32, String, String) {
    let grpc = server.grpc.to_string();
    run(&[&["ctl", "--grpc", &grpc], order].concat())
}

#[track_caller]
fn said(server: &Server, order: &[&str]) -> String {
    let (code, stdout, stderr) = ctl(server, order);
    assert_eq!((code, &*stderr), (0, ""), "{order:?}");
    stdout
}

fn json_of(server: &Server, order: &[&str]) -> Value {
    serde_json::from_str(&said(server, &[order, &["--json"]].concat())).unwrap()
}

#[test]
fn what_a_room_keeps_is_printed() {
    let server = Server::start(&["history.rules=[{rooms=\"h://\"}]"]);
    assert_eq!(said(&server, &["history", "h://1"]), "epoch null offset 0 next null\n");
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    for body in ["one", "two", "three"] {
        push(&caller, To::Room("h://1"), 7, body.as_bytes());
    }
    let printed = said(&server, &["history", "h://1", "--limit", "2", "--json"]);
    let printed: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [position, three, two] = &printed[..] else { panic!("{printed:?}") };
    assert_eq!((&position["offset"], &position["next"]), (&json!(3), &json!(2)));
    assert_eq!(
        (&three["body"], &two["body"], &two["offset"]),
        (&json!("three"), &json!("two"), &json!(2))
    );
    let printed = said(&server, &["history", "h://1", "--before", "2"]);
    let (_, push) = printed.trim_end().split_once('\n').unwrap();
    assert!(push.starts_with("offset 1 operation 7 age_ms ") && push.ends_with(" body one"));
    let (code, _, stderr) = ctl(&server, &["history", "live://1"]);
    assert!(code == 1 && stderr.contains("keeps no history"), "{stderr}");
}

#[test]
fn an_operator_needs_no_other_tool() {
    let server = Server::start(&[]);
    let mut peers: Vec<_> = (1..=4)
        .map(|user| {
            let token = json!({ "mid": user, "key": format!("k{user}"), "room_id": "live://r" });
            server.live(Transport::Tcp, &token.to_string())
        })
        .collect();
    let status = "phase serving connections 4 moving_off 0 per_second 0 delay_left_ms 0 keeps_clients false\n";
    assert_eq!(said(&server, &["status"]), status);
    assert_eq!(
        said(&server, &["kick", "key", "k1", "nobody", "--reason", "out"]),
        "closed 1 absent 1 not_closed {}\n"
    );
    assert_eq!(peers.remove(0).close_notice().reason, "kicked: out");
    let (code, stdout, _) = ctl(&server, &["kick", "user", "-1"]);
    assert_eq!((code, &*stdout), (3, "closed 0 absent 1 not_closed {}\n"));

    assert_eq!(said(&server, &["block", "192.0.2.7/24", "3600"]), "closed 0\n");
    assert_eq!(json_of(&server, &["blocks"])["address"], "192.0.2.0/24");
    assert_eq!(said(&server, &["unblock", "192.0.2.0/24"]), "");
    assert_eq!(said(&server, &["blocks"]), "");
    let (code, _, stderr) = ctl(&server, &["unblock", "192.0.2.0/24"]);
    assert_eq!((code, &*stderr), (1, "comet: 192.0.2.0/24 is not blocked (NotFound)\n"));

    assert_eq!(said(&server, &["broadcasts"]), "");
    let (code, _, stderr) = ctl(&server, &["cancel", "7"]);
    assert_eq!(code, 1, "{stderr}");

    assert_eq!(json_of(&server, &["drain", "--keep-clients"])["phase"], "leaving");
    assert_eq!(get(server.stat, "/healthz").0, 503);
    assert_eq!(json_of(&server, &["undrain"])["phase"], "serving");
    assert_eq!(json_of(&server, &["move-off", "1", "--per-second", "1000"])["phase"], "serving");
    until("one client to be told", || json_of(&server, &["status"])["moving_off"] == 0);
    json_of(&server, &["cancel-move-off"]);

    // The clients close when they are told to.
    let leaving = std::thread::spawn(move || {
        for mut peer in peers {
            assert!(peer.close_notice().reason.starts_with("draining"));
        }
    });
    let progress = said(&server, &["drain", "--per-second", "1000", "--wait"]);
    assert!(
        progress.lines().last().unwrap().starts_with("phase drained connections 0 "),
        "{progress}"
    );
    leaving.join().unwrap();
    assert_eq!(json_of(&server, &["undrain"])["phase"], "serving");
}

#[test]
fn orders_need_the_token_of_pushes() {
    let server = Server::start(&["push.tokens=[\"0123456789abcdef\"]"]);
    let (code, _, stderr) = ctl(&server, &["drain"]);
    assert!(code == 1 && stderr.contains("Unauthenticated"), "{stderr}");
    assert_eq!(get(server.stat, "/healthz").0, 200);
    let mut peer = server.live(Transport::Tcp, "/k//");
    let kicked = said(&server, &["kick", "address", "127.0.0.1", "--token", "0123456789abcdef"]);
    assert_eq!(kicked, "closed 1 absent 0 not_closed {}\n");
    assert_eq!(peer.close_notice().reason, "kicked");
}

fn live_traces(server: &Server) -> u64 {
    Metrics::read(server.stat).value("comet_live_traces")
}

/// Events of a live trace until a connection is closed, without their times and connections.
fn traced(server: &Server, subject: &[&str], during: impl FnOnce()) -> Vec<Value> {
    let grpc = server.grpc.to_string();
    let before = live_traces(server);
    let arguments = [&["ctl", "--grpc", &grpc, "trace", "--json", "--for", "1h"], subject].concat();
    let mut command = comet(&arguments);
    let mut tracing = command.stdout(Stdio::piped()).spawn().unwrap();
    // Every core has learnt of a trace that a page counts.
    until("the trace to begin", || live_traces(server) == before + 1);
    during();
    let lines = lines(tracing.stdout.take().unwrap());
    let mut events = Vec::new();
    loop {
        let line =
            lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}: {events:?}"));
        let mut event: Value = serde_json::from_str(&line).unwrap();
        let fields = event.as_object_mut().unwrap();
        assert!(fields.remove("at_ms").is_some() && fields.remove("connection").is_some());
        let is_last = fields["what"] == "closed";
        events.push(event);
        if is_last {
            break;
        }
    }
    tracing.kill().unwrap();
    tracing.wait().unwrap();
    until("the trace to end", || live_traces(server) == before);
    events
}

#[test]
fn a_client_is_traced_as_it_goes_along() {
    let server = Server::start(&[]);
    let token = json!({ "mid": 7, "key": "k", "room_id": "live://r", "accepts": [5] }).to_string();
    let other = server.live(Transport::Tcp, "8");
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let known = |what: &str, fields: Value| {
        let mut event = json!({ "key": "k", "user": 7, "what": what });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        event
    };
    let serve = || {
        let mut client = server.live(Transport::Tcp, &token);
        push(&caller, To::Keys(&["k", "8_1"]), 5, b"body");
        assert_eq!(client.recv().body, b"body");
        push(&caller, To::Keys(&["k", "8_1"]), 6, b"nothing for it");
    };
    let frame = |operation, sequence, bytes| json!({ "operation": operation, "sequence": sequence, "bytes": bytes });
    let expected = [
        known("authenticated", json!({ "room": "live://r" })),
        known("joined", json!({ "room": "live://r" })),
        known("wrote", frame(8, 1, 28)),
        // Which room it is in.
        known("wrote", frame(19, 0, 52)),
        known("queued", json!({ "operation": 5, "bytes": 20 })),
        known("wrote", frame(5, 0, 20)),
        known("dropped", json!({ "operation": 6, "reason": "filtered" })),
        known("closed", json!({ "reason": "peer_closed" })),
    ];
    for subject in [["key", "k"], ["user", "7"]] {
        assert_eq!(traced(&server, &subject, serve), expected, "{subject:?}");
    }
    // From the moment on at which it is in the room.
    assert_eq!(traced(&server, &["room", "live://r"], serve), expected[1..]);
    let at_address = traced(&server, &["address", "127.0.0.0/8"], serve);
    assert_eq!(at_address[0]["what"], "accepted");
    assert_eq!(at_address[0]["address"], "127.0.0.1");
    assert!(at_address.contains(&expected[0]), "{at_address:?}");
    assert_eq!(Metrics::read(server.stat).value("comet_live_trace_missed_total"), 0);
    drop(other);
}

#[test]
fn a_trace_ends_with_its_time() {
    let server = Server::start(&[]);
    assert_eq!(said(&server, &["trace", "user", "7", "--for", "1s"]), "");
    assert_eq!(live_traces(&server), 0);
    for wrong in [&["trace"][..], &["trace", "user", "7", "--for", "2h"], &["trace", "user", "x"]] {
        assert_eq!(ctl(&server, wrong).0, 64, "{wrong:?}");
    }
    let (code, _, stderr) = ctl(&server, &["trace", "address", "nowhere"]);
    assert!(code == 1 && stderr.contains("InvalidArgument"), "{stderr}");
}

#[test]
fn a_live_trace_over_http_is_a_line_for_each_event() {
    let server = Server::start(&[]);
    let line = line_with(&server.log, "http push [");
    let address: SocketAddr = line.split(['[', ']']).find_map(|part| part.parse().ok()).unwrap();
    let path = "/comet/node/trace";
    for wrong in ["", "?key=k&mid=7", "?mid=x", "?key=", "?mid=7&seconds=3601", "?address=nowhere"]
    {
        let (status, answer) = http(address, "GET", &format!("{path}{wrong}"), b"");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status, &answer["code"]), (200, &json!(-400)), "{wrong}: {answer}");
    }
    let mut caller = TcpStream::connect(address).unwrap();
    let target = format!("{path}?type=live&room=r");
    write!(caller, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let lines = lines(caller.try_clone().unwrap());
    let head: Vec<_> = std::iter::from_fn(|| {
        Some(lines.recv_timeout(PATIENCE).unwrap()).filter(|line| !line.is_empty())
    })
    .collect();
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(head.contains(&"content-type: application/x-ndjson".to_owned()), "{head:?}");
    until("the trace to begin", || live_traces(&server) == 1);
    let token = json!({ "mid": 7, "key": "k", "room_id": "live://r" }).to_string();
    drop(server.live(Transport::Tcp, &token));
    // Between the lines are the lengths of chunks.
    let mut events = std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok())
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok().filter(Value::is_object));
    let first = events.next().unwrap();
    assert_eq!(
        (&first["what"], &first["key"], &first["room"]),
        (&json!("joined"), &json!("k"), &json!("live://r"))
    );
    assert!(events.any(|event| event["what"] == "closed"));
    caller.shutdown(Shutdown::Both).unwrap();
    until("the trace to end with its caller", || live_traces(&server) == 0);
}
