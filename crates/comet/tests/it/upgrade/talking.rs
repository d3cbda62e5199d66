//! Clients whose messages logic has not answered when the upgrade begins: nobody is closed for that, and logic hears each message
//! once.

use std::thread::{self, JoinHandle};

use comet_client::{Transport, op};
use comet_wire::goim::logic::ConnectReply;

use super::Line;
use crate::fake_logic::{Asked, FakeLogic};
use crate::peer::{Peer, message};
use crate::process::{line_with, run};
use crate::support::{BOTH, To, queued, until};

/// The user and the number of the next client message that logic is asked about.
fn received(logic: &FakeLogic) -> (i64, i32) {
    logic.asked(|asked| match asked {
        Asked::Receive(request) => Some((request.mid, request.proto.unwrap_or_default().seq)),
        _ => None,
    })
}

/// A server whose logic takes a user's number for a token.
fn start() -> (FakeLogic, Line) {
    let logic = FakeLogic::start();
    logic.script(|script| {
        script.connect = Box::new(|request| {
            let user: i64 = String::from_utf8_lossy(&request.token).parse().unwrap();
            let key = format!("k{user}");
            Ok(ConnectReply { mid: user, key, accepts_all: true, ..ConnectReply::default() })
        });
    });
    let addrs = format!("logic.addrs=[\"{}\"]", logic.address);
    let line = Line::start(&[], &[&addrs, "logic.timeout=\"20s\""]);
    let up = format!("comet_logic_up{{address=\"{}\"}}", logic.address);
    until("logic to be there", || line.metrics().value(&up) == 1);
    (logic, line)
}

/// Orders an upgrade. Returns once the server reads no more of its clients, and waits for the answers that some of them wait for.
fn order(line: &Line) -> JoinHandle<(i32, String, String)> {
    let pid = line.pid.clone();
    let order = thread::spawn(move || run(&["upgrade", "--pid", &pid]));
    line_with(&line.server.log, "clients wait for an answer");
    order
}

#[test]
fn who_waits_for_an_answer_goes_on_once_it_is_there() {
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
        let (code, said, error) = order.join().unwrap();
        assert_eq!((code, &*error), (0, ""), "{said}");
        assert!(said.contains(" 4 connections go on after a pause of "), "{said}");
        assert!(said.contains(" 0 were closed"), "{said}");
        line.moved(&said);
        asked.extend((0..4).map(|_| received(&logic)));
        asked.sort_unstable();
        let all: Vec<_> = (1..=4).flat_map(|user| [(user, first + 1), (user, first + 2)]).collect();
        assert_eq!(asked, all, "each once");
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
}

/// It has sent its token, and logic takes longer than a handshake may.
#[test]
fn who_waits_to_be_let_in_goes_on_once_logic_has_answered() {
    let (logic, mut line) = start();
    logic.hold(true);
    let mut client = Peer::connect(line.server.tcp, Transport::Tcp);
    client.send(op::AUTH, 1, b"7");
    logic.asked(|asked| matches!(asked, Asked::Connect(_)).then_some(()));
    let order = order(&line);
    logic.hold(false);
    let (code, said, error) = order.join().unwrap();
    assert_eq!((code, &*error), (0, ""), "{said}");
    assert!(said.contains(" 1 connections go on ") && said.contains(" 0 were closed"), "{said}");
    line.moved(&said);
    assert_eq!(client.recv(), message(op::AUTH_REPLY, 1, b""));
    assert_eq!(line.push(To::User(7), b"later"), queued(1));
    assert_eq!(client.recv().body, b"later");
    line.metrics().assert_balanced();
}
