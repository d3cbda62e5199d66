//! A key that is claimed again: the newer connection wins, whatever the older one does.

use comet::blocking_client::Ledger;
use comet_client::{Transport, op};

use crate::peer::{CloseNotice, Peer, message};
use crate::support::{BOTH, Server, To, queued, until};

const TOKEN: &str = r#"{"mid":42,"key":"k","room_id":"r","accepts":[5]}"#;

fn live_on(server: &Server, core: usize, transport: Transport) -> Peer {
    let mut peer = Peer::over(server.connect_on(core, transport), transport);
    peer.upgrade();
    peer.authenticate(TOKEN);
    peer
}

fn expect_replaced(peer: &mut Peer, transport: Transport) {
    let close = (transport == Transport::WebSocket).then(|| (1008, "replaced".to_owned()));
    assert_eq!(peer.close_notice(), CloseNotice { reason: "replaced".to_owned(), close });
}

fn check(first_at: (usize, Transport), second_at: (usize, Transport)) {
    let server = Server::start(&[]);
    let targets = [To::Keys(&["k"]), To::User(42), To::Room("r"), To::All];

    let mut first = live_on(&server, first_at.0, first_at.1);
    assert_eq!(server.push(To::Keys(&["k"]), 5, b"to the first"), queued(1));
    assert_eq!(first.recv(), message(5, 0, b"to the first"));

    let mut second = live_on(&server, second_at.0, second_at.1);
    expect_replaced(&mut first, first_at.1);
    for to in targets {
        assert_eq!(server.push(to, 5, b"to the second"), queued(1), "{to:?}");
        assert_eq!(second.recv(), message(5, 0, b"to the second"), "{to:?}");
    }

    // The older connection ends later, and that does not release the key of the newer one.
    drop(first);
    server.until("comet_connections", 1);
    for to in targets {
        assert_eq!(server.push(to, 5, b"still there"), queued(1), "{to:?}");
        assert_eq!(second.recv(), message(5, 0, b"still there"), "{to:?}");
    }
    until("the room to have one member", || second.online() == 1);

    drop(second);
    server.until("comet_keys", 0);
    let nobody = Ledger { absent: 1, ..queued(0) };
    assert_eq!(server.push(To::Keys(&["k"]), 5, b"to nobody"), nobody);
    let metrics = server.metrics();
    assert_eq!(metrics.closed("replaced"), 1);
    assert_eq!(metrics.by_label("comet_dropped_total"), []);
}

#[test]
fn a_newer_connection_on_another_core_replaces_the_older() {
    check((0, Transport::Tcp), (1, Transport::WebSocket));
    check((1, Transport::WebSocket), (0, Transport::Tcp));
}

#[test]
fn a_newer_connection_on_the_same_core_replaces_the_older() {
    check((0, Transport::WebSocket), (0, Transport::WebSocket));
    check((1, Transport::Tcp), (1, Transport::Tcp));
}

#[test]
fn of_many_simultaneous_claims_exactly_one_stays() {
    let server = Server::start(&[]);
    let mut peers: Vec<_> =
        (0..20).map(|index| (Peer::open(&server, BOTH[index % 2]), BOTH[index % 2])).collect();
    for (peer, _) in &mut peers {
        peer.send(op::AUTH, 1, TOKEN.as_bytes());
    }
    server.until("comet_closed_total{reason=\"replaced\"}", 19);
    server.until("comet_live", 1);
    assert_eq!(server.push(To::Keys(&["k"]), 5, b"to the last"), queued(1));
    let mut winners = 0;
    for (peer, transport) in &mut peers {
        let mut next = peer.recv();
        // A connection that was replaced before its authentication reply gets only the notice.
        if next == message(op::AUTH_REPLY, 1, b"") {
            next = peer.recv();
        }
        if next == message(5, 0, b"to the last") {
            winners += 1;
        } else {
            assert_eq!(next, message(op::DISCONNECT_REPLY, 0, b"replaced"));
            if *transport == Transport::WebSocket {
                assert_eq!(peer.read_close(), (1008, "replaced".to_owned()));
            }
            peer.expect_end();
        }
    }
    assert_eq!(winners, 1);
}
