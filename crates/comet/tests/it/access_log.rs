//! The access log of the running programs: one line for each call of the push API.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;

use comet::blocking_client::{PushClient, TlsFiles};
use comet_client::Transport;
use comet_wire::comet::v1::PushStreamReq;
use comet_wire::comet::v1::push_client::PushClient as StreamClient;
use comet_wire::comet::v1::push_stream_req::{Keys, Target};
use comet_wire::goim::protocol::Proto;
use rustix::process::Signal;
use serde_json::Value;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::logic_process::own_address;
use crate::process::{Running, Server, comet, line_with, temporary, with_sets};
use crate::support::{Permit, To, get, http, http_with, queued, try_push, two_cores};
use crate::unix_sockets::{Folder, post as post_to};

const TOKEN: &str = "a-token-that-nobody-guesses";

/// The next line of the access log without the time that the call took, and the caller beside it.
#[track_caller]
fn next_call(log: &Receiver<String>) -> (String, String) {
    let line = line_with(log, "\"target\":\"access\"");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "info");
    let message = line["message"].as_str().unwrap();
    let (before, after) = message.split_once(" caller=").unwrap();
    let (caller, after) = after.split_once(' ').unwrap();
    let (after, ms) = after.split_once(" ms=").unwrap();
    let (ms, error) = ms.split_once(' ').unwrap_or((ms, ""));
    assert!(ms.parse::<f64>().unwrap() > 0.0, "{message}");
    let call = format!("{before} {after} {error}").trim_end().to_owned();
    (call, caller.to_owned())
}

#[track_caller]
fn expect(log: &Receiver<String>, expected: &str) -> SocketAddr {
    let (call, caller) = next_call(log);
    assert_eq!(call, expected);
    caller.parse().unwrap()
}

/// Two pushes over one stream, of which one has no target.
fn stream(grpc: SocketAddr) {
    let proto =
        Some(Proto { ver: 1, op: 5, seq: 0, body: b"body".as_slice().into(), ..Proto::default() });
    let target = Some(Target::Keys(Keys { keys: vec!["k".to_owned()] }));
    let pushes = [target, None].map(|target| PushStreamReq {
        id: 1,
        target,
        proto: proto.clone(),
        proto_op: 0,
    });
    let mut request = Request::new(tokio_stream::iter(pushes));
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).unwrap();
        let mut client = StreamClient::new(endpoint.connect().await.unwrap());
        let replies = client.push_stream(request).await.unwrap().into_inner();
        let answers = replies.map(|reply| reply.unwrap().answers.len()).collect::<Vec<_>>().await;
        assert_eq!(answers.into_iter().sum::<usize>(), 2);
    });
}

#[test]
fn each_call_is_a_line() {
    let config = temporary("access-log.toml", "[push]\naccess_log = true\n");
    let tokens = format!("push.tokens=[\"{TOKEN}\"]");
    let sets = [&tokens, "log.format=\"json\"", "push.frame_max=\"1KiB\""];
    let server = Server::start_with(&["--config", &config], &sets);
    let calls = line_with(&server.log, "http push [");
    let calls: SocketAddr = calls.split(['[', ']']).find_map(|part| part.parse().ok()).unwrap();
    let log = &server.log;
    let _client =
        server.live(Transport::Tcp, r#"{"mid":7,"key":"k","room_id":"r://1","accepts":[5]}"#);

    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let caller = caller.with_token(TOKEN.as_bytes()).unwrap();
    let push = |to, body: &[u8]| try_push(&caller, to, 5, body);
    push(To::Keys(&["k", "nobody"]), b"body").unwrap();
    let sums = "matched=1 queued=1 dropped=0";
    let keys = format!("keys=2 bytes=4 {sums} absent=1 code=Ok");
    let from = expect(log, &format!("call=\"/goim.comet.Comet/PushMsg\" {keys}"));
    assert!(from.ip().is_loopback());
    assert_eq!(push(To::User(7), b"body").unwrap(), queued(1));
    let users = format!("users=1 bytes=4 {sums} absent=0 code=Ok");
    assert_eq!(expect(log, &format!("call=\"/comet.v1.Push/PushUsers\" {users}")), from);
    push(To::Room("r://1"), b"").unwrap();
    let room = format!("room=\"r://1\" bytes=0 {sums} absent=0 code=Ok");
    expect(log, &format!("call=\"/goim.comet.Comet/BroadcastRoom\" {room}"));
    push(To::All, &[0; 1_025]).unwrap_err();
    let (refused, _) = next_call(log);
    let begin =
        "call=\"/goim.comet.Comet/Broadcast\" speed=0 bytes=1025 code=InvalidArgument error=\"";
    assert!(refused.starts_with(begin), "{refused}");
    stream(server.grpc);
    expect(log, "call=\"/comet.v1.Push/PushStream\" pushes=2 failed=1 unanswered=0 code=Ok");

    let authorization = format!("Authorization: Bearer {TOKEN}\r\n");
    let post = |path: &str, body| http_with(calls, "POST", path, &authorization, body).0;
    assert_eq!(post("/goim/push/mids?operation=5&mids=7", "body"), 200);
    expect(log, &format!("call=\"/goim/push/mids\" {users}"));
    assert_eq!(post("/goim/push/room?operation=5&room=r://1%0A", ""), 200);
    let room = "room=\"r://1\\n\" bytes=0 matched=0 queued=0 dropped=0 absent=0 code=Ok";
    expect(log, &format!("call=\"/goim/push/room\" {room}"));
    assert_eq!(post("/comet/kick/keys?keys=nobody", ""), 200);
    expect(log, "call=\"/comet/kick/keys\" keys=1 closed=0 code=Ok");
    let long = format!("/{}", "x".repeat(10_000));
    assert_eq!(post(&long, ""), 404);
    let begin = format!("call=\"{}\"... code=Unimplemented error=\"404", &long[..256]);
    let (unknown, _) = next_call(log);
    assert!(unknown.starts_with(&begin), "{unknown}");

    // Refused before anyone looks at the call.
    assert_eq!(http(calls, "POST", "/goim/push/all?operation=5", "").0, 401);
    let error =
        "code=Unauthenticated error=\"a token that opens is needed: Authorization: Bearer\"";
    expect(log, &format!("call=\"/goim/push/all\" {error}"));
    let locked_out = PushClient::connect(&server.grpc.to_string()).unwrap();
    try_push(&locked_out, To::All, 5, b"").unwrap_err();
    expect(log, &format!("call=\"/goim.comet.Comet/Broadcast\" {error}"));

    // Pages are no calls of the push API.
    assert_eq!(get(server.stat, "/healthz").0, 200);
    fs::write(&config, "").unwrap();
    server.signal(Signal::HUP);
    line_with(log, "push.access_log changed from true to false");
    assert_eq!(post("/goim/push/all?operation=5", ""), 200);
    server.signal(Signal::TERM);
    let (code, rest) = server.end();
    assert_eq!(code, Some(0));
    assert!(rest.iter().all(|line| !line.contains("\"access\"")), "{rest:?}");
}

/// Where callers show a certificate, its name is in the line, whatever characters it has.
#[test]
fn a_caller_with_a_certificate_is_named() {
    let [servers, callers] = [(); 2].map(|()| Authority::new());
    let [certificate, key] = servers.sets("comet.internal");
    let ca = callers.trusted("client_ca");
    let sets = ["push.access_log=true", "push.grpc=[\"tls:127.0.0.1:0\"]", &certificate, &key, &ca];
    let (_permit, cores) = (Permit::wait(), two_cores());
    let (_process, log) =
        Running::start(comet(&[&["--cores", &cores][..], &with_sets(&sets)].concat()));
    let bound = line_with(&log, "stat [");
    let address = bound.split(['[', ']']).find(|part| part.starts_with("tls:")).unwrap();
    let call = |subject: &str| {
        let [certificate, key] = callers.sign_caller("caller", subject);
        let files = TlsFiles {
            certificate: Some(certificate),
            key: Some(key),
            client_ca: None,
            server_ca: Some(servers.ca()),
        };
        PushClient::connect_with(address, &files).unwrap().broadcast(5, b"", None).unwrap();
        let line = line_with(&log, " access] ");
        let caller = line.split_once(" caller=127.0.0.1:").unwrap().1;
        caller.split_once(' ').unwrap().1.split(" speed=0 ").next().unwrap().to_owned()
    };
    assert_eq!(call("job-1"), "certificate=\"CN=job-1\"");
    let forged = "job\" code=Ok ms=1\r\n[2026-01-31T12:00:00.123Z INFO  access] \u{202e}\u{7}";
    let quoted =
        "CN=job\\\" code=Ok ms=1\\r\\n[2026-01-31T12:00:00.123Z INFO  access] \\u{202e}\\u{7}";
    assert_eq!(call(forged), format!("certificate=\"{quoted}\""));
    let cut = "x".repeat(253);
    assert_eq!(call(&"x".repeat(10_000)), format!("certificate=\"CN={cut}\"..."));
}

/// And a caller of a Unix socket is a process.
#[test]
fn calls_of_comet_logic_are_lines() {
    let (folder, [grpc, stat]) = (Folder::new(), [(); 2].map(|()| own_address()));
    let path = folder.file("http");
    let sets = [
        format!("logic_server.grpc=[\"{grpc}\"]"),
        format!("logic_server.http=[\"{}\"]", folder.address("http")),
        format!("logic_server.stat=[\"{stat}\"]"),
    ];
    let config = temporary("access-log-logic.toml", "[push]\naccess_log = true\n");
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let (process, log) =
        Running::start(comet(&[&["logic", "--config", &config], &sets[..]].concat()));
    line_with(&log, "stat [");
    post_to(&path, "Host: localhost\r\n");
    let line = line_with(&log, " access] ");
    let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
    let call =
        format!("call=\"/goim/push/all\" caller=unix uid={uid} pid={pid} speed=0 bytes=0 code=");
    assert!(line.contains(&call), "{line}");
    fs::write(&config, "").unwrap();
    process.signal(Signal::HUP);
    line_with(&log, "push.access_log changed from true to false");
    post_to(&path, "Host: localhost\r\n");
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    assert!(log.iter().all(|line| !line.contains(" access] ")));
}
