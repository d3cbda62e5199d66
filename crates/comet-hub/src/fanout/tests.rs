//! Pushes to comets that answer, refuse or keep silent.

use super::*;
use comet_core::Millis;

const LIMIT_MS: u64 = 2_000;

fn fanout(comets: &[&str]) -> Fanout {
    Fanout::new(FanoutConfig {
        comets: comets.iter().map(|comet| (*comet).to_owned()).collect(),
        keys_max: 2,
        limit_ms: LIMIT_MS,
        places: 2,
    })
}

fn calls(push: &mut PushFanout) -> Vec<Call> {
    std::iter::from_fn(|| push.poll_call(Millis(10))).collect()
}

fn queued(queued: u64) -> Result<LedgerSum, CallFailure> {
    Ok(LedgerSum { matched: queued, queued, ..LedgerSum::default() })
}

fn failure(is_bad_request: bool, message: &str) -> Result<LedgerSum, CallFailure> {
    Err(CallFailure { is_bad_request, message: message.to_owned() })
}

fn named(failed: &[(&str, &str)]) -> Vec<FailedComet> {
    let failed = failed.iter().map(|(server, message)| (server.to_string(), message.to_string()));
    failed.map(|(server, message)| FailedComet { server, message }).collect()
}

#[test]
fn keys_go_to_the_comets_that_have_them() {
    let fanout = fanout(&["b", "a"]);
    let at =
        |key: &str, server: &str| (key.to_owned(), (!server.is_empty()).then(|| server.to_owned()));
    let sessions =
        [at("1", "a"), at("2", "b"), at("3", "a"), at("4", ""), at("5", "a"), at("6", "c")];
    let mut push = fanout.to_sessions(sessions, 7);
    let keys = |keys: &[&str]| Target::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
    let calls = calls(&mut push);
    let asked: Vec<_> = calls.iter().map(|call| (call.comet, call.target.clone())).collect();
    assert_eq!(asked, [(1, keys(&["1", "3"])), (1, keys(&["5"])), (0, keys(&["2"]))]);
    for call in calls {
        push.handle_answer(call.part, queued(1));
    }
    let Pushed { ledger, failed } = push.finish().unwrap();
    let expected = LedgerSum { matched: 3, queued: 3, absent: 8, ..LedgerSum::default() };
    assert_eq!(ledger, expected);
    assert_eq!(failed, named(&[("c", "1 keys are there: logic_server.comets lacks it")]));
    // Nobody is concerned: that is no failure.
    let nobody = fanout.to_sessions([at("4", "")], 0);
    assert!(nobody.is_complete());
    assert_eq!(nobody.finish().unwrap().ledger.absent, 1);
}

#[test]
fn a_silent_comet_is_named_at_its_deadline() {
    let mut push = fanout(&["b", "a"]).to_room();
    let calls = calls(&mut push);
    assert!(calls.iter().all(|call| call.target == Target::Room));
    push.handle_answer(calls[1].part, queued(5));
    assert_eq!((push.is_complete(), push.poll_timeout()), (false, Some(Millis(10 + LIMIT_MS))));
    push.handle_timeout(Millis(9 + LIMIT_MS));
    assert!(!push.is_complete());
    push.handle_timeout(Millis(10 + LIMIT_MS));
    // It answers all the same.
    push.handle_answer(calls[0].part, queued(100));
    let Pushed { ledger, failed } = push.finish().unwrap();
    assert_eq!((ledger.queued, failed), (5, named(&[("b", "no answer within 2s")])));
}

#[test]
fn a_push_that_nobody_took_has_failed() {
    let check = |answers: [Result<LedgerSum, CallFailure>; 2], expected| {
        let mut push = fanout(&["b", "a"]).to_all(None);
        for (call, answer) in calls(&mut push).into_iter().zip(answers) {
            push.handle_answer(call.part, answer);
        }
        assert_eq!(push.finish().map(|pushed| pushed.failed), expected);
    };
    let away = || failure(false, "away");
    check([away(), queued(0)], Ok(named(&[("b", "away")])));
    check([away(), away()], Err(Refused::Unavailable("no comet took it: b: away; a: away".into())));
    check([away(), failure(true, "no frame")], Err(Refused::BadRequest("no frame".into())));
    check([queued(1), failure(true, "no frame")], Ok(named(&[("a", "no frame")])));
}

#[test]
fn each_comet_gets_its_share_of_a_speed() {
    let speed = NonZeroU32::new(100).unwrap();
    let mut push = fanout(&["b", "a"]).to_all(Some((speed, &[10, 30])));
    let targets: Vec<_> = calls(&mut push).into_iter().map(|call| call.target).collect();
    let all = |speed| Target::All { speed: NonZeroU32::new(speed) };
    assert_eq!(targets, [all(25), all(75)]);
}

#[test]
fn places_and_failures_are_counted() {
    let mut fanout = fanout(&["a"]);
    assert_eq!([(); 3].map(|()| fanout.take_place()), [true, true, false]);
    fanout.give_place_back();
    assert_eq!((fanout.places_taken(), fanout.take_place()), (1, true));
    fanout.count_failures(&named(&[("a", ""), ("x", ""), ("y", "")]));
    let failures = [("a".to_owned(), 1), ("unknown".to_owned(), 2)];
    assert_eq!(*fanout.failures(), BTreeMap::from(failures));
}
