//! The trace log of a running server: the events of the connections of listed users only.

use std::fs;
use std::path::{Path, PathBuf};

use comet_client::{Transport, op};
use rustix::process::Signal;

use crate::peer::Peer;
use crate::process::{Server as Process, line_with, temporary};
use crate::scratch;
use crate::support::{BOTH, Metrics, Server, To, http, queued, until};

/// The path of a file that does not exist.
fn file(name: &str) -> PathBuf {
    let path = scratch::folder().join(name);
    // An earlier test may have written it.
    let _ = fs::remove_file(&path);
    path
}

fn start(file: &Path, users: &str) -> Server {
    Server::start(&[
        &format!("white_list.file={:?}", file.to_str().unwrap()),
        &format!("white_list.users={users}"),
    ])
}

/// The events without their times and connections: key, user, and what happened.
fn events(file: &Path) -> Vec<String> {
    // The file does not exist before the first event.
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
}

/// Waits until each of `keys` has an event that ends with `what`.
#[track_caller]
fn until_logged(file: &Path, keys: &[&str], what: &str) {
    until(&format!("{what} of {keys:?}"), || {
        let events = events(file);
        keys.iter().all(|key| {
            let begin = format!("key={key:?} ");
            events.iter().any(|event| event.starts_with(&begin) && event.ends_with(what))
        })
    });
}

/// The events of `key` in order.
fn logged(file: &Path, key: &str) -> Vec<String> {
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
        until_logged(&file, &[&key], "closed reason=peer_closed");
        let lines = logged(&file, &key);
        for line in [
            r#"authenticated room="r://1""#,
            "read op=2 seq=4 bytes=16",
            "wrote op=3 seq=4 bytes=20",
            "wrote op=5 seq=0 bytes=20",
        ] {
            assert!(lines.iter().any(|logged| logged == line), "{line} in {lines:?}");
        }
        assert!(lines.last().unwrap().starts_with("closed"), "{lines:?}");
    }
    assert!(events(&file).iter().all(|event| !event.contains("user=8 ")), "user 8 is not listed");
    assert_eq!(server.metric("comet_white_log_missed_total"), 0);
    server.until("comet_white_log_lines_total", events(&file).len() as u64);
}

#[test]
fn a_change_of_the_list_applies_to_existing_connections() {
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
    // The shard has the list once it has answered a later message.
    server.metrics();
    peer.ask(op::HEARTBEAT, 2, b"");
    until_logged(&file, &["k"], "read op=2 seq=2 bytes=16");
    assert!(!logged(&file, "k").iter().any(|logged| logged.contains("seq=1 ")), "before the list");
    let answer = r#"{"old":[7],"users":[]}"#.to_owned();
    assert_eq!(put(r#"{"users":[]}"#), (200, answer));
    server.metrics();
    peer.ask(op::HEARTBEAT, -1, b"");
    drop(peer);
    server.until("comet_connections", 0);
    drop(server);
    let lines = logged(&file, "k");
    assert!(!lines.iter().any(|logged| logged.contains("seq=-1 ")), "after the list: {lines:?}");
    assert!(!lines.iter().any(|logged| logged.starts_with("closed")), "after the list: {lines:?}");
}

#[test]
fn a_drain_logs_the_ends_of_listed_connections() {
    let file = file("it-white-drain.log");
    let server = start(&file, "[7]");
    let keys = ["Tcp", "WebSocket"];
    let mut peers = BOTH.map(|transport| {
        let token = format!(r#"{{"mid":7,"key":"{transport:?}","accepts":[]}}"#);
        Peer::live(&server, transport, &token)
    });
    let drained = std::thread::spawn(|| server.drain());
    for peer in &mut peers {
        peer.close_notice();
    }
    drop(peers);
    drained.join().unwrap();
    for key in keys {
        // The thread of the log may not have written the last lines yet.
        until("the end to be logged", || {
            logged(&file, key).iter().any(|logged| logged == "closed reason=draining")
        });
    }
}

/// As after a log rotation: the file has moved. The list in the configuration has changed as well.
#[test]
fn a_reload_changes_the_list_and_reopens_the_trace_log() {
    let (log, moved) = (file("it-white-reload.log"), file("it-white-reload.log.1"));
    let text = |users: &str| {
        format!("[white_list]\nfile = {:?}\nusers = {users}\n", log.to_str().unwrap())
    };
    let config = temporary("white-reload.toml", &text("[7]"));
    let server = Process::start_with(&["--config", &config], &[]);
    let tokens = [7, 9].map(|user| format!(r#"{{"mid":{user},"key":"{user}","accepts":[]}}"#));
    let [mut seven, mut nine] = tokens.map(|token| server.live(Transport::Tcp, &token));
    // The last event so far.
    until_logged(&log, &["7"], "wrote op=8 seq=1 bytes=28");
    fs::rename(&log, &moved).unwrap();
    fs::write(&config, text("[9]")).unwrap();
    server.signal(Signal::HUP);
    line_with(&server.log, "SIGHUP: white_list.users changed");
    // Every core has the list once it has answered a later message.
    Metrics::read(server.stat);
    for (peer, sequence) in [(&mut seven, 1), (&mut nine, 2)] {
        peer.ask(op::HEARTBEAT, sequence, b"");
    }
    drop((seven, nine));
    until_logged(&log, &["9"], "closed reason=peer_closed");
    assert!(logged(&log, "9").iter().any(|logged| logged == "read op=2 seq=2 bytes=16"));
    assert_eq!(logged(&log, "7"), [""; 0], "user 7 is no longer listed");
    assert_eq!(logged(&moved, "7")[0], "authenticated");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(0));
}
