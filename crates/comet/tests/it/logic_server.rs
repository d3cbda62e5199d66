//! `comet logic`: the service that comets ask, and the HTTP push API in front of two of them.

use std::collections::HashMap;
use std::net::SocketAddr;

use comet_wire::goim::logic::logic_client::LogicClient;
use comet_wire::goim::logic::{DisconnectReq, HeartbeatReq, NodesReq, OnlineReq, ReceiveReq};
use comet_wire::goim::protocol::Proto;
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

use crate::logic_process::own_address;
use crate::logic_rig::{Comets, Logic, connect, ledger, request, token};
use crate::redis::RedisServer;
use crate::support::{http, received, until};

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, sentence: &str) {
    let status = answer.expect_err(sentence);
    assert_eq!((status.code(), status.message()), (code, sentence));
}

/// What a comet asks, and what it is told, whatever the sessions are kept in.
async fn a_comet_is_served(sets: &[&str]) {
    let logic = Logic::start(sets);
    let mut client = logic.client().await;
    for expected in ["42_1", "42_2"] {
        let reply = connect(&mut client, "a", "42").await.unwrap();
        assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (42, expected, "1"));
        assert!(reply.accepts_all && reply.accepts.is_empty(), "the seed's tokens accept all");
        assert_eq!(reply.heartbeat, 300_000_000_000, "goim's comet takes zero at its word");
    }
    let reply = connect(&mut client, "b", &token(7, "k7", "live://1")).await.unwrap();
    assert_eq!((reply.mid, reply.key.as_str(), reply.room_id.as_str()), (7, "k7", "live://1"));
    assert_eq!((reply.accepts.as_slice(), reply.accepts_all), (&[1000][..], false));

    let end = async |client: &mut LogicClient<Channel>, mid, key: &str, server: &str| {
        let request = DisconnectReq { mid, key: key.to_owned(), server: server.to_owned() };
        client.disconnect(request).await.map(|reply| reply.into_inner().has)
    };
    assert!(!end(&mut client, 7, "k7", "a").await.unwrap(), "the key is at b");
    assert!(end(&mut client, 7, "k7", "b").await.unwrap());
    assert!(!end(&mut client, 7, "k7", "b").await.unwrap(), "once");
    refused(
        end(&mut client, 7, "", "b").await,
        Code::InvalidArgument,
        "key is empty: name the session",
    );
    let long = "x".repeat(257);
    refused(
        end(&mut client, 7, &long, "b").await,
        Code::InvalidArgument,
        "key has 257 bytes, more than 256",
    );

    let heartbeat = HeartbeatReq { mid: 7, key: "k7".to_owned(), server: "b".to_owned() };
    client.heartbeat(heartbeat).await.unwrap();
    assert!(end(&mut client, 7, "k7", "b").await.unwrap(), "a heartbeat makes it anew");

    refused(
        connect(&mut client, "", "42").await,
        Code::InvalidArgument,
        "server is empty: name the comet",
    );
    refused(
        connect(&mut client, "a", "{}").await,
        Code::Unauthenticated,
        "the token does not fit: missing field `mid` at line 1 column 2",
    );

    let said = Proto { ver: 1, op: 4, seq: 1, body: b"hi".to_vec().into(), ..Proto::default() };
    client.receive(ReceiveReq { mid: 42, proto: Some(said) }).await.unwrap();
    refused(
        client.receive(ReceiveReq { mid: 42, proto: None }).await,
        Code::InvalidArgument,
        "proto is missing: nothing was said",
    );

    connect(&mut client, "lost", &token(8, "k8", "")).await.unwrap();
    let target = "/comet/sessions/end?server=lost";
    let ended = |count| json!({ "code": 0, "message": "", "data": { "ended": count } });
    assert_eq!(request(logic.http(), "POST", target, b""), ended(1));
    assert_eq!(request(logic.http(), "POST", target, b""), ended(0), "once");
    let unnamed = request(logic.http(), "POST", "/comet/sessions/end", b"");
    assert_eq!(unnamed["code"], -400, "{unnamed}");

    let metrics = logic.metrics();
    assert_eq!(metrics.value("comet_logic_store_up"), 1);
    assert_eq!(metrics.value("comet_logic_sessions{server=\"a\"}"), 2);
    assert_eq!(metrics.value("comet_logic_users"), 1);
    assert_eq!(metrics.value("comet_calls_total{rpc=\"Receive\",code=\"Ok\"}"), 1);
    assert_eq!(metrics.value("comet_calls_total{rpc=\"Connect\",code=\"Unauthenticated\"}"), 1);
}

/// Rooms are counted over all comets; the lists go both ways compressed, and uncompressed for goim's
/// comet that does not ask for it.
async fn rooms_are_counted(sets: &[&str]) {
    let logic = Logic::start(sets);
    let plain = logic.client().await;
    let zipped = plain
        .clone()
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    let renew = async |mut client: LogicClient<Channel>, server: &str, rooms: &[(&str, i32)]| {
        let room_count = rooms.iter().map(|(room, online)| ((*room).to_owned(), *online)).collect();
        let request = OnlineReq { server: server.to_owned(), room_count, ..OnlineReq::default() };
        client.renew_online(request).await.unwrap().into_inner().all_room_count
    };
    let counts = |rooms: &[(&str, i32)]| -> HashMap<String, i32> {
        rooms.iter().map(|(room, online)| ((*room).to_owned(), *online)).collect()
    };
    let first = renew(zipped.clone(), "a", &[("live://1", 3), ("live://2", 1)]).await;
    assert_eq!(first, counts(&[("live://1", 3), ("live://2", 1)]));
    let second = renew(plain.clone(), "b", &[("live://1", 4), ("chat://1", 9)]).await;
    assert_eq!(second, counts(&[("live://1", 7), ("live://2", 1), ("chat://1", 9)]));
    // What cannot be is left out; what a comet said before is gone.
    let third = renew(zipped, "a", &[("live://1", -3), ("live://3", 0), ("", 5)]).await;
    assert_eq!(third, counts(&[("live://1", 4), ("chat://1", 9)]));

    assert_eq!(logic.get("online/top?type=live&limit=9"), json!([{ "room_id": "1", "count": 4 }]));
    assert_eq!(logic.get("online/room?type=chat&rooms=1,2"), json!({ "1": 9, "2": 0 }));
}

/// Callers choose the names of comets, so those that are not in the list are not all named.
#[tokio::test]
async fn a_page_of_metrics_has_few_names_of_unknown_comets() {
    let logic = Logic::start(&[]);
    let mut client = logic.client().await;
    for number in 0..100 {
        connect(&mut client, &format!("unknown-{number}"), "42").await.unwrap();
    }
    connect(&mut client, "unknown-70", "42").await.unwrap();
    let metrics = logic.metrics();
    assert_eq!(metrics.value("comet_logic_sessions{server=\"unknown-70\"}"), 2);
    assert_eq!(metrics.value("comet_logic_sessions{server=\"unknown\"}"), 36);
}

#[tokio::test]
async fn sessions_are_kept_in_memory() {
    a_comet_is_served(&[]).await;
    rooms_are_counted(&[]).await;
}

#[tokio::test]
async fn sessions_are_kept_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    let sets = redis.sets();
    let sets = sets.each_ref().map(String::as_str);
    a_comet_is_served(&sets).await;
    rooms_are_counted(&sets).await;
    // Another logic on the same store sees the sessions of the first.
    let logic = Logic::start(&sets);
    let reply = connect(&mut logic.client().await, "a", "42").await.unwrap();
    assert_eq!(reply.key, "42_3");
    assert_eq!(logic.get("online/total"), json!({ "conn_count": 3, "ip_count": 0 }));
}

#[tokio::test]
async fn a_store_that_is_gone_is_said_and_used_again_when_it_is_back() {
    let Some(mut redis) = RedisServer::start() else { return };
    let logic = Logic::start(&redis.sets().each_ref().map(String::as_str));
    let mut client = logic.client().await;
    assert_eq!(connect(&mut client, "a", "42").await.unwrap().key, "42_1");
    redis.stop();
    let status = connect(&mut client, "a", "42").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("the session store at 127."), "{status:?}");
    let answer = request(logic.http(), "POST", "/goim/push/mids?operation=1000&mids=42", b"hi");
    assert_eq!(answer["code"], -500, "{answer}");
    let metrics = logic.metrics();
    assert_eq!(metrics.value("comet_logic_store_up"), 0);
    redis.restart();
    until("the store to be back", || logic.metrics().value("comet_logic_store_up") == 1);
    assert_eq!(connect(&mut client, "a", "42").await.unwrap().key, "42_1", "it forgot");
}

/// Each kind of push goes to the comets it concerns, and their ledgers are added up.
#[tokio::test]
async fn pushes_reach_exactly_whom_they_name_on_every_comet() {
    let comets = Comets::start();
    let logic = Logic::start(&[&comets.setting(&[])]);
    let mut client = logic.client().await;
    let mut clients = Vec::new();
    for (comet, user, key, room) in
        [(0, 41, "k41", "live://1"), (1, 42, "k42", "live://1"), (1, 43, "k43", "live://2")]
    {
        let token = token(user, key, room);
        connect(&mut client, ["a", "b"][comet], &token).await.unwrap();
        clients.push(comets.client(comet, &token));
    }
    let cases: &[(&str, Value, &[usize])] = &[
        ("keys?operation=1000&keys=k41,gone,k43", ledger(2, 1), &[0, 2]),
        ("keys?operation=1000&keys=k42&keys=k43", ledger(2, 0), &[1, 2]),
        ("keys?operation=1000&keys=gone", ledger(0, 1), &[]),
        ("mids?operation=1000&mids=41,42,99,0", ledger(2, 2), &[0, 1]),
        // A name that is given twice counts once.
        ("keys?operation=1000&keys=k41,gone,k41,gone", ledger(1, 1), &[0]),
        ("mids?operation=1000&mids=41,99,41,99", ledger(1, 1), &[0]),
        ("room?operation=1000&type=live&room=1", ledger(2, 0), &[0, 1]),
        ("room?operation=1000&type=live&room=2", ledger(1, 0), &[2]),
        ("room?operation=1000&type=live&room=3", ledger(0, 0), &[]),
        ("all?operation=1000", ledger(3, 0), &[0, 1, 2]),
    ];
    for (target, ledger, receivers) in cases {
        assert_eq!(logic.post(target, target.as_bytes()), *ledger, "{target}");
        for receiver in *receivers {
            assert_eq!(received(&mut clients[*receiver]), target.as_bytes(), "{target}");
        }
    }
    let scheduled =
        json!({ "matched": 0, "queued": 0, "dropped": {}, "absent": 0, "scheduled": 3 });
    assert_eq!(logic.post("all?operation=1000&speed=3000", b"paced"), scheduled);
    for client in &mut clients {
        assert_eq!(received(client), b"paced");
    }
    let filtered = json!({
        "matched": 3, "queued": 0, "dropped": { "filtered": 3 }, "absent": 0, "scheduled": 0,
    });
    assert_eq!(logic.post("all?operation=1001", b"nobody accepts it"), filtered);
    assert_eq!(logic.get("online/total"), json!({ "conn_count": 3, "ip_count": 0 }));
    for (target, sentence) in [
        ("/goim/push/all?operation=9", "the body of operation 9 is not a run of whole frames"),
        ("/goim/push/keys?operation=1000", "keys is missing"),
        ("/goim/push/all?operation=1000&speed=-1", "speed: \"-1\" is not a whole number"),
    ] {
        let answer = request(logic.http(), "POST", target, b"hi");
        assert_eq!(answer["code"], -400, "{answer}");
        assert!(answer["message"].as_str().unwrap().starts_with(sentence), "{answer}");
    }
}

/// Sixteen for each key that a call may name.
#[tokio::test]
async fn a_push_to_users_with_too_many_sessions_is_refused() {
    let logic = Logic::start(&["push.keys_max=2"]);
    let mut client = logic.client().await;
    let target = "/goim/push/mids?operation=5&mids=7";
    for _ in 0..32 {
        connect(&mut client, "a", "7").await.unwrap();
    }
    assert_eq!(http(logic.http(), "POST", target, b"hi").0, 200);
    connect(&mut client, "a", "7").await.unwrap();
    let (status, answer) = http(logic.http(), "POST", target, b"hi");
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(status, 429, "{answer}");
    assert!(answer.contains("the users have more than 32 sessions"), "{answer}");
}

/// No comet that a push concerned is left out without a word.
#[tokio::test]
async fn comets_that_cannot_be_reached_are_named() {
    let comets = Comets::start();
    let gone = own_address();
    let logic = Logic::start(&[&comets.setting(&[format!("c={gone}")])]);
    let mut client = logic.client().await;
    for (server, key) in [("a", "ka"), ("c", "kc"), ("z", "kz")] {
        connect(&mut client, server, &token(7, key, "live://1")).await.unwrap();
    }
    let mut listener = comets.client(0, &token(7, "ka", "live://1"));
    let servers = |data: &Value| -> Vec<String> {
        let failed = data["failed"].as_array().unwrap_or_else(|| panic!("{data}"));
        failed.iter().map(|failure| failure["server"].as_str().unwrap().to_owned()).collect()
    };
    let data = logic.post("mids?operation=1000&mids=7", b"to seven");
    assert_eq!((&data["queued"], &data["matched"]), (&json!(1), &json!(1)), "{data}");
    assert_eq!(servers(&data), ["c", "z"]);
    assert_eq!(
        data["failed"][1]["message"],
        "1 keys are there: neither logic_server.comets nor discovery has it"
    );
    let message = data["failed"][0]["message"].as_str().unwrap();
    assert!(message.contains("refused"), "{message}");
    assert_eq!(received(&mut listener), b"to seven");

    let data = logic.post("room?operation=1000&type=live&room=1", b"to the room");
    assert_eq!((&data["queued"], servers(&data)), (&json!(1), vec!["c".to_owned()]), "{data}");
    assert_eq!(received(&mut listener), b"to the room");

    // Nobody took it: that is a failure.
    let answer = request(logic.http(), "POST", "/goim/push/keys?operation=1000&keys=kc,kz", b"hi");
    assert_eq!(answer["code"], -500, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.starts_with("no comet took it: "), "{message}");
    for named in ["c: ", "z: "] {
        assert!(message.contains(named), "{message}");
    }
    let metrics = logic.metrics();
    assert_eq!(metrics.value("comet_logic_push_failures_total{server=\"c\"}"), 3);
    assert_eq!(metrics.value("comet_logic_push_failures_total{server=\"unknown\"}"), 2);
    assert_eq!(metrics.value("comet_calls_total{rpc=\"/goim/push/keys\",code=\"Unavailable\"}"), 1);
}

#[tokio::test]
async fn without_comets_a_push_to_many_fails() {
    let logic = Logic::start(&[]);
    for target in ["room?operation=1000&type=live&room=1", "all?operation=1000"] {
        let answer = request(logic.http(), "POST", &format!("/goim/push/{target}"), b"hi");
        let sentence =
            "there is no comet to push to: neither logic_server.comets nor discovery has one";
        assert_eq!(answer, json!({ "code": -500, "message": sentence }), "{target}");
    }
    // Nobody has this key: that much is known.
    assert_eq!(logic.post("keys?operation=1000&keys=k", b"hi"), ledger(0, 1));
    connect(&mut logic.client().await, "a", &token(7, "k", "live://1")).await.unwrap();
    let answer = request(logic.http(), "POST", "/goim/push/keys?operation=1000&keys=k", b"hi");
    assert_eq!(answer["code"], -500, "{answer}");
    let reply = logic.client().await.nodes(NodesReq::default()).await.unwrap().into_inner();
    assert_eq!(reply.nodes, [reply.domain]);
}

/// A gRPC server that knows no call, the health service's neither; it ends with the process.
fn without_health() -> SocketAddr {
    let address = own_address();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::builder().add_routes(Routes::default());
        runtime.block_on(server.serve(address)).unwrap();
    });
    address
}

#[tokio::test]
async fn clients_are_told_of_the_comets() {
    let comets = Comets::start();
    let (gone, goim) = (own_address(), without_health());
    let sets = [
        &comets.setting(&[format!("c={gone}"), format!("d={goim}")]),
        "server.domain=\"comet.example\"",
        "tcp.bind=[\"127.0.0.1:8080\"]",
        "websocket.bind=[\"127.0.0.1:8090\"]",
        "protocol.heartbeat=\"60s\"",
    ];
    let logic = Logic::start(&sets);
    let mut client = logic.client().await;
    let told = connect(&mut client, "b", "42").await.unwrap();
    assert_eq!(told.heartbeat, 60_000_000_000);
    for comet in ["a", "b", "d"] {
        let up = format!("comet_logic_comet_up{{server=\"{comet}\"}}");
        until("those that run to be there", || logic.metrics().value(&up) == 1);
    }
    let reply = client.nodes(NodesReq::default()).await.unwrap().into_inner();
    assert_eq!(reply.domain, "comet.example");
    assert_eq!((reply.tcp_port, reply.ws_port, reply.wss_port), (8080, 8090, 0));
    assert_eq!((reply.heartbeat, reply.heartbeat_max), (30, 2));
    let hosts = ["127.0.0.1".to_owned(), goim.ip().to_string()];
    assert_eq!(reply.nodes, hosts);
    let expected = json!({
        "domain": "comet.example",
        "tcp_port": 8080,
        "ws_port": 8090,
        "heartbeat": 30,
        "heartbeat_max": 2,
        "nodes": hosts,
        "backoff": { "max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3 },
    });
    assert_eq!(logic.get("nodes/weighted?platform=web"), expected);

    let instances = logic.get("nodes/instances");
    let told: Vec<_> = instances
        .as_array()
        .unwrap()
        .iter()
        .map(|instance| {
            let of = |name: &str| instance["metadata"][name].as_str().unwrap().to_owned();
            (instance["hostname"].as_str().unwrap(), of("conn_count"), of("offline"))
        })
        .collect();
    let of = |name, live: &str, offline: &str| (name, live.to_owned(), offline.to_owned());
    let c_is_gone =
        [of("a", "0", "false"), of("b", "1", "false"), of("c", "0", "true"), of("d", "0", "false")];
    assert_eq!(told, c_is_gone);
}

/// Comets at addresses that clients do not reach. Each has another public name, and its share of clients.
#[tokio::test]
async fn clients_are_sent_to_public_names_by_weight() {
    let comets = Comets::start();
    let nodes = "logic_server.nodes=[\"a=a.example*10\", \"b=2001:db8::b*30\", \"c=c.example\"]";
    let unreached = format!("c={}", own_address());
    let logic = Logic::start(&[&comets.setting(&[unreached]), nodes]);
    let mut client = logic.client().await;
    comets.until_there(&logic);
    let [a, b] = ["a.example", "2001:db8::b"];
    // Without sessions the heavier one is first; then it is the one with fewer of them for its weight.
    for (server, hosts) in [(None, [b, a]), (Some("b"), [a, b]), (Some("a"), [b, a])] {
        if let Some(server) = server {
            connect(&mut client, server, "42").await.unwrap();
        }
        let nodes = client.nodes(NodesReq::default()).await.unwrap().into_inner().nodes;
        assert_eq!(nodes, hosts, "after one more at {server:?}");
        assert_eq!(logic.get("nodes/weighted")["nodes"], json!(hosts));
    }
    let instances = logic.get("nodes/instances");
    let metadata = |at: usize, name: &str| instances[at]["metadata"][name].clone();
    let told = |at| [metadata(at, "addrs"), metadata(at, "weight"), metadata(at, "offline")];
    assert_eq!(told(0), ["a.example", "10", "false"]);
    assert_eq!(told(1), ["2001:db8::b", "30", "false"]);
    assert_eq!(told(2), ["c.example", "1", "true"]);
}

/// Without a store nothing new is known of the sessions: the comets are told in the order known last, and
/// where none is known in that of their weights.
#[tokio::test]
async fn clients_are_told_of_the_comets_while_the_store_is_gone() {
    let Some(mut redis) = RedisServer::start() else { return };
    let comets = Comets::start();
    let nodes = "logic_server.nodes=[\"a=a.example\", \"b=b.example\"]";
    let redis_sets = redis.sets();
    let sets = [&comets.setting(&[]), nodes, &redis_sets[0], &redis_sets[1]];
    let logic = Logic::start(&sets);
    let mut client = logic.client().await;
    comets.until_there(&logic);
    connect(&mut client, "a", "42").await.unwrap();
    let live = |logic: &Logic| -> Vec<String> {
        let instances = logic.get("nodes/instances");
        let live =
            |instance: &Value| instance["metadata"]["conn_count"].as_str().map(str::to_owned);
        instances.as_array().unwrap().iter().filter_map(live).collect()
    };
    assert_eq!(live(&logic), ["1", "0"]);
    redis.stop();
    let nodes = client.nodes(NodesReq::default()).await.unwrap().into_inner().nodes;
    assert_eq!(nodes, ["b.example", "a.example"]);
    assert_eq!(logic.get("nodes/weighted")["nodes"], json!(nodes));
    assert_eq!(live(&logic), ["1", "0"]);
    // A speed is divided by what is known, too.
    assert_eq!(logic.post("all?operation=1000&speed=100", b"paced")["scheduled"], 0);
    // One that has never seen the store.
    let logic = Logic::start(&sets);
    comets.until_there(&logic);
    assert_eq!(logic.get("nodes/weighted")["nodes"], json!(["a.example", "b.example"]));
    assert_eq!(live(&logic), ["0", "0"]);
    assert_eq!(logic.post("all?operation=1000&speed=100", b"paced")["scheduled"], 0);
}
