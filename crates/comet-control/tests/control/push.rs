//! Each call: the messages to the shards, and the answer to the caller.

use std::collections::BTreeMap;

use comet_core::{
    Counters, DropReason, Message, Report, ShardId, Tally, home_of_key, home_of_room, home_of_user,
};
use comet_proto::{Encoded, Frame, op};
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::{CancelBroadcastReq, CountsReq, ListBroadcastsReq, PushUsersReq};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, Ledger, PushMsgReq, RoomsReq};
use comet_wire::goim::protocol::Proto;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::fake::{Fake, PATIENT, ROOMY, start};

pub(crate) fn proto(operation: i32, sequence: i32, body: &[u8]) -> Option<Proto> {
    Some(Proto {
        ver: 0,
        op: operation,
        seq: sequence,
        body: body.to_vec().into(),
        ..Proto::default()
    })
}

fn frame(operation: i32, sequence: i32, body: &[u8]) -> Encoded {
    Encoded::frame(&Frame { version: 1, operation, sequence, body })
}

/// The first few names with `prefix` whose home `of` is `shard`.
fn names_at(shard: u16, prefix: &str, of: impl Fn(&str, u16) -> ShardId) -> Vec<String> {
    let names = (0..).map(|n| format!("{prefix}{n}"));
    names.filter(|name| of(name, 2) == ShardId(shard)).take(3).collect()
}

fn tally(queued: u64, full: u64, absent: u64) -> Tally {
    let mut tally = Tally { matched: queued, queued, absent, ..Tally::default() };
    tally.drop_as(DropReason::OutboxFull, full);
    tally
}

async fn two_shards() -> (Fake, CometClient<tonic::transport::Channel>) {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let client = CometClient::new(fake.channel().await);
    (fake, client)
}

#[tokio::test]
async fn keys_go_to_their_homes_and_all_parts_make_the_ledger() {
    let (fake, mut client) = two_shards().await;
    let (here, there) = (names_at(0, "k", home_of_key), names_at(1, "k", home_of_key));
    let keys = [&here[0], &there[0], &here[1], &here[0]].map(Clone::clone).to_vec();
    let request = PushMsgReq { keys, proto: proto(5, 7, b"hi"), proto_op: 1_000 };
    let asked = tokio::spawn(async move { client.push_msg(request).await });

    let Message::PushKeys { call, keys, push } = fake.shards[0].next().await else { panic!() };
    assert_eq!(keys.iter().map(AsRef::as_ref).collect::<Vec<_>>(), [&here[0], &here[1]]);
    assert_eq!(push.operation, 1_000);
    assert_eq!(push.frame.for_tcp(), frame(5, 7, b"hi").for_tcp());
    let Message::PushKeys { call: same, keys, .. } = fake.shards[1].next().await else { panic!() };
    assert_eq!((same, keys.len(), keys[0].as_ref()), (call, 1, there[0].as_str()));

    // One part overtakes the report that announces it.
    fake.report(Report::Tally { call, shard: ShardId(0), tally: tally(10, 0, 0), partials: 0 });
    fake.report(Report::PartialTally {
        call,
        shard: ShardId(1),
        tally: tally(2, 3, 0),
        settles: 1,
    });
    fake.report(Report::Tally { call, shard: ShardId(0), tally: tally(1, 0, 1), partials: 2 });
    fake.report(Report::PartialTally {
        call,
        shard: ShardId(1),
        tally: tally(0, 4, 0),
        settles: 1,
    });
    let ledger = asked.await.unwrap().unwrap().into_inner().ledger.unwrap();
    let dropped = BTreeMap::from([("outbox_full".to_owned(), 7)]);
    assert_eq!(ledger, Ledger { matched: 20, queued: 13, dropped, absent: 1, ..Ledger::default() });
}

#[tokio::test]
async fn without_proto_op_the_operation_of_the_frame_is_the_filter() {
    let (fake, mut client) = two_shards().await;
    let request = BroadcastReq { proto_op: 0, proto: proto(1_001, 0, b""), speed: 0 };
    let asked = tokio::spawn(async move { client.broadcast(request).await });
    for shard in &fake.shards {
        let Message::Broadcast { call, push, speed } = shard.next().await else { panic!() };
        assert_eq!((push.operation, speed), (1_001, None));
        fake.queued(call);
    }
    assert_eq!(asked.await.unwrap().unwrap().into_inner().ledger.unwrap().queued, 2);
}

#[tokio::test]
async fn a_batch_goes_to_the_home_of_its_room_as_it_is() {
    let (fake, mut client) = two_shards().await;
    let room = names_at(1, "room", home_of_room).remove(0);
    let batch = [frame(5, 1, b"a").for_tcp(), frame(5, 2, b"b").for_tcp()].concat();
    let request = BroadcastRoomReq { room_id: room.clone(), proto: proto(op::RAW, 0, &batch) };
    let asked = tokio::spawn(async move { client.broadcast_room(request).await });
    let Message::PushRoom { call, room: named, push } = fake.shards[1].next().await else {
        panic!()
    };
    assert_eq!(named.as_ref(), room);
    assert_eq!(push.frame.for_tcp(), batch);
    fake.queued(call);
    assert_eq!(asked.await.unwrap().unwrap().into_inner().ledger.unwrap().matched, 1);
    assert!(fake.shards[0].is_empty());
}

#[tokio::test]
async fn pushes_to_users_go_to_their_homes_and_user_0_is_absent() {
    let fake = start(PATIENT, &[ROOMY, ROOMY]);
    let mut client = PushClient::new(fake.channel().await);
    let user = (1..).find(|user| home_of_user(*user, 2) == ShardId(1)).unwrap();
    let request = PushUsersReq { users: vec![0, user, 0], proto: proto(5, 0, b"x"), proto_op: 5 };
    let asked = tokio::spawn(async move {
        let mixed = client.push_users(request.clone()).await.unwrap().into_inner();
        let nobody = PushUsersReq { users: vec![0], ..request };
        (mixed, client.push_users(nobody).await.unwrap().into_inner())
    });
    let Message::PushUsers { call, users, .. } = fake.shards[1].next().await else { panic!() };
    assert_eq!(users, [user]);
    fake.queued(call);
    let (mixed, nobody) = asked.await.unwrap();
    assert_eq!(
        mixed.ledger.unwrap(),
        Ledger { matched: 1, queued: 1, absent: 2, ..Ledger::default() }
    );
    assert_eq!(nobody.ledger.unwrap(), Ledger { absent: 1, ..Ledger::default() });
    assert!(fake.shards[0].is_empty());
}

#[tokio::test]
async fn a_paced_broadcast_is_shared_by_live_connections() {
    let (fake, client) = two_shards().await;
    let request = BroadcastReq { proto_op: 5, proto: proto(5, 0, b"x"), speed: 100 };
    let live = [10, 30].map(|live| Counters { live, ..Counters::default() });

    let paced = async |second_is_busy: bool| {
        let (mut client, request) = (client.clone(), request.clone());
        let asked = tokio::spawn(async move { client.broadcast(request).await });
        fake.answer_snapshots(&live).await;
        for (shard, share) in fake.shards.iter().zip([25, 75]) {
            let Message::Broadcast { call, speed, .. } = shard.next().await else { panic!() };
            assert_eq!(speed.unwrap().get(), share);
            if share == 75 && second_is_busy {
                fake.report(Report::Busy { call, shard: ShardId(0) });
            } else {
                fake.report(Report::Scheduled { call, shard: ShardId(0), connections: 40 });
            }
        }
        asked.await.unwrap()
    };
    let ledger = paced(false).await.unwrap().into_inner().ledger.unwrap();
    assert_eq!(ledger, Ledger { scheduled: 80, ..Ledger::default() });
    let busy = paced(true).await.unwrap_err();
    assert_eq!(busy.code(), Code::ResourceExhausted);
    assert!(busy.message().starts_with("1 of 2 shards"), "{}", busy.message());
    assert!(busy.message().ends_with("scheduled 40"), "{}", busy.message());
    // The shard that took it ends it again.
    let mut cancelled = None;
    for shard in &fake.shards {
        let Message::CancelBroadcast { call } = shard.next().await else { panic!() };
        cancelled = Some(call);
    }
    let call = cancelled.unwrap();
    let mut push = PushClient::new(fake.channel().await);
    let listed = push.list_broadcasts(ListBroadcastsReq {}).await.unwrap().into_inner();
    let under_way: Vec<_> = listed.broadcasts.iter().map(|one| (one.id, one.speed)).collect();
    assert_eq!(under_way, [(call.0 - 2, 100), (call.0, 100)]);
    // The cancelled broadcast ends on the shards, and then it is not listed any more.
    for shard in [0, 1].map(ShardId) {
        fake.report(Report::PacedEnded { call, shard, tally: Tally::default() });
    }
    let first = CancelBroadcastReq { id: call.0 - 2 };
    let asked = tokio::spawn(async move { push.cancel_broadcast(first).await });
    let mut queued = Tally::default();
    queued.queue();
    for (index, shard) in (0..).zip(&fake.shards) {
        let Message::CancelBroadcast { call } = shard.next().await else { panic!() };
        fake.report(Report::PacedEnded { call, shard: ShardId(index), tally: queued });
    }
    let ledger = asked.await.unwrap().unwrap().into_inner().ledger.unwrap();
    assert_eq!(ledger, Ledger { matched: 2, queued: 2, ..Ledger::default() });
    let mut push = PushClient::new(fake.channel().await);
    let listed = push.list_broadcasts(ListBroadcastsReq {}).await.unwrap().into_inner();
    assert_eq!(listed.broadcasts, []);
    let gone = push.cancel_broadcast(CancelBroadcastReq { id: call.0 }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn rooms_of_every_shard_are_listed() {
    let (fake, mut client) = two_shards().await;
    let asked = tokio::spawn(async move { client.rooms(RoomsReq::default()).await });
    for (shard, room) in fake.shards.iter().zip(["a", "b"]) {
        let Message::Rooms { call } = shard.next().await else { panic!() };
        fake.report(Report::Rooms { call, rooms: vec![(room.into(), 3)] });
    }
    let rooms = asked.await.unwrap().unwrap().into_inner().rooms;
    assert_eq!(rooms, [("a".to_owned(), true), ("b".to_owned(), true)].into());
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_sentence() {
    #[track_caller]
    fn check<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &str) {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(status.message(), expected);
    }
    let (fake, mut client) = two_shards().await;
    let good = PushMsgReq { keys: vec!["k".to_owned()], proto: proto(5, 0, b"x"), proto_op: 5 };
    let keys = |count| PushMsgReq { keys: vec!["k".to_owned(); count], ..good.clone() };
    let with = |proto| PushMsgReq { proto, ..good.clone() };
    check(client.push_msg(keys(0)).await, "no key is given: name at least one");
    check(client.push_msg(keys(9)).await, "9 keys are more than the 8 of one call");
    check(client.push_msg(with(None)).await, "proto is missing: nothing to push");
    check(
        client.push_msg(with(proto(5, 0, &[0; 257]))).await,
        "the body has 257 bytes, more than the 256 allowed",
    );
    check(
        client.push_msg(with(proto(op::RAW, 0, b""))).await,
        "the body of operation 9 holds no frame",
    );
    check(
        client.push_msg(with(proto(op::RAW, 0, b"junk"))).await,
        "the body of operation 9 is not a run of whole frames: \
         the last 4 bytes are not a whole frame",
    );
    let version = Some(Proto { ver: -1, ..Proto::default() });
    check(client.push_msg(with(version)).await, "ver -1 does not fit a frame header");
    let room = BroadcastRoomReq { room_id: String::new(), proto: proto(5, 0, b"x") };
    check(client.broadcast_room(room).await, "roomID is empty: name the room");
    let fast = BroadcastReq { proto_op: 5, proto: proto(5, 0, b"x"), speed: -1 };
    check(client.broadcast(fast).await, "speed is -1: give 0 or connections a second");
    let mut users = PushClient::new(fake.channel().await);
    check(users.push_users(PushUsersReq::default()).await, "no user is given: name at least one");
    assert!(fake.shards.iter().all(crate::fake::FakeShard::is_empty));
}

#[tokio::test]
async fn a_request_with_all_keys_and_the_longest_body_fits() {
    let (fake, mut client) = two_shards().await;
    let names = (100..).map(|number| format!("{}{number}", "k".repeat(250)));
    let keys = names.filter(|key| home_of_key(key, 2) == ShardId(0)).take(8).collect();
    let request = PushMsgReq { keys, proto: proto(5, 0, &[0; 256]), proto_op: i32::MAX };
    let asked = tokio::spawn(async move { client.push_msg(request).await });
    let Message::PushKeys { call, keys, .. } = fake.shards[0].next().await else { panic!() };
    assert_eq!(keys.len(), 8);
    fake.queued(call);
    asked.await.unwrap().unwrap();
}

/// goim's job knows replies without fields. `()` is such a message to prost.
#[tokio::test]
async fn a_caller_that_knows_no_ledger_is_served() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut plain = Grpc::new(fake.channel().await);
    let request = PushMsgReq { keys: vec!["k".to_owned()], proto: proto(5, 0, b"x"), proto_op: 5 };
    let asked = tokio::spawn(async move {
        plain.ready().await.unwrap();
        let path = PathAndQuery::from_static("/goim.comet.Comet/PushMsg");
        let codec = ProstCodec::<PushMsgReq, ()>::default();
        plain.unary(Request::new(request), path, codec).await
    });
    let Message::PushKeys { call, .. } = fake.shards[0].next().await else { panic!() };
    fake.queued(call);
    asked.await.unwrap().unwrap();
}

/// One time limit bounds both, so neither waits for the other.
#[tokio::test]
async fn clients_and_members_of_rooms_are_counted_at_once() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut client = PushClient::new(fake.channel().await);
    let counts = client.counts(CountsReq { rooms: vec!["r".to_owned(), "s".to_owned()] });
    let shard = async {
        let asked = async { [fake.shards[0].next().await, fake.shards[0].next().await] };
        let asked = timeout(PATIENT, asked).await.expect("both come before either is answered");
        let counters = Counters { live: 7, ..Counters::default() };
        for message in asked {
            fake.answer(0, message, &counters, &[("s", 3), ("r", 2)]);
        }
    };
    let (counts, ()) = tokio::join!(counts, shard);
    let counts = counts.unwrap().into_inner();
    assert_eq!((counts.clients, &counts.rooms["r"], &counts.rooms["s"]), (7, &2, &3));
}
