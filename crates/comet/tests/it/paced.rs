//! Paced broadcasts on a running server: they begin on all shards or none, are listed, and can be cancelled.

use comet_client::Transport;
use serde_json::{Value, json};

use crate::support::{BOTH, Server, http, received_until, until};

/// The number of broadcasts that a shard takes.
const MOST: usize = 64;

fn call(server: &Server, method: &str, target: &str, body: &[u8]) -> Value {
    let (status, answer) = http(server.http(), method, target, body);
    assert_eq!(status, 200);
    serde_json::from_slice(&answer).unwrap()
}

/// So slow that a broadcast does not end by itself.
const BROADCAST: &str = "/goim/push/all?operation=5&speed=2";

fn broadcast(server: &Server, body: &[u8]) -> Value {
    call(server, "POST", BROADCAST, body)
}

fn list(server: &Server) -> Vec<Value> {
    call(server, "GET", "/comet/broadcasts", b"")["data"].as_array().unwrap().clone()
}

fn cancel(server: &Server, id: &Value) -> Value {
    call(server, "POST", &format!("/comet/broadcasts/cancel?id={id}"), b"")
}

#[test]
fn a_broadcast_over_the_limit_is_refused_on_all_cores() {
    let server = Server::start(&[]);
    let streams: Vec<_> = (0..200).map(|_| server.client(Transport::Tcp, "1")).collect();
    for number in 0..MOST {
        let answer = broadcast(&server, format!("{number}").as_bytes());
        assert_eq!((&answer["code"], &answer["data"]["scheduled"]), (&json!(0), &json!(200)));
    }
    assert_eq!(list(&server).len(), MOST);
    let before = server.metric("comet_pushes_total");
    let (status, refused) = http(server.http(), "POST", BROADCAST, b"refused");
    let refused: Value = serde_json::from_slice(&refused).unwrap();
    assert_eq!((status, &refused["code"]), (429, &json!(-429)));
    assert!(refused["message"].as_str().unwrap().contains("64 paced"), "{refused}");
    assert_eq!(server.metric("comet_pushes_total"), before, "no shard has the broadcast");
    assert_eq!(list(&server).len(), MOST);
    // A broadcast that ends makes space for another one.
    let first = &list(&server)[0]["id"];
    assert_eq!(cancel(&server, first)["code"], 0);
    assert_eq!(broadcast(&server, b"taken")["code"], 0);
    for broadcast in list(&server) {
        assert_eq!(cancel(&server, &broadcast["id"])["code"], 0);
    }
    assert!(list(&server).is_empty());
    drop(streams);
}

#[test]
fn a_cancelled_broadcast_has_an_exact_ledger() {
    let server = Server::start(&[]);
    let clients: Vec<_> = (0..40).map(|index| server.client(BOTH[index % 2], "1")).collect();
    assert_eq!(broadcast(&server, b"slow")["data"]["scheduled"], 40);
    let [under_way] = &list(&server)[..] else { panic!("one broadcast is under way") };
    assert_eq!((&under_way["operation"], &under_way["speed"]), (&json!(5), &json!(2)));
    server.until_some("comet_queued_total");
    let ledger = cancel(&server, &under_way["id"])["data"].take();
    let queued = server.metric("comet_queued_total");
    assert_eq!((&ledger["matched"], &ledger["queued"]), (&json!(queued), &json!(queued)));
    assert!(queued < 40, "{ledger}");
    assert!(list(&server).is_empty());
    let again = cancel(&server, &under_way["id"]);
    assert_eq!(again["code"], -404, "{again}");
    drop(clients);
}

#[test]
fn a_finished_broadcast_is_not_listed() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..6).map(|index| server.client(BOTH[index % 2], "1")).collect();
    call(&server, "POST", "/goim/push/all?operation=5&speed=1000", b"fast");
    for client in &mut clients {
        assert_eq!(received_until(client, b"fast"), [b"fast"]);
    }
    until("the broadcast to end", || list(&server).is_empty());
}
