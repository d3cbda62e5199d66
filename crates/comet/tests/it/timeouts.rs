//! Deadlines: incomplete handshakes and missing heartbeats.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use comet_client::{Transport, op};

use crate::peer::{CloseNotice, Peer, UPGRADE, frame, masked, message};
use crate::support::{BOTH, PATIENCE, Server, To, queued, received};

/// The server's clock counts whole milliseconds and is read once a turn.
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
fn an_incomplete_handshake_is_closed_after_its_timeout() {
    let server = Server::start(&[&handshake_timeout()]);
    let mut healthy = server.client(Transport::Tcp, "7");
    let auth = frame(op::AUTH, 1, b"42");
    // The bytes of the client, and whether the server can send a close notice.
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
        .map(|(transport, bytes, has_notice)| {
            let mut peer = Peer::connect(server.address(*transport), *transport);
            peer.write(bytes);
            (peer, *transport, bytes, *has_notice)
        })
        .collect();
    for (mut peer, transport, bytes, has_notice) in peers {
        if has_notice {
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

/// Nothing arrived in time. A read with a timeout is not restarted when the kernel interrupts its thread, which it does to
/// clean up the ring by which the machine was probed.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[test]
fn single_bytes_do_not_extend_the_handshake_timeout() {
    let server = Server::start(&[&handshake_timeout()]);
    for transport in BOTH {
        let begin = Instant::now();
        let mut peer = Peer::connect(server.address(transport), transport);
        let bytes = match transport {
            Transport::Tcp => frame(op::HEARTBEAT, 1, b"").repeat(100),
            Transport::WebSocket => UPGRADE.replace("comet", &"x".repeat(4000)).into_bytes(),
        };
        peer.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut got: Vec<u8> = Vec::new();
        // Each read waits a little, so the bytes are sent slowly.
        for byte in bytes {
            let _ = peer.stream.write(&[byte]);
            let mut answer = [0; 100];
            match peer.stream.read(&mut answer) {
                Ok(0) => break,
                Ok(len) => got.extend(&answer[..len]),
                Err(error) if is_silence(&error) => {}
                // The client wrote after the server had closed.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
            assert!(begin.elapsed() < PATIENCE, "the connection is still open");
        }
        assert!(begin.elapsed() >= HANDSHAKE - CLOCK_STEP);
        assert_eq!(got, b"");
    }
    assert_eq!(server.metrics().closed("handshake_timeout"), 2);
}

#[test]
fn a_client_without_heartbeats_is_closed() {
    let server = Server::start(&[&format!("protocol.heartbeat=\"{}s\"", HEARTBEAT.as_secs())]);
    let mut beating = Peer::live(&server, Transport::Tcp, "1");
    let begin = Instant::now();
    let mut silent: Vec<_> = BOTH
        .into_iter()
        .map(|transport| (Peer::live(&server, transport, "2"), transport))
        .collect();
    // As in goim, other messages do not extend the heartbeat timeout.
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
        assert!(begin.elapsed() < PATIENCE, "the connection is still open");
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
