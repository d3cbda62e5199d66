//! Calls that have spans, and the content of the spans.

use std::sync::mpsc::{Receiver, sync_channel};

use comet_control::{Options, Reported, TracedPush};
use comet_core::{Counters, Message, Report, ShardId, Tally, home_of_room};
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_req::Keys;
use comet_wire::comet::v1::{KickReq, PushUsersReq, kick_req};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastReq, BroadcastRoomReq, RoomsReq};
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::fake::{Fake, HASTY, PATIENT, ROOMY, options, start_with};
use crate::push::proto;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    request
}

/// Two cores, and at most `queue` traced pushes that wait.
fn start(options: Options, capacities: &[usize], queue: usize) -> (Fake, Receiver<TracedPush>) {
    let (sender, pushes) = sync_channel(queue);
    (start_with(Options { traced: Some(sender), ..options }, capacities), pushes)
}

fn next(pushes: &Receiver<TracedPush>) -> TracedPush {
    pushes.recv_timeout(PATIENT).unwrap()
}

fn queued(count: u64) -> Tally {
    Tally { matched: count, queued: count, ..Tally::default() }
}

#[tokio::test]
async fn a_push_has_spans_of_its_homes_and_of_the_shards_that_these_sent_it_to() {
    let (fake, pushes) = start(options(PATIENT), &[ROOMY, ROOMY], ROOMY);
    let mut client = CometClient::new(fake.channel().await);
    let request = traced(BroadcastRoomReq { room_id: "r".to_owned(), proto: proto(5, 0, b"") });
    let asked = tokio::spawn(async move { client.broadcast_room(request).await });
    let home = home_of_room("r", 2);
    let other = ShardId(1 - home.0);
    let Message::PushRoom { call, .. } = fake.shards[usize::from(home.0)].next().await else {
        panic!()
    };
    // Threads are not ordered: a part may come before what announces it.
    fake.report(Report::PartialTally { call, shard: other, tally: queued(3), settles: 1 });
    fake.report(Report::Tally { call, shard: home, tally: queued(2), partials: 1 });
    assert_eq!(asked.await.unwrap().unwrap().into_inner().ledger.unwrap().queued, 5);

    let push = next(&pushes);
    assert_eq!(push.parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    assert_eq!(push.parent.span, 0x00f0_67aa_0ba9_02b7);
    assert_eq!(&*push.path, "/goim.comet.Comet/BroadcastRoom");
    assert_eq!((push.names.rooms, push.error, push.spans()), (1, None, 3));
    let [at_home, part] = &push.shards[..] else { panic!("{push:?}") };
    assert!(at_home.is_home && at_home.shard == home && at_home.parent == push.id);
    assert!(!part.is_home && part.shard == other && part.parent == at_home.id);
    for (span, expected) in [(at_home, 2), (part, 3)] {
        assert!(matches!(span.reported, Some(Reported::Tally(tally)) if tally.queued == expected));
        assert!(push.begin <= span.begin && span.begin <= span.end && span.end <= push.end);
    }
}

#[tokio::test]
async fn kicks_have_spans_and_questions_have_none() {
    let (fake, pushes) = start(options(PATIENT), &[ROOMY], ROOMY);
    let mut client = CometClient::new(fake.channel().await);
    let asked = tokio::spawn(async move { client.rooms(traced(RoomsReq::default())).await });
    let Message::Rooms { call } = fake.shards[0].next().await else { panic!() };
    fake.report(Report::Rooms { call, rooms: Vec::new() });
    asked.await.unwrap().unwrap();

    let mut client = PushClient::new(fake.channel().await);
    let target = Some(kick_req::Target::Keys(Keys { keys: vec!["k".to_owned()] }));
    let kick = KickReq { target, ..KickReq::default() };
    let asked = tokio::spawn(async move { client.kick(traced(kick)).await });
    let Message::PushKeys { call, .. } = fake.shards[0].next().await else { panic!() };
    fake.report(Report::Tally { call, shard: ShardId(0), tally: queued(1), partials: 0 });
    asked.await.unwrap().unwrap();
    let push = next(&pushes);
    assert_eq!((&*push.path, push.names.keys, push.spans()), ("/comet.v1.Push/Kick", 1, 2));
    assert!(pushes.try_recv().is_err());
}

#[tokio::test]
async fn the_span_of_a_paced_broadcast_has_its_scheduled_connections() {
    let (fake, pushes) = start(options(PATIENT), &[ROOMY], ROOMY);
    let mut client = CometClient::new(fake.channel().await);
    let request = BroadcastReq { proto_op: 5, proto: proto(5, 0, b""), speed: 10 };
    let asked = tokio::spawn(async move { client.broadcast(traced(request)).await });
    fake.answer_snapshots(&[Counters { live: 7, ..Counters::default() }]).await;
    let Message::Broadcast { call, .. } = fake.shards[0].next().await else { panic!() };
    fake.report(Report::Scheduled { call, shard: ShardId(0), connections: 7 });
    asked.await.unwrap().unwrap();
    let push = next(&pushes);
    assert!(
        matches!(push.shards[..], [ref span] if matches!(span.reported, Some(Reported::Scheduled(7))))
    );
    assert!(pushes.try_recv().is_err(), "the question before it has no span");
}

#[tokio::test]
async fn the_span_of_a_push_without_a_report_has_the_error() {
    // One push that the shard has, and one that waits in front of its inbox.
    let (fake, pushes) = start(options(HASTY), &[1], ROOMY);
    let mut late = PushClient::new(fake.channel().await);
    let mut waits = late.clone();
    let request = || traced(PushUsersReq { users: vec![7], proto: proto(5, 0, b""), proto_op: 0 });
    let late = late.push_users(request());
    let waits = waits.push_users(request());
    let (late, waits) = tokio::join!(late, waits);
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(waits.unwrap_err().code(), Code::ResourceExhausted);
    let (first, second) = (next(&pushes), next(&pushes));
    let by_error = |error| [&first, &second].into_iter().find(|push| push.error == Some(error));
    let late = by_error("late").unwrap();
    assert!(
        matches!(late.shards[..], [ref span] if span.reported.is_none() && span.end == late.end)
    );
    assert_eq!(by_error("inbox_full").unwrap().spans(), 1);
    drop(fake);
}

#[tokio::test]
async fn a_full_queue_of_spans_delays_no_push() {
    let (fake, pushes) = start(options(PATIENT), &[ROOMY], 1);
    let mut client = CometClient::new(fake.channel().await);
    comet_ops::set_collector(true);
    for _ in 0..3 {
        let request = traced(BroadcastRoomReq { room_id: "r".to_owned(), proto: proto(5, 0, b"") });
        let push = async { tokio::join!(client.broadcast_room(request), answer_push(&fake)) };
        let (answer, ()) = timeout(PATIENT, push).await.expect("control waits for nobody");
        assert_eq!(answer.unwrap().into_inner().ledger.unwrap().queued, 1);
    }
    let counters = [Counters::default()];
    let (page, ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
    let (_, _, page) = page;
    // Nothing else in these tests finds a queue full.
    let dropped = "comet_trace_spans_dropped_total{reason=\"queue_full\"} 4\n";
    assert!(page.contains(dropped), "{page}");
    assert_eq!(next(&pushes).spans(), 2);
}

async fn answer_push(fake: &Fake) {
    let Message::PushRoom { call, .. } = fake.shards[0].next().await else { panic!() };
    fake.queued(call);
}
