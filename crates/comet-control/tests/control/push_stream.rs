//! The stream of pushes: each as a call of its own, answers in order, a bound on what is under way.

use comet_core::{CallId, Counters, Message};
use comet_proto::decode;
use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_reply::{Answer, Error};
use comet_wire::comet::v1::push_stream_req::{Keys, Target, Users};
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{BroadcastRoomReq, Ledger};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::fake::{Fake, FakeShard, HASTY, PATIENT, ROOMY, start};
use crate::overload::until_counted;
use crate::push::proto;

/// The caller's side of a stream.
struct Stream {
    pushes: UnboundedSender<PushStreamReq>,
    replies: Streaming<PushStreamReply>,
    answers: std::vec::IntoIter<Answer>,
}

impl Stream {
    async fn open(fake: &Fake) -> Self {
        let (pushes, requests) = unbounded_channel();
        let mut client = PushClient::new(fake.channel().await);
        let replies = client.push_stream(UnboundedReceiverStream::new(requests)).await.unwrap();
        Self { pushes, replies: replies.into_inner(), answers: Vec::new().into_iter() }
    }

    fn push(&self, id: u64, target: Option<Target>) {
        let sequence = i32::try_from(id).unwrap();
        let proto = proto(5, sequence, b"x");
        self.pushes.send(PushStreamReq { id, target, proto, proto_op: 1_000 }).unwrap();
    }

    async fn answer(&mut self) -> Result<Option<(u64, Outcome)>, Status> {
        loop {
            if let Some(Answer { id, outcome }) = self.answers.next() {
                return Ok(Some((id, outcome.unwrap())));
            }
            match self.replies.message().await? {
                Some(reply) => self.answers = reply.answers.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

fn room() -> Option<Target> {
    Some(Target::RoomId("r".to_owned()))
}

fn key() -> Option<Target> {
    Some(Target::Keys(Keys { keys: vec!["k".to_owned()] }))
}

fn queued(queued: u64) -> Outcome {
    Outcome::Ledger(Ledger { matched: queued, queued, ..Ledger::default() })
}

fn error(code: Code, message: &str) -> Outcome {
    Outcome::Error(Error { code: code as i32, message: message.to_owned() })
}

/// The next push to reach the shard, and its sequence number.
async fn next_push(shard: &FakeShard) -> (CallId, i32) {
    let (call, push) = match shard.next().await {
        Message::PushRoom { call, push, .. }
        | Message::PushKeys { call, push, .. }
        | Message::PushUsers { call, push, .. } => (call, push),
        other => panic!("{other:?}"),
    };
    let (frame, _) = decode(push.frame.for_tcp(), 256).unwrap().unwrap();
    (call, frame.sequence)
}

#[tokio::test]
async fn every_push_is_answered_in_the_order_they_came_in() {
    let fake = start(PATIENT, &[ROOMY]);
    let mut stream = Stream::open(&fake).await;
    stream.push(7, key());
    stream.push(8, None);
    stream.push(7, Some(Target::Users(Users { users: vec![0, 3] })));
    stream.push(9, Some(Target::Users(Users { users: vec![0] })));
    stream.push(10, Some(Target::Keys(Keys::default())));
    stream.push(11, room());
    let mut calls = Vec::new();
    for expected in [7, 7, 11] {
        let (call, sequence) = next_push(&fake.shards[0]).await;
        assert_eq!(sequence, expected);
        calls.push(call);
    }
    // The last is done first, and waits for its turn.
    calls.into_iter().rev().for_each(|call| fake.queued(call));
    let absent =
        |ledger: u64| Ledger { matched: ledger, queued: ledger, absent: 1, ..Ledger::default() };
    let expected = [
        (7, queued(1)),
        (8, error(Code::InvalidArgument, "no target is given: name keys, users or a room")),
        (7, Outcome::Ledger(absent(1))),
        (9, Outcome::Ledger(absent(0))),
        (10, error(Code::InvalidArgument, "no key is given: name at least one")),
        (11, queued(1)),
    ];
    for answer in expected {
        assert_eq!(stream.answer().await.unwrap(), Some(answer));
    }
    let counters = [Counters::default()];
    let ((_, _, page), ()) = tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
    for line in [
        "comet_calls_total{rpc=\"PushStream\",code=\"Ok\"} 4",
        "comet_calls_total{rpc=\"PushStream\",code=\"InvalidArgument\"} 2",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn pushes_of_a_stream_that_is_cut_are_counted() {
    let fake = start(PATIENT, &[ROOMY]);
    let stream = Stream::open(&fake).await;
    for id in 0..3 {
        stream.push(id, key());
        next_push(&fake.shards[0]).await;
    }
    drop(stream);
    until_counted(&fake, "comet_calls_total{rpc=\"PushStream\",code=\"Cancelled\"} 3").await;
}

/// Far more pushes at once than the inbox holds: none overtakes another, and each has its answer, even
/// after the caller has ended its side.
#[tokio::test]
async fn pushes_keep_their_order_through_a_full_inbox() {
    const PUSHES: i32 = 500;
    let fake = start(PATIENT, &[4]);
    let mut stream = Stream::open(&fake).await;
    for id in 0..PUSHES {
        stream.push(u64::try_from(id).unwrap(), if id % 2 == 0 { key() } else { room() });
    }
    let (pushes, _) = unbounded_channel();
    stream.pushes = pushes;
    for expected in 0..PUSHES {
        let (call, sequence) = next_push(&fake.shards[0]).await;
        assert_eq!(sequence, expected);
        fake.queued(call);
    }
    for id in 0..PUSHES {
        let answer = stream.answer().await.unwrap();
        assert_eq!(answer, Some((u64::try_from(id).unwrap(), queued(1))));
    }
    assert_eq!(stream.answer().await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_has_no_more_than_its_bound_under_way() {
    const UNDER_WAY: i32 = 1_024;
    let fake = start(PATIENT, &[ROOMY + 8]);
    let mut stream = Stream::open(&fake).await;
    for id in 0..2 * UNDER_WAY {
        stream.push(u64::try_from(id).unwrap(), key());
    }
    let mut calls = Vec::new();
    for expected in 0..UNDER_WAY {
        let (call, sequence) = next_push(&fake.shards[0]).await;
        assert_eq!(sequence, expected);
        calls.push(call);
    }
    // A call beside the stream does not wait behind the pushes of the stream.
    let mut client = CometClient::new(fake.channel().await);
    let beside = BroadcastRoomReq { room_id: "r".to_owned(), proto: proto(5, -1, b"x") };
    let beside = tokio::spawn(async move { client.broadcast_room(beside).await });
    let (call, sequence) = next_push(&fake.shards[0]).await;
    assert_eq!(sequence, -1);
    fake.queued(call);
    assert_eq!(beside.await.unwrap().unwrap().into_inner().ledger.unwrap().queued, 1);
    // Each answer makes room for a push.
    calls.into_iter().for_each(|call| fake.queued(call));
    for expected in UNDER_WAY..2 * UNDER_WAY {
        let (call, sequence) = next_push(&fake.shards[0]).await;
        assert_eq!(sequence, expected);
        fake.queued(call);
        assert!(stream.answer().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_push_that_fails_ends_no_stream() {
    let fake = start(HASTY, &[ROOMY]);
    let mut stream = Stream::open(&fake).await;
    stream.push(1, room());
    let late = "reports still missing after 5s: 1; known so far: matched 0, queued 0, absent 0";
    assert_eq!(stream.answer().await.unwrap(), Some((1, error(Code::DeadlineExceeded, late))));
    next_push(&fake.shards[0]).await;
    stream.push(2, room());
    let (call, sequence) = next_push(&fake.shards[0]).await;
    assert_eq!(sequence, 2);
    fake.queued(call);
    assert_eq!(stream.answer().await.unwrap(), Some((2, queued(1))));
}

#[tokio::test]
async fn a_stopping_server_answers_the_pushes_it_accepted() {
    // It cuts streams off after a second, which may be too short for a busy machine.
    for _ in 0..5 {
        let fake = start(PATIENT, &[ROOMY]);
        let mut stream = Stream::open(&fake).await;
        stream.push(1, room());
        fake.queued(next_push(&fake.shards[0]).await.0);
        let stopping = tokio::task::spawn_blocking(move || fake.control.stop());
        let (answer, end) = (stream.answer().await, stream.answer().await);
        stopping.await.unwrap();
        let sentence = "the server is going down; pushes without an answer were not made";
        let is_told = |end: Status| end.code() == Code::Unavailable && end.message() == sentence;
        let is_answered = answer.is_ok_and(|answer| answer == Some((1, queued(1))));
        if is_answered && end.is_err_and(is_told) {
            return;
        }
    }
    panic!("streams are cut off");
}
