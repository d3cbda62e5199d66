//! Logic behind gateways: pages in place of answers, replies cut short, connections that are closed
//! politely.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use comet_core::{CloseReason, Message, Report};
use comet_hub::logic::UnknownCode;
use tonic::{Code, Status};

use crate::fake::Fake;
use crate::fake_logic::FakeLogic;
use crate::logic::{
    conn, identified, identify, next, receipt, start, start_at, until_let_in, until_metric,
};
use crate::raw_logic::{Answer, RawLogic};

fn say(fake: &Fake, slot: u32) {
    fake.report(Report::Receive {
        conn: conn(0, slot),
        user: 42,
        key: "phone".into(),
        operation: 4,
        sequence: 1,
        body: (*b"hello").into(),
    });
}

fn up(address: SocketAddr) -> String {
    format!("comet_logic_up{{address=\"{address}\"}}")
}

#[tokio::test]
async fn no_page_and_no_half_reply_is_a_refusal() {
    for answer in [
        Answer::Page("502"),
        Answer::Page("500"),
        Answer::Page("404"),
        Answer::Page("403"),
        Answer::Page("401"),
        Answer::Page("200"),
        Answer::Cut,
    ] {
        let bad = RawLogic::start(move |_| answer);
        let fake = start_at(&[bad.address], |_| {});
        until_metric(&fake, &up(bad.address), 1).await;
        identify(&fake, conn(0, 1), b"1");
        let denied = identified(&fake, conn(0, 1)).await.unwrap_err();
        assert_eq!(denied.reason, CloseReason::LogicUnavailable, "{answer:?}");
        assert_eq!(&*denied.sentence, "logic has failed", "{answer:?}");
        assert!(denied.retry_after_ms.is_some());
        say(&fake, 1);
        assert_eq!(receipt(&fake, conn(0, 1)).await, Err("logic has failed".into()));
        fake.control.stop();

        // If another address works, clients do not notice.
        let good = FakeLogic::start();
        let fake = start_at(&[bad.address, good.address], |_| {});
        for address in [bad.address, good.address] {
            until_metric(&fake, &up(address), 1).await;
        }
        for slot in 0..4 {
            identify(&fake, conn(0, slot), b"1");
            assert!(identified(&fake, conn(0, slot)).await.is_ok(), "{answer:?}");
        }
        fake.control.stop();
    }
}

#[tokio::test]
async fn an_address_that_speaks_no_http2_is_not_used() {
    let page =
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n502";
    let (gateway, good) = (RawLogic::say(page), FakeLogic::start());
    let fake = start_at(&[gateway.address, good.address], |_| {});
    until_metric(&fake, &up(good.address), 1).await;
    for slot in 0..4 {
        identify(&fake, conn(0, slot), b"1");
        assert!(identified(&fake, conn(0, slot)).await.is_ok());
    }
    until_metric(&fake, &up(gateway.address), 0).await;
}

#[tokio::test]
async fn errors_with_code_unknown_are_handled_as_configured() {
    let logic = FakeLogic::start();
    logic.script(|script| {
        script.connect = Box::new(|_| Err(Status::new(Code::Unknown, "dial tcp 10.0.0.5:6379")));
    });
    for (unknown, reason, sentence) in [
        (UnknownCode::Refuse, CloseReason::AuthRefused, "refused by logic"),
        (UnknownCode::Retry, CloseReason::LogicUnavailable, "logic has failed"),
    ] {
        let fake = start(&[&logic], |logic| logic.unknown = unknown);
        until_metric(&fake, &up(logic.address), 1).await;
        identify(&fake, conn(0, 1), b"1");
        let denied = identified(&fake, conn(0, 1)).await.unwrap_err();
        assert_eq!((denied.reason, &*denied.sentence), (reason, sentence));
        fake.control.stop();
    }
}

/// A server ends a connection because of its age, while calls are under way to it.
#[tokio::test]
async fn calls_that_no_server_has_processed_are_made_again() {
    const CLIENTS: u32 = 800;
    for refusal in [Answer::YesAndGoAway, Answer::RefuseStream] {
        let answered = Arc::new(AtomicU32::new(0));
        let (taken, refused) = (Arc::clone(&answered), AtomicU32::new(0));
        let logic = RawLogic::start(move |calls| {
            let answer = match refusal {
                Answer::YesAndGoAway if calls < 200 => Answer::Yes,
                // Every fourth call at first.
                Answer::RefuseStream
                    if calls % 4 > 0 || refused.fetch_add(1, Ordering::Relaxed) > 300 =>
                {
                    Answer::Yes
                }
                refusal => refusal,
            };
            if !matches!(answer, Answer::RefuseStream) {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            answer
        });
        let fake = start_at(&[logic.address], |logic| logic.calls = 2 * CLIENTS as usize);
        until_metric(&fake, &up(logic.address), 1).await;
        until_let_in(&fake).await;
        // Wait for the end of the first renewal, which is counted as well. Its answer is not valid for a renewal.
        let renewal = "comet_logic_calls_total{rpc=\"RenewOnline\",code=\"Internal\"}";
        until_metric(&fake, renewal, 1).await;
        answered.store(0, Ordering::Relaxed);
        for slot in 0..CLIENTS {
            // Every eighth has a message for logic.
            if slot % 8 == 0 {
                say(&fake, slot);
            } else {
                identify(&fake, conn(0, slot), b"1");
            }
        }
        for _ in 0..CLIENTS {
            match next(&fake, 0).await {
                Message::Identified { answer, .. } => assert!(answer.is_ok(), "{answer:?}"),
                Message::Receipt { outcome, .. } => assert_eq!(outcome, Ok(())),
                other => panic!("{other:?}"),
            }
        }
        // Each call was processed once.
        assert_eq!(answered.load(Ordering::Relaxed), CLIENTS);
        fake.control.stop();
    }
}
