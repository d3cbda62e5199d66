//! Pushes to comets that answer, refuse or keep silent.

use super::*;
use comet_core::Millis;

const LIMIT_MS: u64 = 2_000;

const FIRST: CometNumber = CometNumber(0);
const SECOND: CometNumber = CometNumber(1);

fn fanout(comets: &[&str]) -> Fanout {
    let mut fanout = Fanout::new(FanoutConfig {
        keys_max: 2,
        limit_ms: LIMIT_MS,
        permits: 2,
        caller_permits: 1,
        calls: 2,
    });
    for comet in comets {
        fanout.add_comet(comet);
    }
    fanout
}

fn calls(fanout: &mut Fanout, push: &mut PushFanout) -> Vec<Call> {
    std::iter::from_fn(|| fanout.poll_call(push, Millis(10))).collect()
}

fn calls_of_room(fanout: &mut Fanout) -> Vec<Call> {
    let mut push = fanout.to_room();
    calls(fanout, &mut push)
}

fn queued(queued: u64) -> Result<LedgerSum, CallFailure> {
    Ok(LedgerSum { matched: queued, queued, ..LedgerSum::default() })
}

fn failure(kind: FailureKind, message: &str) -> Result<LedgerSum, CallFailure> {
    Err(CallFailure { kind, message: message.to_owned() })
}

fn away() -> Result<LedgerSum, CallFailure> {
    failure(FailureKind::NotTaken, "away")
}

/// The comets that surely did not take their part.
fn named(failed: &[(&str, &str)]) -> Vec<FailedComet> {
    let failed = failed.iter().map(|(server, message)| (server.to_string(), message.to_string()));
    failed.map(|(server, message)| FailedComet { server, is_unknown: false, message }).collect()
}

/// The comets that may have taken their part.
fn unknown(failed: &[(&str, &str)]) -> Vec<FailedComet> {
    named(failed).into_iter().map(|failed| FailedComet { is_unknown: true, ..failed }).collect()
}

/// No message of a call is taken back.
fn is_sent(_: PartId) -> bool {
    false
}

#[test]
fn keys_go_to_the_comets_that_have_them() {
    let mut fanout = fanout(&["b", "a"]);
    let at =
        |key: &str, server: &str| (key.to_owned(), (!server.is_empty()).then(|| server.to_owned()));
    let sessions =
        [at("1", "a"), at("2", "b"), at("3", "a"), at("4", ""), at("5", "a"), at("6", "c")];
    let mut push = fanout.to_sessions(sessions, 7);
    let keys = |keys: &[&str]| Target::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
    let calls = calls(&mut fanout, &mut push);
    let asked: Vec<_> = calls.iter().map(|call| (call.comet, call.target.clone())).collect();
    assert_eq!(asked, [(SECOND, keys(&["1", "3"])), (SECOND, keys(&["5"])), (FIRST, keys(&["2"]))]);
    for call in calls {
        push.handle_answer(call.part, queued(1));
    }
    let FanoutResult { ledger, failed } = push.finish().unwrap();
    let expected = LedgerSum { matched: 3, queued: 3, absent: 8, ..LedgerSum::default() };
    assert_eq!(ledger, expected);
    assert_eq!(
        failed,
        named(&[("c", "1 keys are there: neither logic_server.comets nor discovery has it")])
    );
    // The push concerns no comet, which is not a failure.
    let nobody = fanout.to_sessions([at("4", "")], 0);
    assert!(nobody.is_complete());
    assert_eq!(nobody.finish().unwrap().ledger.absent, 1);
}

#[test]
fn a_silent_comet_is_named_at_its_deadline() {
    let mut fanout = fanout(&["b", "a"]);
    let mut push = fanout.to_room();
    let calls = calls(&mut fanout, &mut push);
    assert!(calls.iter().all(|call| call.target == Target::Room));
    push.handle_answer(calls[1].part, queued(5));
    assert_eq!((push.is_complete(), push.poll_timeout()), (false, Some(Millis(10 + LIMIT_MS))));
    push.handle_timeout(Millis(9 + LIMIT_MS), |_| panic!("nothing is late"));
    assert!(!push.is_complete());
    push.handle_timeout(Millis(10 + LIMIT_MS), is_sent);
    // The comet answers nevertheless.
    push.handle_answer(calls[0].part, queued(100));
    let FanoutResult { ledger, failed } = push.finish().unwrap();
    assert_eq!((ledger.queued, failed), (5, unknown(&[("b", "no answer within 2s")])));
}

#[test]
fn a_push_that_no_comet_took_has_failed() {
    let check = |answers: [Result<LedgerSum, CallFailure>; 2], expected| {
        let mut fanout = fanout(&["b", "a"]);
        let mut push = fanout.to_all(None);
        for (call, answer) in calls(&mut fanout, &mut push).into_iter().zip(answers) {
            push.handle_answer(call.part, answer);
        }
        assert_eq!(push.finish().map(|pushed| pushed.failed), expected);
    };
    let bad = || failure(FailureKind::BadRequest, "no frame");
    check([away(), queued(0)], Ok(named(&[("b", "away")])));
    check(
        [away(), away()],
        Err(PushError::Unavailable("no comet took it: b: away; a: away".into())),
    );
    check([away(), bad()], Err(PushError::BadRequest("no frame".into())));
    check([queued(1), bad()], Ok(named(&[("a", "no frame")])));
    // A lost answer says nothing of the push, whatever the other comet says.
    let lost = || failure(FailureKind::Unknown, "reset");
    let unknown_at = |servers: &[&str], each: &str| {
        let sentence = format!("no comet is known to have taken it: {each}");
        let servers = servers.iter().map(ToString::to_string).collect();
        Err(PushError::Unknown { sentence, servers })
    };
    check([lost(), queued(0)], Ok(unknown(&[("b", "reset")])));
    check([lost(), away()], unknown_at(&["b"], "b: it may have taken its part: reset; a: away"));
    check([bad(), lost()], unknown_at(&["a"], "b: no frame; a: it may have taken its part: reset"));
    let [b, a] = ["b", "a"].map(|server| format!("{server}: it may have taken its part: reset"));
    check([lost(), lost()], unknown_at(&["a", "b"], &format!("{b}; {a}")));
}

/// Parts that are given up: whether a comet may have taken one depends on whether its call could be taken back.
#[test]
fn only_a_call_that_was_taken_back_is_surely_not_taken() {
    let mut fanout = fanout(&["b", "a"]);
    for is_gone in [true, false] {
        let mut push = fanout.to_room();
        let calls = calls(&mut fanout, &mut push);
        let take_back = |part| part == calls[0].part;
        let messages = if is_gone {
            fanout.set_health(FIRST, &Health::Gone("refused".into()));
            fanout.set_health(SECOND, &Health::Gone("refused".into()));
            fanout.leave_out_gone(&mut push, take_back);
            ["it is gone: refused"; 2]
        } else {
            push.handle_timeout(Millis(10 + LIMIT_MS), take_back);
            ["no answer within 2s"; 2]
        };
        let expected = [named(&[("b", messages[0])]), unknown(&[("a", messages[1])])].concat();
        assert_eq!(push.failed(), expected);
        for call in calls {
            fanout.end_call(call.comet);
        }
        for comet in [FIRST, SECOND] {
            fanout.set_health(comet, &Health::Serving);
        }
    }
}

/// A comet may have several parts, and is named once.
#[test]
fn a_comet_that_may_have_taken_several_parts_is_named_once() {
    let mut fanout = fanout(&["a"]);
    let sessions = ["1", "2", "3"].map(|key| (key.to_owned(), Some("a".to_owned())));
    let mut push = fanout.to_sessions(sessions, 0);
    assert_eq!(calls(&mut fanout, &mut push).len(), 2);
    push.handle_timeout(Millis(10 + LIMIT_MS), is_sent);
    assert_eq!((push.failed().len(), may_have_taken(push.failed())), (2, vec!["a".to_owned()]));
}

#[test]
fn each_comet_gets_its_share_of_a_speed() {
    let speed = NonZeroU32::new(100).unwrap();
    let mut fanout = fanout(&["b", "a"]);
    let mut check = |sessions: &[(&str, u64)], expected: [u32; 2]| {
        let sessions = sessions.iter().map(|(id, sessions)| (id.to_string(), *sessions)).collect();
        let mut push = fanout.to_all(Some((speed, &sessions)));
        for (call, speed) in calls(&mut fanout, &mut push).into_iter().zip(expected) {
            assert_eq!(call.target, Target::All { speed: NonZeroU32::new(speed) });
            fanout.end_call(call.comet);
        }
    };
    check(&[("a", 30), ("b", 10), ("c", 60)], [25, 75]);
    check(&[("a", 30)], [1, 100]);
    // No session counts are known.
    check(&[], [50, 50]);
}

#[test]
fn a_comet_that_is_gone_is_left_out_at_once() {
    let mut fanout = fanout(&["b", "a"]);
    let mut under_way = fanout.to_room();
    let [b, a] = &calls(&mut fanout, &mut under_way)[..] else { panic!() };
    fanout.set_health(FIRST, &Health::Gone("refused".into()));
    fanout.leave_out_gone(&mut under_way, is_sent);
    assert!(!under_way.is_complete());
    under_way.handle_answer(a.part, queued(5));
    under_way.handle_answer(b.part, queued(100));
    let pushed = under_way.finish().unwrap();
    let failed = [("b", "it is gone: refused")];
    assert_eq!((pushed.ledger.queued, pushed.failed), (5, unknown(&failed)));
    // The next push does not call it.
    let mut push = fanout.to_room();
    let asked = calls(&mut fanout, &mut push);
    assert_eq!(asked.iter().map(|call| call.comet).collect::<Vec<_>>(), [SECOND]);
    push.handle_answer(asked[0].part, queued(5));
    assert_eq!(push.finish().unwrap().failed, named(&failed));
    // A comet that drains still has clients.
    fanout.set_health(FIRST, &Health::NotServing);
    assert_eq!(calls_of_room(&mut fanout).len(), 1, "a has two calls by now");
}

#[test]
fn a_slow_comet_leaves_places_for_the_others() {
    let mut fanout = fanout(&["b", "a"]);
    for _ in 0..2 {
        let mut push = fanout.to_room();
        assert_eq!(calls(&mut fanout, &mut push).len(), 2);
        // Only a answers.
        fanout.end_call(SECOND);
    }
    let mut push = fanout.to_room();
    let asked = calls(&mut fanout, &mut push);
    assert_eq!(asked.iter().map(|call| call.comet).collect::<Vec<_>>(), [SECOND]);
    push.handle_answer(asked[0].part, queued(1));
    assert_eq!(push.finish().unwrap().failed, named(&[("b", "2 calls are under way there")]));
    fanout.end_call(FIRST);
    assert_eq!(calls_of_room(&mut fanout).len(), 2);
}

#[test]
fn places_and_failures_are_counted() {
    let mut fanout = fanout(&["a"]);
    let [greedy, modest] = [CallerId(1), CallerId(2)];
    assert_eq!(
        [(); 2].map(|()| fanout.acquire_permit(greedy)),
        [Ok(()), Err(NoPermit::OfCaller(1))]
    );
    assert_eq!(fanout.acquire_permit(modest), Ok(()));
    assert_eq!(fanout.acquire_permit(CallerId(3)), Err(NoPermit::OfAll(2)));
    fanout.release_permit(greedy);
    assert_eq!((fanout.permits_taken(), fanout.acquire_permit(greedy)), (1, Ok(())));
    let sessions = ["a", "x", "y"].map(|server| (format!("at {server}"), Some(server.to_owned())));
    let push = |fanout: &mut Fanout, now, answer| {
        let mut push = fanout.to_sessions(sessions.clone(), 0);
        let call = fanout.poll_call(&mut push, Millis(now)).unwrap();
        push.handle_answer(call.part, answer);
        fanout.end_call(call.comet);
        fanout.count_parts(Millis(now), &push)
    };
    // The first failure is logged, and the first success after a while.
    let fails =
        FanoutEvent::Fails { server: "a".into(), is_unknown: false, message: "away".into() };
    assert_eq!(push(&mut fanout, 1, away()), [fails]);
    assert_eq!(push(&mut fanout, 2, away()), []);
    assert_eq!(push(&mut fanout, 3, queued(1)), []);
    let succeeds = FanoutEvent::Succeeds { server: "a".into(), failed: 2 };
    assert_eq!(push(&mut fanout, 20_000, queued(1)), [succeeds]);
    let failures = [("a".to_owned(), 2), ("unknown".to_owned(), 8)];
    assert_eq!(*fanout.failures(), BTreeMap::from(failures));
}

#[test]
fn a_removed_comet_completes_its_calls_under_way() {
    let mut fanout = fanout(&["b", "a"]);
    let mut under_way = fanout.to_room();
    let asked = calls(&mut fanout, &mut under_way);
    let mut planned = fanout.to_room();
    fanout.remove_comet(FIRST);
    let third = fanout.add_comet("c");
    // The removed comet gets no new pushes, and its calls under way are not given up.
    fanout.set_health(FIRST, &Health::Gone("refused".into()));
    fanout.leave_out_gone(&mut under_way, is_sent);
    let called: Vec<_> = calls_of_room(&mut fanout).iter().map(|call| call.comet).collect();
    assert_eq!(called, [SECOND, third]);
    for call in asked {
        fanout.end_call(call.comet);
        under_way.handle_answer(call.part, queued(5));
    }
    assert_eq!(fanout.count_parts(Millis(10), &under_way), []);
    let pushed = under_way.finish().unwrap();
    assert_eq!((pushed.ledger.queued, pushed.failed), (10, Vec::new()));
    // A push that had not called the comet before it was removed names it as failed.
    let asked = calls(&mut fanout, &mut planned);
    assert_eq!(asked.iter().map(|call| call.comet).collect::<Vec<_>>(), [SECOND]);
    assert_eq!(planned.failed(), named(&[("b", "it was taken out")]));
}

#[test]
fn failures_outlive_their_comet_under_another_name() {
    let mut fanout = fanout(&["a"]);
    let mut push = fanout.to_room();
    let call = fanout.poll_call(&mut push, Millis(0)).unwrap();
    push.handle_answer(call.part, away());
    assert_eq!(fanout.count_parts(Millis(0), &push).len(), 1);
    // The comet has another address.
    let moved = fanout.add_comet("a");
    fanout.remove_comet(FIRST);
    assert_eq!(*fanout.failures(), BTreeMap::from([("a".to_owned(), 1)]));
    fanout.remove_comet(moved);
    assert_eq!(*fanout.failures(), BTreeMap::from([("unknown".to_owned(), 1)]));
}
