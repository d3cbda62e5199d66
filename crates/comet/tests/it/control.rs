//! The control side of a running server: gRPC as goim's job calls it, health, start and drain.

use std::future::Future;

use comet::{App, StartError};
use comet_client::{Transport, op};
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_req::{Keys, Target, Users};
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, Ledger, PushMsgReq, RoomsReq};
use comet_wire::goim::protocol::Proto;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::peer::{CloseNotice, Peer, frame};
use crate::support::{
    BOTH, Server, To, config, dropped, get, queued, received, received_until, try_push, until,
};

/// Runs `calls` over a connection to the push API.
pub(crate) fn over_grpc<T, F: Future<Output = T>>(
    server: &Server,
    calls: impl FnOnce(Channel) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Channel::from_shared(format!("http://{}", server.grpc())).unwrap();
        calls(endpoint.connect().await.unwrap()).await
    })
}

#[test]
fn a_running_server_is_healthy() {
    let server = Server::start(&[]);
    assert_eq!(get(server.stat(), "/healthz"), (200, "ok\n".to_owned()));
    for service in ["", "goim.comet.Comet", "comet.v1.Push"] {
        let status = || {
            let request = HealthCheckRequest { service: service.to_owned() };
            over_grpc(&server, async |channel| {
                HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
            })
        };
        // A task of its own tells gRPC's health what `/healthz` says at once.
        until("gRPC health to follow", || status() == ServingStatus::Serving);
    }
}

/// A caller of the stream need not wait for answers: what it pushes to one key or room arrives in order.
#[test]
fn a_stream_of_pushes_arrives_in_order() {
    const PUSHES: u64 = 60;
    let server = Server::start(&[]);
    let mut clients = BOTH.map(|transport| server.client(transport, "42"));
    let targets = [
        Target::Keys(Keys { keys: vec!["42_1".to_owned(), "42_2".to_owned()] }),
        Target::Users(Users { users: vec![42] }),
        Target::RoomId("1".to_owned()),
        Target::Keys(Keys { keys: vec!["gone".to_owned()] }),
    ];
    let pushes = (0..PUSHES).map(|id| {
        let body = format!("push {id}").into_bytes().into();
        let proto = Some(Proto { ver: 1, op: 5, seq: 0, body, ..Proto::default() });
        let target = Some(targets[id as usize % targets.len()].clone());
        PushStreamReq { id, target, proto, proto_op: 0 }
    });
    let answers = over_grpc(&server, async |channel| {
        let mut client = PushClient::new(channel);
        let replies = client.push_stream(tokio_stream::iter(pushes.collect::<Vec<_>>())).await;
        let replies = replies.unwrap().into_inner();
        let replies: Vec<PushStreamReply> = replies.map(|reply| reply.unwrap()).collect().await;
        replies.into_iter().flat_map(|reply| reply.answers).collect::<Vec<_>>()
    });
    let mut expected: [Vec<Vec<u8>>; 3] = Default::default();
    for id in 0..PUSHES {
        if let Some(expected) = expected.get_mut(id as usize % targets.len()) {
            expected.push(format!("push {id}").into_bytes());
        }
    }
    for (id, answer) in (0..).zip(&answers) {
        let is_absent = id as usize % targets.len() == 3;
        let ledger = if is_absent { Ledger { absent: 1, ..queued(0) } } else { queued(2) };
        assert_eq!((answer.id, &answer.outcome), (id, &Some(Outcome::Ledger(ledger))));
    }
    assert_eq!(answers.len() as u64, PUSHES);
    assert_eq!(server.push(To::All, 5, b"end"), queued(2));
    for client in &mut clients {
        let received = received_until(client, b"end");
        assert_eq!(received.len() as u64, PUSHES / 4 * 3 + 1);
        for expected in &expected {
            let of_target: Vec<_> =
                received.iter().filter(|body| expected.contains(body)).collect();
            assert!(of_target.into_iter().eq(expected), "{received:?}");
        }
    }
}

/// goim's job wraps every push to keys in an op 9, and says in protoOp what is inside.
#[test]
fn a_batch_by_key_is_filtered_by_the_operation_inside() {
    let server = Server::start(&[]);
    let token = r#"{"mid":1,"key":"k","accepts":[1000]}"#;
    let mut clients = BOTH.map(|transport| {
        let token = token.replace("\"k\"", &format!("\"{transport:?}\""));
        server.client(transport, &token)
    });
    let keys = vec!["Tcp".to_owned(), "WebSocket".to_owned()];
    for (operation, ledger) in [(1000, queued(2)), (1001, dropped(queued(0), "filtered", 2))] {
        let batch = frame(operation, 0, b"inside");
        let proto = Proto { ver: 1, op: op::RAW, seq: 0, body: batch.into(), ..Proto::default() };
        let to_keys =
            PushMsgReq { keys: keys.clone(), proto: Some(proto.clone()), proto_op: operation };
        let to_all = BroadcastReq { proto_op: operation, proto: Some(proto), speed: 0 };
        let ledgers = over_grpc(&server, async |channel| {
            let mut comet = CometClient::new(channel);
            let by_key = comet.push_msg(to_keys).await.unwrap().into_inner().ledger;
            [by_key, comet.broadcast(to_all).await.unwrap().into_inner().ledger]
        });
        assert_eq!(ledgers, [Some(ledger.clone()), Some(ledger)]);
    }
    server.push(To::All, 1000, b"end");
    for client in &mut clients {
        assert_eq!(received_until(client, b"end"), [&b"inside"[..], b"inside", b"end"]);
    }
}

#[test]
fn rooms_lists_those_with_someone_online() {
    let server = Server::start(&[]);
    let rooms = || {
        over_grpc(&server, async |channel| {
            let reply = CometClient::new(channel).rooms(RoomsReq::default()).await.unwrap();
            let mut rooms: Vec<_> = reply.into_inner().rooms.into_iter().collect();
            rooms.sort();
            rooms
        })
    };
    assert_eq!(rooms(), []);
    let mut clients: Vec<_> = (0..6).map(|index| server.client(BOTH[index % 2], "1")).collect();
    for (client, room) in clients.iter_mut().zip(["a", "b", "c", "a", "", "1"]) {
        client.join(room).unwrap();
    }
    let names = ["1", "a", "b", "c"];
    assert_eq!(rooms(), names.map(|room| (room.to_owned(), true)));
    clients.truncate(1);
    until("all rooms but a to be gone", || rooms() == [("a".to_owned(), true)]);
}

#[test]
fn what_a_caller_may_not_do_is_refused_with_a_sentence_and_nobody_gets_it() {
    let server = Server::start(&["push.keys_max=3", "push.frame_max=\"1KiB\""]);
    let mut client = server.client(Transport::Tcp, "1");
    let long = vec![0; 1025];
    let half = &frame(5, 0, b"x")[..10];
    let cases: &[(To<'_>, i32, &[u8], &str)] = &[
        (To::Keys(&[]), 5, b"x", "no key is given: name at least one"),
        (To::Keys(&["1_1"; 4]), 5, b"x", "4 keys are more than the 3 of one call"),
        (To::Room(""), 5, b"x", "roomID is empty: name the room"),
        (To::All, 5, &long, "the body has 1025 bytes, more than the 1024 allowed"),
        (
            To::User(1),
            op::RAW,
            half,
            "the body of operation 9 is not a run of whole frames: the last 10 bytes are not a \
             whole frame",
        ),
    ];
    for (to, operation, body, sentence) in cases {
        let refused = try_push(server.caller(), *to, *operation, body).unwrap_err();
        assert_eq!(refused.to_string(), format!("{sentence} (InvalidArgument)"), "{to:?}");
    }
    assert_eq!(server.push(To::All, 5, &long[1..]), queued(1));
    assert_eq!(received(&mut client), &long[1..]);
}

#[test]
fn paced_broadcasts_beyond_the_bound_are_refused() {
    let server = Server::start(&[]);
    // A core visits one a second: none of the broadcasts ends before all have begun.
    let clients: Vec<_> = (0..100).map(|index| server.client(BOTH[index % 2], "1")).collect();
    assert!(
        server.connections().iter().all(|on_core| *on_core > 1),
        "both cores have some to visit"
    );
    for _ in 0..64 {
        let ledger = server.caller().broadcast(5, b"slowly", Some(1)).unwrap().unwrap();
        assert_eq!((ledger.scheduled, ledger.matched), (100, 0));
    }
    let refused = server.caller().broadcast(5, b"one more", Some(1)).unwrap_err().to_string();
    assert!(refused.starts_with("64 paced broadcasts are under way"), "{refused}");
    assert!(refused.ends_with("(ResourceExhausted)"), "{refused}");
    drop(clients);
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    let server = Server::start(&[]);
    let cases = [
        ("tcp.bind", server.address(Transport::Tcp)),
        ("websocket.bind", server.address(Transport::WebSocket)),
        ("push.grpc", server.grpc()),
        ("monitor.stat", server.stat()),
    ];
    for (setting, address) in cases {
        let second = config(&[&format!("{setting}=[\"{address}\"]")]);
        let error: StartError = App::start(&second).unwrap_err();
        let sentence = error.to_string();
        assert!(sentence.starts_with(&format!("{setting}: ")), "{sentence}");
        assert!(
            sentence.contains(&address.to_string()) && sentence.contains("in use"),
            "{sentence}"
        );
    }
    // The first one does not mind.
    let mut client = server.client(Transport::WebSocket, "1");
    assert_eq!(server.push(To::User(1), 5, b"hi"), queued(1));
    assert_eq!(received(&mut client), b"hi");
}

#[test]
fn a_drain_tells_everybody_wherever_they_are() {
    let server = Server::start(&["protocol.handshake_timeout=\"1m\""]);
    let mut silent = Peer::open(&server, Transport::Tcp);
    let mut upgraded = Peer::open(&server, Transport::WebSocket);
    let mut early = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
    let mut live: Vec<_> =
        (0..8).map(|index| (Peer::live(&server, BOTH[index % 2], "1"), BOTH[index % 2])).collect();
    server.until("comet_connections", 11);
    let drained = std::thread::spawn(|| server.drain());
    let notice = |transport| CloseNotice {
        reason: "draining".to_owned(),
        close: (transport == Transport::WebSocket).then(|| (1001, "draining".to_owned())),
    };
    for (peer, transport) in &mut live {
        assert_eq!(peer.close_notice(), notice(*transport));
    }
    // Nobody knows yet which protocol these speak.
    assert_eq!(silent.close_frame(), None);
    assert_eq!(upgraded.close_frame(), notice(Transport::WebSocket).close);
    early.expect_end();
    drop((silent, upgraded, early, live));
    drained.join().unwrap();
}
