//! Logic that is absent, slow or overloaded, and several logic addresses.

use std::mem;
use std::panic::resume_unwind;
use std::time::Duration;

use comet_control::StartError;
use comet_core::{CloseReason, Denied, Message, Report, home_of_key};
use tonic::Status;

use crate::fake::{HASTY, PATIENT, options, try_start};
use crate::fake_logic::{Asked, FakeLogic};
use crate::logic::{
    SELDOM, conn, identified, identify, logic_options, next, receipt, start, until_let_in,
    until_metric, up,
};

#[tokio::test]
async fn calls_go_to_an_available_logic_address() {
    let mut logic = [FakeLogic::start(), FakeLogic::start()];
    let fake = start(&[&logic[0], &logic[1]], |_| {});
    for logic in &logic {
        until_metric(&fake, &up(logic), 1).await;
    }
    let let_in = async || {
        identify(&fake, conn(0, 1), b"1");
        identified(&fake, conn(0, 1)).await
    };
    for _ in 0..10 {
        assert!(let_in().await.is_ok());
    }
    for logic in &logic {
        let connects = logic.all_asked();
        let connects = connects.iter().filter(|asked| matches!(asked, Asked::Connect(_)));
        // Renewals take turns at the addresses, too.
        assert!((4..=6).contains(&connects.count()));
    }

    // Clients do not notice that one address is gone: failed calls are repeated at the other.
    logic[0].kill();
    for _ in 0..10 {
        assert!(let_in().await.is_ok());
    }
    until_metric(&fake, &up(&logic[0]), 0).await;

    logic[1].kill();
    until_metric(&fake, &up(&logic[1]), 0).await;
    let denied = let_in().await.unwrap_err();
    assert_eq!(denied.reason, CloseReason::LogicUnavailable);
    assert_eq!(&*denied.sentence, "logic is not there");
    assert!((2_000..=4_000).contains(&denied.retry_after_ms.unwrap()), "{denied:?}");
    fake.report(Report::Receive {
        conn: conn(0, 1),
        user: 1,
        key: "k1".into(),
        operation: 4,
        sequence: 1,
        body: Box::default(),
    });
    assert_eq!(receipt(&fake, conn(0, 1)).await, Err("logic is not there".into()));

    logic[0].revive();
    until_let_in(&fake).await;
    logic[1].revive();
    until_metric(&fake, &up(&logic[1]), 1).await;
}

#[tokio::test]
async fn comet_starts_without_logic_and_takes_it_when_it_comes() {
    let mut logic = FakeLogic::absent();
    let fake = start(&[&logic], |logic| logic.retry_after = Duration::ZERO);
    identify(&fake, conn(0, 1), b"1");
    let denied = Denied {
        reason: CloseReason::LogicUnavailable,
        sentence: "logic is not there".into(),
        retry_after_ms: None,
    };
    assert_eq!(identified(&fake, conn(0, 1)).await, Err(denied));
    logic.revive();
    until_let_in(&fake).await;
    fake.control.stop();
}

#[tokio::test]
async fn calls_under_way_are_bounded() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |logic| logic.calls = 2);
    until_let_in(&fake).await;
    // The renewal of the start is over.
    until_metric(&fake, "comet_logic_calls_total{rpc=\"RenewOnline\",code=\"Ok\"}", 1).await;
    logic.all_asked();
    logic.hold(true);
    for slot in [1, 2] {
        identify(&fake, conn(0, slot), b"1");
        logic.connect();
    }
    identify(&fake, conn(0, 3), b"1");
    let denied = identified(&fake, conn(0, 3)).await.unwrap_err();
    assert_eq!(denied.reason, CloseReason::LogicUnavailable);
    assert_eq!(&*denied.sentence, "logic has too much to do");
    // Notices can wait, so they are not refused.
    fake.report(Report::Disconnected { user: 7, key: "k7".into() });
    logic.hold(false);
    for slot in [1, 2] {
        let Message::Identified { answer: Ok(_), .. } = next(&fake, 0).await else {
            panic!("{slot}")
        };
    }
    assert!(matches!(logic.notice(), Asked::Disconnect(ended) if ended.key == "k7"));
}

#[tokio::test]
async fn logic_that_does_not_answer_in_time_is_not_waited_for() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |logic| logic.timeout = HASTY);
    until_let_in(&fake).await;
    logic.hold(true);
    // On a busy machine a ping may be late, too.
    loop {
        identify(&fake, conn(0, 1), b"1");
        let denied = identified(&fake, conn(0, 1)).await.unwrap_err();
        assert_eq!(denied.reason, CloseReason::LogicUnavailable);
        if &*denied.sentence == "logic did not answer in time" {
            break;
        }
    }
    // Logic is slow, and not gone.
    logic.hold(false);
    until_let_in(&fake).await;
}

/// A token that makes logic fail does not keep other clients out.
#[tokio::test]
async fn a_call_that_crashes_in_logic_does_not_affect_other_clients() {
    let logic = FakeLogic::start();
    let fake = start(&[&logic], |logic| logic.ping = SELDOM);
    until_let_in(&fake).await;
    logic.script(|script| {
        let connect = mem::replace(&mut script.connect, Box::new(|_| unreachable!()));
        script.connect = Box::new(move |request| match &*request.token {
            // As a panic, but quiet: the call ends without an answer.
            b"666" => resume_unwind(Box::new(())),
            _ => connect(request),
        });
    });
    for slot in 0..20 {
        identify(&fake, conn(0, slot), b"666");
        let denied = identified(&fake, conn(0, slot)).await.unwrap_err();
        assert_eq!(denied.reason, CloseReason::LogicUnavailable, "{denied:?}");
        identify(&fake, conn(1, slot), b"1");
        assert!(identified(&fake, conn(1, slot)).await.is_ok());
    }
}

#[tokio::test]
async fn a_renewal_waits_for_logic_that_is_away() {
    let mut logic = FakeLogic::absent();
    let fake = start(&[&logic], |_| {});
    fake.report(Report::Heartbeat { user: 7, key: "k7".into() });
    // This is handled after the heartbeat.
    identify(&fake, conn(0, 1), b"1");
    assert!(identified(&fake, conn(0, 1)).await.is_err());
    logic.revive();
    let heartbeat = logic.notice();
    assert!(matches!(&heartbeat, Asked::Heartbeat(goes) if goes.key == "k7"), "{heartbeat:?}");
}

#[tokio::test]
async fn a_renewal_that_logic_does_not_take_goes_back_to_the_shard() {
    let logic = FakeLogic::start();
    logic.script(|script| {
        script.heartbeat = Box::new(|_| Err(Status::internal("the store is away")));
    });
    let fake = start(&[&logic], |_| {});
    until_let_in(&fake).await;
    for key in ["k7", "k8"] {
        fake.report(Report::Heartbeat { user: 7, key: key.into() });
        match next(&fake, home_of_key(key, 2).0).await {
            Message::RenewalFailed { key: unheard } => assert_eq!(&*unheard, key),
            other => panic!("{other:?}"),
        }
    }
    // An end does not go back to the shard: logic learns of it by expiry.
    fake.report(Report::Disconnected { user: 7, key: "k7".into() });
    until_metric(&fake, "comet_logic_calls_total{rpc=\"Disconnect\",code=\"Ok\"}", 1).await;
    // There are no other messages, except those about rooms from the first successful renewal.
    for message in fake.shards.iter().flat_map(|shard| std::iter::from_fn(|| shard.try_next())) {
        let is_of_rooms =
            matches!(message, Message::RemoteRoomCounts { .. } | Message::Rooms { .. });
        assert!(is_of_rooms, "{message:?}");
    }
}

#[test]
fn an_invalid_logic_address_is_named_in_the_error() {
    let logic = FakeLogic::absent();
    let mut asked = logic_options(&[logic.address]);
    asked.addrs = vec!["not an address".to_owned()];
    let mut options = options(PATIENT);
    options.logic = Some(asked);
    let error = try_start(options).unwrap_err();
    assert!(matches!(error, StartError::LogicAddress { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "logic.addrs: \"not an address\" is no address: invalid uri character"
    );
}
