//! Deadlines: a handshake that never comes, heartbeats that stop.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use comet_client::{Transport, op};

use crate::peer::{CloseNotice, Peer, UPGRADE, frame, masked, message};
use crate::support::{BOTH, PATIENCE, Server, To, queued, received};

/// The server's clock counts whole milliseconds, and reads them once a turn.
const CLOCK_STEP: Duration = Duration::from_millis(10);

const HANDSHAKE: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_secs(10);

fn handshake_timeout() -> String {
    format!("protocol.handshake_timeout=\"{}s\"", HANDSHAKE.as_secs())
}

fn close_notice(transport: Transport, reason: &str) -> CloseNotice {
    let close = (transport == Transport::WebSocket).then(|| (1008, reason.to_owned()));
    CloseNotice { reason: reason.to_owned(), close }
}

#[test]
fn who_is_silent_past_the_handshake_timeout_is_told_and_closed() {
    let server = Server::start(&[&handshake_timeout()]);
    let mut healthy = server.client(Transport::Tcp, "7");
    let auth = frame(op::AUTH, 1, b"42");
    // What is said before the silence, and whether there is a way to say notice.
    let upgraded = |rest: &[u8]| [UPGRADE.as_bytes(), rest].concat();
    let cases: &[(Transport, Vec<u8>, bool)] = &[
        (Transport::Tcp, Vec::new(), true),
        (Transport::Tcp, auth[..auth.len() - 1].to_vec(), true),
        (Transport::Tcp, frame(op::HEARTBEAT, 1, b""), true),
        (Transport::WebSocket, Vec::new(), false),
        (Transport::WebSocket, UPGRADE.as_bytes()[..100].to_vec(), false),
        (Transport::WebSocket, upgraded(b""), true),
        (Transport::WebSocket, upgraded(&masked(0x02, &auth)), true),
        (Transport::WebSocket, upgraded(&masked(0x82, &auth)[..10]), true),
    ];
    let begin = Instant::now();
    let peers: Vec<_> = cases
        .iter()
        .map(|(transport, bytes, is_told)| {
            let mut peer = Peer::connect(server.address(*transport), *transport);
            peer.write(bytes);
            (peer, *transport, bytes, *is_told)
        })
        .collect();
    for (mut peer, transport, bytes, is_told) in peers {
        if is_told {
            if transport == Transport::WebSocket {
                peer.expect_upgraded();
            }
            assert_eq!(
                peer.close_frame(),
                close_notice(transport, "handshake_timeout").close,
                "{bytes:x?}"
            );
        } else {
            peer.expect_end();
        }
        assert!(begin.elapsed() >= HANDSHAKE - CLOCK_STEP, "after {:?}", begin.elapsed());
    }
    assert_eq!(server.metrics().closed("handshake_timeout"), cases.len() as u64);
    assert_eq!(server.push(To::User(7), 5, b"still there"), queued(1));
    assert_eq!(received(&mut healthy), b"still there");
}

/// Nothing came in time. A read with a timeout is not restarted when the kernel interrupts its thread,
/// as it does to clean up after the ring that probed the machine.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[test]
fn dripping_bytes_do_not_prolong_the_handshake() {
    let server = Server::start(&[&handshake_timeout()]);
    for transport in BOTH {
        let begin = Instant::now();
        let mut peer = Peer::connect(server.address(transport), transport);
        let bytes = match transport {
            Transport::Tcp => frame(op::HEARTBEAT, 1, b"").repeat(100),
            Transport::WebSocket => UPGRADE.replace("comet", &"x".repeat(4000)).into_bytes(),
        };
        peer.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut heard: Vec<u8> = Vec::new();
        // Reading waits a little, so the bytes drip.
        for byte in bytes {
            let _ = peer.stream.write(&[byte]);
            let mut answer = [0; 100];
            match peer.stream.read(&mut answer) {
                Ok(0) => break,
                Ok(len) => heard.extend(&answer[..len]),
                Err(error) if is_silence(&error) => {}
                // It went on after the end.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
            assert!(begin.elapsed() < PATIENCE, "it is still served");
        }
        assert!(begin.elapsed() >= HANDSHAKE - CLOCK_STEP);
        assert_eq!(heard, b"");
    }
    assert_eq!(server.metrics().closed("handshake_timeout"), 2);
}

#[test]
fn who_stops_beating_is_closed_and_who_goes_on_is_not() {
    let server = Server::start(&[&format!("protocol.heartbeat=\"{}s\"", HEARTBEAT.as_secs())]);
    let mut beating = Peer::live(&server, Transport::Tcp, "1");
    let begin = Instant::now();
    let mut silent: Vec<_> = BOTH
        .into_iter()
        .map(|transport| (Peer::live(&server, transport, "2"), transport))
        .collect();
    // Anything but a heartbeat is no sign of life to goim, and none here.
    for (peer, _) in &mut silent {
        assert_eq!(peer.ask(op::SEND, 3, b"I talk"), message(op::SEND, 3, b""));
    }
    let tick = Duration::from_millis(50);
    silent[0].0.stream.set_read_timeout(Some(tick)).unwrap();
    loop {
        assert!(beating.online() >= 1);
        match silent[0].0.stream.peek(&mut [0]) {
            Ok(_) => break,
            Err(error) => assert!(is_silence(&error), "{error}"),
        }
        assert!(begin.elapsed() < PATIENCE, "it is still there");
    }
    assert!(begin.elapsed() >= HEARTBEAT - CLOCK_STEP, "after {:?}", begin.elapsed());
    for (mut peer, transport) in silent {
        peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(peer.close_notice(), close_notice(transport, "heartbeat_timeout"));
    }
    assert!(beating.online() >= 1);
    assert_eq!(server.metrics().closed("heartbeat_timeout"), 2);
    assert_eq!(server.push(To::User(1), 5, b"hi"), queued(1));
    assert_eq!(beating.recv(), message(5, 0, b"hi"));
}
