//! Idle coalescing: which heartbeats wait for each other, and what ends the wait.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use comet_client::{Message, Transport, op};

use crate::peer::{Peer, message};
use crate::support::{PATIENCE, Server, To, queued};

/// Idle coalescing begins after this time with nothing but heartbeats (`COALESCE_AFTER_MS`), and a margin.
const IDLE_LONG_ENOUGH: Duration = Duration::from_millis(1_200);
/// So long is looked for an answer that should not come: a small part of what it has to wait.
const A_WHILE: Duration = Duration::from_millis(300);

/// Whether nothing comes for `time`.
fn is_silent(peer: &mut Peer, time: Duration) -> bool {
    let begin = Instant::now();
    let mut is_silent = true;
    while is_silent && begin.elapsed() < time {
        let left = time.saturating_sub(begin.elapsed()).max(Duration::from_millis(1));
        peer.stream.set_read_timeout(Some(left)).unwrap();
        match peer.stream.peek(&mut [0]) {
            Ok(1) => is_silent = false,
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            other => panic!("{other:?}"),
        }
    }
    peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    is_silent
}

/// Sends a heartbeat by `second` that has to wait for others.
fn send_waiting(first: &mut Peer, second: &mut Peer) {
    // A core that is held up by the machine is not idle for long enough, or sees both heartbeats at once.
    for _ in 0..10 {
        assert!(is_silent(first, IDLE_LONG_ENOUGH));
        // It is taken at once; what comes after it is not.
        assert!(is_online_reply(&first.ask(op::HEARTBEAT, 2, b"")));
        second.send(op::HEARTBEAT, 2, b"");
        if is_silent(second, A_WHILE) {
            return;
        }
        assert!(is_online_reply(&second.recv()));
    }
    panic!("no heartbeat waits");
}

/// Does something that must wake a core in a coalesced wait; the client is on that core.
type Wake<'a> = &'a dyn Fn(&mut Peer);

fn is_online_reply(message: &Message) -> bool {
    (message.operation, message.sequence, message.body.len()) == (op::HEARTBEAT_REPLY, 2, 4)
}

#[test]
fn heartbeats_wait_for_each_other_and_nothing_else_does() {
    // Had anything waited for so long, the test would have lost its patience.
    let server = Server::start(&["protocol.heartbeat_coalesce=\"10s\""]);
    for transport in [Transport::Tcp, Transport::WebSocket] {
        let mut peers = [1, 2].map(|user| {
            let mut peer = Peer::over(server.connect_on(0, transport), transport);
            peer.upgrade();
            peer.authenticate(&format!(
                r#"{{"mid":{user},"key":"{transport:?}-{user}","accepts":[5]}}"#
            ));
            peer
        });
        let key = format!("{transport:?}-1");
        let wakes: [(&str, Wake<'_>); 2] = [
            ("a push", &|peer| {
                assert_eq!(server.push(To::Keys(&[&key]), 5, b"up"), queued(1));
                assert_eq!(peer.recv(), message(5, 0, b"up"));
            }),
            // The kernel picks a core for each: it would take luck for none to be the one in a coalesced wait.
            ("clients", &|_| {
                for _ in 0..12 {
                    Peer::live(&server, transport, "3");
                }
            }),
        ];
        for (what, wake) in wakes {
            let [first, second] = &mut peers;
            send_waiting(first, second);
            let begin = Instant::now();
            wake(first);
            assert!(is_online_reply(&second.recv()), "{what}");
            assert!(
                begin.elapsed() < Duration::from_secs(8),
                "{what} waited {:?}",
                begin.elapsed()
            );
        }
        drop(peers);
        // Each look at the metrics wakes the cores, which then take what clients have sent.
        server.until("comet_connections", 0);
    }
}
