//! Rooms in a token, and changes of rooms by a caller of the push API.

use comet_client::Transport;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_req::{Keys, Users};
use comet_wire::comet::v1::{ChangeRoomsReply, ChangeRoomsReq, change_rooms_req::Target};
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::support::{BOTH, Server, To, http, queued};

/// Sends a change of rooms over gRPC.
fn change(
    server: &Server,
    is_join: bool,
    target: Option<Target>,
    rooms: &[&str],
) -> Result<ChangeRoomsReply, Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap();
        let mut client = PushClient::new(endpoint.connect().await.unwrap());
        let request = ChangeRoomsReq { target, rooms };
        let reply = match is_join {
            true => client.join_rooms(request).await,
            false => client.leave_rooms(request).await,
        };
        reply.map(tonic::Response::into_inner)
    })
}

fn key(key: &str) -> Option<Target> {
    Some(Target::Keys(Keys { keys: vec![key.to_owned()] }))
}

#[test]
fn callers_can_add_clients_to_rooms_and_remove_them() {
    let server = Server::start(&["clients.rooms=4"]);
    for transport in BOTH {
        let token =
            json!({ "mid": 42, "key": "k", "room_id": "a", "rooms": ["b"], "accepts": [5] });
        let mut client = server.client(transport, &token.to_string());
        let users = Some(Target::Users(Users { users: vec![42, 43] }));
        // No client handles the change here: pushes after the reply must reach it at once.
        server.until("comet_further_rooms", 1);
        let reply = change(&server, true, users, &["a", "b", "c", "d", "e"]).unwrap();
        let expected = ChangeRoomsReply {
            changed: 2,
            unchanged: 2,
            refused: 1,
            absent: 1,
            ..Default::default()
        };
        assert_eq!(reply, expected);
        for (room, count) in [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 0)] {
            assert_eq!(server.push(To::Room(room), 5, room.as_bytes()), queued(count), "{room}");
        }
        for room in ["a", "b", "c", "d"] {
            let message = client.receive().unwrap().expect("a message");
            assert_eq!((message.room.as_deref(), &*message.body), (Some(room), room.as_bytes()));
        }
        let reply = change(&server, false, key("k"), &["a", "d", "e"]).unwrap();
        assert_eq!(reply, ChangeRoomsReply { changed: 2, unchanged: 1, ..Default::default() });
        for (room, count) in [("a", 0), ("b", 1), ("c", 1), ("d", 0)] {
            assert_eq!(server.push(To::Room(room), 5, b"x"), queued(count), "{room}");
        }
        let path = "/comet/rooms/join/keys?keys=k,nobody&rooms=d,b";
        let (status, answer) = http(server.http(), "POST", path, b"");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let data =
            json!({ "changed": 1, "unchanged": 1, "refused": 0, "absent": 1, "not_reached": {} });
        assert_eq!((status, &answer["data"]), (200, &data));
        let path = "/comet/rooms/leave/mids?mids=42&rooms=d";
        assert_eq!(http(server.http(), "POST", path, b"").0, 200);
        assert_eq!(server.push(To::Room("d"), 5, b"x"), queued(0));
        drop(client);
        server.until("comet_connections", 0);
        server.until("comet_rooms", 0);
    }
}

/// Members on both cores. The room is the first one of some tokens, and a further one of others.
#[test]
fn the_members_of_a_room_are_listed_in_pages() {
    let server = Server::start(&[]);
    let clients: Vec<_> = (1..=5)
        .map(|mid| {
            let (room, rooms) = if mid % 2 == 0 { ("r", ["other"]) } else { ("other", ["r"]) };
            let token =
                json!({ "mid": mid, "key": format!("k{mid}"), "room_id": room, "rooms": rooms });
            server.client(Transport::Tcp, &token.to_string())
        })
        .collect();
    server.until("comet_further_rooms", 5);
    let page = |path: &str| -> Value {
        let (status, page) = http(server.stat(), "GET", path, b"");
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&page).unwrap()
    };
    let (mut keys, mut path) = (Vec::new(), "/members?room=r&limit=2".to_owned());
    loop {
        let page = page(&path);
        assert_eq!(page["count"], 5);
        for member in page["members"].as_array().unwrap() {
            assert_eq!(member["key"], format!("k{}", member["mid"]));
            keys.push(member["key"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/members?room=r&limit=2&cursor={next}");
    }
    keys.sort_unstable();
    assert_eq!(keys, ["k1", "k2", "k3", "k4", "k5"]);
    assert_eq!(page("/members?room=nobody")["members"], json!([]));
    assert_eq!(http(server.stat(), "GET", "/members", b"").0, 400);
    drop(clients);
}

#[test]
fn invalid_changes_of_rooms_are_refused() {
    let server = Server::start(&[]);
    let long = "x".repeat(257);
    let many = vec!["r"; 129];
    for (target, rooms) in [
        (None, &["a"][..]),
        (key("k"), &[]),
        (key("k"), &[""]),
        (key("k"), &[long.as_str()]),
        (key("k"), &many),
        (Some(Target::Keys(Keys { keys: Vec::new() })), &["a"]),
    ] {
        let status = change(&server, true, target, rooms).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}
