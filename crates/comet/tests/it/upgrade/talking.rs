//! Clients whose messages logic has not answered when the upgrade begins: none is closed for that, and logic gets each message
//! once.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use comet_client::{Transport, op};
use comet_wire::goim::logic::ConnectReply;

use super::{Line, file, start_with_file, token};
use crate::fake_logic::{Asked, FakeLogic};
use crate::peer::{Peer, message};
use crate::process::{line_with, run};
use crate::support::{BOTH, PATIENCE, To, queued, two_cores, until, until_in_time};

/// How long a server waits for replies of logic before the hand-over.
const ANSWERS: Duration = Duration::from_secs(3);

/// The user and the sequence of the next client message that logic receives.
pub(super) fn received(logic: &FakeLogic) -> (i64, i32) {
    logic.asked(|asked| match asked {
        Asked::Receive(request) => Some((request.mid, request.proto.unwrap_or_default().seq)),
        _ => None,
    })
}

/// A proxy to a server. While it is closed, connections wait.
struct Gate {
    address: SocketAddr,
    is_open: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = Arc::new((Mutex::new(true), Condvar::new()));
        let shared = Arc::clone(&is_open);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let (is_open, changed) = &*shared;
                drop(changed.wait_while(is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
                let server = TcpStream::connect(server).unwrap();
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (mut from, mut to) in [(client, server), back] {
                    thread::spawn(move || {
                        // The other direction may have closed the sockets already.
                        let _ = (copy(&mut from, &mut to), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { address, is_open }
    }

    fn set_open(&self, is_open: bool) {
        *self.is_open.0.lock().unwrap() = is_open;
        self.is_open.1.notify_all();
    }
}

/// A server whose logic accepts a user's number as a token.
pub(super) fn start() -> (FakeLogic, Line) {
    let (logic, _, line) = start_behind_gate();
    (logic, line)
}

/// The same, and the proxy between the server and logic.
fn start_behind_gate() -> (FakeLogic, Gate, Line) {
    let logic = FakeLogic::start();
    let gate = Gate::to(logic.address);
    logic.script(|script| {
        script.connect = Box::new(|request| {
            let user: i64 = String::from_utf8_lossy(&request.token).parse().unwrap();
            let key = format!("k{user}");
            Ok(ConnectReply { mid: user, key, accepts_all: true, ..ConnectReply::default() })
        });
    });
    let addrs = format!("logic.addrs=[\"{}\"]", gate.address);
    let line = Line::start(&[], &[&addrs, "logic.timeout=\"20s\""]);
    let up = format!("comet_logic_up{{address=\"{}\"}}", gate.address);
    until("logic to be connected", || line.metrics().value(&up) == 1);
    (logic, gate, line)
}

/// An upgrade that is under way.
pub(super) struct Order {
    begun: Instant,
    said: JoinHandle<(i32, String, String)>,
}

/// Starts an upgrade. Returns once the server has stopped to read from its clients and waits for replies of logic.
pub(super) fn order(line: &Line) -> Order {
    let (begun, pid) = (Instant::now(), line.pid.clone());
    let said = thread::spawn(move || run(&["upgrade", "--pid", &pid]));
    line_with(&line.server.log, "clients wait for an answer");
    Order { begun, said }
}

impl Order {
    /// The result of the command, and whether the upgrade took so long that the server may have stopped waiting for a reply, as
    /// the machine was slow.
    pub(super) fn end(self) -> ((i32, String, String), bool) {
        let said = self.said.join().unwrap();
        (said, self.begun.elapsed() >= ANSWERS)
    }

    /// The output of an upgrade that closed no client. `None`: it closed some, as the machine may have been too slow.
    #[track_caller]
    pub(super) fn has_moved_all(self, line: &mut Line) -> Option<String> {
        let ((code, said, error), may_be_late) = self.end();
        assert_eq!((code, &*error), (0, ""), "{said}");
        line.moved(&said);
        let has_moved_all = said.contains(" 0 were closed");
        assert!(has_moved_all || may_be_late, "{said}");
        has_moved_all.then_some(said)
    }
}

#[test]
fn clients_that_wait_for_logic_are_handed_over_after_the_reply() {
    until_in_time(hand_over_four_clients);
}

fn hand_over_four_clients() -> bool {
    let (logic, mut line) = start();
    let mut clients: Vec<Peer> =
        (1..=4).map(|user| line.server.live(BOTH[user % 2], &user.to_string())).collect();
    for round in 0..2 {
        logic.hold(true);
        let first = 10 * round;
        for client in &mut clients {
            client.send(op::SEND, first + 1, b"asked before");
        }
        let mut asked: Vec<_> = (0..4).map(|_| received(&logic)).collect();
        let order = order(&line);
        for client in &mut clients {
            client.send(op::SEND, first + 2, b"sent meanwhile");
            client.send(op::HEARTBEAT, first + 3, b"");
        }
        logic.hold(false);
        let Some(said) = order.has_moved_all(&mut line) else { return false };
        assert!(said.contains(" 4 connections go on after a pause of "), "{said}");
        asked.extend((0..4).map(|_| received(&logic)));
        asked.sort_unstable();
        let all: Vec<_> = (1..=4).flat_map(|user| [(user, first + 1), (user, first + 2)]).collect();
        assert_eq!(asked, all, "logic gets each message once");
        for (user, client) in (1..).zip(&mut clients) {
            assert_eq!(client.recv(), message(op::SEND, first + 1, b""));
            assert_eq!(client.recv(), message(op::SEND, first + 2, b""));
            assert_eq!(client.recv().operation, op::HEARTBEAT_REPLY);
            assert_eq!(line.push(To::User(user), b"later"), queued(1));
            assert_eq!(client.recv().body, b"later");
        }
    }
    let metrics = line.metrics();
    assert_eq!(metrics.value("comet_received_total"), 16);
    metrics.assert_balanced();
    true
}

/// The new process is not connected to logic yet when its clients send messages.
#[test]
fn messages_before_the_connection_to_logic_are_delivered() {
    let (logic, gate, mut line) = start_behind_gate();
    let [first, second] = BOTH;
    let mut clients = [line.server.live(first, "1"), line.server.live(second, "2")];
    gate.set_open(false);
    line.upgrade();
    for (sequence, client) in (1..).zip(&mut clients) {
        client.send(op::SEND, sequence, b"early");
    }
    until("both messages to wait", || line.metrics().value("comet_logic_calls_under_way") == 2);
    gate.set_open(true);
    let mut received_messages = [received(&logic), received(&logic)];
    received_messages.sort_unstable();
    assert_eq!(received_messages, [(1, 1), (2, 2)]);
    for (sequence, client) in (1..).zip(&mut clients) {
        assert_eq!(client.recv(), message(op::SEND, sequence, b""));
    }
}

/// The client has sent its token, and logic answers only after the upgrade has begun.
#[test]
fn a_client_in_authentication_is_handed_over_after_the_reply() {
    until_in_time(hand_over_a_client_in_authentication);
}

fn hand_over_a_client_in_authentication() -> bool {
    let (logic, mut line) = start();
    logic.hold(true);
    let mut client = Peer::connect(line.server.tcp, Transport::Tcp);
    client.send(op::AUTH, 1, b"7");
    logic.asked(|asked| matches!(asked, Asked::Connect(_)).then_some(()));
    let order = order(&line);
    logic.hold(false);
    let Some(said) = order.has_moved_all(&mut line) else { return false };
    assert!(said.contains(" 1 connections go on "), "{said}");
    assert_eq!(client.recv(), message(op::AUTH_REPLY, 1, b""));
    assert_eq!(line.push(To::User(7), b"later"), queued(1));
    assert_eq!(client.recv().body, b"later");
    line.metrics().assert_balanced();
    true
}

/// Logic does not answer, so the client is closed and comes back. Meanwhile the former process still reports the end to logic.
#[test]
fn a_session_that_returns_before_its_end_is_reported_is_renewed() {
    let (logic, mut line) = start();
    let mut client = line.server.live(BOTH[0], "7");
    logic.hold(true);
    client.send(op::SEND, 1, b"never answered");
    received(&logic);
    let order = order(&line);
    client.close_notice();
    drop(client);
    logic.asked(|asked| matches!(asked, Asked::Disconnect(_)).then_some(()));
    let ((code, said, error), _) = order.end();
    assert_eq!((code, &*error), (0, ""), "{said}");
    line.serves(&said);
    let mut client = Peer::connect(line.server.tcp, Transport::Tcp);
    client.send(op::AUTH, 1, b"7");
    logic.asked(|asked| matches!(asked, Asked::Connect(_)).then_some(()));
    logic.hold(false);
    assert_eq!(client.recv(), message(op::AUTH_REPLY, 1, b""));
    let begin = Instant::now();
    let renewed = logic.asked(|asked| {
        // Logic gets other messages, the counts of rooms, as long as the server runs.
        assert!(begin.elapsed() < PATIENCE, "the session is not renewed");
        match asked {
            Asked::Heartbeat(request) => Some(request.key),
            _ => None,
        }
    });
    assert_eq!(renewed, "k7");
}

/// The keys of recently ended sessions are handed over. A process without logic does not report that one is in use again.
#[test]
fn a_client_returns_after_an_upgrade_that_removes_logic() {
    let logic = FakeLogic::start();
    let configure = |section: &str| file("upgrade-without-logic.toml", &two_cores(), section);
    let mut line =
        start_with_file(&configure(&format!("[logic]\naddrs = [\"{}\"]\n", logic.address)));
    let up = format!("comet_logic_up{{address=\"{}\"}}", logic.address);
    until("logic to be connected", || line.metrics().value(&up) == 1);
    let stays = line.server.live(Transport::WebSocket, "2");
    drop(line.server.live(Transport::Tcp, "1"));
    logic.asked(|asked| matches!(asked, Asked::Disconnect(_)).then_some(()));
    configure("");
    line.upgrade();
    let mut again = line.server.live(Transport::Tcp, &token(1));
    assert_eq!(line.push(To::Keys(&["k1"]), b"for you"), queued(1));
    assert_eq!(again.recv().body, b"for you");
    assert_eq!(line.metrics().value("comet_connections"), 2);
    drop(stays);
}
