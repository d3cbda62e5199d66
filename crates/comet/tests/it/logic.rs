//! Logic in another process: who is let in, what it hears, and what clients see while it is away.

use comet_client::{Transport, op};
use comet_wire::goim::logic::{ConnectReq, DisconnectReq, HeartbeatReq, ReceiveReq};
use comet_wire::goim::protocol::Proto;
use tonic::Status;

use crate::fake_logic::{Asked, FakeLogic};
use crate::peer::{CloseNotice, Peer, UPGRADE, message};
use crate::support::{BOTH, Server, To, config, queued, received_until, until};

/// A server whose logic is at all of `logic`, pinged often, and given the time a busy machine takes.
fn start(logic: &[&FakeLogic], sets: &[&str]) -> Server {
    start_within("20s", logic, sets)
}

/// The same where calls may take so long.
fn start_within(timeout: &str, logic: &[&FakeLogic], sets: &[&str]) -> Server {
    let addrs: Vec<_> =
        logic.iter().map(|logic| format!("{:?}", logic.address.to_string())).collect();
    let addrs = format!("logic.addrs=[{}]", addrs.join(","));
    let timeout = format!("logic.timeout={timeout:?}");
    let mut all = vec![&*addrs, &*timeout, r#"server.id="edge-1""#, r#"logic.ping="100ms""#];
    all.extend(sets);
    Server::start(&all)
}

fn up(server: &Server, logic: &FakeLogic, up: u64) {
    server.until(&format!("comet_logic_up{{address=\"{}\"}}", logic.address), up);
}

/// A server with one logic service, which is there.
fn start_with(logic: &FakeLogic, sets: &[&str]) -> Server {
    let server = start(&[logic], sets);
    up(&server, logic, 1);
    server
}

fn disconnect(mid: i64) -> DisconnectReq {
    DisconnectReq { mid, key: format!("k{mid}"), server: "edge-1".to_owned() }
}

/// What a refused client is told, and the wait in it.
#[track_caller]
fn expect_no_logic(peer: &mut Peer, transport: Transport, sentence: &str) {
    let CloseNotice { reason, close } = peer.close_notice();
    let (said, wait) = reason.split_once("; retry_after_ms=").expect("it says when to come back");
    assert_eq!(said, sentence);
    let wait: u32 = wait.parse().unwrap();
    assert!((2_500..=5_000).contains(&wait), "{wait}");
    let text = format!("logic_unavailable: {sentence}; retry_after_ms={wait}");
    assert_eq!(close, (transport == Transport::WebSocket).then_some((1013, text)));
}

#[test]
fn logic_lets_a_client_in_and_says_what_it_gets() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    for (transport, token) in [(Transport::Tcp, "41"), (Transport::WebSocket, "42")] {
        let mut client = server.client(transport, token);
        let request = ConnectReq {
            server: "edge-1".to_owned(),
            cookie: String::new(),
            token: token.as_bytes().to_vec(),
        };
        assert_eq!(logic.connect(), request);
        let key = format!("k{token}");
        let user = To::User(token.parse().unwrap());
        for to in [To::Keys(&[&key]), user, To::Room("live://1"), To::All] {
            assert_eq!(server.push(to, 5, b"for you"), queued(1), "{to:?}");
        }
        let other = server.push(To::All, 6, b"not accepted");
        assert_eq!((other.matched, other.queued), (1, 0));
        server.push(To::Keys(&[&key]), 5, b"end");
        assert_eq!(received_until(&mut client, b"end").len(), 5);
        client.close().unwrap();
        server.until("comet_connections", 0);
    }
}

#[test]
fn logic_gets_the_cookies_of_the_upgrade() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    // The longest has what web servers usually take; the other headers of a browser are beside it.
    for cookie in ["sid=abc; theme=dark", &format!("sid={}", "a".repeat(8 << 10))] {
        let mut peer = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
        let headers = format!("\r\nUser-Agent: {}\r\nCookie: {cookie}\r\n", "b".repeat(1 << 10));
        peer.write(UPGRADE.replacen("\r\n", &headers, 1).as_bytes());
        peer.expect_upgraded();
        peer.authenticate("1");
        assert_eq!(logic.connect().cookie, cookie);
    }
}

#[test]
fn logic_refuses_with_a_sentence_and_no_hint() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    for transport in BOTH {
        let mut peer = Peer::open(&server, transport);
        peer.send(op::AUTH, 1, b"anna");
        let text = "auth_refused: no such token".to_owned();
        let close = (transport == Transport::WebSocket).then_some((1008, text));
        assert_eq!(peer.close_notice(), CloseNotice { reason: "no such token".to_owned(), close });
    }
    assert_eq!(server.metrics().closed("auth_refused"), 2);
}

#[test]
fn the_heartbeat_logic_gives_is_kept() {
    let logic = FakeLogic::start();
    logic.script(|script| {
        let connect = std::mem::replace(&mut script.connect, Box::new(|_| unreachable!()));
        script.connect = Box::new(move |request| {
            let mut reply = connect(request)?;
            if reply.mid == 1 {
                reply.heartbeat = 100_000_000;
            }
            Ok(reply)
        });
    });
    let server = start_with(&logic, &[]);
    let mut patient = Peer::live(&server, Transport::Tcp, "2");
    let mut hasty = Peer::live(&server, Transport::Tcp, "1");
    assert_eq!(
        hasty.close_notice(),
        CloseNotice { reason: "heartbeat_timeout".to_owned(), close: None }
    );
    until("the other to be alone", || patient.online() == 1);
}

#[test]
fn what_a_client_says_reaches_logic_and_the_answer_says_whether() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    logic.script(|script| {
        script.receive = Box::new(|request| match &request.proto {
            Some(proto) if &*proto.body == b"bad" => {
                Err(Status::invalid_argument("mind your words"))
            }
            _ => Ok(Default::default()),
        });
    });
    for transport in BOTH {
        let mut peer = Peer::live(&server, transport, "42");
        for operation in [op::SEND, 1000] {
            assert_eq!(peer.ask(operation, 7, b"hello"), message(operation, 7, b""));
            let answer = message(operation, 8, b"mind your words");
            assert_eq!(peer.ask(operation, 8, b"bad"), answer);
            for (seq, body) in [(7, &b"hello"[..]), (8, b"bad")] {
                let received = logic.asked(|asked| match asked {
                    Asked::Receive(request) => Some(request),
                    _ => None,
                });
                let proto =
                    Proto { ver: 1, op: operation, seq, body: body.into(), ..Proto::default() };
                assert_eq!(received, ReceiveReq { mid: 42, proto: Some(proto) });
            }
        }
    }
}

#[test]
fn a_session_ends_once_and_not_when_its_key_lives_on() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    let first = Peer::live(&server, Transport::Tcp, "1");
    let mut second = Peer::live(&server, Transport::WebSocket, "1");
    drop(first);
    server.until("comet_connections", 1);
    // If the replaced one had caused a notice, it would have come before these.
    for user in [2, 3] {
        drop(Peer::live(&server, Transport::Tcp, &user.to_string()));
        assert_eq!(logic.notice(), Asked::Disconnect(disconnect(user)));
    }
    assert_eq!(server.push(To::Keys(&["k1"]), 5, b"still there"), queued(1));
    assert_eq!(second.recv(), message(5, 0, b"still there"));
    drop(second);
    assert_eq!(logic.notice(), Asked::Disconnect(disconnect(1)));
    server.until("comet_logic_calls_under_way", 0);
    assert_eq!(server.metric(r#"comet_logic_calls_total{rpc="Disconnect",code="Ok"}"#), 3);
}

#[test]
fn logic_hears_that_a_session_goes_on() {
    let logic = FakeLogic::start();
    let sets = [r#"logic.heartbeat_min="1s""#, r#"logic.heartbeat_max="1s""#];
    let server = start_with(&logic, &sets);
    let mut peer = Peer::live(&server, Transport::Tcp, "42");
    until("a heartbeat to reach logic", || {
        peer.online();
        let expected = HeartbeatReq { mid: 42, key: "k42".to_owned(), server: "edge-1".to_owned() };
        logic.all_asked().contains(&Asked::Heartbeat(expected))
    });
}

#[test]
fn a_heartbeat_counts_the_room_on_all_servers() {
    let logic = FakeLogic::start();
    logic.script(|script| script.online = [("live://1".to_owned(), 10)].into());
    let server = start_with(&logic, &[r#"logic.renew="100ms""#]);
    let mut first = Peer::live(&server, Transport::Tcp, "1");
    let mut second = Peer::live(&server, Transport::WebSocket, "2");
    let renewed = logic.asked(|asked| match asked {
        Asked::Renew(request, encoding) if request.room_count.get("live://1") == Some(&2) => {
            Some((request.server, encoding))
        }
        _ => None,
    });
    assert_eq!(renewed, ("edge-1".to_owned(), Some("gzip".to_owned())));
    // Eight elsewhere, and two here.
    until("everybody to be counted", || first.online() == 10 && second.online() == 10);
    logic.script(|script| script.online.clear());
    until("the others to leave", || first.online() == 2 && second.online() == 2);
}

#[test]
fn clients_come_in_while_one_of_two_is_there() {
    let mut logic = [FakeLogic::start(), FakeLogic::start()];
    let server = start(&[&logic[0], &logic[1]], &[]);
    for logic in &logic {
        up(&server, logic, 1);
    }
    let come_and_go = || {
        let live = |user: i32| Peer::live(&server, Transport::Tcp, &user.to_string());
        drop((1..=8).map(live).collect::<Vec<_>>());
        server.until("comet_connections", 0);
    };
    come_and_go();
    for logic in &logic {
        logic.connect();
    }
    logic[0].kill();
    come_and_go();
    up(&server, &logic[0], 0);
    logic[0].revive();
    up(&server, &logic[0], 1);
    logic[1].kill();
    come_and_go();
    logic[0].connect();
}

#[test]
fn without_logic_nobody_comes_in_and_who_is_in_stays() {
    let mut logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    let mut live: Vec<_> = BOTH
        .into_iter()
        .zip(["1", "2"])
        .map(|(transport, token)| Peer::live(&server, transport, token))
        .collect();
    logic.kill();
    for transport in BOTH {
        let mut refused = Peer::open(&server, transport);
        refused.send(op::AUTH, 1, b"3");
        expect_no_logic(&mut refused, transport, "logic is not there");
    }
    assert_eq!(server.metrics().closed("logic_unavailable"), 2);
    for peer in &mut live {
        assert_eq!(peer.ask(op::SEND, 9, b"hello"), message(op::SEND, 9, b"logic is not there"));
        until("both to be counted", || peer.online() == 2);
    }
    assert_eq!(server.push(To::Room("live://1"), 5, b"hold on"), queued(2));
    for peer in &mut live {
        assert_eq!(peer.recv(), message(5, 0, b"hold on"));
    }
    // One leaves; logic hears of it when it can.
    up(&server, &logic, 0);
    live.pop();
    server.until("comet_logic_notices_waiting", 1);
    logic.revive();
    assert_eq!(logic.notice(), Asked::Disconnect(disconnect(2)));
    up(&server, &logic, 1);
    assert_eq!(live[0].ask(op::SEND, 10, b"hello"), message(op::SEND, 10, b""));
    Peer::live(&server, Transport::Tcp, "3");
}

#[test]
fn a_server_starts_before_its_logic() {
    let mut logic = FakeLogic::absent();
    let server = start(&[&logic], &[]);
    let mut early = Peer::open(&server, Transport::Tcp);
    early.send(op::AUTH, 1, b"1");
    expect_no_logic(&mut early, Transport::Tcp, "logic is not there");
    logic.revive();
    up(&server, &logic, 1);
    Peer::live(&server, Transport::Tcp, "1");
}

#[test]
fn more_questions_than_may_be_under_way_let_nobody_in() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &["logic.calls=1"]);
    // The renewal of the start is over.
    logic.asked(|asked| matches!(asked, Asked::Renew(..)).then_some(()));
    server.until("comet_logic_calls_under_way", 0);
    logic.hold(true);
    let mut first = Peer::open(&server, Transport::Tcp);
    first.send(op::AUTH, 1, b"1");
    logic.connect();
    for transport in BOTH {
        let mut second = Peer::open(&server, transport);
        second.send(op::AUTH, 1, b"2");
        expect_no_logic(&mut second, transport, "logic has too much to do");
    }
    logic.hold(false);
    assert_eq!(first.recv(), message(op::AUTH_REPLY, 1, b""));
}

#[test]
fn logic_that_is_silent_lets_nobody_in() {
    let logic = FakeLogic::start();
    let server = start_within("200ms", &[&logic], &[]);
    logic.hold(true);
    // Such a short time is sometimes too short for a ping.
    until("the deadline to pass", || {
        let mut peer = Peer::open(&server, Transport::Tcp);
        peer.send(op::AUTH, 1, b"1");
        let said = peer.close_notice().reason;
        assert!(said.contains("; retry_after_ms="), "{said}");
        said.starts_with("logic did not answer in time; ")
    });
}

#[test]
fn logic_hears_of_everybody_a_drain_sends_away() {
    let logic = FakeLogic::start();
    let server = start_with(&logic, &[]);
    let mut peers: Vec<_> =
        (1..=20).map(|user: i32| Peer::live(&server, Transport::Tcp, &user.to_string())).collect();
    let leaving = std::thread::spawn(move || {
        for peer in &mut peers {
            peer.close_notice();
        }
    });
    server.drain();
    leaving.join().unwrap();
    let mut ended: Vec<_> = logic
        .all_asked()
        .into_iter()
        .filter_map(|asked| match asked {
            Asked::Disconnect(request) => Some(request.mid),
            _ => None,
        })
        .collect();
    ended.sort_unstable();
    assert_eq!(ended, (1..=20).collect::<Vec<_>>());
}

#[test]
fn logic_moves_without_a_restart() {
    let (first, second) = (FakeLogic::start(), FakeLogic::start());
    let sets = |logic: &FakeLogic| {
        let addrs = format!("logic.addrs=[\"{}\"]", logic.address);
        [addrs, "logic.timeout=\"20s\"".to_owned(), "logic.ping=\"100ms\"".to_owned()]
    };
    let before = sets(&first);
    let mut server = Server::start(&before.each_ref().map(String::as_str));
    up(&server, &first, 1);
    let _early = server.client(Transport::Tcp, "1");
    // This call is under way when its address goes.
    first.hold(true);
    let mut waiting = Peer::open(&server, Transport::Tcp);
    waiting.send(op::AUTH, 1, b"2");
    while first.connect().token != b"2" {}

    let after = sets(&second);
    let reloaded = server.reload(&config(&after.each_ref().map(String::as_str))).unwrap();
    assert_eq!(reloaded.alive.iter().map(|change| change.key).collect::<Vec<_>>(), ["logic.addrs"]);
    up(&server, &second, 1);
    assert_eq!(server.metrics().by_label("comet_logic_up").len(), 1);
    let _late = server.client(Transport::Tcp, "3");
    assert_eq!(second.connect().token, b"3");
    first.hold(false);
    assert_eq!(waiting.recv().operation, op::AUTH_REPLY);
    drop(waiting);
    assert!(!first.all_asked().iter().any(|asked| matches!(asked, Asked::Disconnect(_))));
    assert_eq!(
        second.notice(),
        Asked::Disconnect(DisconnectReq { server: config(&[]).server.id, ..disconnect(2) })
    );
}
