//! Push frames at one of two hosts.

use comet_client::{Client, PushLedger, PushTarget, Pusher, Transport};
use comet_proto::{Encoded, Frame};
use serde_json::json;

use crate::nats::two_hosts_with;
use crate::nats_server::NatsServer;
use crate::support::{PATIENCE, Server, ip, received, until};

fn client(host: &Server, user: i64, room: &str) -> Client {
    let key = format!("key-{user}");
    let token = json!({ "mid": user, "key": key, "room_id": room, "accepts": [5, 9] });
    host.client(Transport::Tcp, &token.to_string())
}

fn pusher(host: &Server) -> Pusher {
    Pusher::tcp(ip(&host.app().frames_addrs()[0]), PATIENCE).unwrap()
}

fn push(pusher: &mut Pusher, target: PushTarget<'_>, operation: i32, body: &[u8]) -> PushLedger {
    pusher.push(target, operation, body).unwrap().unwrap()
}

fn queued(queued: u64) -> PushLedger {
    PushLedger { matched: queued, queued, ..PushLedger::default() }
}

/// The next body that the client gets, without the empty ones.
fn next(client: &mut Client) -> Vec<u8> {
    std::iter::from_fn(|| Some(received(client))).find(|body| !body.is_empty()).unwrap()
}

#[test]
fn a_push_frame_reaches_the_clients_of_all_hosts() {
    let Some(mut nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts_with(&nats, &["push.timeout=\"5s\"", "push.frames=[\"127.0.0.1:0\"]"]);
    let mut here = client(&a, 1, "r");
    let mut there = client(&b, 2, "r");
    let mut pusher = pusher(&a);
    until("the hosts to know the room", || {
        push(&mut pusher, PushTarget::Room("r"), 5, b"") == queued(2)
    });
    assert_eq!(push(&mut pusher, PushTarget::Room("r"), 5, b"room"), queued(2));
    assert_eq!(push(&mut pusher, PushTarget::All, 5, b"all"), queued(2));
    for client in [&mut here, &mut there] {
        assert_eq!((next(client), next(client)), (b"room".to_vec(), b"all".to_vec()));
    }
    // The key and the user are on the other host only.
    assert_eq!(push(&mut pusher, PushTarget::Key("key-2"), 5, b"key"), queued(1));
    assert_eq!(push(&mut pusher, PushTarget::User(2), 5, b"user"), queued(1));
    assert_eq!((next(&mut there), next(&mut there)), (b"key".to_vec(), b"user".to_vec()));
    let nobody = push(&mut pusher, PushTarget::Key("nobody"), 5, b"key");
    assert_eq!(nobody, PushLedger { absent: 1, ..PushLedger::default() });
    let nobody = push(&mut pusher, PushTarget::User(0), 5, b"user");
    assert_eq!(nobody, PushLedger { absent: 1, ..PushLedger::default() });
    // A batch.
    let mut batch = Vec::new();
    for body in [&b"one"[..], b"two"] {
        let frame = Frame { version: 1, operation: 5, sequence: 0, body };
        batch.extend_from_slice(Encoded::frame(&frame).for_tcp());
    }
    assert_eq!(push(&mut pusher, PushTarget::Key("key-2"), 9, &batch), queued(1));
    assert_eq!((next(&mut there), next(&mut there)), (b"one".to_vec(), b"two".to_vec()));

    nats.stop();
    a.until("comet_cluster_connected", 0);
    let alone = push(&mut pusher, PushTarget::Room("r"), 5, b"alone");
    assert_eq!(alone, PushLedger { unanswered: 1, ..queued(1) });
    assert_eq!(next(&mut here), b"alone");
}

#[test]
fn a_push_frame_is_answered_with_the_number_of_silent_hosts() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts_with(&nats, &["push.timeout=\"4s\"", "push.frames=[\"127.0.0.1:0\"]"]);
    let _clients = [client(&a, 1, "r"), client(&b, 2, "r")];
    let mut pusher = pusher(&a);
    until("the hosts to know the room", || {
        push(&mut pusher, PushTarget::Room("r"), 5, b"") == queued(2)
    });
    nats.pause(true);
    let ledger = push(&mut pusher, PushTarget::All, 5, b"");
    nats.pause(false);
    assert_eq!(ledger, PushLedger { unanswered: 1, ..queued(1) });
}
