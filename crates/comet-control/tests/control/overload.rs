//! Full inboxes, silent shards and ended shards: order is kept, and callers get errors.

use comet_core::{CallId, Counters, Message, Report, ShardId, Tally};
use comet_proto::decode;
use comet_wire::goim::comet::BroadcastRoomReq;
use comet_wire::goim::comet::comet_client::CometClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fake::{Fake, FakeShard, HASTY, PATIENT, start};
use crate::push::proto;

async fn push(mut client: CometClient<Channel>, sequence: i32) -> Result<u64, Status> {
    let request = BroadcastRoomReq { room_id: "r".to_owned(), proto: proto(5, sequence, b"x") };
    let reply = client.broadcast_room(request).await?.into_inner();
    Ok(reply.ledger.expect("every reply has one").queued)
}

/// The next push to reach the shard, and its sequence number.
async fn next_push(shard: &FakeShard) -> (CallId, i32) {
    let Message::PushRoom { call, push, .. } = shard.next().await else { panic!() };
    let (frame, _) = decode(push.frame.for_tcp(), 256).unwrap().unwrap();
    (call, frame.sequence)
}

async fn client(fake: &Fake) -> CometClient<Channel> {
    CometClient::new(fake.channel().await)
}

/// Far more calls at once than the inbox holds; each has its answer, and none overtakes another.
#[tokio::test]
async fn calls_of_a_connection_keep_their_order_through_a_full_inbox() {
    const CALLS: i32 = 500;
    let fake = start(PATIENT, &[4]);
    let client = client(&fake).await;
    let mut asked = JoinSet::new();
    for sequence in 0..CALLS {
        asked.spawn(push(client.clone(), sequence));
    }
    for expected in 0..CALLS {
        let (call, sequence) = next_push(&fake.shards[0]).await;
        assert_eq!(sequence, expected);
        fake.queued(call);
        // The callers have to be polled for the server to hear of them.
        tokio::task::yield_now().await;
    }
    let answers = asked.join_all().await;
    assert_eq!(answers.iter().filter_map(|answer| answer.as_ref().ok()).sum::<u64>(), 500);
}

#[tokio::test]
async fn a_call_that_found_no_room_in_time_is_never_delivered() {
    let fake = start(HASTY, &[1]);
    let client = client(&fake).await;
    let first = tokio::spawn(push(client.clone(), 1));
    // The first call is in the inbox once it has failed for want of a report.
    let late = first.await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let refused = push(client.clone(), 2).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "the inbox of shard 0 stayed full for 5s; \
         known so far: matched 0, queued 0, absent 0"
    );
    assert_eq!(next_push(&fake.shards[0]).await.1, 1);
    let third = tokio::spawn(push(client, 3));
    let (call, sequence) = next_push(&fake.shards[0]).await;
    assert_eq!(sequence, 3);
    fake.queued(call);
    assert_eq!(third.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_call_with_late_reports_fails_with_the_partial_tally() {
    let fake = start(HASTY, &[8]);
    let asked = tokio::spawn(push(client(&fake).await, 1));
    let (call, _) = next_push(&fake.shards[0]).await;
    let tally = Tally { matched: 3, queued: 3, ..Tally::default() };
    fake.report(Report::Tally { call, shard: ShardId(0), tally, partials: 2 });
    let late = asked.await.unwrap().unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(
        late.message(),
        "reports still missing after 5s: 2; known so far: matched 3, queued 3, absent 0"
    );
    // Reports after the end of the call are ignored, and disturb no other call.
    fake.queued(call);
    fake.queued(call);
    let next = tokio::spawn(push(client(&fake).await, 2));
    fake.queued(next_push(&fake.shards[0]).await.0);
    assert_eq!(next.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_call_whose_caller_leaves_is_counted() {
    let fake = start(PATIENT, &[8]);
    let asked = tokio::spawn(push(client(&fake).await, 1));
    next_push(&fake.shards[0]).await;
    asked.abort();
    until_counted(&fake, "comet_calls_total{rpc=\"BroadcastRoom\",code=\"Cancelled\"} 1").await;
}

/// Waits for the line of a shard's metrics.
pub(crate) async fn until_counted(fake: &Fake, line: &str) {
    let counters = [Counters::default()];
    loop {
        let ((_, _, page), ()) =
            tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
        if page.lines().any(|found| found == line) {
            return;
        }
    }
}

#[tokio::test]
async fn a_shard_that_ended_is_named() {
    let mut fake = start(PATIENT, &[8]);
    let client = client(&fake).await;
    fake.shards.clear();
    let gone = push(client, 1).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable);
    assert_eq!(gone.message(), "shard 0 has ended: the server is going down");
}
