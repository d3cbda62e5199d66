//! Everything together: `comet logic` as a process of its own, two comets that ask it, and their clients.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use comet_client::{Client, Options, Transport};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::logic_rig::{Comets, get_data, ledger, post};
use crate::peer::{CloseNotice, Peer};
use crate::redis::RedisServer;
use crate::support::{Metrics, PATIENCE, received, until};

/// A loopback address that nobody else has: that of this process, and a port nobody was given before. So
/// it is free, also after whoever was there has ended.
pub(crate) fn own_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // 127.0.0.1 itself, which everybody uses, is none of these.
    let host = Ipv4Addr::new(127, 128 | high, middle, low);
    (host, PORT.fetch_add(1, Ordering::Relaxed)).into()
}

/// `comet logic` at addresses of its own.
struct Logic {
    process: Option<Child>,
    grpc: SocketAddr,
    http: SocketAddr,
    sets: Vec<String>,
}

impl Logic {
    /// Not running yet.
    fn new() -> Self {
        Self { process: None, grpc: own_address(), http: own_address(), sets: Vec::new() }
    }

    /// The settings of comets that ask it.
    fn asked(&self) -> [String; 3] {
        [
            format!("logic.addrs=[\"{}\"]", self.grpc),
            "logic.ping=\"100ms\"".to_owned(),
            "logic.renew=\"100ms\"".to_owned(),
        ]
    }

    /// Runs it, until it listens everywhere.
    fn run(&mut self) {
        let sets = [
            format!("logic_server.grpc=[\"{}\"]", self.grpc),
            format!("logic_server.http=[\"{}\"]", self.http),
            "logic_server.stat=[]".to_owned(),
        ];
        let mut process = Command::new(env!("CARGO_BIN_EXE_comet"))
            .arg("logic")
            .args(sets.iter().chain(&self.sets).flat_map(|set| ["--set", set]))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = lines.by_ref().map(Result::unwrap);
        assert!(said.any(|line| line.contains("stat [")), "comet logic did not start");
        // Whatever else it says has to be read, or it would wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        self.process = Some(process);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Waits for its end, and says its exit code.
    fn end(&mut self) -> Option<i32> {
        let mut process = self.process.take().expect("it runs");
        until("comet logic to end", || process.try_wait().unwrap().is_some());
        process.wait().unwrap().code()
    }
}

impl Drop for Logic {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Waits until both comets say that logic is there, or not.
fn until_logic_is(comets: &Comets, logic: &Logic, up: u64) {
    let sample = format!("comet_logic_up{{address=\"{}\"}}", logic.grpc);
    for stat in comets.stats() {
        until("comets to see it", || Metrics::read(stat).value(&sample) == up);
    }
}

/// Both comets, their logic running and seen by them.
fn start(more: &[String]) -> (Comets, Logic) {
    let mut logic = Logic::new();
    let comets = Comets::start_with(&logic.asked());
    logic.sets = [&[comets.setting(&[])], more].concat();
    logic.run();
    until_logic_is(&comets, &logic, 1);
    (comets, logic)
}

fn token(user: i64, room: &str) -> String {
    json!({ "mid": user, "key": format!("k{user}"), "room_id": room, "accepts": [1000] })
        .to_string()
}

/// Pushes to `target`, which is to reach exactly `receivers` of `clients`.
#[track_caller]
fn reaches(logic: &Logic, clients: &mut [Client], target: &str, receivers: &[usize]) {
    let data = post(logic.http, target, target.as_bytes());
    assert_eq!(data, ledger(receivers.len() as u64, 0), "{target}");
    for receiver in receivers {
        assert_eq!(received(&mut clients[*receiver]), target.as_bytes(), "{target}");
    }
}

/// `comet logic` is asked, is pushed through, dies, and is back.
#[test]
fn clients_of_two_comets_are_reached_through_logic_whatever_becomes_of_it() {
    let (comets, mut logic) = start(&[]);
    let mut clients = vec![
        comets.client(0, &token(41, "live://1")),
        comets.client(1, &token(42, "live://1")),
        // The seed's form: logic makes the key, and everything is accepted.
        comets.client(1, "43"),
    ];
    for (target, receivers) in [
        ("keys?operation=1000&keys=k41,43_1", &[0, 2][..]),
        ("mids?operation=1000&mids=42", &[1]),
        ("mids?operation=1000&mids=43,41", &[0, 2]),
        ("room?operation=1000&type=live&room=1", &[0, 1]),
        ("all?operation=1000", &[0, 1, 2]),
    ] {
        reaches(&logic, &mut clients, target, receivers);
    }
    // Each comet hears from logic who else is in the room.
    let online = json!({ "1": 2 });
    let room = "online/room?type=live&rooms=1";
    until("logic to know the room", || get_data(logic.http, room) == online);
    let mut peer = Peer::connect(comets.tcp(0), Transport::Tcp);
    peer.authenticate(&token(44, "live://1"));
    until("the comet to know all of the room", || peer.online() == 3);
    drop(peer);
    until("the session to have ended", || {
        post(logic.http, "mids?operation=1000&mids=44", b"gone")["absent"] == 1
    });

    logic.signal(Signal::KILL);
    assert_eq!(logic.end(), None);
    until_logic_is(&comets, &logic, 0);
    let mut refused = Peer::connect(comets.tcp(1), Transport::Tcp);
    refused.send(comet_client::op::AUTH, 1, b"45");
    let CloseNotice { reason, .. } = refused.close_notice();
    assert!(reason.contains("; retry_after_ms="), "{reason}");

    logic.run();
    until_logic_is(&comets, &logic, 1);
    clients.push(comets.client(0, &token(45, "live://1")));
    // Its sessions were in its memory; rooms and everybody are still reached.
    for (target, receivers) in [
        ("mids?operation=1000&mids=45", &[3][..]),
        ("room?operation=1000&type=live&room=1", &[0, 1, 3]),
        ("all?operation=1000", &[0, 1, 2, 3]),
    ] {
        reaches(&logic, &mut clients, target, receivers);
    }
    logic.signal(Signal::TERM);
    assert_eq!(logic.end(), Some(0));
}

/// Sessions in Redis outlive `comet logic`.
#[test]
fn sessions_in_redis_are_there_when_logic_is_back() {
    let Some(redis) = RedisServer::start() else { return };
    let (comets, mut logic) = start(&redis.sets());
    let mut clients = vec![comets.client(0, "41"), comets.client(1, "42")];
    let targets: [(&str, &[usize]); 3] = [
        ("keys?operation=1000&keys=41_1,42_1", &[0, 1]),
        ("mids?operation=1000&mids=42", &[1]),
        ("room?operation=1000&type=live&room=1", &[]),
    ];
    for (target, receivers) in targets {
        reaches(&logic, &mut clients, target, receivers);
    }
    logic.signal(Signal::KILL);
    assert_eq!(logic.end(), None);
    until_logic_is(&comets, &logic, 0);
    logic.run();
    until_logic_is(&comets, &logic, 1);
    for (target, receivers) in targets {
        reaches(&logic, &mut clients, target, receivers);
    }
    // The number of a user's sessions counts on.
    clients.push(comets.client(0, "41"));
    reaches(&logic, &mut clients, "keys?operation=1000&keys=41_2", &[2]);
}

/// What logic has against a token reaches the client.
#[test]
fn a_refused_token_is_told_with_logics_sentence() {
    let (comets, _logic) = start(&[]);
    for comet in [0, 1] {
        let error = Options::tcp(comets.tcp(comet).to_string(), "{}")
            .timeout(PATIENCE)
            .connect()
            .expect_err("a token without a user")
            .to_string();
        assert!(error.contains("the token does not fit: missing field `mid`"), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_said_before_it_runs() {
    let check = |sets: &[&str], code, sentence: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_comet"))
            .arg("logic")
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(sentence), "{said}");
    };
    check(&["logic_server.store=\"disk\""], 64, "logic_server.store");
    let taken = std::net::TcpListener::bind(own_address()).unwrap().local_addr().unwrap();
    let _held = std::net::TcpListener::bind(taken).unwrap();
    let grpc = format!("logic_server.grpc=[\"{taken}\"]");
    // What comets have on their hosts it need not have.
    let elsewhere = ["server.cores=\"4095\"", "tcp.bind=[\"edge.invalid:81\"]"];
    let sentence = format!("logic_server.grpc: {taken} is in use: ");
    check(&[elsewhere[0], elsewhere[1], &grpc], 1, &sentence);
    check(
        &["token.kind=\"jwt\"", "token.jwt_keys=[\"/no/such/key\"]"],
        1,
        "token.jwt_keys: /no/such/key: No such file",
    );
}
