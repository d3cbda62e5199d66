//! The white log of a running server: what happens to connections of listed users, and of nobody else.

use std::fs;
use std::path::{Path, PathBuf};

use comet_client::{Transport, op};

use crate::peer::Peer;
use crate::support::{BOTH, Server, To, http, queued, until};

/// A file nobody has written to yet.
fn file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Of an earlier run, if at all.
    let _ = fs::remove_file(&path);
    path
}

fn start(file: &Path, users: &str) -> Server {
    Server::start(&[
        &format!("white_list.file={:?}", file.to_str().unwrap()),
        &format!("white_list.users={users}"),
    ])
}

/// Lines without their times and connections: who, and what happened.
fn events(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
}

/// Waits until there is a line that ends so for each of `keys`.
#[track_caller]
fn until_told(file: &Path, keys: &[&str], what: &str) {
    until(&format!("{what} of {keys:?}"), || {
        let events = events(file);
        keys.iter().all(|key| {
            let begin = format!("key={key:?} ");
            events.iter().any(|event| event.starts_with(&begin) && event.ends_with(what))
        })
    });
}

/// What was told of `key`, in its order.
fn told(file: &Path, key: &str) -> Vec<String> {
    let begin = format!("key={key:?} user=");
    let of_key = events(file).into_iter().filter(|event| event.starts_with(&begin));
    of_key.map(|event| event.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
}

#[test]
fn each_frame_of_listed_users_is_a_line() {
    let file = file("it-white-frames.log");
    let server = start(&file, "[7, 9]");
    for (transport, user) in BOTH.into_iter().zip([7, 9]) {
        let key = format!("{transport:?}");
        let token = format!(r#"{{"mid":{user},"key":"{key}","room_id":"r://1","accepts":[5]}}"#);
        let mut peer = Peer::live(&server, transport, &token);
        let other = Peer::live(&server, transport, "8");
        peer.ask(op::HEARTBEAT, 4, b"");
        assert_eq!(server.push(To::Keys(&[&key]), 5, b"body"), queued(1));
        assert_eq!(peer.recv().body, b"body");
        drop((peer, other));
        until_told(&file, &[&key], "closed reason=peer_closed");
        let lines = told(&file, &key);
        for line in [
            r#"authenticated room="r://1""#,
            "read op=2 seq=4 bytes=16",
            "wrote op=3 seq=4 bytes=20",
            "wrote op=5 seq=0 bytes=20",
        ] {
            assert!(lines.iter().any(|told| told == line), "{line} in {lines:?}");
        }
        assert!(lines.last().unwrap().starts_with("closed"), "{lines:?}");
    }
    assert!(events(&file).iter().all(|event| !event.contains("user=8 ")), "8 is not listed");
    assert_eq!(server.metric("comet_white_log_missed_total"), 0);
    assert_eq!(server.metric("comet_white_log_lines_total"), events(&file).len() as u64);
}

#[test]
fn the_list_is_changed_alive_for_connections_there_are() {
    let file = file("it-white-alive.log");
    let server = start(&file, "[]");
    let mut peer = Peer::live(&server, Transport::Tcp, r#"{"mid":7,"key":"k","accepts":[]}"#);
    peer.ask(op::HEARTBEAT, 1, b"");
    let put = |body| {
        let (status, answer) = http(server.debug(), "PUT", "/white_list", body);
        (status, String::from_utf8(answer).unwrap())
    };
    let answer = r#"{"old":[],"users":[7]}"#.to_owned();
    assert_eq!(put(r#"{"users":[7]}"#), (200, answer));
    // The shard takes the list from its inbox and the frame from its socket, in any order.
    let mut sequence = 1;
    until("a heartbeat to be told", || {
        sequence += 1;
        peer.ask(op::HEARTBEAT, sequence, b"");
        told(&file, "k").iter().any(|told| told.starts_with("read op=2"))
    });
    assert!(!told(&file, "k").iter().any(|told| told.contains("seq=1 ")), "before the list");
    let answer = r#"{"old":[7],"users":[]}"#.to_owned();
    assert_eq!(put(r#"{"users":[]}"#), (200, answer));
    until("heartbeats not to be told any more", || {
        sequence += 1;
        peer.ask(op::HEARTBEAT, sequence, b"");
        let before = server.metric("comet_white_log_lines_total");
        peer.ask(op::HEARTBEAT, 0, b"");
        server.metric("comet_white_log_lines_total") == before
    });
}

#[test]
fn a_drain_tells_the_ends_of_listed_connections() {
    let file = file("it-white-drain.log");
    let server = start(&file, "[7]");
    let keys = ["Tcp", "WebSocket"];
    let mut peers = BOTH.map(|transport| {
        let token = format!(r#"{{"mid":7,"key":"{transport:?}","accepts":[]}}"#);
        Peer::live(&server, transport, &token)
    });
    let drained = std::thread::spawn(|| server.drain());
    for peer in &mut peers {
        peer.goodbye();
    }
    drop(peers);
    drained.join().unwrap();
    for key in keys {
        let lines = told(&file, key);
        assert!(lines.iter().any(|told| told == "closed reason=draining"), "{lines:?}");
    }
}
