//! Connections that a caller of the push API has closed.

use comet_client::{Transport, op};
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_req::{Keys, Users};
use comet_wire::comet::v1::{KickReply, KickReq, kick_req::Target};
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::peer::{CloseNotice, Peer, message};
use crate::support::{BOTH, Server, To, http, queued};

fn live(server: &Server, user: i64, transport: Transport) -> Peer {
    let token =
        json!({ "mid": user, "key": format!("k{user}"), "room_id": "live://r", "accepts": [5] });
    let mut peer = Peer::connect(server.address(transport), transport);
    peer.upgrade();
    peer.authenticate(&token.to_string());
    peer
}

/// Asks over gRPC.
fn kick(server: &Server, request: KickReq) -> Result<KickReply, Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap();
        let mut client = PushClient::new(endpoint.connect().await.unwrap());
        client.kick(request).await.map(tonic::Response::into_inner)
    })
}

#[track_caller]
fn expect_end(peer: &mut Peer, reason: &str, close: (u16, &str)) {
    let close = (peer.transport == Transport::WebSocket).then(|| (close.0, close.1.to_owned()));
    assert_eq!(peer.close_notice(), CloseNotice { reason: reason.to_owned(), close });
}

#[test]
fn clients_get_what_waits_and_are_told_why_they_are_closed() {
    let server = Server::start(&[]);
    for transport in BOTH {
        let mut by_key = live(&server, 1, transport);
        let mut by_user = live(&server, 2, transport);
        let mut by_room = live(&server, 3, transport);

        assert_eq!(server.push(To::Keys(&["k1"]), 5, b"first"), queued(1));
        let keys = ["k1", "k1", "nobody"].map(str::to_owned).to_vec();
        let request = KickReq {
            target: Some(Target::Keys(Keys { keys })),
            reason: "banned".to_owned(),
            retry_after_ms: 0,
        };
        let closed = |closed, absent| KickReply { closed, absent, ..KickReply::default() };
        assert_eq!(kick(&server, request).unwrap(), closed(1, 1));
        assert_eq!(by_key.recv(), message(5, 0, b"first"));
        expect_end(&mut by_key, "kicked: banned", (1008, "kicked: banned"));

        let request = KickReq {
            target: Some(Target::Users(Users { users: vec![2, 0] })),
            reason: String::new(),
            retry_after_ms: 1_500,
        };
        assert_eq!(kick(&server, request).unwrap(), closed(1, 1));
        let hinted = "kicked; retry_after_ms=1500";
        expect_end(&mut by_user, hinted, (1013, hinted));

        // Who is not meant stays.
        by_room.ask(op::HEARTBEAT, 1, b"");
        let target = Some(Target::RoomId("live://r".to_owned()));
        assert_eq!(kick(&server, KickReq { target, ..KickReq::default() }).unwrap(), closed(1, 0));
        expect_end(&mut by_room, "kicked", (1008, "kicked"));
        drop((by_key, by_user, by_room));
        server.until("comet_connections", 0);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.closed("kicked"), 6);
    // They are no deliveries.
    assert_eq!((metrics.value("comet_matched_total"), metrics.value("comet_absent_total")), (2, 0));
    metrics.assert_balanced();
}

#[test]
fn a_kick_over_http_has_the_same_answer() {
    let server = Server::start(&[]);
    let mut peers = [1, 2, 3].map(|user| live(&server, user, Transport::Tcp));
    for (target, closed, absent) in [
        ("keys?keys=k1,nobody&reason=out%20of%20here&retry_after_ms=9", 1, 1),
        ("mids?mids=2", 1, 0),
        ("room?type=live&room=r", 1, 0),
        ("room?type=live&room=r", 0, 0),
    ] {
        let (status, answer) = http(server.http(), "POST", &format!("/comet/kick/{target}"), b"");
        let expected = json!({
            "code": 0, "message": "", "data": { "closed": closed, "absent": absent, "not_closed": {} },
        });
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status, answer), (200, expected), "{target}");
    }
    expect_end(&mut peers[0], "kicked: out of here; retry_after_ms=9", (0, ""));
    expect_end(&mut peers[1], "kicked", (0, ""));
    expect_end(&mut peers[2], "kicked", (0, ""));
}

#[test]
fn a_kick_of_nobody_in_particular_is_refused() {
    let server = Server::start(&[]);
    let refused = |request: KickReq, sentence: &str| {
        let status = kick(&server, request).unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, sentence));
    };
    refused(KickReq::default(), "target is missing: name keys, users, a room or an address");
    let of_room = |room: &str, reason: &str| KickReq {
        target: Some(Target::RoomId(room.to_owned())),
        reason: reason.to_owned(),
        retry_after_ms: 0,
    };
    refused(of_room("", ""), "roomID is empty: name the room");
    let long = "x".repeat(1_025);
    refused(of_room("r", &long), "the reason has 1025 bytes, more than the 1024 allowed");
    refused(
        of_room("r", "x; retry_after_ms=1"),
        "the reason names retry_after_ms, which has a field of its own",
    );
}
