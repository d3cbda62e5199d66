//! Upgrades: a running server hands its connections over to a new process, or continues if that fails.

mod broken_off;
mod callers;
mod counters;
mod failures;
mod found;
mod hangs;
mod jwks;
mod memory;
mod nats;
mod nats_frames;
mod nats_paced;
mod paced;
mod parked;
mod service_manager;
mod signals;
mod stream;
mod talking;
mod tls;
mod tls_sessions;
mod versions;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use comet::blocking_client::{Ledger, PushClient};
use comet_client::{PushTarget, Pusher, Transport, op};
use rustix::process::{Pid, Signal, kill_process};

use crate::peer::{Peer, frame};
use crate::process::{self, comet, line_with, run, temporary};
use crate::scratch;
use crate::support::{
    BOTH, FREE_PORTS, Metrics, PATIENCE, Permit, SMALL_RING, To, push, queued, try_push, two_cores,
    until,
};
use crate::unix_sockets::Folder;

/// A server, and the processes that have taken over from it.
struct Line {
    server: process::Server,
    /// The process that serves now.
    pid: String,
    has_moved: bool,
}

impl Line {
    fn start(arguments: &[&str], sets: &[&str]) -> Self {
        Self::of(process::Server::start_with(arguments, sets))
    }

    fn of(server: process::Server) -> Self {
        let pid = server.pid();
        Self { server, pid, has_moved: false }
    }

    fn ask(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&[&["upgrade", "--pid", &self.pid], arguments].concat())
    }

    /// Upgrades the server. Returns the output of the command.
    fn upgrade(&mut self) -> String {
        let (code, said, error) = self.ask(&[]);
        assert_eq!((code, &*error), (0, ""), "{said}");
        self.moved(&said);
        said
    }

    /// Takes note of the new process. The former one, which is returned, may still run.
    fn serves(&mut self, said: &str) -> Pid {
        let former = Pid::from_raw(self.pid.parse().unwrap()).unwrap();
        self.pid = said.split(' ').nth(1).expect("process ID serves").to_owned();
        self.has_moved = true;
        former
    }

    /// Takes note of the new process, and waits until the former one has ended.
    fn moved(&mut self, said: &str) {
        let former = self.serves(said);
        // A child of the test stays as a zombie until the test waits for it.
        until("the former process to end", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", former.as_raw_nonzero()));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
    }

    /// An upgrade that fails with a message that contains `why`.
    #[track_caller]
    fn fail(&self, arguments: &[&str], why: &str) {
        let error = self.refused(arguments);
        assert!(error.contains(why), "{why}: {error}");
    }

    /// An upgrade that fails. Returns the message.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, said, error) = self.ask(arguments);
        assert_eq!((code, &*said), (1, ""), "{error}");
        assert!(error.starts_with("comet: this server goes on as before: "), "{error}");
        error
    }

    fn caller(&self) -> PushClient {
        PushClient::connect(&self.server.grpc.to_string()).unwrap()
    }

    fn metrics(&self) -> Metrics {
        Metrics::read(self.server.stat)
    }

    /// Pushes by a new caller.
    fn push(&self, to: To<'_>, body: &[u8]) -> Ledger {
        push(&self.caller(), to, 5, body)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid.parse().unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.has_moved {
            // The process may have ended already.
            let _ = kill_process(Pid::from_raw(self.pid.parse().unwrap()).unwrap(), Signal::KILL);
        }
    }
}

/// A token of a user with a room.
fn token(user: u32) -> String {
    format!(
        r#"{{"mid":{user},"key":"k{user}","room_id":"live://1","platform":"web","accepts":[5,1000]}}"#
    )
}

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(10_000, number as u8);
    body
}

fn expect<S: Read + Write>(peer: &mut Peer<S>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let found = peer.recv();
        assert_eq!(found.operation, 5);
        assert!(found.body == body(number), "push {number}, found {:?}", &found.body[..4]);
    }
}

#[test]
fn clients_stay_connected_across_upgrades() {
    let mut line = Line::start(
        &[],
        &["tcp.sndbuf=16384", "protocol.svr_proto=1000", "protocol.write_timeout=\"5m\""],
    );
    let mut clients: Vec<Peer> = (0..)
        .zip(BOTH.iter().cycle())
        .take(6)
        .map(|(user, transport)| line.server.live(*transport, &token(user)))
        .collect();
    // The pushes to clients that read nothing are partly in the kernel and partly in the server.
    let numbers = 0..150;
    for number in numbers.clone() {
        assert_eq!(line.push(To::Room("live://1"), &body(number)), queued(6), "{number}");
    }
    for peer in &mut clients[..4] {
        expect(peer, numbers.clone());
    }
    // The server has half a frame of each client; the rest is sent after the upgrades.
    let heartbeat: Vec<Vec<u8>> =
        clients.iter().map(|peer| peer.wrap(&frame(op::HEARTBEAT, 7, b""))).collect();
    for (peer, bytes) in clients.iter_mut().zip(&heartbeat) {
        peer.write(&bytes[..9]);
    }
    let before = line.metrics();
    for round in 1..=2 {
        let said = line.upgrade();
        assert!(said.contains("6 connections go on after a pause of "), "{said}");
        line_with(&line.server.log, "6 connections go on after a pause of ");
        let after = line.metrics();
        assert_eq!(after.value("comet_connections"), 6);
        assert_eq!(after.value("comet_upgrades_total{result=\"done\"}"), round);
        let (was, is) = (before.value("comet_matched_total"), after.value("comet_matched_total"));
        assert_eq!(is, was + (round - 1) * 7);
        after.assert_balanced();
        // The room, the user and the key still reach their clients.
        let number = 150 + 2 * (round as u32 - 1);
        assert_eq!(line.push(To::Room("live://1"), &body(number)), queued(6));
        assert_eq!(line.push(To::User(1), &body(number + 1)), queued(1));
        for (user, peer) in clients.iter_mut().enumerate().take(4) {
            expect(peer, number..number + 1);
            if user == 1 {
                expect(peer, number + 1..number + 2);
            }
        }
        line.server.live(Transport::Tcp, "99");
        until("the short connection to be closed", || {
            line.metrics().value("comet_connections") == 6
        });
    }
    for (user, (peer, bytes)) in clients.iter_mut().zip(&heartbeat).enumerate() {
        if user >= 4 {
            expect(peer, 0..151);
            expect(peer, 152..153);
        }
        peer.write(&bytes[9..]);
        assert_eq!(peer.recv().operation, op::HEARTBEAT_REPLY);
    }
    line.signal(Signal::TERM);
    for peer in &mut clients {
        peer.close_notice();
    }
}

/// A configuration file with every listener at a port that the kernel picks.
fn file(name: &str, cores: &str, rest: &str) -> String {
    let mut sections = std::collections::BTreeMap::<&str, String>::new();
    for set in FREE_PORTS.iter().chain([&SMALL_RING]) {
        let (key, value) = set.split_once('=').unwrap();
        let (section, key) = key.split_once('.').unwrap();
        *sections.entry(section).or_default() += &format!("{key} = {value}\n");
    }
    *sections.entry("server").or_default() += &format!("cores = \"{cores}\"\n");
    let sections = sections.iter().map(|(name, keys)| format!("[{name}]\n{keys}"));
    temporary(name, &format!("{}{rest}", sections.collect::<String>()))
}

fn start_with_file(file: &str) -> Line {
    let permit = Permit::wait();
    Line::of(process::Server::launch(comet(&["--config", file]), permit))
}

/// Callers push during upgrades. Queued pushes arrive once and in order, and a caller learns which of its pushes have no result.
#[test]
fn pushes_survive_upgrades_that_change_the_number_of_cores() {
    let cores = two_cores();
    let first = cores.split(',').next().unwrap();
    // The clients read nothing until the upgrades are over, however long these take.
    let room = "[protocol]\nsvr_proto = 60000\noutbox_bytes = \"1GiB\"\nwrite_timeout = \"5m\"\n";
    let path = file("upgrade-cores.toml", first, room);
    let mut line = start_with_file(&path);
    let mut clients: Vec<Peer> = (0..)
        .zip(BOTH.iter().cycle())
        .take(8)
        .map(|(user, transport)| line.server.live(*transport, &token(user)))
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let pusher = {
        let (is_over, grpc) = (Arc::clone(&is_over), line.server.grpc.to_string());
        thread::spawn(move || {
            let (mut number, mut is_queued) = (0, Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                // The new process does not have the connections of callers, so a caller connects again.
                let Ok(caller) = PushClient::connect(&grpc) else { continue };
                while !is_over.load(Ordering::Relaxed) {
                    let pushed = try_push(&caller, To::Room("live://1"), 5, &body(number));
                    number += 1;
                    is_queued.push(pushed.as_ref().ok().cloned());
                    if pushed.is_err() {
                        break;
                    }
                }
            }
            is_queued
        })
    };
    for cores in [cores.as_str(), cores.as_str(), first] {
        file("upgrade-cores.toml", cores, room);
        line.upgrade();
        let count = cores.split(',').count();
        line_with(&line.server.log, &format!(": {count} cores, "));
    }
    is_over.store(true, Ordering::Relaxed);
    let pushed = pusher.join().unwrap();
    assert_eq!(line.push(To::Room("live://1"), &body(u32::MAX)), queued(8));
    for peer in &mut clients {
        let mut last = None;
        let mut found = Vec::new();
        while last != Some(u32::MAX) {
            let body = peer.recv().body;
            let number = u32::from_be_bytes(body[..4].try_into().unwrap());
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
            found.push(number);
        }
        found.pop();
        for (number, outcome) in (0..).zip(&pushed) {
            // A push without a result may or may not have been made.
            if let Some(ledger) = outcome {
                assert_eq!(*ledger, queued(8));
                assert!(found.binary_search(&number).is_ok(), "{number} is lost");
            }
        }
    }
    let unanswered = pushed.iter().filter(|outcome| outcome.is_none()).count();
    assert!(unanswered <= 3, "{unanswered} of {} pushes have no answer", pushed.len());
    line.metrics().assert_balanced();
}

/// A shell script as an executable file.
fn script(name: &str, text: &str) -> String {
    let text = temporary(&format!("{name}.text"), &format!("#!/bin/sh\n{text}\n"));
    let path = text.strip_suffix(".text").expect("the path has this suffix");
    scratch::install(Path::new(&text), Path::new(path));
    path.to_owned()
}

#[test]
fn a_server_continues_when_the_new_process_fails() {
    let path = file("upgrade-fails.toml", &two_cores(), "");
    let line = start_with_file(&path);
    let mut client = line.server.live(Transport::WebSocket, &token(7));
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("[tcp]\n", "[tcp]\nbidn = 7\n")).unwrap();
    line.fail(&[], "tcp.bidn");
    line_with(&line.server.log, "this process goes on: ");
    let foreign =
        good.replace("[tcp]\nbind = [\"127.0.0.1:0\"]", "[tcp]\nbind = [\"192.0.2.1:7\"]");
    fs::write(&path, foreign).unwrap();
    line.fail(&[], "192.0.2.1:7 is no address of this host");
    fs::write(&path, &good).unwrap();
    line.fail(&["--binary", "/bin/false"], "the new process ended: exit status: 1");
    line.fail(&["--binary", "/nonexistent/comet"], "the new binary does not start: ");
    let hangs = script("upgrade-hangs", "exec sleep 1000");
    line.fail(&["--binary", &hangs, "--start-time", "1"], "does not answer in time");
    let metrics = line.metrics();
    for (result, count) in [("refused", 2), ("ended", 1), ("not_started", 1), ("late", 1)] {
        let sample = format!("comet_upgrades_total{{result=\"{result}\"}}");
        assert_eq!(metrics.value(&sample), count, "{result}");
    }
    assert_eq!(metrics.value("comet_connections"), 1);
    assert_eq!(line.push(To::User(7), b"all is as it was"), queued(1));
    assert_eq!(client.recv().body, b"all is as it was");
    line.server.live(Transport::Tcp, &token(8));
    // A later upgrade succeeds.
    let mut line = line;
    line.upgrade();
    assert_eq!(line.push(To::User(7), b"as before"), queued(1));
    assert_eq!(client.recv().body, b"as before");
}

#[test]
fn a_check_counts_the_connections_that_can_be_handed_over() {
    let line = Line::start(&[], &["protocol.handshake_timeout=\"1m\""]);
    let _live = BOTH.map(|transport| line.server.live(transport, "7"));
    let _silent = Peer::connect(line.server.tcp, Transport::Tcp);
    until("the silent client to be accepted", || line.metrics().value("comet_connections") == 3);
    let (code, said, error) = line.ask(&["--check"]);
    assert_eq!((code, &*error), (0, ""));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "would go on: 2");
    assert!(lines[1].starts_with("would be closed: 1 in a handshake, "), "{said}");
    assert!(lines[1].contains(", and 0 that wait for an answer, "), "{said}");
}

/// Callers of each kind find the new process at the former addresses, also at a Unix socket, whose file stays until the last
/// process ends.
#[test]
fn callers_and_operators_find_the_new_process() {
    let folder = Folder::new();
    let pid_file = folder.file("pid");
    let sets = [
        format!("push.frames=[\"{}\", \"127.0.0.1:0\"]", folder.address("frames")),
        format!("push.http=[\"{}\"]", folder.address("http")),
        format!("server.pid_file={pid_file:?}"),
    ];
    let mut line = Line::start(&[], &sets.each_ref().map(String::as_str));
    let mut client = line.server.live(Transport::Tcp, &token(7));
    let grpc = line.server.grpc.to_string();
    let (code, ..) = run(&["ctl", "--grpc", &grpc, "block", "192.0.2.7", "600"]);
    assert_eq!(code, 0);
    until("the file to be written", || {
        fs::read_to_string(&pid_file).is_ok_and(|id| id.trim() == line.pid)
    });
    for round in 1..=2_u8 {
        let mut pusher = Pusher::unix(folder.file("frames"), PATIENCE).unwrap();
        let pushed = pusher.push(PushTarget::User(7), 5, &[round]).unwrap().unwrap();
        assert_eq!((pushed.matched, client.recv().body), (1, vec![round]));
        // Without --pid the command finds the server by its PID file.
        let config = format!("server.pid_file={pid_file:?}");
        let (code, said, error) = run(&["upgrade", "--set", &config]);
        assert_eq!((code, &*error), (0, ""), "{said}");
        line.moved(&said);
        assert_eq!(fs::read_to_string(&pid_file).unwrap().trim(), line.pid);
        pusher.push(PushTarget::User(7), 5, b"").unwrap_err();
        let mut unix = UnixStream::connect(folder.file("http")).unwrap();
        unix.write_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        unix.read_to_string(&mut page).unwrap();
        assert!(page.starts_with("HTTP/1.1 404 "), "{page}");
        assert_eq!(line.push(To::User(7), b"new"), queued(1));
        assert_eq!(client.recv().body, b"new");
        let (_, blocked, _) = run(&["ctl", "--grpc", &grpc, "blocks"]);
        assert!(blocked.contains("192.0.2.7"), "{blocked}");
    }
    line.signal(Signal::TERM);
    client.close_notice();
    drop(client);
    until("the files to be removed", || {
        !["pid", "http", "frames"].iter().any(|name| folder.file(name).exists())
    });
}
