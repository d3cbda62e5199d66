//! Questions of shards, and the calls that they become.

use super::*;

#[test]
fn questions_are_asked_and_answered() {
    let mut rig = Rig::new(1, 4);
    rig.identify();
    let sent = rig.only_sent();
    assert_eq!(sent.2, Request::Connect { token: (*b"t").into(), cookie: "c".into() });
    assert_eq!(rig.client.calls_under_way(), 1);
    rig.connected(&sent, "k");
    assert_eq!(rig.answer().unwrap().key.as_deref(), Some("k"));
    rig.receive();
    let sent = rig.only_sent();
    let body = (*b"hello").into();
    assert_eq!(sent.2, Request::Receive { user: 42, operation: 4, sequence: 9, body });
    rig.done(&sent);
    assert_eq!(rig.receipt(), Ok(()));
    assert_eq!(rig.client.calls_under_way(), 0);
    for rpc in ["Connect", "Receive"] {
        assert_eq!(rig.counted(rpc, StatusCode::OK), 1);
    }
}

/// How each outcome of the first attempt at one of two addresses ends a call.
#[test]
fn a_call_goes_to_another_address_if_it_may() {
    struct Case {
        outcome: AttemptOutcome,
        connect_goes_on: bool,
        receive_goes_on: bool,
        sentence: &'static str,
    }
    let case = |outcome, connect_goes_on, receive_goes_on, sentence| Case {
        outcome,
        connect_goes_on,
        receive_goes_on,
        sentence,
    };
    let cases = [
        case(AttemptOutcome::TimedOut, false, false, "logic did not answer in time"),
        case(AttemptOutcome::Broken { was_sent: false }, true, true, ""),
        case(AttemptOutcome::Broken { was_sent: true }, true, false, "logic is not there"),
        case(refused(14), true, false, "logic has failed"),
        case(refused(13), true, false, "logic has failed"),
        case(refused(4), true, false, "logic has failed"),
        case(refused(2), false, false, "refused by logic"),
        case(refused(16), false, false, "so be it"),
    ];
    for Case { outcome, connect_goes_on, receive_goes_on, sentence } in cases {
        for is_connect in [true, false] {
            let mut rig = Rig::new(2, 4);
            if is_connect {
                rig.identify();
            } else {
                rig.receive();
            }
            let first = rig.only_sent();
            rig.reply(&first, outcome.clone());
            if if is_connect { connect_goes_on } else { receive_goes_on } {
                let second = rig.only_sent();
                assert_ne!(second.1.address, first.1.address);
                // The former attempt is over, so its reply is ignored.
                rig.reply(&first, AttemptOutcome::Replied(Reply::Done));
                assert!(rig.messages().is_empty());
                // No address is asked twice.
                rig.reply(&second, AttemptOutcome::Broken { was_sent: false });
                assert!(rig.sent().is_empty());
                let said = match is_connect {
                    true => rig.answer().unwrap_err().sentence,
                    false => rig.receipt().unwrap_err(),
                };
                assert_eq!(&*said, "logic is not there", "{outcome:?}");
            } else {
                assert!(rig.sent().is_empty());
                let said = match is_connect {
                    true => rig.answer().unwrap_err().sentence,
                    false => rig.receipt().unwrap_err(),
                };
                assert_eq!(&*said, sentence, "{outcome:?}");
            }
            assert_eq!(rig.client.calls_under_way(), 0);
        }
    }
}

#[test]
fn all_attempts_of_a_call_share_one_deadline() {
    let mut rig = Rig::new(2, 4);
    rig.identify();
    let first = rig.only_sent();
    rig.wait(TIMEOUT_MS - 1);
    rig.reply(&first, AttemptOutcome::Broken { was_sent: true });
    let second = rig.only_sent();
    assert_eq!(rig.client.poll_timeout(), Some(Millis(TIMEOUT_MS)));
    rig.wait(1);
    assert!(rig.actions().contains(&Action::Abandon(second.0)));
    let denied = rig.answer().unwrap_err();
    assert_eq!(
        (&*denied.sentence, denied.reason),
        ("logic did not answer in time", CloseReason::LogicUnavailable)
    );
    assert_eq!(rig.counted("Connect", StatusCode::DEADLINE_EXCEEDED), 1);
    let line = rig.last_line();
    assert_eq!(line, "Connect of logic fails with DEADLINE_EXCEEDED: \"no answer within 1s\"");
    // The answer arrives late.
    rig.connected(&second, "k");
    assert!(rig.messages().is_empty());
}

#[test]
fn while_no_address_is_available_questions_are_answered_and_notices_wait() {
    let mut rig = Rig::unavailable(1, 4);
    rig.client.handle_connect_failed(rig.now, connection(0), "refused");
    rig.actions();
    rig.identify();
    assert_eq!(&*rig.answer().unwrap_err().sentence, "logic is not there");
    rig.receive();
    assert_eq!(rig.receipt(), Err("logic is not there".into()));
    rig.ended("k");
    assert!(rig.sent().is_empty());
    assert_eq!((rig.client.notices_waiting(), rig.client.is_idle()), (1, false));
    rig.wait(200);
    rig.make_available(ConnectionId { generation: 1, ..connection(0) });
    let sent = rig.only_sent();
    assert_eq!(sent.2, Request::Disconnect { user: 1, key: "k".into() });
    rig.done(&sent);
    assert!(rig.client.has_delivered_notices() && rig.client.is_idle());
}

/// A process that has taken over clients may get their messages before its first connection to logic is open.
#[test]
fn questions_wait_until_an_address_has_shown_itself() {
    let mut rig = Rig::unavailable(2, 4);
    rig.actions();
    rig.receive();
    rig.identify();
    assert!(rig.sent().is_empty() && rig.messages().is_empty() && !rig.client.is_idle());
    rig.client.handle_connect_failed(rig.now, connection(0), "refused");
    assert!(rig.sent().is_empty() && rig.messages().is_empty());
    rig.make_available(connection(1));
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|sent| sent.2.rpc()).collect::<Vec<_>>(), ["Receive", "Connect"]);
    rig.done(&sent[0]);
    assert_eq!(rig.receipt(), Ok(()));
    rig.connected(&sent[1], "k");
    assert!(rig.answer().is_ok() && rig.client.is_idle());
}

#[test]
fn questions_that_wait_are_answered_once_no_address_is_there() {
    let mut rig = Rig::unavailable(2, 4);
    rig.receive();
    rig.client.handle_connect_failed(rig.now, connection(0), "refused");
    assert!(rig.messages().is_empty());
    rig.client.handle_connected(rig.now, connection(1));
    rig.client.handle_ping(rig.now, connection(1), PingOutcome::NotServing);
    assert_eq!(rig.receipt(), Err("logic is not there".into()));
    assert!(rig.client.is_idle());
}

#[test]
fn a_question_that_one_address_cannot_answer_waits_for_the_other() {
    let mut rig = Rig::unavailable(2, 4);
    rig.make_available(connection(0));
    rig.actions();
    rig.identify();
    let first = rig.only_sent();
    // Reporting it twice counts as one outcome.
    for _ in 0..2 {
        rig.reply(&first, AttemptOutcome::Broken { was_sent: false });
        assert!(rig.sent().is_empty() && rig.messages().is_empty());
    }
    rig.make_available(connection(1));
    let second = rig.only_sent();
    assert_eq!(second.1, connection(1));
    rig.connected(&second, "k");
    assert!(rig.answer().is_ok() && rig.client.is_idle());
}

#[test]
fn questions_that_wait_have_the_time_of_a_call() {
    let mut rig = Rig::unavailable(1, 4);
    rig.actions();
    rig.wait(900);
    rig.receive();
    // It connects in time, but sends nothing.
    rig.client.handle_connected(rig.now, connection(0));
    rig.wait(900);
    assert!(rig.messages().is_empty());
    rig.wait(100);
    assert_eq!(rig.receipt(), Err("logic did not answer in time".into()));
    let abandoned = |action: &Action| matches!(action, Action::Abandon(_));
    assert!(!rig.actions().iter().any(abandoned) && rig.client.is_idle());
}

#[test]
fn permits_bound_the_calls_under_way() {
    let mut rig = Rig::new(1, 2);
    rig.identify();
    rig.receive();
    let under_way = rig.sent();
    assert_eq!(under_way.len(), 2);
    rig.identify();
    let denied = rig.answer().unwrap_err();
    assert_eq!(&*denied.sentence, "logic has too much to do");
    assert!((2_000..=4_000).contains(&denied.retry_after_ms.unwrap()), "{denied:?}");
    assert_eq!(rig.counted("Connect", StatusCode::RESOURCE_EXHAUSTED), 1);
    let line = rig.last_line();
    assert_eq!(
        line,
        "Connect of logic fails with RESOURCE_EXHAUSTED: \"logic.calls are under way\""
    );
    // A waiting notice goes before later questions.
    rig.ended("k");
    assert!(rig.sent().is_empty());
    rig.done(&under_way[1]);
    let notice = rig.only_sent();
    assert_eq!(notice.2.rpc(), "Disconnect");
    assert_eq!(rig.client.calls_under_way(), 2);
    rig.done(&notice);
    rig.connected(&under_way[0], "other");
    assert_eq!(rig.client.calls_under_way(), 0);
}

/// The thread was held up, and input that arrived meanwhile is read after the timer has fired.
#[test]
fn an_answer_that_arrived_during_a_stall_counts() {
    let mut rig = Rig::new(1, 8);
    for _ in 0..2 {
        rig.identify();
    }
    let sent = rig.sent();
    rig.wait(5_000);
    assert!(rig.messages().is_empty());
    rig.connected(&sent[0], "k");
    let [(_, Message::Identified { answer: Ok(_), .. })] = &rig.messages()[..] else {
        panic!("logic has answered")
    };
    for _ in 0..6 {
        rig.wait(250);
    }
    let [(_, Message::Identified { answer: Err(_), .. })] = &rig.messages()[..] else {
        panic!("logic has not answered")
    };
}

#[test]
fn nothing_is_due_for_calls_that_are_over() {
    let mut rig = Rig::new(1, 8);
    let idle = rig.client.poll_timeout();
    rig.identify();
    assert_eq!(rig.client.poll_timeout(), Some(Millis(TIMEOUT_MS)));
    let sent = rig.only_sent();
    rig.connected(&sent, "k");
    assert_eq!(rig.client.poll_timeout(), idle);
}

/// The first connection to an address.
fn connection(address: usize) -> ConnectionId {
    ConnectionId { address, generation: 0 }
}
