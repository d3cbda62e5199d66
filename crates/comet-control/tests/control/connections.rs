//! Lists of connections: the requests to the shards, and one page made of their pages.

use std::sync::Arc;

use comet_core::{
    ConnFilter, ConnOrder, ConnPage, ConnQuery, ListedConn, Message, OperationFilter, Report,
    SlowClient, Top, Transport,
};
use comet_wire::comet::v1::inspect_client::InspectClient;
use comet_wire::comet::v1::{ConnectionsReq, TopReq};
use serde_json::{Value, json};
use tonic::Code;

use crate::fake::{Fake, FakeShard, PATIENT, ROOMY, start};

/// A connection at a place like `RANK.SHARD.SLOT.GENERATION`.
fn listed(place: &str) -> ListedConn {
    ListedConn {
        place: place.parse().unwrap(),
        key: "k".into(),
        user: 7,
        room: Some("live://1".into()),
        further_rooms: 3,
        address: Some("192.0.2.1:4000".parse().unwrap()),
        transport: Transport::WebSocket,
        is_tls: true,
        age_ms: 1_999,
        waiting_bytes: 5,
        waiting_frames: 1,
        bytes_per_second: 9,
        accepts: OperationFilter::Only([5, 6].into()),
        state: "live",
    }
}

/// Lets each shard answer with the connections at these places, and returns the queries.
async fn answer(fake: &Fake, pages: &[&[&str]]) -> Arc<ConnQuery> {
    let mut asked = None;
    for (shard, places) in fake.shards.iter().zip(pages) {
        let Message::Connections { call, query } = shard.next().await else { panic!() };
        let page = ConnPage { matched: 10, listed: places.iter().map(|at| listed(at)).collect() };
        fake.report(Report::Connections { call, page: Some(Box::new(page)) });
        asked = Some(query);
    }
    asked.expect("there are shards")
}

#[tokio::test]
async fn pages_of_all_shards_are_one_over_http() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let path = "/connections?key=k&mid=-7&room=live://1&address=192.0.2.0/24&transport=tcp&tls=false\
        &sort=age&limit=3&cursor=1.0.0.0";
    let pages: [&[&str]; 2] = [&["2.0.0.0", "5.0.1.0"], &["3.1.0.4", "5.1.0.0"]];
    let ((status, content_type, body), query) =
        tokio::join!(fake.page(path), answer(&fake, &pages));
    assert_eq!((status, &*content_type), (200, "application/json"));
    let body: Value = serde_json::from_str(&body).unwrap();
    let ids = |body: &Value| -> Vec<Value> {
        body["connections"].as_array().unwrap().iter().map(|conn| conn["id"].clone()).collect()
    };
    assert_eq!(ids(&body), ["0/0.0", "1/0.4", "0/1.0"]);
    assert_eq!((&body["matched"], &body["next"]), (&json!(20), &json!("5.0.1.0")));
    assert_eq!(
        body["connections"][1],
        json!({
            "id": "1/0.4", "core": 1, "key": "k", "mid": 7, "room": "live://1", "further_rooms": 3,
            "address": "192.0.2.1:4000", "transport": "websocket", "tls": true, "age_seconds": 1,
            "waiting_bytes": 5, "waiting_frames": 1, "bytes_per_second": 9, "accepts": "only", "operations": [5, 6],
            "state": "live",
        })
    );
    let expected = ConnQuery {
        filter: ConnFilter {
            key: Some("k".into()),
            user: Some(-7),
            room: Some("live://1".into()),
            network: Some("192.0.2.0/24".parse().unwrap()),
            transport: Some(Transport::Tcp),
            is_tls: Some(false),
        },
        order: ConnOrder::Age,
        limit: 3,
        after: Some("1.0.0.0".parse().unwrap()),
    };
    assert_eq!(*query, expected);

    let ((_, _, body), query) =
        tokio::join!(fake.page("/connections"), answer(&fake, &[&["2.0.0.0"], &[]]));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((ids(&body), &body["next"]), (vec![json!("0/0.0")], &Value::Null));
    assert_eq!(*query, ConnQuery { limit: 100, ..ConnQuery::default() });
}

#[tokio::test]
async fn bad_queries_are_refused_with_a_sentence() {
    let fake = start(PATIENT, &[ROOMY]);
    for (parameters, sentence) in [
        ("sort=speed", "sort: \"speed\" is none of waiting, age, rate"),
        ("transport=udp", "transport: \"udp\" is none of tcp, websocket, sse"),
        (
            "address=here",
            "address: \"here\" is no address and no network: write 192.0.2.7 or 192.0.2.0/24",
        ),
        ("cursor=x", "cursor: \"x\" is no place in a list of connections"),
        ("limit=1001", "limit: \"1001\" is not a whole number from 1 to 1000"),
        (
            "mid=x",
            "mid: \"x\" is not a whole number from -9223372036854775808 to 9223372036854775807",
        ),
        ("tls=yes", "tls: \"yes\" is none of true, false"),
    ] {
        let (status, _, body) = fake.page(&format!("/connections?{parameters}")).await;
        assert_eq!((status, body), (400, format!("{sentence}\n")), "{parameters}");
    }
    assert!(fake.shards.iter().all(FakeShard::is_empty));
}

#[tokio::test]
async fn pages_of_all_shards_are_one_over_grpc() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let mut client = InspectClient::new(fake.channel().await);
    let request = ConnectionsReq { limit: 1, ..ConnectionsReq::default() };
    let pages: [&[&str]; 2] = [&["2.0.0.0"], &["1.1.0.0"]];
    let (reply, _) = tokio::join!(client.connections(request), answer(&fake, &pages));
    let reply = reply.unwrap().into_inner();
    assert_eq!((&*reply.connections[0].id, reply.connections.len()), ("1/0.0", 1));
    assert_eq!((reply.matched, &*reply.next), (20, "1.1.0.0"));
    let request = ConnectionsReq { limit: 1_001, ..ConnectionsReq::default() };
    let refused = client.connections(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn too_many_lists_at_once_are_refused() {
    const LISTS_MAX: usize = 4;
    let fake = Arc::new(start(PATIENT, &[ROOMY]));
    let mut lists = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..LISTS_MAX {
        let asking = Arc::clone(&fake);
        lists.push(tokio::spawn(async move { asking.page("/connections").await.0 }));
        let Message::Connections { call, .. } = fake.shards[0].next().await else { panic!() };
        calls.push(call);
    }
    assert_eq!(fake.page("/connections").await.0, 503);
    // A shard may refuse a list as well, because it has too many.
    fake.report(Report::Connections { call: calls.remove(0), page: None });
    assert_eq!(lists.remove(0).await.unwrap(), 503);
    let ((status, _, _), _) = tokio::join!(fake.page("/connections"), answer(&fake, &[&[]]));
    assert_eq!(status, 200);
    for call in calls {
        fake.report(Report::Connections { call, page: Some(Box::default()) });
    }
    for list in lists {
        assert_eq!(list.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn top_lists_of_all_shards_are_one() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let answer = async |span_ms| {
        let rooms: [&[(&str, u64)]; 2] = [&[("a", 5), ("b", 3)], &[("b", 4), ("c", 1)]];
        for (shard, (rooms, place)) in
            fake.shards.iter().zip(rooms.into_iter().zip(["1.0.0.0", "2.1.0.0"]))
        {
            let Message::Top { call } = shard.next().await else { panic!() };
            let rooms = rooms.iter().map(|(room, count)| ((*room).into(), *count)).collect();
            let late_bytes = late_bytes_at(place);
            let clients = vec![SlowClient { conn: listed(place), late_bytes }];
            let top = Top { span_ms, rooms, clients, busiest: vec![listed(place)] };
            fake.report(Report::Top { call, top: Some(Box::new(top)) });
        }
    };
    let ((status, _, body), ()) = tokio::join!(fake.page("/top?limit=2"), answer(12_000));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["span_ms"]), (200, &json!(12_000)));
    let rooms = json!([{ "room": "b", "deliveries": 7 }, { "room": "a", "deliveries": 5 }]);
    assert_eq!(body["rooms"], rooms);
    let client = |at: usize| (&body["clients"][at]["id"], &body["clients"][at]["late_bytes"]);
    assert_eq!(client(0), (&json!("1/0.0"), &json!(20)));
    assert_eq!(client(1), (&json!("0/0.0"), &json!(10)));
    let busy = |at: usize| (&body["busiest"][at]["id"], &body["busiest"][at]["bytes_per_second"]);
    assert_eq!((busy(0), busy(1)), ((&json!("0/0.0"), &json!(9)), (&json!("1/0.0"), &json!(9))));
    let mut client = InspectClient::new(fake.channel().await);
    let (reply, ()) = tokio::join!(client.top(TopReq { limit: 1 }), answer(1));
    let reply = reply.unwrap().into_inner();
    assert_eq!((&*reply.rooms[0].room, reply.rooms.len()), ("b", 1));
    assert_eq!((reply.clients[0].late_bytes, reply.clients.len()), (20, 1));
    assert_eq!((&*reply.busiest[0].id, reply.busiest.len()), ("0/0.0", 1));
    assert_eq!(fake.page("/top?limit=65").await.0, 400);
}

/// The late bytes of the client at `place`.
fn late_bytes_at(place: &str) -> u64 {
    if place.starts_with('1') { 10 } else { 20 }
}
