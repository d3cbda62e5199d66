//! `[[coalesce]]` on a running server: pushes of a window leave in one send, and the latest takes the place of those
//! before it.

use std::thread;

use comet_client::Client;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::Target;
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use serde_json::Value;
use tokio_stream::StreamExt;

use crate::control::over_grpc;
use crate::support::{BOTH, Server, To, dropped, http, queued, received, received_until, until};

/// Of both transports, in the room of tokens that are a number.
const MEMBERS: u64 = 20;
const PUSHES: u32 = 50;
/// As long as a window may be: on a machine that is held up a burst is in few windows all the same.
const RULE: &str = r#"coalesce.rules=[{ rooms = "1", window = "1s", keep_latest = true }]"#;

fn members(server: &Server) -> Vec<Client> {
    let client = |index| server.client(BOTH[index as usize % 2], "42");
    (0..MEMBERS).map(client).collect()
}

/// Pushes to the room at once, each about the state `collapse_id`; what became of each.
fn push_at_once(server: &Server, collapse_id: &str) -> Vec<Ledger> {
    let pushes: Vec<_> = (0..PUSHES)
        .map(|number| PushStreamReq {
            id: number.into(),
            target: Some(Target::RoomId("1".to_owned())),
            proto: Some(Proto {
                op: 5,
                body: number.to_string().into_bytes().into(),
                collapse_id: collapse_id.to_owned(),
                ..Proto::default()
            }),
            proto_op: 0,
        })
        .collect();
    let answers = over_grpc(server, async |channel| {
        let mut client = PushClient::new(channel);
        let replies = client.push_stream(tokio_stream::iter(pushes)).await.unwrap().into_inner();
        let replies: Vec<PushStreamReply> = replies.map(|reply| reply.unwrap()).collect().await;
        replies.into_iter().flat_map(|reply| reply.answers).collect::<Vec<_>>()
    });
    let ledger = |outcome| match outcome {
        Some(Outcome::Ledger(ledger)) => ledger,
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(|answer| ledger(answer.outcome)).collect()
}

#[test]
fn the_pushes_of_a_window_arrive_in_order_with_few_sends() {
    let server = Server::start(&[RULE]);
    let mut clients = members(&server);
    let before = server.metric("comet_sends_total");
    assert_eq!(push_at_once(&server, ""), vec![queued(MEMBERS); PUSHES as usize]);
    for client in &mut clients {
        for number in 0..PUSHES {
            assert_eq!(received(client), number.to_string().as_bytes());
        }
    }
    let sends = server.metric("comet_sends_total") - before;
    assert!(sends < MEMBERS * u64::from(PUSHES) / 4, "{sends} sends");
    let metrics = server.metrics();
    // Each core with members has a window of its own.
    let cores = server.connections().iter().filter(|on_core| **on_core > 0).count() as u64;
    assert_eq!(metrics.value("comet_coalesced_total"), cores * u64::from(PUSHES));
    assert_eq!(metrics.value("comet_coalescing"), 0);
    assert_eq!(metrics.by_label("comet_dropped_total"), []);
}

#[test]
fn the_latest_push_is_seen_and_the_others_are_counted() {
    let server = Server::start(&[RULE]);
    let mut clients = members(&server);
    let ledgers = push_at_once(&server, "score");
    assert_eq!(ledgers.last(), Some(&queued(MEMBERS)));
    let gone = ledgers.iter().filter(|ledger| **ledger != queued(MEMBERS));
    let mut total = 0;
    for ledger in gone {
        let superseded = MEMBERS - ledger.queued;
        assert_eq!(*ledger, dropped(queued(ledger.queued), "superseded", superseded));
        total += superseded;
    }
    assert!(total > MEMBERS * u64::from(PUSHES) / 2, "{total} were superseded");
    let last = (PUSHES - 1).to_string().into_bytes();
    let mut got = 0;
    for client in &mut clients {
        got += received_until(client, &last).len() as u64;
    }
    assert_eq!(got + total, MEMBERS * u64::from(PUSHES));
    assert_eq!(server.metrics().dropped("superseded"), total);
}

/// The push API over HTTP, and rooms that no rule is about.
#[test]
fn a_call_is_answered_when_its_push_has_left_or_was_superseded() {
    let server = Server::start(&[RULE]);
    let _clients = members(&server);
    let address = server.http();
    let push = |body: &'static str| {
        let path = "/goim/push/room?operation=5&room=1&collapse_id=score";
        let (status, answer) = http(address, "POST", path, body);
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&answer).unwrap()["data"].take()
    };
    // On a machine that is held up the window may end before the second push.
    until("a push that was superseded", || {
        thread::scope(|scope| {
            let first = scope.spawn(|| push("1"));
            until("it to wait or be over", || {
                first.is_finished() || server.metric("comet_coalescing") > 0
            });
            assert_eq!(push("2")["queued"], MEMBERS);
            let first = first.join().unwrap();
            assert_eq!(first["matched"], MEMBERS);
            first["dropped"]["superseded"] == MEMBERS
        })
    });
    let mut other = server.client(BOTH[0], r#"{"mid":7,"key":"k","room_id":"2","accepts":[5]}"#);
    assert_eq!(server.push(To::Room("2"), 5, b"at once"), queued(1));
    assert_eq!(received(&mut other), b"at once");
}
