//! Requests of shards to logic, and the answers: a real control thread between shards that the test
//! simulates and logic services over TCP.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use comet_control::{LogicOptions, UnknownCode};
use comet_core::{
    AuthRequest, CloseReason, ConnId, Denied, Generation, Identity, Message, OperationFilter,
    Report, ShardId, Slot, home_of_room,
};
use comet_wire::goim::logic::{
    ConnectReply, ConnectReq, DisconnectReq, HeartbeatReq, OnlineReq, ReceiveReq,
};
use comet_wire::goim::protocol::Proto;
use tonic::{Code, Status};

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with_cluster};
use crate::fake_logic::{Asked, FakeLogic};

/// Rooms are renewed so seldom that a test sees it once, at the start.
pub(crate) const SELDOM: Duration = Duration::from_secs(3_600);

pub(crate) fn logic_options(logic: &[SocketAddr]) -> LogicOptions {
    LogicOptions {
        token: comet_control::BearerToken::default(),
        addrs: logic.iter().map(ToString::to_string).collect(),
        timeout: PATIENT,
        calls: 64,
        ping: Duration::from_millis(50),
        renew: SELDOM,
        retry_after: Duration::from_secs(4),
        unknown: UnknownCode::Refuse,
    }
}

/// Two shards, and logic at all of `logic`.
pub(crate) fn start(logic: &[&FakeLogic], change: impl FnOnce(&mut LogicOptions)) -> Fake {
    let addresses: Vec<_> = logic.iter().map(|logic| logic.address).collect();
    start_at(&addresses, change)
}

/// The same at addresses.
pub(crate) fn start_at(logic: &[SocketAddr], change: impl FnOnce(&mut LogicOptions)) -> Fake {
    let mut asked = logic_options(logic);
    change(&mut asked);
    let mut options = options(PATIENT);
    options.logic = Some(asked);
    start_with_cluster(options, &[ROOMY, ROOMY])
}

pub(crate) fn conn(shard: u16, slot: u32) -> ConnId {
    ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(7) }
}

pub(crate) fn identify(fake: &Fake, conn: ConnId, token: &[u8]) {
    let cookie = "sid=1".into();
    fake.report(Report::Identify(AuthRequest { conn, token: token.into(), cookie }));
}

/// The next message of a shard, renewals aside.
pub(crate) async fn next(fake: &Fake, shard: u16) -> Message {
    loop {
        match fake.shards[usize::from(shard)].next().await {
            Message::Rooms { call } => fake.report(Report::Rooms { call, rooms: Vec::new() }),
            Message::RemoteRoomCounts { .. } => {}
            other => return other,
        }
    }
}

/// The answer to a token. It must be for the connection `asked`.
pub(crate) async fn identified(fake: &Fake, asked: ConnId) -> Result<Identity, Denied> {
    match next(fake, asked.shard.0).await {
        Message::Identified { conn, answer } if conn == asked => answer,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn receipt(fake: &Fake, asked: ConnId) -> Result<(), Box<str>> {
    match next(fake, asked.shard.0).await {
        Message::Receipt { conn, outcome } if conn == asked => outcome,
        other => panic!("{other:?}"),
    }
}

/// Asks until a client is accepted. Any number of refusals because logic is away may come before.
pub(crate) async fn until_let_in(fake: &Fake) {
    loop {
        identify(fake, conn(0, 0), b"1");
        match identified(fake, conn(0, 0)).await {
            Ok(_) => return,
            Err(denied) => assert_eq!(denied.reason, CloseReason::LogicUnavailable, "{denied:?}"),
        }
    }
}

/// Waits until the metric has the value.
pub(crate) async fn until_metric(fake: &Fake, sample: &str, value: u64) {
    let line = format!("{sample} {value}");
    loop {
        let page = metrics(fake).await;
        if page.lines().any(|found| found == line) {
            return;
        }
    }
}

async fn metrics(fake: &Fake) -> String {
    let answered = async {
        loop {
            for shard in [0, 1] {
                if let Some(message) = fake.shards[shard].try_next() {
                    let shard = ShardId(u16::try_from(shard).unwrap());
                    match message {
                        Message::Snapshot { call } => {
                            let counters = Box::default();
                            fake.report(Report::Snapshot { call, shard, counters });
                        }
                        Message::Rooms { call } => {
                            fake.report(Report::Rooms { call, rooms: Vec::new() });
                        }
                        Message::RemoteRoomCounts { .. } => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        (status, _, page) = fake.page("/metrics") => {
            assert_eq!(status, 200, "{page}");
            page
        }
        () = answered => unreachable!(),
    }
}

pub(crate) fn up(logic: &FakeLogic) -> String {
    format!("comet_logic_up{{address=\"{}\"}}", logic.address)
}

#[tokio::test]
async fn logic_returns_the_identity_of_a_client() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    let reply = ConnectReply {
        mid: 42,
        key: "phone".to_owned(),
        room_id: "live://1000".to_owned(),
        accepts: vec![1000, 1001],
        heartbeat: 240_000_000_000,
        accepts_all: false,
        expires_at: 0,
        rooms: vec!["a".to_owned(), "b".to_owned()],
    };
    let answer = reply.clone();
    logic.script(|script| script.connect = Box::new(move |_| Ok(answer.clone())));
    logic.all_asked();
    identify(&fake, conn(1, 3), b"\xff token");
    let identity = Identity {
        user: 42,
        key: Some("phone".into()),
        room: Some("live://1000".into()),
        accepts: OperationFilter::Only([1000, 1001].into()),
        heartbeat_ms: Some(240_000),
        expires_in_ms: None,
        rooms: ["a", "b"].map(Into::into).into(),
    };
    assert_eq!(identified(&fake, conn(1, 3)).await, Ok(identity));
    let request = ConnectReq {
        server: "test".to_owned(),
        cookie: "sid=1".to_owned(),
        token: b"\xff token".to_vec(),
    };
    assert_eq!(logic.connect(), request);

    // The shard fills in values that logic leaves open.
    logic.script(|script| script.connect = Box::new(|_| Ok(ConnectReply::default())));
    identify(&fake, conn(0, 1), b"");
    let nobody = Identity { accepts: OperationFilter::Only(Box::default()), ..Identity::default() };
    assert_eq!(identified(&fake, conn(0, 1)).await, Ok(nobody));

    // comet's own word for every operation; the list says nothing then.
    let all = ConnectReply { accepts: vec![1], accepts_all: true, ..ConnectReply::default() };
    logic.script(|script| script.connect = Box::new(move |_| Ok(all.clone())));
    identify(&fake, conn(0, 1), b"");
    let everything = Identity { accepts: OperationFilter::All, ..Identity::default() };
    assert_eq!(identified(&fake, conn(0, 1)).await, Ok(everything));

    // Its token has expired: the shard closes it, with a reason of its own.
    let expired = ConnectReply { expires_at: 1, ..ConnectReply::default() };
    logic.script(|script| script.connect = Box::new(move |_| Ok(expired.clone())));
    identify(&fake, conn(0, 1), b"");
    let identity = identified(&fake, conn(0, 1)).await.expect("let in");
    assert_eq!(identity.expires_in_ms, Some(0));
    fake.control.stop();
}

#[tokio::test]
async fn refusals_of_logic_are_final_and_other_errors_are_retryable() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    let answer = async |code| {
        logic.script(|script| {
            script.connect = Box::new(move |_| Err(Status::new(code, "so be it")));
        });
        identify(&fake, conn(0, 1), b"1");
        identified(&fake, conn(0, 1)).await.unwrap_err()
    };
    let no = [Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument, Code::NotFound];
    for code in no {
        assert_eq!(answer(code).await, Denied::refused("so be it"), "{code:?}");
    }
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::DataLoss] {
        let denied = answer(code).await;
        assert_eq!(&*denied.sentence, "logic has failed", "{code:?}");
        assert_eq!(denied.reason, CloseReason::LogicUnavailable, "{code:?}");
        assert!((2_000..=4_000).contains(&denied.retry_after_ms.unwrap()), "{denied:?}");
    }
}

#[tokio::test]
async fn messages_of_clients_reach_logic_and_failures_are_reported() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    let say = |sequence| {
        fake.report(Report::Receive {
            conn: conn(1, 2),
            user: 42,
            key: "phone".into(),
            operation: 4,
            sequence,
            body: (*b"hello").into(),
        });
    };
    say(9);
    assert_eq!(receipt(&fake, conn(1, 2)).await, Ok(()));
    let received = logic.asked(|asked| match asked {
        Asked::Receive(request) => Some(request),
        _ => None,
    });
    let proto = Proto { ver: 1, op: 4, seq: 9, body: b"hello"[..].into(), ..Proto::default() };
    assert_eq!(received, ReceiveReq { mid: 42, proto: Some(proto) });
    logic.script(|script| {
        script.receive = Box::new(|_| Err(Status::permission_denied("the room is closed")));
    });
    say(10);
    assert_eq!(receipt(&fake, conn(1, 2)).await, Err("the room is closed".into()));
}

#[tokio::test]
async fn logic_hears_of_sessions_that_go_on_or_end() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    let server = "test".to_owned();
    fake.report(Report::Heartbeat { user: 42, key: "a".into() });
    let goes = HeartbeatReq { mid: 42, key: "a".to_owned(), server: server.clone() };
    assert_eq!(logic.notice(), Asked::Heartbeat(goes.clone()));
    fake.report(Report::Disconnected { user: 42, key: "a".into() });
    let ended = DisconnectReq { mid: 42, key: "a".to_owned(), server };
    assert_eq!(logic.notice(), Asked::Disconnect(ended.clone()));

    // The same without a pause: the second notice waits for the answer to the first.
    until_metric(&fake, "comet_logic_calls_total{rpc=\"Disconnect\",code=\"Ok\"}", 1).await;
    logic.hold(true);
    fake.report(Report::Disconnected { user: 42, key: "a".into() });
    assert_eq!(logic.notice(), Asked::Disconnect(ended));
    fake.report(Report::Heartbeat { user: 42, key: "a".into() });
    identify(&fake, conn(0, 0), b"1");
    let before = logic.asked(|asked| (!matches!(asked, Asked::Renew(..))).then_some(asked));
    assert!(matches!(before, Asked::Connect(_)), "{before:?}");
    logic.hold(false);
    assert_eq!(logic.notice(), Asked::Heartbeat(goes));
}

/// A client comes back with its key while logic is away. The end of the former session, which could
/// not be delivered, must not end the new one.
#[tokio::test]
async fn the_end_of_a_session_never_hits_the_next_one_of_its_key() {
    let mut logic = FakeLogic::start();
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    logic.kill();
    until_metric(&fake, &up(&logic), 0).await;
    for key in ["k1", "gone"] {
        fake.report(Report::Disconnected { user: 1, key: key.into() });
    }
    until_metric(&fake, "comet_logic_notices_waiting", 2).await;
    // The heartbeat replaces the end of its key.
    fake.report(Report::Heartbeat { user: 1, key: "k1".into() });
    fake.report(Report::Disconnected { user: 1, key: "last".into() });
    until_metric(&fake, "comet_logic_notices_waiting", 3).await;
    logic.revive();
    let notices = [(); 3].map(|()| match logic.notice() {
        Asked::Heartbeat(goes) => format!("+{}", goes.key),
        Asked::Disconnect(ended) => format!("-{}", ended.key),
        other => panic!("{other:?}"),
    });
    assert_eq!(BTreeSet::from(notices), ["+k1", "-gone", "-last"].map(str::to_owned).into());

    // The answer to the new connection arrives while the end is under way: a heartbeat then restores the session.
    logic.hold(true);
    fake.report(Report::Disconnected { user: 1, key: "k1".into() });
    assert!(matches!(logic.notice(), Asked::Disconnect(ended) if ended.key == "k1"));
    identify(&fake, conn(0, 0), b"1");
    logic.connect();
    logic.hold(false);
    assert!(identified(&fake, conn(0, 0)).await.is_ok());
    assert!(matches!(logic.notice(), Asked::Heartbeat(goes) if goes.key == "k1"));
}

#[tokio::test]
async fn rooms_are_renewed_and_homes_hear_of_others() {
    let logic = FakeLogic::start();
    let online = [("ours", 5), ("theirs", 2), ("only ours", 1), ("late", 1)];
    let online = online.map(|(room, count)| (room.to_owned(), count));
    logic.script(|script| script.online = online.into());
    let fake = start(&[&logic], |logic| logic.renew = Duration::from_millis(1));
    for _ in 0..2 {
        let counts = [("ours", 3_u32), ("only ours", 1), ("late", 2)];
        for (shard, fake_shard) in (0..).map(ShardId).zip(&fake.shards) {
            let Message::Rooms { call } = fake_shard.next().await else { panic!() };
            let rooms = counts.iter().filter(|(room, _)| home_of_room(room, 2) == shard);
            let rooms = rooms.map(|(room, count)| ((*room).into(), *count)).collect();
            fake.report(Report::Rooms { call, rooms });
        }
        let (request, encoding) = logic.asked(|asked| match asked {
            Asked::Renew(request, encoding) => Some((request, encoding)),
            _ => None,
        });
        let room_count =
            counts.map(|(room, count)| (room.to_owned(), i32::try_from(count).unwrap()));
        let expected = OnlineReq {
            server: "test".to_owned(),
            room_count: room_count.into(),
            ..OnlineReq::default()
        };
        assert_eq!((request, encoding.as_deref()), (expected, Some("gzip")));
        let mut beyond = Vec::new();
        for (shard, fake_shard) in (0..).map(ShardId).zip(&fake.shards) {
            let Message::RemoteRoomCounts { rooms } = fake_shard.next().await else { panic!() };
            assert!(rooms.iter().all(|(room, _)| home_of_room(room, 2) == shard), "{rooms:?}");
            beyond.extend(rooms.into_iter().map(|(room, others)| (room.to_string(), others)));
        }
        beyond.sort();
        assert_eq!(beyond, [("ours".to_owned(), 2), ("theirs".to_owned(), 2)]);
    }
}

/// A logic with the limit of gRPC's libraries, 4 MiB, gets rooms of three times that.
#[tokio::test]
async fn rooms_beyond_a_request_are_renewed_in_several() {
    let logic = FakeLogic::start();
    logic.script(|script| script.online = [("there".to_owned(), 7)].into());
    let fake = start(&[&logic], |logic| {
        logic.renew = Duration::from_millis(1);
        logic.timeout = Duration::from_secs(60);
    });
    let room = |at: u32| format!("{at:0200}");
    for (shard, fake_shard) in (0..).zip(&fake.shards) {
        let Message::Rooms { call } = fake_shard.next().await else { panic!() };
        let rooms = (0..60_000).filter(|at| at % 2 == shard).map(|at| (room(at).into(), at));
        fake.report(Report::Rooms { call, rooms: rooms.collect() });
    }
    let (mut rooms, mut seen) = (HashMap::new(), 0);
    loop {
        let OnlineReq { room_count, buckets, more, .. } = logic.asked(|asked| match asked {
            Asked::Renew(request, _) => Some(request),
            _ => None,
        });
        assert_eq!(seen & buckets, 0, "each part is in one request");
        seen |= buckets;
        rooms.extend(room_count);
        if !more {
            break;
        }
    }
    assert_eq!(seen, u64::MAX);
    assert_eq!(rooms.len(), 60_000);
    assert!((0..60_000).all(|at| rooms[&room(at)] == at.cast_signed()));
    let mut others = Vec::new();
    for fake_shard in &fake.shards {
        let Message::RemoteRoomCounts { rooms } = fake_shard.next().await else { panic!() };
        others.extend(rooms);
    }
    assert_eq!(others, [("there".into(), 7)]);
}
