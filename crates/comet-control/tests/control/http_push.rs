//! goim's HTTP push API: the messages of each call to the shards, and the answer to its caller.

use comet_core::{
    Counters, DropReason, Message, Report, ShardId, Tally, home_of_key, home_of_room, home_of_user,
};
use comet_proto::{Encoded, Frame, op};
use serde_json::{Value, json};

use crate::fake::{Fake, HASTY, PATIENT, ROOMY, exchange, start};

/// Status, head and JSON of a call.
pub(crate) async fn call(
    fake: &Fake,
    method: &str,
    target: &str,
    body: &[u8],
) -> (u16, String, Value) {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let request = [head.as_bytes(), body].concat();
    let (status, head, body) =
        exchange(fake.control.http_addrs()[0].socket().unwrap(), &request).await;
    (status, head, serde_json::from_str(&body).unwrap())
}

/// The answer to a push with the body `hi`.
async fn push(fake: &Fake, target: &str) -> Value {
    let (status, _, answer) = call(fake, "POST", target, b"hi").await;
    assert_eq!(status, 200);
    answer
}

async fn get(fake: &Fake, target: &str) -> Value {
    let (status, _, answer) = call(fake, "GET", target, b"").await;
    assert_eq!(status, 200);
    answer
}

fn done(data: &Value) -> Value {
    json!({ "code": 0, "message": "", "data": data })
}

fn failed(code: i32, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

/// All clients are on one core, so that each push arrives there.
fn one_shard() -> Fake {
    start(PATIENT, &[ROOMY])
}

fn hi(operation: i32) -> Encoded {
    Encoded::frame(&Frame { version: 1, operation, sequence: 0, body: b"hi" })
}

fn ledger() -> (Tally, Value) {
    let mut tally = Tally { matched: 2, queued: 2, absent: 1, ..Tally::default() };
    tally.drop_as(DropReason::OutboxFull, 3);
    let data = json!({
        "matched": 5, "queued": 2, "dropped": { "outbox_full": 3 }, "absent": 1, "scheduled": 0,
    });
    (tally, data)
}

#[tokio::test]
async fn every_push_is_one_frame_with_the_operation_and_is_answered_with_the_ledger() {
    let fake = one_shard();
    let (tally, data) = ledger();
    let targets = [
        "/goim/push/keys?operation=1000&keys=a,b",
        "/goim/push/keys?keys=a&operation=1000&keys=b",
        "/goim/push/keys?keys=a%2Cb&operation=1000",
        "/goim/push/mids?operation=1000&mids=7,-8",
        "/goim/push/mids?operation=1000&mids=7&mids=-8",
        "/goim/push/room?operation=1000&type=live&room=a%2Fb+c",
        "/goim/push/all?operation=1000",
        "/goim/push/all?operation=1000&speed=0&platform=web",
    ];
    for target in targets {
        let asked = push(&fake, target);
        let told = async {
            let message = fake.shards[0].next().await;
            let (call, pushed) = match &message {
                Message::PushKeys { call, keys, push } if target.contains("/keys") => {
                    assert_eq!(keys.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["a", "b"]);
                    (call, push)
                }
                Message::PushUsers { call, users, push } if target.contains("/mids") => {
                    assert_eq!(users, &[7, -8]);
                    (call, push)
                }
                Message::PushRoom { call, room, push } if target.contains("/room") => {
                    assert_eq!(room.as_ref(), "live://a/b c");
                    (call, push)
                }
                Message::Broadcast { call, push, speed: None } if target.contains("/all") => {
                    (call, push)
                }
                other => panic!("{target}: {other:?}"),
            };
            assert_eq!(pushed.operation, 1_000, "{target}");
            assert_eq!(pushed.frame.for_tcp(), hi(1_000).for_tcp(), "{target}");
            assert_eq!(pushed.frame.for_websocket(), hi(1_000).for_websocket(), "{target}");
            fake.report(Report::Tally { call: *call, shard: ShardId(0), tally, partials: 0 });
        };
        let (answer, ()) = tokio::join!(asked, told);
        assert_eq!(answer, done(&data), "{target}");
    }
}

#[tokio::test]
async fn pushes_go_to_their_homes() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let key = (0..).map(|n| format!("k{n}")).find(|key| home_of_key(key, 2).0 == 1).unwrap();
    let user = (1..).find(|user| home_of_user(*user, 2).0 == 1).unwrap();
    let room = (0..).find(|n| home_of_room(&format!("live://{n}"), 2).0 == 1).unwrap();
    for target in [
        format!("/goim/push/keys?operation=5&keys={key}"),
        format!("/goim/push/mids?operation=5&mids={user},0"),
        format!("/goim/push/room?operation=5&type=live&room={room}"),
    ] {
        let told = async {
            let (Message::PushKeys { call, .. }
            | Message::PushUsers { call, .. }
            | Message::PushRoom { call, .. }) = fake.shards[1].next().await
            else {
                panic!("{target}")
            };
            fake.queued(call);
        };
        let (answer, ()) = tokio::join!(push(&fake, &target), told);
        assert_eq!(answer["data"]["queued"], 1, "{answer}");
        assert_eq!(answer["data"]["absent"], i32::from(target.contains("mids")), "{answer}");
        assert!(fake.shards[0].is_empty());
    }
}

#[tokio::test]
async fn a_paced_push_is_scheduled() {
    let fake = one_shard();
    let told = async {
        fake.answer_snapshots(&[Counters { live: 9, ..Counters::default() }]).await;
        let Message::Broadcast { call, speed, .. } = fake.shards[0].next().await else { panic!() };
        assert_eq!(speed.unwrap().get(), 50);
        fake.report(Report::Scheduled { call, shard: ShardId(0), connections: 9 });
    };
    let (answer, ()) = tokio::join!(push(&fake, "/goim/push/all?operation=5&speed=50"), told);
    let nothing_yet =
        json!({ "matched": 0, "queued": 0, "dropped": {}, "absent": 0, "scheduled": 9 });
    assert_eq!(answer, done(&nothing_yet));
}

#[tokio::test]
async fn a_run_of_frames_is_pushed_as_a_batch() {
    let fake = one_shard();
    let batch = [hi(5).for_tcp(), hi(6).for_tcp()].concat();
    let target = format!("/goim/push/room?operation={}&type=live&room=1", op::RAW);
    let told = async {
        let Message::PushRoom { call, push, .. } = fake.shards[0].next().await else { panic!() };
        assert_eq!(push.frame.for_tcp(), batch);
        fake.queued(call);
    };
    let ((_, _, answer), ()) = tokio::join!(call(&fake, "POST", &target, &batch), told);
    assert_eq!(answer["code"], 0);
    let answer = push(&fake, &target).await;
    let sentence = "the body of operation 9 is not a run of whole frames: \
                    the last 2 bytes are not a whole frame";
    assert_eq!(answer, failed(-400, sentence));
}

#[tokio::test]
async fn errors_of_bad_requests_name_the_parameter() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let i32_range = "is not a whole number from -2147483648 to 2147483647";
    let i64_range = "is not a whole number from -9223372036854775808 to 9223372036854775807";
    let pushes = [
        ("keys?keys=a", "operation is missing".to_owned()),
        ("keys?operation=&keys=a", "operation is empty".to_owned()),
        ("keys?operation=x&keys=a", format!("operation: \"x\" {i32_range}")),
        ("all?operation=2147483648", format!("operation: \"2147483648\" {i32_range}")),
        ("all?operation=1&operation=1", "operation is given 2 times: give it once".to_owned()),
        ("keys?operation=5", "keys is missing".to_owned()),
        ("keys?operation=5&keys=", "keys is empty".to_owned()),
        ("keys?operation=5&keys=a,,b", "keys: element 2 is empty".to_owned()),
        ("keys?operation=5&keys=%ff", "\"keys=%ff\" is not UTF-8".to_owned()),
        (
            "keys?operation=5&keys=1,2,3,4,5,6,7,8,9",
            "9 keys are more than the 8 of one call".to_owned(),
        ),
        ("mids?operation=5", "mids is missing".to_owned()),
        ("mids?operation=5&mids=1,x", format!("mids: \"x\" {i64_range}")),
        (
            "mids?operation=5&mids=9223372036854775808",
            format!("mids: \"9223372036854775808\" {i64_range}"),
        ),
        (
            "mids?operation=5&mids=1,2,3,4,5,6,7,8,9",
            "9 users are more than the 8 of one call".to_owned(),
        ),
        ("room?type=live&room=1", "operation is missing".to_owned()),
        ("room?operation=5&type=&room=1", "type is empty".to_owned()),
        ("room?operation=5&type=live", "room is missing".to_owned()),
        (
            "all?operation=5&speed=-1",
            "speed: \"-1\" is not a whole number from 0 to 2147483647".to_owned(),
        ),
    ];
    for (target, sentence) in &pushes {
        let answer = push(&fake, &format!("/goim/push/{target}")).await;
        assert_eq!(answer, failed(-400, sentence), "{target}");
    }
    let limit = "is not a whole number from 1 to 10000";
    let questions = [
        ("top?type=live", "limit is missing".to_owned()),
        ("top?type=live&limit=0", format!("limit: \"0\" {limit}")),
        ("top?type=live&limit=-1", format!("limit: \"-1\" {limit}")),
        ("top?type=live&limit=10001", format!("limit: \"10001\" {limit}")),
        ("room?type=live", "rooms is missing".to_owned()),
        (
            "room?type=live&rooms=1,2,3,4,5,6,7,8,9",
            "9 rooms are more than the 8 of one call".to_owned(),
        ),
    ];
    for (target, sentence) in &questions {
        let answer = get(&fake, &format!("/goim/online/{target}")).await;
        assert_eq!(answer, failed(-400, sentence), "{target}");
    }
    assert!(fake.shards.iter().all(crate::fake::FakeShard::is_empty));
}

#[tokio::test]
async fn unknown_paths_and_methods_get_404_or_405_as_json() {
    let fake = one_shard();
    let (status, _, answer) = call(&fake, "GET", "/goim/push?x=1", b"").await;
    assert_eq!((status, answer), (404, failed(-404, "there is no /goim/push")));
    let (status, head, answer) = call(&fake, "GET", "/goim/push/keys?keys=a", b"").await;
    assert_eq!((status, answer), (405, failed(-405, "/goim/push/keys does not take GET")));
    assert!(head.contains("\r\nallow: POST\r\n"), "{head}");
    let (status, head, answer) = call(&fake, "POST", "/goim/online/total", b"x").await;
    assert_eq!((status, answer), (405, failed(-405, "/goim/online/total does not take POST")));
    assert!(head.contains("\r\nallow: GET,HEAD\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
}

#[tokio::test]
async fn a_push_that_times_out_is_a_server_error_with_the_partial_ledger() {
    let fake = start(HASTY, &[ROOMY]);
    let told = async {
        let Message::PushRoom { call, .. } = fake.shards[0].next().await else { panic!() };
        fake.report(Report::Tally { call, shard: ShardId(0), tally: ledger().0, partials: 1 });
    };
    let (answer, ()) =
        tokio::join!(push(&fake, "/goim/push/room?operation=5&type=live&room=1"), told);
    let sentence = "reports still missing after 5s: 1; \
                    known so far: matched 5, queued 2, dropped 3 (outbox_full), absent 1";
    assert_eq!(answer, failed(-500, sentence));
}

#[tokio::test]
async fn answers_are_counted_by_path_and_code() {
    let fake = one_shard();
    push(&fake, "/goim/push/keys?operation=5").await;
    push(&fake, "/goim/push/keys?keys=a").await;
    let counters = [Counters::default()];
    let ((_, _, page), ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
    let sample = "comet_calls_total{rpc=\"/goim/push/keys\",code=\"InvalidArgument\"} 2";
    assert!(page.lines().any(|line| line == sample), "{page}");
}

/// Lets both shards answer one question about rooms.
async fn answer_rooms(fake: &Fake, rooms: [&[(&str, u32)]; 2]) {
    for (index, (shard, rooms)) in fake.shards.iter().zip(rooms).enumerate() {
        fake.answer(index, shard.next().await, &Counters::default(), rooms);
    }
}

#[tokio::test]
async fn the_fullest_rooms_are_listed_by_type() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let rooms: [&[(&str, u32)]; 2] = [
        &[("live://a", 3), ("live2://a", 50), ("1", 70), ("live://", 2)],
        &[("live://b", 9), ("live://c", 3), ("chat://a", 60)],
    ];
    let top = async |query: &str| {
        let target = format!("/goim/online/top?{query}");
        let (answer, ()) = tokio::join!(get(&fake, &target), answer_rooms(&fake, rooms));
        assert_eq!((&answer["code"], &answer["message"]), (&json!(0), &json!("")));
        let rooms = answer["data"].as_array().unwrap().iter();
        let told =
            |room: &Value| format!("{}={}", room["room_id"].as_str().unwrap(), room["count"]);
        rooms.map(told).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(top("type=live&limit=2").await, "b=9 a=3");
    assert_eq!(top("type=live&limit=10000").await, "b=9 a=3 c=3 =2");
    assert_eq!(top("type=liv&limit=9").await, "");
    // Rooms without a type, as in goim v1, are named by their ids.
    assert_eq!(top("limit=3").await, "1=70 chat://a=60 live2://a=50");

    let members = async |target: &str| {
        let answers = async {
            fake.answer_snapshots(&[Counters::default(), Counters::default()]).await;
            answer_rooms(&fake, rooms).await;
        };
        tokio::join!(get(&fake, target), answers).0
    };
    let answer = members("/goim/online/room?type=live&rooms=a,b&rooms=nobody,b").await;
    assert_eq!(answer, done(&json!({ "a": 3, "b": 9, "nobody": 0 })));
    let answer = members("/goim/online/room?rooms=1,live://a,a").await;
    assert_eq!(answer, done(&json!({ "1": 70, "live://a": 3, "a": 0 })));
}

#[tokio::test]
async fn the_total_is_of_authenticated_connections() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let both = [3, 4].map(|live| Counters {
        live,
        connections: 9,
        addresses: live - 1,
        ..Counters::default()
    });
    let (answer, ()) = tokio::join!(get(&fake, "/goim/online/total"), fake.answer_snapshots(&both));
    assert_eq!(answer, done(&json!({ "conn_count": 7, "ip_count": 5 })));
}

#[tokio::test]
async fn the_nodes_page_has_the_address_and_ports_of_this_server() {
    let fake = one_shard();
    let expected = json!({
        "domain": "push.example",
        "tcp_port": 8080,
        "ws_port": 8090,
        "heartbeat": 150,
        "heartbeat_max": 2,
        "nodes": ["push.example"],
        "backoff": { "max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3 },
    });
    for target in ["/goim/nodes/weighted", "/goim/nodes/weighted?platform=web"] {
        assert_eq!(get(&fake, target).await, done(&expected));
    }
}

#[tokio::test]
async fn the_instance_is_described_as_discovery_does() {
    let fake = one_shard();
    let instance = async || {
        let live = [Counters { live: 7, ..Counters::default() }];
        let (mut answer, ()) =
            tokio::join!(get(&fake, "/goim/nodes/instances"), fake.answer_snapshots(&live));
        let mut instance = answer["data"][0].take();
        let told = instance["latest_timestamp"].take().as_u64().unwrap();
        (instance, told)
    };
    let expected = |offline: &str| {
        json!({
            "region": "", "zone": "", "env": "",
            "appid": "goim.comet",
            "hostname": "test",
            "addrs": [
                format!("grpc://{}", fake.control.grpc_addrs()[0].socket().unwrap()),
                "tcp://192.0.2.1:8080", "tcp://192.0.2.2:8081", "ws://192.0.2.1:8090",
            ],
            "version": "0.0.0",
            "latest_timestamp": null,
            "metadata": {
                "addrs": "push.example", "conn_count": "7", "offline": offline, "weight": "1",
            },
        })
    };
    let (starting, before) = instance().await;
    assert_eq!(starting, expected("true"));
    fake.control.set_ready();
    let (ready, after) = instance().await;
    assert_eq!(ready, expected("false"));
    assert!(before <= after, "{before} {after}");
}
